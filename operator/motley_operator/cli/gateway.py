"""`motley gateway`: run the gateway of one pool or cascade."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from motley_runtime.gateway.options import DESCRIPTION, add_arguments, settings_of

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

EPILOG = """\
paths: POST /v1/chat/completions, POST /v1/completions, GET /v1/models, /health, /ready, /metrics
example: motley gateway --routing-file routing.json --port 8000"""


def add_parser(subparsers: Subparsers) -> None:
    """Adds the `gateway` verb."""
    parser = subparsers.add_parser(
        "gateway",
        help="run the gateway of a pool or cascade",
        description=textwrap.fill(DESCRIPTION, 88),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until SIGTERM has drained the gateway; 0 then, 2 where it could not start."""
    # Imported here, so that the other verbs do not pay for a web server.
    from motley_runtime.gateway.server import serve

    return serve(settings_of(args))
