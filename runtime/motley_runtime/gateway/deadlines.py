"""How long a stage takes to answer, learned from its answers, and whether a deadline allows it.

Predicted seconds = mean + 2 x mean deviation, both smoothed exponentially (1/8 and 1/4, as TCP
smooths round-trip times): about the 95th percentile, queue included. A stage without answers yet
is taken to be in time: quality goes first.

Source of the smoothing: RFC 6298.
"""

from __future__ import annotations

_MEAN_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 0.125, 0.25, 2.0


class Latencies:
    """Seconds of whole answers by stage and class."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[float, float]] = {}

    def observe(self, stage: str, class_name: str, seconds: float) -> None:
        """Notes how long one answer took."""
        known = self._seen.get((stage, class_name))
        if known is None:
            self._seen[stage, class_name] = (seconds, seconds / 2)
            return
        mean, deviation = known
        deviation += _DEVIATION_GAIN * (abs(seconds - mean) - deviation)
        mean += _MEAN_GAIN * (seconds - mean)
        self._seen[stage, class_name] = (mean, deviation)

    def predicted_s(self, stage: str, class_name: str) -> float | None:
        """Seconds an answer will take with high probability; None where none was seen."""
        known = self._seen.get((stage, class_name))
        return None if known is None else known[0] + _DEVIATIONS * known[1]

    def allows(self, stage: str, class_name: str, left_s: float) -> bool:
        """Whether a stage is expected to answer within `left_s` seconds."""
        return (self.predicted_s(stage, class_name) or 0.0) <= left_s
