"""Policy mixtures and the decision to escalate."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import Policy, PolicyMixer, accepts

weights = st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=9)


def policies(shares: list[float]) -> list[Policy]:
    total = math.fsum(shares)
    return [Policy(f"p{i}", share / total, {}) for i, share in enumerate(shares)]


@settings(max_examples=200, deadline=None)
@given(shares=weights)
def test_every_prefix_is_within_tijdemans_bound_of_the_plan(shares: list[float]) -> None:
    mixture = policies(shares)
    mixer = PolicyMixer(mixture)
    bound = 1.0 - 1.0 / (2 * len(mixture) - 2)
    counts: Counter[str] = Counter()
    for drawn in range(1, 400):
        policy = mixer.draw()
        assert policy is not None
        counts[policy.id] += 1
        for each in mixture:
            assert abs(counts[each.id] - drawn * each.share) <= bound + 1e-6


@given(shares=weights, phase=st.integers(0, 63))
def test_a_phase_is_a_later_start_in_the_same_sequence(shares: list[float], phase: int) -> None:
    mixture = policies(shares)
    whole, late = PolicyMixer(mixture), PolicyMixer(mixture, phase)
    sequence = [whole.draw() for _ in range(phase + 30)]
    assert sequence[phase:] == [late.draw() for _ in range(30)]


def test_seventy_to_thirty_is_met_exactly_in_every_ten() -> None:
    mixer = PolicyMixer(policies([0.7, 0.3]))
    for _ in range(20):
        drawn = Counter(policy.id for _ in range(10) if (policy := mixer.draw()))
        assert drawn == {"p0": 7, "p1": 3}


def test_without_policies_none_is_drawn_and_a_share_of_zero_never_is() -> None:
    assert PolicyMixer([]).draw() is None
    only = Policy("p1", 1.0, {})
    mixer = PolicyMixer([Policy("p0", 0.0, {}), only])
    assert all(mixer.draw() is only for _ in range(20))


DECISIONS = [
    pytest.param(0.62, 0.62, True, id="a score at the threshold is accepted"),
    pytest.param(math.nextafter(0.62, 0), 0.62, False, id="a score just below is not"),
    pytest.param(0.0, 0.0, True, id="a threshold of zero accepts the worst"),
    pytest.param(None, 0.0, False, id="an unscored answer is never accepted"),
]


@pytest.mark.parametrize(("score", "threshold", "accepted"), DECISIONS)
def test_the_decision_to_escalate(score: float | None, threshold: float, accepted: bool) -> None:
    assert accepts(score, threshold) is accepted
