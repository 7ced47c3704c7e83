"""Calibration tables and routing policies."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.candidates.calibration import check_calibration, read_calibration
from motley_planner.candidates.certify import lower_bound
from motley_planner.candidates.policies import (
    MOST_POLICIES,
    policies_from_table,
    quality_refusal,
)
from motley_planner.domain.demand import RoutingPolicy
from motley_planner.errors import SnapshotError


def table(stages: list[str], rows: int = 400, seed: int = 1) -> str:
    random = Random(seed)
    header = [
        f"{s}:{f}" for s in stages for f in ("score", "quality", "prompt_tokens", "output_tokens")
    ]
    lines = ["question_id," + ",".join(header)]
    for number in range(rows):
        cells = [f"q{number}"]
        for index in range(len(stages)):
            score = random.random()
            right = random.random() < 0.35 + 0.5 * score + 0.08 * index
            cells += [f"{score:.3f}", str(int(right)), "900", str(200 + 20 * index)]
        lines.append(",".join(cells))
    return "\n".join(lines)


TWO, THREE = ["small", "large"], ["small", "mid", "large"]


def replayed(text: str, stages: list[str], policy: RoutingPolicy) -> tuple[float, dict[str, float]]:
    """Mean quality and visits of a policy, question by question."""
    rows = [line.split(",") for line in text.splitlines()]
    quality, visits = 0.0, dict.fromkeys(stages, 0.0)
    for row in rows[1:]:
        cells = dict(zip(rows[0], row, strict=True))
        for stage in stages:
            last = stage == stages[-1]
            visits[stage] += last or policy.thresholds[stage] <= 1.0
            if last or float(cells[f"{stage}:score"]) >= policy.thresholds[stage]:
                quality += float(cells[f"{stage}:quality"])
                break
    count = len(rows) - 1
    return quality / count, {stage: number / count for stage, number in visits.items()}


@pytest.mark.parametrize("stages", [TWO, THREE], ids=["two stages", "three stages"])
def test_a_policys_figures_are_those_of_replaying_the_table(stages: list[str]) -> None:
    text = table(stages)
    policies = policies_from_table(text, stages, 0.95)
    assert 2 <= len(policies) <= MOST_POLICIES + 2
    for policy in policies:
        quality, visits = replayed(text, stages, policy)
        assert policy.mean_quality == pytest.approx(quality)
        assert policy.visits == pytest.approx(visits)
        assert policy.quality <= policy.mean_quality


@pytest.mark.parametrize("stages", [TWO, THREE], ids=["two stages", "three stages"])
def test_never_escalating_and_always_escalating_are_offered(stages: list[str]) -> None:
    policies = policies_from_table(table(stages), stages, 0.95)
    assert any(p.visits[stages[1]] == 0 for p in policies)
    assert any(p.visits[stages[-1]] == 1 for p in policies)
    assert len({p.id for p in policies}) == len(policies)


def test_no_policy_between_the_ends_is_dominated() -> None:
    policies = policies_from_table(table(TWO), TWO, 0.95)
    inner = [p for p in policies if p.thresholds["small"] not in (0.0, 1.01)]
    for one in inner:
        for other in policies:
            if other is not one:
                cheaper = other.visits["large"] <= one.visits["large"]
                assert not (cheaper and other.quality >= one.quality)


def test_higher_confidence_and_fewer_rows_lower_the_bound() -> None:
    assert lower_bound(0.8, 0.16, 400, 0.99) < lower_bound(0.8, 0.16, 400, 0.95) < 0.8
    assert lower_bound(0.8, 0.16, 100, 0.95) < lower_bound(0.8, 0.16, 400, 0.95)
    assert 0.9 < lower_bound(1.0, 0.0, 100, 0.95) < 1.0


def test_the_bound_covers_the_true_mean_as_often_as_it_says() -> None:
    random, covered, trials, rows = Random(7), 0, 2000, 100
    for _ in range(trials):
        mean = sum(random.random() < 0.85 for _ in range(rows)) / rows
        variance = mean * (1 - mean) * rows / (rows - 1)
        covered += lower_bound(mean, variance, rows, 0.95) <= 0.85
    assert 0.93 <= covered / trials <= 0.98


def test_a_floor_above_every_policy_is_refused_with_the_reachable_value() -> None:
    policies = policies_from_table(table(TWO), TWO, 0.95)
    best = max(p.quality for p in policies)
    assert quality_refusal(policies, best) is None
    refusal = quality_refusal(policies, 0.999)
    assert refusal is not None
    assert (refusal.reason, refusal.field) == ("QualityUnreachable", "spec.quality.floor")
    lifted = float(refusal.lift.split("-> ")[1].split("%")[0]) / 100
    assert quality_refusal(policies, lifted) is None


def test_mean_tokens_are_read_where_given() -> None:
    assert read_calibration(table(TWO), TWO).mean_tokens == {
        "small": (900.0, 200.0),
        "large": (900.0, 220.0),
    }
    assert read_calibration(GOOD, TWO).mean_tokens == {}


HEADER = "question_id,small:score,small:quality,large:quality\n"
GOOD = f"{HEADER}a,0.5,1,1\nb,0.25,0,1\n" + "".join(f"q{i},0.75,1,0.5\n" for i in range(28))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1"),
        (GOOD.replace("large:quality", "big:quality"), "large:quality"),
        (GOOD.replace("question_id", "id"), "question_id"),
        (GOOD.replace("0.25", "1.25"), "line 3, column small:score"),
        (GOOD.replace("0.25", "nan"), "line 3, column small:score"),
        (GOOD.replace("a,0.5", "a,high"), "line 2, column small:score"),
        (GOOD.replace("b,", "a,"), "line 3, column question_id"),
        (GOOD.replace("b,0.25,0,1", "b,0.25,0"), "line 3"),
        (f"{HEADER}a,0.5,1,1\n", "has 1 rows"),
        (GOOD.replace("large:quality", "large:quality,huge:score"), "huge:score belongs to no"),
        (GOOD.replace("a,0.5", f'"{"a" * 200_000}",0.5'), "line 2 is not CSV"),
    ],
    ids=[
        "empty",
        "unknown stage",
        "no id",
        "above one",
        "not finite",
        "not a number",
        "twice",
        "short row",
        "too few rows",
        "a column of nobody",
        "a cell without an end",
    ],
)
def test_a_wrong_table_is_refused_by_line_and_column(text: str, place: str) -> None:
    with pytest.raises(SnapshotError, match=place):
        policies_from_table(text, TWO, 0.95)


def test_every_mistake_of_a_table_is_named_at_once() -> None:
    text = GOOD.replace("0.25,0,1", "1.25,x,1").replace("a,0.5", "b,0.5")
    table_, mistakes = check_calibration(text, TWO)
    assert table_ is None
    assert [m.partition(":")[0] for m in mistakes] == [
        "line 3, column question_id",
        "line 3, column small",
        "line 3, column small",
    ]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet='abq,:"01.\n\r\x00', max_size=80), good=st.booleans())
def test_any_text_is_a_table_or_is_refused(text: str, good: bool) -> None:
    table_, mistakes = check_calibration(GOOD + text if good else text, TWO)
    assert (table_ is None) == bool(mistakes)
