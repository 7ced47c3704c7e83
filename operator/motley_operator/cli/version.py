"""`motley version`."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from motley_operator.cli.output import emit

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    subparsers.add_parser("version", help="print the version")


def run(args: argparse.Namespace) -> int:
    """Prints Motley's version and Python's."""
    value = {"motley": motley_version(), "python": platform.python_version()}
    emit(args, value, lambda: f"motley {value['motley']} (Python {value['python']})")
    return 0


def motley_version() -> str:
    """The installed distribution's version, such as "0.1.0"."""
    try:
        return version("motley")
    except PackageNotFoundError:
        return "0.0.0+source"
