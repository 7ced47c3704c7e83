"""`motley strategies`: the planning strategies and where each comes from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from motley_operator.cli.output import columns, emit

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers

# Name, source, what it does. Strategies of published schedulers join this list as they arrive.
STRATEGIES: tuple[tuple[str, str, str], ...] = (
    ("exact", "Motley", "one mixed-integer program for the whole fleet, with bound and gap"),
)


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    subparsers.add_parser("strategies", help="list the planning strategies and their papers")


def run(args: argparse.Namespace) -> int:
    """Lists the strategies."""
    value = [dict(zip(("name", "source", "summary"), row, strict=True)) for row in STRATEGIES]
    emit(args, value, lambda: columns([("NAME", "SOURCE", "WHAT IT DOES"), *STRATEGIES]))
    return 0
