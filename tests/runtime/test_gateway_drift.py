"""Drift alarms: silent while nothing changes, loud when it does, without flicker."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.dispatch import Reference
from motley_runtime.gateway.drift import Alarm, LearnedShare, ScoreDrift, ShareDrift


def reference_of(scores: list[float], share: float = 0.8) -> Reference:
    """The distribution function of scores, at each of them."""
    ordered = sorted(scores)
    points = tuple((x, bisect_right(ordered, x) / len(ordered)) for x in sorted(set(ordered)))
    return Reference(points, len(ordered), len(ordered), share, share)


def alarms(add: Callable[[], object], times: int) -> list[int]:
    """After how many additions the alarm changed."""
    changes = []
    for i in range(times):
        look = add()
        if look is not None and look.has_changed:  # type: ignore[attr-defined]
            changes.append(i)
    return changes


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=60),
    st.lists(st.integers(0, 8), min_size=1, max_size=60),
)
def test_the_distance_is_that_of_the_two_distribution_functions(
    known: list[int], recent: list[int]
) -> None:
    drift = ScoreDrift(reference_of([each / 8 for each in known]))
    for each in recent:
        drift.add(each / 8)
    brute = max(
        abs(sum(k <= x for k in known) / len(known) - sum(r <= x for r in recent) / len(recent))
        for x in known
    )
    assert drift.distance() == pytest.approx(brute)


def test_scores_like_those_of_the_calibration_raise_no_alarm() -> None:
    wrong = 0
    for seed in range(20):
        draw = random.Random(seed)
        drift = ScoreDrift(reference_of([draw.random() for _ in range(100)]))
        wrong += bool(alarms(lambda d=drift, r=draw: d.add(r.random()), 5000))  # type: ignore[misc]
    assert wrong <= 1  # 1 in 60 over 20,000 scores each, as measured on 60 seeds


def test_scores_that_fall_raise_an_alarm_that_ends_when_they_are_back() -> None:
    draw = random.Random(5)
    drift = ScoreDrift(reference_of([draw.random() for _ in range(100)]))
    assert alarms(lambda: drift.add(draw.random()), 1000) == []
    raised = alarms(lambda: drift.add(0.7 * draw.random()), 1000)
    assert len(raised) == 1 and raised[0] <= 500
    ended = alarms(lambda: drift.add(draw.random()), 1000)
    assert len(ended) == 1 and ended[0] <= 700


def test_no_alarm_comes_before_there_are_enough_scores() -> None:
    drift = ScoreDrift(reference_of([0.9] * 100))
    assert all(drift.add(0.0) is None for _ in range(199))
    assert drift.add(0.0) is not None


def test_failures_are_scores_of_zero_and_shift_the_distribution() -> None:
    drift = ScoreDrift(reference_of([0.5 + i / 200 for i in range(100)]))
    mixed = [0.0 if i % 2 else 0.5 + (i % 100) / 200 for i in range(600)]
    values = iter(mixed)
    assert len(alarms(lambda: drift.add(next(values)), 600)) == 1


@pytest.mark.parametrize(("after", "at_most"), [(0.5, 120), (0.65, 900)])
def test_a_share_that_falls_raises_an_alarm(after: float, at_most: int) -> None:
    draw = random.Random(3)
    drift = ShareDrift(0.85, 300)
    assert alarms(lambda: drift.add(draw.random() < 0.85), 400) == []
    raised = alarms(lambda: drift.add(draw.random() < after), 1000)
    assert len(raised) == 1 and raised[0] <= at_most


def test_a_share_that_rises_is_no_alarm() -> None:
    drift = ShareDrift(0.6, 300)
    assert alarms(lambda: drift.add(True), 500) == []


def test_a_share_of_a_perfect_reference_needs_more_than_one_slip() -> None:
    drift = ShareDrift(1.0, 60)
    answers = [True] * 59 + [False] + [True] * 200
    values = iter(answers)
    assert alarms(lambda: drift.add(next(values)), len(answers)) == []


def test_a_share_without_a_reference_says_nothing() -> None:
    drift = ShareDrift(0.0, 0)
    assert all(drift.add(False) is None for _ in range(500))


def test_the_first_answers_are_the_reference_where_none_is_known() -> None:
    draw, known = random.Random(1), LearnedShare()
    assert alarms(lambda: known.add(draw.random() < 0.9), 60) == [] and known.is_known
    assert 45 <= known.right <= 60
    assert alarms(lambda: known.add(draw.random() < 0.9), 200) == []
    assert len(alarms(lambda: known.add(draw.random() < 0.4), 200)) == 1


@given(st.lists(st.sampled_from(["above", "between", "below"]), max_size=60))
def test_an_alarm_changes_only_after_two_looks_that_agree(looks: list[str]) -> None:
    alarm, seen = Alarm(), list[str]()
    for each in looks:
        before = alarm.is_on
        seen.append(each)
        changed = alarm.look(each == "above", each == "below")
        assert changed == (alarm.is_on != before)
        if changed:
            assert seen[-2:] == (["below"] * 2 if before else ["above"] * 2)


def test_an_alarm_at_its_limit_does_not_flicker() -> None:
    alarm = Alarm()
    changes = sum(alarm.look(i % 2 == 0, False) for i in range(100))
    assert changes == 0 and not alarm.is_on
