"""A cascade's calibration table, read strictly from CSV; the only parser of it.

One row a question: `question_id`, then per stage `<stage>:score` and `<stage>:quality` (0 to 1),
optionally `<stage>:prompt_tokens` and `<stage>:output_tokens`; optionally `class`. The last stage
needs no score, for its answer is always returned.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

from motley_planner.errors import SnapshotError

UNIT_FIELDS = ("score", "quality")  # 0 to 1
TOKEN_FIELDS = ("prompt_tokens", "output_tokens")
LEAST_ROWS = 30  # below it a mean says nothing: 95 % confidence of a share is then +-18 points

Row = tuple[int, Sequence[str]]  # line of the file, cells


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """Scores and qualities of every stage's answer to the same questions."""

    stages: tuple[str, ...]
    scores: Mapping[str, tuple[float, ...]]  # by stage; all stages but the last
    qualities: Mapping[str, tuple[float, ...]]  # by stage
    mean_tokens: Mapping[str, tuple[float, float]]  # by stage: prompt, output; where given
    classes: tuple[str, ...] = ()  # of each question; empty where the table has no such column

    @property
    def rows(self) -> int:
        """Questions in the table."""
        return len(self.qualities[self.stages[-1]])


def read_calibration(text: str, stages: Sequence[str]) -> CalibrationTable:
    """The table for these stages, small to large.

    Raises: SnapshotError with the first mistake and its fix.
    """
    table, mistakes = check_calibration(text, stages)
    if table is None:
        raise SnapshotError("calibration table", mistakes[0])
    return table


def check_calibration(
    text: str, stages: Sequence[str]
) -> tuple[CalibrationTable | None, tuple[str, ...]]:
    """The table, or None and a sentence with the fix for everything that is wrong with it."""
    lines = csv.reader(io.StringIO(text.lstrip("\ufeff")))
    try:
        header = [name.strip() for name in next(lines, [])]
        # line_num is of the line read last, so a quoted line break does not shift the count.
        rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        return None, (f"line {lines.line_num} is not CSV ({error}): correct the line",)
    mistakes = _header_mistakes(header, stages)
    if mistakes:
        return None, tuple(mistakes)
    mistakes = _row_mistakes(header, rows)
    whole = [(line, row) for line, row in rows if len(row) == len(header)]
    values: dict[str, tuple[float, ...]] = {}
    for at, name in enumerate(header):
        if ":" in name:
            values[name], bad = _column(name, at, whole)
            mistakes += bad
    if mistakes:
        return None, tuple(mistakes)
    class_at = header.index("class") if "class" in header else None
    classes = () if class_at is None else tuple(row[class_at] for _, row in whole)
    return replace(_table(values, stages), classes=classes), ()


def _table(values: Mapping[str, tuple[float, ...]], stages: Sequence[str]) -> CalibrationTable:
    return CalibrationTable(
        stages=tuple(stages),
        scores={stage: values[f"{stage}:score"] for stage in stages[:-1]},
        qualities={stage: values[f"{stage}:quality"] for stage in stages},
        mean_tokens={
            stage: (
                _mean(values[f"{stage}:prompt_tokens"]),
                _mean(values[f"{stage}:output_tokens"]),
            )
            for stage in stages
            if all(f"{stage}:{name}" in values for name in TOKEN_FIELDS)
        },
    )


def _header_mistakes(header: Sequence[str], stages: Sequence[str]) -> list[str]:
    if not header:
        return ["line 1 is empty: give a header and rows"]
    wanted = ["question_id"]
    for stage in stages:
        wanted += [f"{stage}:score"] if stage != stages[-1] else []
        wanted.append(f"{stage}:quality")
    missing = [name for name in wanted if name not in header]
    if missing:
        return [f"the header has no column {', '.join(missing)}: add what is missing"]
    known = {f"{stage}:{name}" for stage in stages for name in (*UNIT_FIELDS, *TOKEN_FIELDS)}
    mistakes = []
    for name in dict.fromkeys(header):
        if name not in known and name not in ("question_id", "class"):
            listed = ", ".join(stages)
            mistakes.append(f"column {name} belongs to no stage (they are {listed}): take it out")
        if header.count(name) > 1:
            mistakes.append(f"column {name} is there twice: keep one")
    return mistakes


def _row_mistakes(header: Sequence[str], rows: Sequence[Row]) -> list[str]:
    mistakes = []
    if len(rows) < LEAST_ROWS:
        mistakes.append(f"the table has {len(rows)} rows: give at least {LEAST_ROWS}")
    at, seen = header.index("question_id"), dict[str, int]()
    for line, row in rows:
        if len(row) != len(header):
            cells = f"{len(row)} cells and the header {len(header)}"
            mistakes.append(f"line {line} has {cells}: give one for each column")
        elif row[at] in seen:
            mistakes.append(
                f"line {line}, column question_id: {row[at]!r} is in line {seen[row[at]]} already: "
                "keep one of the two"
            )
        else:
            seen[row[at]] = line
    return mistakes


def _column(name: str, at: int, rows: Sequence[Row]) -> tuple[tuple[float, ...], list[str]]:
    """The numbers of a column, and its first mistake."""
    unit = name.rpartition(":")[2] in UNIT_FIELDS
    what = "a number from 0 to 1" if unit else "a number that is not negative"
    values = []
    for line, row in rows:
        try:
            value = float(row[at])
        except ValueError:
            value = -1.0
        if not isfinite(value) or value < 0.0 or (unit and value > 1.0):
            return (), [f"line {line}, column {name}: write {what} in place of {row[at]!r}"]
        values.append(value)
    return tuple(values), []


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
