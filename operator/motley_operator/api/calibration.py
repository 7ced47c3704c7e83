"""The calibration table of a cascade: reading it, and the best quality any thresholds reach on it.

CSV, one row a question: `question_id`, then per stage `<stage>:score` and `<stage>:quality` (0 to 1),
`<stage>:prompt_tokens`, `<stage>:output_tokens`; optional `class`.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIELDS = ("score", "quality", "prompt_tokens", "output_tokens")
MIN_ROWS = 30
_GRID = 4096
"""Threshold combinations tried by `best_quality`, at most."""


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """One array a column, by stage and field; rows are questions."""

    question_ids: tuple[str, ...]
    columns: Mapping[tuple[str, str], NDArray[np.float64]]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableError:
    """What is wrong with a table: `line` of the CSV (1 is the header) and a sentence with the fix."""

    line: int
    message: str


def read_calibration(
    text: str, stages: Sequence[str]
) -> tuple[CalibrationTable | None, tuple[TableError, ...]]:
    """The table, or None and everything that is wrong with it for these stages."""
    rows = list(csv.reader(io.StringIO(text.lstrip("\ufeff"))))
    if not rows:
        return None, (TableError(1, "the calibration table is empty: give a header and rows"),)
    header, body = [name.strip() for name in rows[0]], [row for row in rows[1:] if row]
    errors = [*_header_errors(header, stages)]
    if errors:
        return None, tuple(errors)
    if len(body) < MIN_ROWS:
        errors.append(
            TableError(1, f"the calibration table has {len(body)} rows: give at least {MIN_ROWS}")
        )
    columns, cell_errors = _cells(header, body, stages)
    errors += cell_errors
    ids = tuple(row[header.index("question_id")] for row in body)
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        errors.append(TableError(1, f"question_id {twice!r} appears twice: keep one row of it"))
    if errors:
        return None, tuple(errors)
    classes = tuple(row[header.index("class")] for row in body) if "class" in header else ()
    return CalibrationTable(ids, columns, classes), ()


def _header_errors(header: Sequence[str], stages: Sequence[str]) -> list[TableError]:
    wanted = ["question_id", *(f"{s}:{f}" for s in stages for f in FIELDS)]
    missing = [name for name in wanted if name not in header]
    if not missing:
        return []
    listed = ", ".join(missing)
    return [TableError(1, f"the calibration table has no column {listed}: add what is missing")]


def _cells(
    header: Sequence[str], body: Sequence[Sequence[str]], stages: Sequence[str]
) -> tuple[dict[tuple[str, str], NDArray[np.float64]], list[TableError]]:
    columns: dict[tuple[str, str], NDArray[np.float64]] = {}
    errors: list[TableError] = []
    for stage, field in itertools.product(stages, FIELDS):
        at = header.index(f"{stage}:{field}")
        limit = 1.0 if field in ("score", "quality") else float("inf")
        values = np.empty(len(body))
        for i, row in enumerate(body):
            try:
                values[i] = float(row[at])
            except (IndexError, ValueError):
                values[i] = np.nan
        bad = np.flatnonzero(~((values >= 0.0) & (values <= limit) & np.isfinite(values)))
        if bad.size:
            what = "a number from 0 to 1" if limit == 1.0 else "a number that is not negative"
            line = int(bad[0]) + 2
            errors.append(
                TableError(line, f"line {line}, column {stage}:{field}: write {what} there")
            )
        columns[stage, field] = values
    return columns, errors


def best_quality(table: CalibrationTable, stages: Sequence[str]) -> tuple[float, tuple[float, ...]]:
    """The highest mean quality that thresholds reach on the table, and those thresholds.

    Thresholds are tried on quantiles of each stage's scores (exact for two stages and up to 4,000
    rows); a stage's answer is returned where its score is at least the stage's threshold.
    """
    scores = [table.columns[s, "score"] for s in stages]
    quality = [table.columns[s, "quality"] for s in stages]
    points = max(2, int(_GRID ** (1.0 / max(1, len(stages) - 1))))
    grids = [
        np.append(
            np.unique(np.quantile(s, np.linspace(0, 1, min(points, s.size)), method="lower")), 1.01
        )
        for s in scores[:-1]
    ]
    best = -1.0
    chosen: tuple[float, ...] = ()
    for thresholds in itertools.product(*grids):
        value = quality[-1]
        for score, own, limit in zip(
            scores[-2::-1], quality[-2::-1], thresholds[::-1], strict=True
        ):
            value = np.where(score >= limit, own, value)
        if (mean := float(value.mean())) > best:
            best, chosen = mean, tuple(float(t) for t in thresholds)
    return best, chosen
