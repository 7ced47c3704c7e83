"""Watches answers beside the requests' way: scores, labels and canaries, and the alarms they raise."""

from __future__ import annotations

import logging

from motley_planner.dispatch import WatchRule
from motley_runtime.gateway.drift import LearnedShare, Look, ScoreDrift, ShareDrift
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.quality_metrics import QualityMetrics

log = logging.getLogger("motley.gateway")


class Watch:
    """The alarms of one gateway. A plan with other references begins anew."""

    def __init__(self, live: LiveRouting, metrics: QualityMetrics) -> None:
        self._live, self._metrics = live, metrics
        self._rule: WatchRule | None = None
        self._scores: dict[str, ScoreDrift] = {}
        self._labels: dict[str, ShareDrift] = {}
        self.canaries: dict[str, LearnedShare] = {}

    def scored(self, job: Job, stage: str, score: float | None) -> None:
        """Takes in the score of an answer; one that has none counts as 0, as in the calibration."""
        if self._is_current(job) and stage in self._scores:
            self._take("scores", stage, self._scores[stage].add(score or 0.0))

    def labelled(self, job: Job, stage: str, agrees: bool) -> None:
        """Takes in whether an early answer was right."""
        self._metrics.shadow_labels.labels(stage, "yes" if agrees else "no").inc()
        if self._is_current(job) and stage in self._labels:
            self._take("labels", stage, self._labels[stage].add(agrees))

    def graded(self, stage: str, is_right: bool) -> None:
        """Takes in how a stage answered a question with a known answer."""
        known = self.canaries.setdefault(stage, LearnedShare())
        self._take("canaries", stage, known.add(is_right))

    def _is_current(self, job: Job) -> bool:
        """Whether a request ran on the plan in force; brings references up to date with it."""
        current = self._live.current
        if current is None or job.dispatcher is not current:
            return False
        if current.table.watch is not self._rule:
            self._adopt(current.table.watch)
        return True

    def _adopt(self, rule: WatchRule | None) -> None:
        old, self._rule = self._rule, rule
        known = old.references if old is not None else {}
        shadow = rule.shadow if rule is not None else None
        before = old.shadow if old is not None else None
        by_agreement = shadow is not None and shadow.label == "LastStage"
        for stage in known:
            if rule is None or rule.references.get(stage) != known[stage] or shadow != before:
                self._scores.pop(stage, None)
                self._labels.pop(stage, None)
                self._metrics.forget(stage)
        for stage, each in rule.references.items() if rule is not None else ():
            share = each.agreement if by_agreement else each.quality
            self._scores.setdefault(stage, ScoreDrift(each))
            self._labels.setdefault(stage, ShareDrift(share, each.accepted))

    def _take(self, signal: str, stage: str, look: Look | None) -> None:
        if look is None:
            return
        self._metrics.drift.labels(stage, signal).set(look.value)
        self._metrics.drift_alarm.labels(stage, signal).set(look.is_on)
        if look.has_changed:
            fields = {
                "stage": stage,
                "signal": signal,
                "value": round(look.value, 4),
                "limit": round(look.limit, 4),
            }
            if look.is_on:
                log.warning("drift", extra={"fields": fields})
            else:
                log.info("drift is over", extra={"fields": fields})
