"""Reads per-question outcome tables of any shape into a calibration table.

A stage's quality is the first of the columns `<model>:quality`, `<model>:correct` (0 or 1), or
`<model>:pred` compared with the column `answer`. Its score is an expression:

- `score` (default): the column `<stage's model>:score`
- `column:NAME`: any column, made 0..1 by its rank (ties share one; `column:-NAME`: low is good)
- `agree:M1,M2`: the share of these models whose `:pred` is the same
- `history:NAME`: a prior before the answer: of rows with the same value in NAME, how often this
  stage was as good as the last. Learned on the fold that chooses and used on the other.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.certify import Floats, Indices, folds
from motley_planner.errors import SnapshotError

_WHERE = "outcome table"
_PSEUDO = 4.0  # rows' worth of the overall mean in a value's own


@dataclass(frozen=True, slots=True)
class Asked:
    """What to read: stages (name to model, small to large), scores by stage, a class column."""

    stages: Mapping[str, str]
    scores: Mapping[str, str] = field(default_factory=dict)
    class_column: str | None = None


def read_outcomes(lines: Sequence[str], asked: Asked) -> CalibrationTable:
    """The table. Raises: SnapshotError naming the column that is missing or the row that is wrong."""
    rows = list(csv.DictReader(lines))
    if not rows:
        raise SnapshotError(_WHERE, "has no rows")
    qualities = {stage: _quality(rows, model) for stage, model in asked.stages.items()}
    last = list(asked.stages)[-1]
    scores: dict[str, Floats] = {}
    used: Indices = np.arange(len(rows))
    for stage in list(asked.stages)[:-1]:
        wanted = asked.scores.get(stage, "score")
        kind, _, rest = wanted.partition(":")
        if kind == "history":
            worth = (qualities[stage] >= qualities[last]).astype(np.float64)
            scores[stage], used = _history(rows, rest, worth)
        else:
            scores[stage] = _score(rows, asked.stages[stage], wanted)
    picked = [rows[i] for i in used]
    column = asked.class_column
    if column is not None and column not in rows[0]:
        raise SnapshotError(_WHERE, f"has no column {column!r}")
    return CalibrationTable(
        stages=tuple(asked.stages),
        scores={stage: tuple(each[used].tolist()) for stage, each in scores.items()},
        qualities={stage: tuple(each[used].tolist()) for stage, each in qualities.items()},
        mean_tokens={},
        classes=() if column is None else tuple(row[column] for row in picked),
    )


def _quality(rows: Sequence[Mapping[str, str]], model: str) -> Floats:
    for name in (f"{model}:quality", f"{model}:correct", model):
        if name in rows[0]:
            return _numbers(rows, name)
    if f"{model}:pred" in rows[0] and "answer" in rows[0]:
        return np.array([float(row[f"{model}:pred"] == row["answer"]) for row in rows])
    raise SnapshotError(_WHERE, f"has no column {model}:quality, {model}:correct or {model}:pred")


def _score(rows: Sequence[Mapping[str, str]], model: str, wanted: str) -> Floats:
    kind, _, rest = wanted.partition(":")
    if kind == "score" and not rest:
        return _numbers(rows, f"{model}:score")
    if kind == "column":
        values = _numbers(rows, rest.removeprefix("-"))
        return _ranked(-values if rest.startswith("-") else values)
    if kind == "agree":
        others, own = rest.split(","), f"{model}:pred"
        for name in (own, *(f"{other}:pred" for other in others)):
            if name not in rows[0]:
                raise SnapshotError(_WHERE, f"has no column {name!r}")
        return np.array(
            [sum(row[f"{o}:pred"] == row[own] for o in others) / len(others) for row in rows]
        )
    raise SnapshotError(
        "--score", f"{wanted!r} is not score, column:NAME, agree:M1,M2 or history:NAME"
    )


def _history(rows: Sequence[Mapping[str, str]], name: str, worth: Floats) -> tuple[Floats, Indices]:
    if name not in rows[0]:
        raise SnapshotError(_WHERE, f"has no column {name!r}")
    learning, rest = folds(len(rows))
    overall = float(worth[learning].mean())
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for i in learning:
        value = rows[i][name]
        sums[value] = sums.get(value, 0.0) + float(worth[i])
        counts[value] = counts.get(value, 0) + 1
    scores = [
        (sums.get(row[name], 0.0) + _PSEUDO * overall) / (counts.get(row[name], 0) + _PSEUDO)
        for row in rows
    ]
    return np.array(scores), rest


def _ranked(values: Floats) -> Floats:
    """Ranks over the number of rows, in (0, 1); equal values get one rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranked: Floats = (np.cumsum(counts) - counts / 2.0)[inverse] / len(values)
    return ranked


def _numbers(rows: Sequence[Mapping[str, str]], name: str) -> Floats:
    if name not in rows[0]:
        raise SnapshotError(_WHERE, f"has no column {name!r}")
    values = []
    for line, row in enumerate(rows, start=2):
        try:
            values.append(float(row[name]))
        except (TypeError, ValueError):
            rule = f"line {line}, column {name}: {row[name]!r} is not a number"
            raise SnapshotError(_WHERE, rule) from None
    return np.array(values)
