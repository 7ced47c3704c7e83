"""Whether a stage's answer is returned: by a calibration table's rows, or by visit rates alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.dispatch import Policy, accepts


class Outcomes(Protocol):
    """Decides escalation; `luck` (uniform on [0, 1)) stands for the question asked."""

    def is_returned(self, stage: int, policy: Policy | None, luck: float) -> bool:
        """Whether the answer of a stage (by index) is returned."""

    def quality(self, stage: int, luck: float) -> float | None:
        """What the answer is worth, 0..1; None where that is not known."""


class TableOutcomes:
    """Each request asks one of the table's questions: score and quality are that row's."""

    def __init__(self, table: CalibrationTable) -> None:
        self._scores = [table.scores[stage] for stage in table.stages[:-1]]
        self._qualities = [table.qualities[stage] for stage in table.stages]
        self._stages, self._rows = table.stages, table.rows

    def is_returned(self, stage: int, policy: Policy | None, luck: float) -> bool:
        """score >= threshold, by the dispatcher's own rule."""
        if stage >= len(self._scores) or policy is None:
            return True
        score = self._scores[stage][int(luck * self._rows)]
        return accepts(score, policy.thresholds[self._stages[stage]])

    def quality(self, stage: int, luck: float) -> float | None:
        """The row's quality at that stage."""
        return self._qualities[stage][int(luck * self._rows)]


class VisitOutcomes:
    """Escalates as often as a policy's mean visits say, questions independent of their length.

    `visits`: by policy id, mean visits of each stage. A request whose luck is below
    (most visits of a stage after s) / (most of any) goes on after stage s, so that whoever visits a
    stage visited all before that its policy does not skip.
    """

    def __init__(self, visits: Mapping[str, Sequence[float]]) -> None:
        self._visits = visits

    def is_returned(self, stage: int, policy: Policy | None, luck: float) -> bool:
        """Whether luck is at or above the share of requests that go on."""
        row = self._visits.get(policy.id, ()) if policy is not None else ()
        most = max(row, default=0.0)
        if stage + 1 >= len(row) or most <= 0.0:
            return True
        return luck >= max(row[stage + 1 :]) / most

    def quality(self, stage: int, luck: float) -> float | None:
        """Not known."""
        return None
