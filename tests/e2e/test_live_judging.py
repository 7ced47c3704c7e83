"""How the live demo judges: ways through a cascade against the policies of a routing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from e2e.live_judging import is_of, phases, plans_of, share_of, stages_of
from e2e.live_load import Answer
from e2e.live_picture import draw
from e2e.live_story import Told

TABLE = "question_id,first:score\n" + "".join(f"q{i},{i / 10}\n" for i in range(10))
SCORES = [i / 10 for i in range(10)]


def routing(*policies: tuple[float, float]) -> dict[str, Any]:
    found = [{"share": share, "thresholds": {"first": limit}} for share, limit in policies]
    return {"policies": found}


BOTH = routing((0.5, 0.45), (0.5, 1.01))


@pytest.mark.parametrize(
    ("path", "routing", "is_its_own"),
    [
        ("first:0.5000", BOTH, True),
        ("first:0.3000,second", BOTH, True),
        ("second", BOTH, True),
        ("first:0.3000", BOTH, False),  # below every threshold, and returned
        ("first:0.5000,second", BOTH, False),  # above the only one that asks it, and escalated
        ("second", routing((1.0, 0.45)), False),  # nobody skips the first
        ("first:failed,second", routing((1.0, 0.45)), True),
        ("first:failed", routing((1.0, 0.45)), False),
        ("first:0.9900", routing((1.0, 1.01)), False),
    ],
)
def test_a_way_is_that_of_a_policy_or_of_none(
    path: str, routing: dict[str, Any], is_its_own: bool
) -> None:
    assert is_of(path, routing) is is_its_own


def test_the_share_of_a_mixture_is_the_mean_of_its_policies_shares() -> None:
    assert share_of(SCORES, routing((1.0, 0.45))) == 0.5
    assert share_of(SCORES, routing((1.0, 1.01))) == 1.0
    assert share_of(SCORES, BOTH) == pytest.approx(0.75)


def test_a_stage_without_replicas_is_no_part_of_a_plan() -> None:
    stages = [{"name": "first", "replicas": []}, {"name": "second", "replicas": [{"name": "a"}]}]
    assert stages_of({"stages": stages}) == {"second"}


def test_without_a_raised_floor_all_answers_count_under_the_first() -> None:
    """The demo on a real node raises none."""
    (only,) = phases(TABLE, replace(told(), raised_from=""))
    assert (only.floor, only.answers) == (0.6, 17)


def answer(plan: str, path: str, **changes: Any) -> Answer:
    stage = path.rpartition(",")[2].partition(":")[0]
    made = Answer(1.0, 0.5, 200, False, True, True, stage, plan, path)
    return replace(made, **changes)


def told() -> Told:
    before = [answer("a", "first:0.9000") for _ in range(8)] + [answer("a", "second")] * 2
    after = [answer("b", "first:0.1000,second", is_right=False)] * 5 + [answer("c", "second")]
    away = [answer("a", "first:failed,second", took_s=2.0)]
    plans = {"a": routing((0.8, 0.0), (0.2, 1.01)), "b": routing((1.0, 0.2)), "c": BOTH}
    return Told((0.6, 0.7), before + away + after, [(0.5, "x <y>")], plans, 9.0, "a")


def test_answers_are_counted_under_the_floor_of_the_plan_that_they_name() -> None:
    first, second = phases(TABLE, told())
    assert (first.floor, first.answers, second.floor, second.answers) == (0.6, 11, 0.7, 6)
    assert first.to_second == pytest.approx(0.2)  # without the one passed over
    assert first.planned == pytest.approx(0.2)
    assert second.right == pytest.approx(1 / 6)
    assert second.planned == pytest.approx((5 * 0.2 + 0.75) / 6)
    assert plans_of(told()) == ("a", "b")


def test_the_picture_is_an_svg_with_a_dot_for_each_answer_and_a_line_for_each_floor() -> None:
    text = draw(told(), phases(TABLE, told()))
    ElementTree.fromstring(text)
    assert text.count("<circle") == 17 + 3
    assert "floor 60 %: 11 answers" in text and "floor 70 %: 6 answers" in text
