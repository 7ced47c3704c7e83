"""What several branches of one request take when the first few that end are enough.

Branch lengths X are taken as independent and log-normal with mean 1; `spread` is their coefficient
of variation. N branches run side by side and all stop when M of them have ended, so

    steps   E[X_(M:N)]                                        the M-th shortest of N
    tokens  sum over k <= M of E[X_(k:N)] + (N - M) E[X_(M:N)]   what all of them make by then

both in mean lengths of one branch. Nothing is given up before; pruning lowers the tokens.

Source: order statistics of a sample, e.g. David and Nagaraja, "Order Statistics" (2003), 2.1; their
use for branches of reasoning: SART, arXiv 2505.13326.
"""

from __future__ import annotations

from functools import lru_cache
from math import lgamma, log, sqrt

import numpy as np

_REACH, _POINTS = 10.0, 4001  # standard deviations on each side, and grid points over them


def log_deviation(spread: float) -> float:
    """Standard deviation of ln X for a coefficient of variation: sqrt(ln(1 + spread^2))."""
    return sqrt(log(1.0 + spread * spread))


@lru_cache(maxsize=4096)
def order_statistic(rank: int, samples: int, spread: float) -> float:
    """E[X_(rank:samples)], the mean of the rank-th shortest branch, in mean lengths.

    Integral over z of exp(s z - s^2 / 2) n! / ((r - 1)! (n - r)!) F^(r - 1) (1 - F)^(n - r) f, with
    F and f of the standard normal and s its scale; by the trapezoidal rule, which converges
    exponentially for it.

    Raises: ValueError for a rank outside 1 to samples, or a negative spread.
    """
    if not 1 <= rank <= samples or spread < 0.0:
        raise ValueError(f"no order statistic {rank} of {samples} with spread {spread:g}")
    from scipy.special import log_ndtr  # only who plans branches pays for the import

    scale = log_deviation(spread)
    z = np.linspace(-_REACH, _REACH + scale, _POINTS)
    terms = lgamma(samples + 1) - lgamma(rank) - lgamma(samples - rank + 1)
    exponent = (
        terms
        + (rank - 1) * log_ndtr(z)
        + (samples - rank) * log_ndtr(-z)
        - z * z / 2.0
        - 0.5 * log(2.0 * np.pi)
        + scale * z
        - scale * scale / 2.0
    )
    return float(np.exp(exponent).sum() * (z[1] - z[0]))


def branch_steps(samples: int, stop_after: int, spread: float) -> float:
    """Decode steps until `stop_after` of `samples` branches have ended, in mean lengths of one."""
    return order_statistic(stop_after, samples, spread)


def branch_tokens(samples: int, stop_after: int, spread: float) -> float:
    """Tokens that all branches make until then, in mean lengths of one."""
    ended = sum(order_statistic(rank, samples, spread) for rank in range(1, stop_after + 1))
    return ended + (samples - stop_after) * order_statistic(stop_after, samples, spread)
