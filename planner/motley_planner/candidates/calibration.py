"""A cascade's calibration table, read strictly from CSV.

One row a question: `question_id`, then per stage `<stage>:score` and `<stage>:quality` (0 to 1),
optionally `<stage>:prompt_tokens` and `<stage>:output_tokens`; optionally `class`. The last stage
needs no score, for its answer is always returned.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from motley_planner.errors import SnapshotError

UNIT_FIELDS = ("score", "quality")  # 0 to 1
TOKEN_FIELDS = ("prompt_tokens", "output_tokens")
LEAST_ROWS = 2


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

    Raises: SnapshotError naming line and column, and what should stand there.
    """
    lines = csv.reader(io.StringIO(text.lstrip("\ufeff")))
    header = [name.strip() for name in next(lines, [])]
    _check_header(header, stages)
    # line_num is of the line read last, so a quoted line break does not shift the count.
    rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    _check_rows(header, rows)
    values = {
        name: tuple(_number(name, line, row[at]) for line, row in rows)
        for at, name in enumerate(header)
        if ":" in name
    }
    class_at = header.index("class") if "class" in header else None
    return CalibrationTable(
        stages=tuple(stages),
        classes=() if class_at is None else tuple(row[class_at] for _, row in rows),
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


def _check_header(header: Sequence[str], stages: Sequence[str]) -> None:
    if not header:
        raise SnapshotError("calibration table, line 1", "is empty; give a header and rows")
    wanted = {f"{stage}:quality" for stage in stages} | {f"{stage}:score" for stage in stages[:-1]}
    for name in sorted({"question_id", *wanted} - set(header)):
        raise SnapshotError(_at(1, name), "is missing; add it")
    known = {f"{stage}:{name}" for stage in stages for name in (*UNIT_FIELDS, *TOKEN_FIELDS)}
    for name in header:
        if name not in known and name not in ("question_id", "class"):
            listed = ", ".join(stages)
            raise SnapshotError(_at(1, name), f"belongs to no stage; the stages are {listed}")
        if header.count(name) > 1:
            raise SnapshotError(_at(1, name), "stands there twice; keep one")


def _check_rows(header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    if len(rows) < LEAST_ROWS:
        raise SnapshotError(
            "calibration table", f"has {len(rows)} rows; give at least {LEAST_ROWS}"
        )
    at, seen = header.index("question_id"), dict[str, int]()
    for line, row in rows:
        if len(row) != len(header):
            rule = f"has {len(row)} cells; the header has {len(header)}"
            raise SnapshotError(f"calibration table, line {line}", rule)
        if row[at] in seen:
            rule = f"{row[at]!r} already stands in line {seen[row[at]]}; keep one"
            raise SnapshotError(_at(line, "question_id"), rule)
        seen[row[at]] = line


def _number(name: str, line: int, cell: str) -> float:
    unit = name.rpartition(":")[2] in UNIT_FIELDS
    what = "a number from 0 to 1" if unit else "a number, 0 or more"
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not isfinite(value) or value < 0.0 or (unit and value > 1.0):
        raise SnapshotError(_at(line, name), f"{cell!r} is not {what}")
    return value


def _at(line: int, column: str) -> str:
    return f"calibration table, line {line}, column {column}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
