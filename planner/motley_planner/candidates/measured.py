"""Where a user's measurements go before the cost model.

Rules. What is interpolated is the ratio measured / modeled, never milliseconds: between points it
changes little, while times change a lot. The ratio at a load is the mean of the points' logarithms,
weighted by the inverse square of their distance in log2 of batch, prompt and output tokens. Within
a factor of two of a point the measurement holds. A ratio below 1 fades into the model from there to
a factor of four; one above 1 stays, however far: a replica that was slower than modeled wherever it
was measured is promised nowhere to be faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, log2

SURE, UNSURE = 1.0, 2.0  # in doublings


@dataclass(frozen=True, slots=True)
class Ratio:
    """Measured over modeled value at a load."""

    batch: float
    prompt_tokens: float
    output_tokens: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Correction:
    """Ratios of one replica configuration; empty ones change nothing."""

    tpot: tuple[Ratio, ...] = ()
    ttft: tuple[Ratio, ...] = ()

    def tpot_at(self, batch: float, prompt_tokens: float, output_tokens: float) -> float:
        """Factor on a modeled TPOT."""
        return interpolated(self.tpot, (batch, prompt_tokens, output_tokens))

    def ttft_at(self, batch: float, prompt_tokens: float, output_tokens: float) -> float:
        """Factor on a modeled TTFT."""
        return interpolated(self.ttft, (batch, prompt_tokens, output_tokens))

    def covers(self, batch: float, prompt_tokens: float, output_tokens: float) -> bool:
        """Whether a measurement, not the model, says what happens at a load."""
        at = (batch, prompt_tokens, output_tokens)
        return any(distance(point, at) <= SURE for point in self.tpot)


UNCORRECTED = Correction()


def distance(point: Ratio, at: tuple[float, float, float]) -> float:
    """Doublings between two loads, in the dimension in which they differ most."""
    own = (point.batch, point.prompt_tokens, point.output_tokens)
    return max(abs(log2(mine / theirs)) for mine, theirs in zip(own, at, strict=True))


def interpolated(points: Sequence[Ratio], at: tuple[float, float, float]) -> float:
    """The ratio at a load; far from every point 1, or what it was there if that was slower."""
    if not points:
        return 1.0
    away = [distance(point, at) for point in points]
    trust = min(1.0, max(0.0, (UNSURE - min(away)) / (UNSURE - SURE)))
    weights = [1.0 / (d * d + 1e-9) for d in away]
    mean = sum(w * log(p.ratio) for w, p in zip(weights, points, strict=True)) / sum(weights)
    return exp(mean if mean > 0.0 else trust * mean)
