"""`motley strategies`: the planning strategies and where each comes from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from motley_operator.cli.output import columns, emit
from motley_planner.strategies.listing import STRATEGIES

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    subparsers.add_parser("strategies", help="list the planning strategies and their papers")


def run(args: argparse.Namespace) -> int:
    """Lists the strategies."""
    rows = [(s.name, s.source, s.summary) for s in STRATEGIES]
    value = [dict(zip(("name", "source", "summary"), row, strict=True)) for row in rows]
    emit(args, value, lambda: columns([("NAME", "SOURCE", "WHAT IT DOES"), *rows]))
    return 0
