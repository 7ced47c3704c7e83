"""Reading the table of `motley predict`: what is wrong with a file, and what with one row of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from motley_operator.cli.output import InputError
from motley_operator.cli.texts import read_text
from motley_planner.prediction import Configuration, RowError, read_configuration
from motley_planner.prediction.rows import NUMBERS, REQUIRED


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV table: its cells as they came, and each row as a configuration or why it is none."""

    header: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    configurations: tuple[Configuration | str, ...]


def read_table(name: str) -> Table:
    """The table of a file, or of stdin for "-".

    A cell that is no number at all breaks the file; one that is a number but no possible value
    (empty, NaN, negative) refuses its row alone.
    Raises: InputError naming file, line, column, rule and fix.
    """
    reader = csv.reader(io.StringIO(read_text(name), newline=""), strict=True)
    lines = _lines(reader, name)
    _, header = next(lines, (1, ()))
    _check_header(header, name)
    rows: list[Mapping[str, str]] = []
    configurations: list[Configuration | str] = []
    for line, cells in lines:
        if len(cells) != len(header):
            rule = f"{len(cells)} cells under a header of {len(header)}; quote cells with commas"
            raise InputError(f"{name}:{line}", rule)
        row = dict(zip(header, cells, strict=True))
        _check_numbers(row, f"{name}:{line}")
        rows.append(row)
        try:
            configurations.append(read_configuration(row))
        except RowError as error:
            configurations.append(str(error))
    return Table(tuple(header), tuple(rows), tuple(configurations))


def _lines(reader: Iterator[list[str]], name: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows that are not blank, with the number of the line they end on."""
    line = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{name}:{line + 1}", f"not CSV ({error}); check the quotes"
            ) from error
        line = getattr(reader, "line_num", line + 1)
        if cells:
            yield line, cells


def _check_header(header: Sequence[str], name: str) -> None:
    if not header:
        raise InputError(name, f"is empty; start it with a header: {','.join(REQUIRED)}")
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise InputError(f"{name}:1", f"column {missing[0]} is missing; add it to the header")
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise InputError(f"{name}:1", f"column {twice[0]} occurs twice; keep one of them")


def _check_numbers(row: Mapping[str, str], place: str) -> None:
    for column in NUMBERS:
        text = row.get(column, "").strip()
        try:
            float(text or 0.0)
        except ValueError:
            rule = f"column {column}: {text!r} is not a number; write one, such as 8"
            raise InputError(place, rule) from None
