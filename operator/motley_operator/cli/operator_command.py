"""`motley operator`: the long-running part that the chart's Deployment starts."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, TypeVar

from motley_operator.errors import OperatorError
from motley_operator.settings import add_flags, from_args

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

T = TypeVar("T")

DESCRIPTION = """\
Plans every ModelCascade, ServingPool and RLJob of a cluster on its GPUs, creates their pods, and
plans again when nodes or resources change. Each flag has an environment variable:
--time-limit is MOTLEY_TIME_LIMIT. Ends cleanly on SIGTERM; what runs goes on without it."""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "operator",
        help="run the operator",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """0 after a clean end; 1 if `--once` left something undone.

    Raises: OperatorError for bad settings or a cluster that cannot be reached.
    """
    # kopf and the metrics library are slow to import, and --help needs neither.
    from motley_operator.logs import configure_logging
    from motley_operator.main import serve

    try:
        settings = from_args(args, os.environ)
    except ValueError as error:
        raise OperatorError(str(error)) from error
    configure_logging(settings.log_format, settings.log_level)
    report = _run(serve(settings))
    if report is None:
        return 0
    return 1 if any(outcome.result == "failed" for outcome in report.outcomes) else 0


def _run(main: Coroutine[None, None, T]) -> T:
    """Run it on uvloop where there is one: what TLS and the loop take of a heartbeat is half as much."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)
