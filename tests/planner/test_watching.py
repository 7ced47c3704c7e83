"""What a gateway is told to compare with: references under a mixture, and policies for relief."""

from __future__ import annotations

from random import Random

import pytest

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.policies import routing_policies
from motley_planner.candidates.watching import certified, references, relief_policies
from motley_planner.dispatch.watching import MOST_POINTS
from motley_planner.domain.demand import RoutingPolicy, ServingDemand
from motley_planner.domain.plan import PolicyChoice

STAGES = ("small", "mid", "large")


def table(rows: int = 300, levels: int | None = None, seed: int = 3) -> CalibrationTable:
    random = Random(seed)

    def score() -> float:
        return random.random() if levels is None else random.randint(0, levels) / levels

    scores = {s: tuple(score() for _ in range(rows)) for s in STAGES[:-1]}
    worth = {s: tuple(float(random.random() < 0.8) for _ in range(rows)) for s in STAGES}
    return CalibrationTable(STAGES, scores, worth, {})


MIXTURE = (
    PolicyChoice("a", 0.75, {"small": 0.6, "mid": 0.5}),
    PolicyChoice("b", 0.25, {"small": 1.01, "mid": 0.2}),
)


def walked(known: CalibrationTable) -> dict[str, dict[str, float]]:
    """Stage by stage: weights of scores seen, of what was kept, and of what was right of it."""
    found = {s: {"seen": 0.0, "kept": 0.0, "right": 0.0, "both": 0.0} for s in STAGES[:-1]}
    for policy in MIXTURE:
        for row in range(known.rows):
            for stage in STAGES[:-1]:
                limit, score = policy.thresholds[stage], known.scores[stage][row]
                if limit > 1.0:
                    continue
                found[stage]["seen"] += policy.share
                if score >= limit:
                    right = known.qualities[stage][row]
                    found[stage]["kept"] += policy.share
                    found[stage]["right"] += policy.share * right
                    found[stage]["both"] += policy.share * right * known.qualities["large"][row]
                    break
    return found


def test_a_reference_is_what_replaying_the_mixture_row_by_row_shows() -> None:
    known = table()
    found, expected = references(known, MIXTURE), walked(known)
    for stage, each in found.items():
        of = expected[stage]
        assert each.quality == pytest.approx(of["right"] / of["kept"])
        assert each.agreement == pytest.approx(of["both"] / of["kept"])
        assert each.points[-1][1] == 1.0 and len(each.points) <= MOST_POINTS
    assert found["small"].rows == known.rows, "all of one weight say as much as they are"
    assert 0 < found["mid"].accepted <= known.rows


@pytest.mark.parametrize("levels", [4, None], ids=["votes", "any score"])
def test_a_references_points_are_on_the_distribution_function(levels: int | None) -> None:
    known = table(levels=levels)
    found = references(known, MIXTURE[:1])["small"]
    for score, share in found.points:
        below = sum(each <= score + 1e-9 for each in known.scores["small"]) / known.rows
        assert share == pytest.approx(below, abs=1e-5)
    steps = [b - a for (_, a), (_, b) in zip(found.points, found.points[1:], strict=False)]
    assert levels is not None or max(steps) < 0.02
    assert levels is None or len(found.points) == levels + 1


def test_a_stage_that_no_policy_visits_has_no_reference() -> None:
    skipping = (PolicyChoice("s", 1.0, {"small": 1.01, "mid": 0.5}),)
    assert set(references(table(), skipping)) == {"mid"}


def test_a_policy_of_a_class_is_about_that_classs_rows_only() -> None:
    plain = table()
    classes = tuple("ab"[row % 2] for row in range(plain.rows))
    known = CalibrationTable(STAGES, plain.scores, plain.qualities, {}, classes)
    only = (PolicyChoice("a@a", 1.0, {"small": 0.6, "mid": 0.5}, {}, ("a",)),)
    assert references(known, only)["small"].rows == plain.rows / 2


def test_relief_is_certified_accepts_all_that_a_plans_policy_does_and_is_best_first() -> None:
    offered = routing_policies(table(rows=600), 0.9)
    chosen = next(p for p in offered if p.visits["large"] > 0.4)
    mixture = (PolicyChoice(chosen.id, 1.0, chosen.thresholds),)
    found = relief_policies(offered, mixture)
    assert {e.id for e in found} < {p.id for p in offered} and found
    for each in found:
        assert all(each.thresholds[s] <= limit for s, limit in chosen.thresholds.items())
        assert each.id != chosen.id
    assert [each.quality for each in found] == sorted((e.quality for e in found), reverse=True)
    assert certified(offered, mixture) == {chosen.id: chosen.quality}
    assert certified(offered, (PolicyChoice("gone", 1.0, {}),)) is None


def test_calls_are_visits_and_what_scoring_them_costs() -> None:
    visits = {"small": 1.0, "mid": 0.5, "large": 0.2}
    policy = RoutingPolicy("p", {}, 0.9, 0.9, visits)
    extra = {"small": {"small": 2.0, "large": 0.02}, "mid": {"large": 1.0}}
    demand = ServingDemand("k", "t", (), (), 1.0, extra_calls=extra)
    assert demand.calls(policy) == pytest.approx({"small": 3.0, "mid": 0.5, "large": 0.72})
    assert ServingDemand("k", "t", (), (), 1.0).calls(policy) == visits
