"""Covers of what a group lacks: against enumeration, and what they always hold."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.solver.covers import POINTS, least_covers, whole_counts


def cheapest(price: np.ndarray, worth: np.ndarray, need: float) -> float:
    """The least price by enumeration."""
    most = [int(np.ceil(need / w)) for w in worth]
    every = product(*(range(m + 1) for m in most))
    return min(float(price @ y) for y in every if float(worth @ y) >= need)


@pytest.mark.parametrize("seed", range(40))
def test_least_covers_are_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 5))
    needs = np.sort(rng.integers(1, POINTS + 1, 3)).astype(float)
    needs[-1] = POINTS  # one point is one unit, so nothing is rounded
    worth = rng.integers(POINTS // 8, POINTS, number).astype(float)
    price = rng.random(number)
    for need, counts in zip(needs.tolist(), least_covers(price, worth, needs), strict=True):
        assert float(worth @ counts) >= need
        assert float(price @ counts) == pytest.approx(cheapest(price, worth, need))


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0, 30)), min_size=1, max_size=6
    )
)
def test_whole_counts_are_worth_as_much_and_come_cheapest_first(
    blocks: list[tuple[float, float, float]],
) -> None:
    price, worth, at = (np.array(part) for part in zip(*blocks, strict=True))
    found = whole_counts(price, worth, at)
    needed = float(worth @ at)
    for counts in found:
        assert (counts >= 0).all() and (counts == np.round(counts)).all()
        assert float(worth @ counts) >= needed - 1e-5 * max(needed, float(worth.sum()))
    prices = [float(price @ counts) for counts in found]
    assert prices == sorted(prices)
    assert len({counts.tobytes() for counts in found}) == len(found)


def test_counts_that_are_whole_are_a_cover() -> None:
    found = whole_counts(np.array([1.0, 0.4]), np.array([1.0, 0.3]), np.array([7.0, 2.0]))
    assert any((counts == [7.0, 2.0]).all() for counts in found)


def test_nothing_covers_a_need_where_nothing_is_worth_anything() -> None:
    assert least_covers(np.ones(2), np.zeros(2), np.array([1.0])) == []
