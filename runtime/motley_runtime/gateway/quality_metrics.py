"""What is counted about the quality of answers: estimators, labels, drift, canaries, relief."""

from __future__ import annotations

from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge


class QualityMetrics:
    """Counters in the gateway's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"motley_gateway_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"motley_gateway_{name}", text, labels, registry=registry)

        self.estimator_calls = counter(
            "estimator_calls", "Calls made to score an answer, beside the answer's own.", "stage"
        )
        self.estimator_tokens = counter(
            "estimator_tokens", "Completion tokens of calls made to score an answer.", "stage"
        )
        self.shadow_labels = counter(
            "shadow_labels", "Early answers labelled by a second look.", "stage", "agrees"
        )
        self.shadow_skipped = counter(
            "shadow_skipped", "Early answers drawn for a label that got none, by reason.", "reason"
        )
        self.canaries = counter(
            "canaries", "Questions with known answers: right, wrong or failed.", "stage", "outcome"
        )
        self.drift = gauge(
            "drift",
            "How far a stage is from its reference: KS distance of scores, or the share of right "
            "answers lost.",
            "stage",
            "signal",
        )
        self.drift_alarm = gauge(
            "drift_alarm", "1 while a stage has drifted from its reference.", "stage", "signal"
        )
        self.relaxed = counter(
            "relaxed_requests", "Requests at lower thresholds because a stage was busy.", "policy"
        )
        self.slack = gauge(
            "quality_slack",
            "Quality above the floor that may still be spent, in requests' worth of 1.0.",
        )

    def forget(self, stage: str) -> None:
        """Drops the drift of a stage whose reference is no longer."""
        for gauge in (self.drift, self.drift_alarm):
            for signal in ("scores", "labels"):
                with suppress(KeyError):
                    gauge.remove(stage, signal)
