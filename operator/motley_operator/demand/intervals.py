"""How sure a rate is that was counted.

Exact Poisson limits (Garwood 1936, Biometrika 28), widened for bursts as a quasi-Poisson count
(McCullagh & Nelder 1989, 9.2): a count n whose variance is phi times its mean is treated as n / phi
independent events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CONFIDENCE = 0.99  # two such intervals of one rate lie apart with chance 2.7e-4 (normal limit)


@dataclass(frozen=True, slots=True)
class Rate:
    """Events a second, with an interval that holds the true rate with `CONFIDENCE`."""

    value: float
    low: float
    high: float


def rate_of(count: float, seconds: float, dispersion: float = 1.0) -> Rate:
    """The rate of `count` events in `seconds`.

    low = phi G^-1(a/2; n/phi) / T, high = phi G^-1(1 - a/2; n/phi + 1) / T, where G^-1(p; k) is the
    quantile of the gamma distribution of shape k and a = 1 - confidence.
    Source: Garwood 1936 for phi = 1.
    """
    from scipy.special import gammaincinv  # only who measures pays for the import

    tail = (1.0 - CONFIDENCE) / 2.0
    events = count / dispersion
    low = dispersion * float(gammaincinv(events, tail)) / seconds if events > 0 else 0.0
    high = dispersion * float(gammaincinv(events + 1.0, 1.0 - tail)) / seconds
    return Rate(count / seconds, low, high)


def dispersion_of(counts: Sequence[float]) -> float:
    """Variance over mean of counts in equal steps, at least 1; a slow drift does not enter.

    sum (n_i - n_(i-1))^2 / (2 (k - 1) mean): the variance by successive differences.
    Source: von Neumann et al. 1941, Annals of Mathematical Statistics 12.
    """
    if len(counts) < 3:
        return 1.0
    mean = sum(counts) / len(counts)
    if mean <= 0.0:
        return 1.0
    squares = sum((b - a) ** 2 for a, b in pairwise(counts))
    return max(1.0, squares / (2.0 * (len(counts) - 1) * mean))
