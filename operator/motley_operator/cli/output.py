"""How results are printed: JSON and YAML of plain values, and tables a person enjoys."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from motley_operator.errors import OperatorError
from motley_planner.domain.solution import UNPROVED, Level

Row = Sequence[str]


class InputError(OperatorError):
    """A file or an option that cannot be used: where, the rule, and the fix in words."""

    def __init__(self, where: str, rule: str) -> None:
        super().__init__(f"{where}: {rule}")
        self.where, self.rule = where, rule


def emit(args: argparse.Namespace, value: object, table: Callable[[], str]) -> None:
    """Prints a result on stdout in the form that `-o` or the terminal asks for."""
    form = getattr(args, "output", None) or ("table" if sys.stdout.isatty() else "json")
    if form == "table":
        text = table()
    elif form == "yaml":
        import yaml

        text = yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, width=100)
    else:
        text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    print(text.rstrip("\n"))


def say(args: argparse.Namespace, message: str) -> None:
    """Prints a message on stderr, unless `--quiet`."""
    if not getattr(args, "quiet", False):
        print(message, file=sys.stderr)


def plain(value: object) -> Any:
    """The value as dicts, lists and scalars; frozen dataclasses become their fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(plain(item) for item in value)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    return value


def columns(rows: Sequence[Row], *, right: frozenset[int] = frozenset(), indent: int = 0) -> str:
    """Rows as aligned text; `right` names the columns that are numbers."""
    if not rows:
        return ""
    count = max(len(row) for row in rows)
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(count)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def money(usd_per_hour: float | None) -> str:
    """ "$12.40/h", or a dash where there is no price."""
    return "-" if usd_per_hour is None else f"${usd_per_hour:,.2f}/h"


def number(value: float | None, digits: int = 3) -> str:
    """A number with as many significant digits as a person reads, or a dash."""
    if value is None:
        return "-"
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in text else text


def percent(share: float | None) -> str:
    """A share (0..1) as a percentage, or a dash."""
    return "-" if share is None else f"{100 * share:.3g} %"


def plural(count: int, noun: str) -> str:
    """ "1 node", "3 nodes"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def unproved_lines(levels: Iterable[Level]) -> list[str]:
    """A line for each level whose bound is the search's word: no certificate proves it."""
    return [
        f"{level.name}: the bound {number(level.bound, 6)} is {UNPROVED}"
        for level in levels
        if level.bound_proof == UNPROVED
    ]
