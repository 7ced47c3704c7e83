"""Rates, intervals and lengths out of counts: closed forms, and simulated noise that moves nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from motley_operator.api.traffic import Workload
from motley_operator.demand.histograms import count_of, mean_of, share_below
from motley_operator.demand.intervals import CONFIDENCE, dispersion_of, rate_of
from motley_operator.demand.mixtures import shares_by_length
from motley_operator.domain.measurement import Histogram

# vLLM's buckets: 1, 2, 5, 10, 20, 50, ... up to the model's context.
BOUNDS = (*(float(m * 10**e) for e in range(5) for m in (1, 2, 5)), math.inf)


def histogram(values: list[float]) -> Histogram:
    """What an engine would have counted of these values."""
    counts = tuple(float(sum(v <= bound for v in values)) for bound in BOUNDS)
    return Histogram(BOUNDS, counts, float(sum(values)))


@given(st.integers(1, 100_000), st.floats(1.0, 1e5))
def test_the_interval_of_a_poisson_count_is_garwoods(count: int, seconds: float) -> None:
    tail = (1.0 - CONFIDENCE) / 2.0
    rate = rate_of(count, seconds)
    assert rate.low == pytest.approx(chi2.ppf(tail, 2 * count) / 2.0 / seconds)
    assert rate.high == pytest.approx(chi2.ppf(1.0 - tail, 2 * count + 2) / 2.0 / seconds)
    assert rate.low < rate.value < rate.high


def test_no_events_bound_the_rate_by_the_logarithm() -> None:
    rate = rate_of(0.0, 100.0)
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(-math.log((1.0 - CONFIDENCE) / 2.0) / 100.0)


@pytest.mark.parametrize("mean", [0.5, 3.0, 40.0, 900.0])
def test_the_interval_holds_the_true_rate_as_often_as_it_says(mean: float) -> None:
    counts = np.random.default_rng(7).poisson(mean, 4000)
    held = [(r := rate_of(float(n), 1.0)).low <= mean <= r.high for n in counts]
    assert sum(held) / len(held) >= CONFIDENCE - 0.004  # two sigmas of 4000 draws at 0.99


@given(st.integers(1, 10_000), st.floats(1.0, 50.0))
def test_bursts_widen_the_interval_and_leave_the_rate(count: int, dispersion: float) -> None:
    plain, wide = rate_of(count, 60.0), rate_of(count, 60.0, dispersion)
    assert wide.value == plain.value
    assert wide.low <= plain.low * (1.0 + 1e-9)
    assert wide.high >= plain.high * (1.0 - 1e-9)


def test_the_dispersion_of_poisson_counts_is_one_and_of_compound_ones_their_ratio() -> None:
    rng = np.random.default_rng(3)
    plain = [dispersion_of(list(rng.poisson(50.0, 10))) for _ in range(2000)]
    assert np.mean(plain) == pytest.approx(1.0, abs=0.25)  # floored at one, so a little above
    fives = [dispersion_of(list(5.0 * rng.poisson(10.0, 10))) for _ in range(2000)]
    assert np.mean(fives) == pytest.approx(5.0, rel=0.1)


def test_a_slow_drift_is_no_dispersion() -> None:
    assert dispersion_of([100.0 + 2.0 * i for i in range(10)]) == 1.0
    assert dispersion_of([0.0] * 10) == 1.0


@given(st.lists(st.floats(1.0, 40_000.0), min_size=1, max_size=60), st.floats(1.0, 50_000.0))
@settings(max_examples=200)
def test_a_share_out_of_buckets_is_right_within_the_error_it_states(
    values: list[float], bound: float
) -> None:
    share = share_below(histogram(values), bound)
    true = sum(v <= bound for v in values) / len(values)
    assert share.low - 1e-12 <= true <= share.high + 1e-12
    assert share.low - 1e-12 <= share.value <= share.high + 1e-12


@given(st.lists(st.floats(1.0, 40_000.0), min_size=1, max_size=60))
def test_a_mean_out_of_sum_and_count_is_exact(values: list[float]) -> None:
    assert mean_of(histogram(values)) == pytest.approx(sum(values) / len(values))


def test_an_empty_histogram_has_no_mean() -> None:
    assert mean_of(Histogram()) is None
    assert count_of(Histogram()) == 0.0
    assert mean_of(histogram([])) is None


def workload(*lengths: int) -> Workload:
    classes = [
        {"name": f"c{i}", "promptTokens": n, "outputTokens": 100} for i, n in enumerate(lengths)
    ]
    return Workload.model_validate({"requestsPerSecond": 5, "classes": classes})


def test_classes_are_split_by_length_where_the_gateway_splits_them() -> None:
    values = [120.0] * 70 + [8000.0] * 30
    counts, error = shares_by_length(workload(100, 10_000), histogram(values))
    assert counts["c0"] == pytest.approx(70.0)
    assert counts["c1"] == pytest.approx(30.0)
    assert error == pytest.approx(0.0)  # the boundary at 1004 lies in the bucket 1000 to 2000


@given(
    st.lists(st.integers(1, 30_000), min_size=1, max_size=5),
    st.lists(st.floats(1.0, 40_000.0), min_size=1, max_size=50),
)
def test_the_classes_of_a_histogram_add_up_to_its_count(
    lengths: list[int], values: list[float]
) -> None:
    counts, error = shares_by_length(workload(*lengths), histogram(values))
    assert sum(counts.values()) == pytest.approx(len(values))
    assert all(n >= -1e-9 for n in counts.values())
    assert 0.0 <= error <= 1.0
