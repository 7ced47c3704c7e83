"""Means and shares out of cumulative histograms, with what the buckets leave open."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from motley_operator.domain.measurement import Histogram


@dataclass(frozen=True, slots=True)
class Share:
    """A share of all values; the true one lies in [low, high] wherever values lie in a bucket."""

    value: float
    low: float
    high: float


def count_of(histogram: Histogram) -> float:
    """Values that the histogram counted."""
    return histogram.counts[-1] if histogram.counts else 0.0


def mean_of(histogram: Histogram) -> float | None:
    """Mean of the values, exact (sum over count); None where there is none."""
    count = count_of(histogram)
    return histogram.total / count if count > 0.0 else None


def deviation_of(histogram: Histogram) -> float:
    """Standard deviation of the values, as if each lay in the middle of its bucket.

    Too small by what lies inside the buckets, 1/sqrt(12) of their width at most in equal filling,
    and by what the last, open bucket hides.
    """
    count = count_of(histogram)
    if count <= 0.0:
        return 0.0
    lows = (0.0, *histogram.bounds[:-1])
    masses = [b - a for a, b in pairwise((0.0, *histogram.counts))]
    middles = [
        low if math.isinf(high) else (low + high) / 2.0
        for low, high in zip(lows, histogram.bounds, strict=True)
    ]
    mean = sum(m * at for m, at in zip(masses, middles, strict=True)) / count
    squares = sum(m * (at - mean) ** 2 for m, at in zip(masses, middles, strict=True))
    return math.sqrt(squares / count)


def share_below(histogram: Histogram, bound: float) -> Share:
    """The share of values <= bound, linear inside the bucket that the bound cuts.

    The error is at most that bucket's share of all values: [low, high] are the shares with none
    and with all of it below the bound.
    """
    count = count_of(histogram)
    if count <= 0.0:
        return Share(0.0, 0.0, 0.0)
    at = bisect_left(histogram.bounds, bound)
    if at >= len(histogram.bounds):
        return Share(1.0, 1.0, 1.0)
    below = histogram.counts[at - 1] if at else 0.0
    upto, high = histogram.counts[at], histogram.bounds[at]
    if high == bound:
        return Share(upto / count, upto / count, upto / count)
    low = histogram.bounds[at - 1] if at else 0.0
    part = 0.0 if math.isinf(high) else (bound - low) / (high - low)
    value = below + (upto - below) * min(1.0, max(0.0, part))
    return Share(value / count, below / count, upto / count)
