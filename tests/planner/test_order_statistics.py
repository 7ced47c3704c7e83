"""What several branches take, against the published table, closed forms and samples."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.costs.order_statistics import (
    branch_steps,
    branch_tokens,
    log_deviation,
    order_statistic,
)


def spread_of(deviation: float) -> float:
    return math.sqrt(math.exp(deviation * deviation) - 1.0)


# Relative to waiting for all of 4; N = 5, 6, 8, 12, 16 with the 4th to end (our own simulation of
# SART's rule on log-normal lengths, two digits), and tokens at N = 8.
TABLE = {
    0.35: ((0.82, 0.74, 0.65, 0.56, 0.52), 1.65),
    0.50: ((0.74, 0.64, 0.53, 0.44, 0.39), 1.49),
    0.70: ((0.65, 0.52, 0.40, 0.30, 0.26), 1.26),
}


@pytest.mark.parametrize("deviation", TABLE)
def test_latency_and_tokens_are_those_of_the_table(deviation: float) -> None:
    spread, (ratios, tokens) = spread_of(deviation), TABLE[deviation]
    assert log_deviation(spread) == pytest.approx(deviation)
    all_four = branch_steps(4, 4, spread)
    for samples, ratio in zip((5, 6, 8, 12, 16), ratios, strict=True):
        assert branch_steps(samples, 4, spread) / all_four == pytest.approx(ratio, abs=0.011)
    found = branch_tokens(8, 4, spread) / branch_tokens(4, 4, spread)
    assert found == pytest.approx(tokens, abs=0.011)


@given(st.integers(1, 32), st.floats(0.0, 2.0))
@settings(max_examples=40)
def test_the_statistics_rise_and_add_up_to_the_sample(samples: int, spread: float) -> None:
    each = [order_statistic(rank, samples, spread) for rank in range(1, samples + 1)]
    assert all(a <= b + 1e-9 for a, b in pairwise(each))
    assert sum(each) == pytest.approx(samples)
    assert branch_tokens(samples, samples, spread) == pytest.approx(samples)
    assert branch_tokens(samples, 1, spread) == pytest.approx(samples * each[0])


def test_the_larger_of_two_is_the_closed_form() -> None:
    for spread in (0.2, 0.5, 1.0):
        deviation = log_deviation(spread)
        phi = 0.5 * (1.0 + math.erf(deviation / 2.0))  # Phi(s / sqrt 2)
        assert order_statistic(2, 2, spread) == pytest.approx(2.0 * phi)


def test_tokens_are_those_of_drawn_branches() -> None:
    rng = np.random.default_rng(7)
    deviation = log_deviation(0.6)
    drawn = np.exp(deviation * rng.standard_normal((60_000, 8)) - deviation**2 / 2)
    stop = np.sort(drawn, axis=1)[:, 2:3]
    made = np.minimum(drawn, stop).sum(axis=1).mean()
    assert branch_tokens(8, 3, 0.6) == pytest.approx(made, rel=0.01)
    assert branch_steps(8, 3, 0.6) == pytest.approx(stop.mean(), rel=0.01)


@pytest.mark.parametrize(("rank", "samples", "spread"), [(0, 4, 0.5), (5, 4, 0.5), (1, 4, -0.1)])
def test_what_is_no_order_statistic_is_refused(rank: int, samples: int, spread: float) -> None:
    with pytest.raises(ValueError, match="no order statistic"):
        order_statistic(rank, samples, spread)
