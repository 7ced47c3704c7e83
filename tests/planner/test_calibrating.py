"""Estimators, thresholds and refusals, against brute force, closed forms and drawn populations."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import hypergeom

from motley_planner.calibrating import Rule, Sample, choose, fit, fitted_scores, judge, table_text
from motley_planner.calibrating.deferral import auroc, deferral_of
from motley_planner.calibrating.estimating import RIDGE, isotonic_points, logistic_weights
from motley_planner.calibrating.frontier import at_floors, frontier
from motley_planner.calibrating.outcomes import Asked, read_outcomes
from motley_planner.calibrating.picture import picture_of
from motley_planner.calibrating.thresholds import MIX_PARTS, path, policy_of
from motley_planner.candidates.calibration import CalibrationTable, read_calibration
from motley_planner.candidates.policies import ESCALATE_ALL, replay
from motley_planner.dispatch.estimators import (
    Calibrator,
    EstimatorError,
    calibrator_document,
    parse_calibrator,
)
from motley_planner.errors import SnapshotError


def made(rows: int, seed: int, gap: float = 0.25, informative: float = 0.7) -> CalibrationTable:
    """Small is right with 0.2 + 0.7 x score (informative), large with 0.55 + gap."""
    generator = np.random.default_rng(seed)
    score = generator.random(rows)
    chance = 0.55 - informative / 2 + informative * score
    small = (generator.random(rows) < chance).astype(float)
    large = (generator.random(rows) < 0.55 + gap).astype(float)
    return CalibrationTable(
        ("small", "large"),
        {"small": tuple(score.tolist())},
        {"small": tuple(small.tolist()), "large": tuple(large.tolist())},
        {},
    )


def true_quality(threshold: float, gap: float = 0.25) -> float:
    t = min(max(threshold, 0.0), 1.0)
    return 0.2 * (1 - t) + 0.35 * (1 - t * t) + t * (0.55 + gap)


def isotonic_by_brute_force(x: list[float], y: list[float]) -> list[float]:
    """The best rising values at sorted distinct x: the min-max formula."""
    n = len(x)
    return [
        max(min(float(np.mean(y[a : b + 1])) for b in range(i, n)) for a in range(i + 1))
        for i in range(n)
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=9))
def test_isotonic_pools_are_those_of_the_min_max_formula(y: list[float]) -> None:
    x = [float(i) for i in range(len(y))]
    points = isotonic_points(np.array(x), np.array(y))
    expected = isotonic_by_brute_force(x, y)
    pools = [
        (float(np.mean([x[i] for i in range(len(x)) if expected[i] == value])), value)
        for value in dict.fromkeys(expected)
    ]
    assert np.allclose(points, pools)


def test_equal_features_share_a_pool() -> None:
    points = isotonic_points(np.array([0.5, 0.5, 0.9]), np.array([0.0, 1.0, 1.0]))
    assert points == ((0.5, 0.5), (0.9, 1.0))


@pytest.mark.parametrize("seed", range(4))
def test_logistic_weights_are_the_minimum_that_a_general_optimiser_finds(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.normal(3.0, 2.0, (80, 2))
    y = (generator.random(80) < 1 / (1 + np.exp(-(x[:, 0] - 3)))).astype(float)
    right = y.sum()
    target = np.where(y > 0, (right + 1) / (right + 2), 1 / (80 - right + 2))
    z = (x - x.mean(axis=0)) / x.std(axis=0)

    def loss(w: np.ndarray) -> float:  # type: ignore[type-arg]
        t = w[0] + z @ w[1:]
        return float((np.logaddexp(0, t) - target * t).sum() + RIDGE / 2 * (w[1:] ** 2).sum())

    best = minimize(loss, np.zeros(3), tol=1e-12).x
    intercept, weights = logistic_weights(x, y)
    assert np.allclose(weights * x.std(axis=0), best[1:], atol=1e-4)
    assert intercept + float(np.dot(weights, x.mean(axis=0))) == pytest.approx(best[0], abs=1e-4)


def test_separable_answers_give_finite_weights() -> None:
    features = [{"mean": i / 20} for i in range(20)]
    fitted = fit(Sample(features, [float(i >= 10) for i in range(20)]), "logistic")
    scores = fitted_scores(fitted, Sample(features, [0.0] * 20))
    assert scores == tuple(sorted(scores)) and 0.0 < scores[0] < 0.3
    assert 0.7 < scores[-1] < 1.0


@pytest.mark.parametrize("kind", ["logistic", "isotonic"])
def test_a_fitted_score_is_the_chance_of_being_right(kind: str) -> None:
    generator = np.random.default_rng(5)
    x = generator.random(4000)
    y = (generator.random(4000) < 0.1 + 0.8 * x).astype(float)
    sample = Sample([{"mean": float(each)} for each in x], y.tolist())
    fitted = fit(sample, kind)
    for at in (0.2, 0.5, 0.8):
        score = fitted.score({"mean": at})
        assert score == pytest.approx(0.1 + 0.8 * at, abs=0.05)


@pytest.mark.parametrize("kind", ["logistic", "isotonic"])
def test_a_calibrator_survives_its_document(kind: str) -> None:
    generator = np.random.default_rng(6)
    rows = [{"mean": float(a), "least": float(b)} for a, b in generator.random((60, 2))]
    names = ("mean", "least") if kind == "logistic" else ("least",)
    fitted = fit(Sample(rows, [float(r["mean"] > 0.5) for r in rows]), kind, names)
    again = parse_calibrator(calibrator_document(fitted))
    assert again == fitted
    assert all(0.0 <= (again.score(row) or 0.0) <= 1.0 for row in rows)


def test_an_answer_without_a_feature_has_no_score_and_is_escalated() -> None:
    fitted = Calibrator("logistic", ("mean", "margin"), 0.0, (1.0, 1.0))
    assert fitted.score({"mean": 0.9}) is None
    assert fitted_scores(fitted, Sample([{"mean": 0.9}, None], [1.0, 1.0])) == (0.0, 0.0)


WRONG = [
    [],
    {"kind": "forest"},
    {"kind": "logistic", "features": ["length"]},
    {"kind": "logistic", "features": ["mean"], "intercept": 0, "weights": [1, 2]},
    {"kind": "logistic", "features": ["mean"], "intercept": "0", "weights": [1]},
    {"kind": "logistic", "features": ["mean"], "intercept": 0, "weights": [float("nan")]},
    {"kind": "isotonic", "features": ["mean", "least"], "points": [[0, 0]]},
    {"kind": "isotonic", "features": ["mean"], "points": []},
    {"kind": "isotonic", "features": ["mean"], "points": [[0.5, 0.1], [0.5, 0.2]]},
    {"kind": "isotonic", "features": ["mean"], "points": [[0.1, 0.9], [0.5, 0.2]]},
    {"kind": "isotonic", "features": ["mean"], "points": [[0.1, 0.9], [0.5, 1.2]]},
    {"kind": "isotonic", "features": ["mean"], "points": [[0.1, 0.9, 1]]},
]


@pytest.mark.parametrize("document", WRONG, ids=str)
def test_a_document_that_is_no_calibrator_is_refused(document: object) -> None:
    with pytest.raises(EstimatorError):
        parse_calibrator(document)


def test_too_few_wrong_answers_refuse_a_fit() -> None:
    features = [{"mean": 0.5}] * 20
    with pytest.raises(SnapshotError, match="18 of 20"):
        fit(Sample(features, [1.0] * 18 + [0.0] * 2), "logistic")


def test_the_chosen_threshold_keeps_the_floor_in_truth_as_often_as_it_says() -> None:
    broken, escalated, tables = 0, [], 200
    for seed in range(tables):
        choice = choose(made(500, seed), Rule(0.74, 0.9))
        if choice is None:
            continue  # not even all to the large one is sure to keep it: nothing is promised
        broken += true_quality(choice.thresholds["small"]) < 0.74
        escalated.append(choice.escalation)
    # 10 % are allowed; three standard deviations of 200 draws are 6.4 points.
    assert broken / tables <= 0.10 + 0.064
    assert len(escalated) > 0.9 * tables
    needed = next(t for t in np.linspace(0, 1, 2001) if true_quality(t) >= 0.74)
    assert needed < np.mean(escalated) < 1.5 * needed


def test_the_choice_is_the_last_policy_of_the_path_before_one_that_fails() -> None:
    table, rule = made(400, 3), Rule(0.72)
    choice = choose(table, rule)
    assert choice is not None
    for thresholds in path(table, ("small",)):
        kept = policy_of(table, thresholds, rule).quality_low >= rule.floor
        if not kept:
            break
        last = thresholds
    assert tuple(choice.thresholds.values()) == last


def test_the_path_goes_from_the_safest_to_the_cheapest() -> None:
    table = made(300, 4)
    shares = [float(replay(table, each)[1][1].mean()) for each in path(table, ("small",))]
    assert shares[0] == 1.0 and shares[-1] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(shares))


def coarse(table: CalibrationTable, levels: int = 6) -> CalibrationTable:
    """Scores as a vote among a few samples gives them."""
    votes = tuple(np.floor(np.asarray(table.scores["small"]) * levels) / levels)
    return replace(table, scores={"small": votes})


def test_a_coarse_step_is_taken_for_the_share_of_requests_that_keeps_the_floor() -> None:
    table, rule = coarse(made(400, 3)), Rule(0.72)
    choice = choose(table, rule)
    assert choice is not None and choice.cheaper is not None
    both = tuple(choice.thresholds.values()), tuple(choice.cheaper.values())
    safe, risky = (policy_of(table, limits, rule) for limits in both)
    assert safe.quality_low >= rule.floor > risky.quality_low
    share = choice.cheaper_share
    for what in ("quality", "escalation"):
        ends = getattr(safe, what), getattr(risky, what)
        assert getattr(choice, what) == pytest.approx((1 - share) * ends[0] + share * ends[1])
    more = policy_of(table, both[0], rule, both[1], share + 1 / MIX_PARTS)
    assert choice.quality_low >= rule.floor > more.quality_low
    assert choose(made(400, 3), rule).cheaper is None  # type: ignore[union-attr]


def test_mixtures_keep_the_floor_in_truth_as_often_as_they_say() -> None:
    levels, broken, mixed, tables = 6, 0, 0, 200
    for seed in range(tables):
        choice = choose(coarse(made(500, seed), levels), Rule(0.74, 0.9))
        if choice is None:
            continue
        share, quality = choice.cheaper_share, true_quality(choice.thresholds["small"])
        if choice.cheaper is not None:
            quality = (1 - share) * quality + share * true_quality(choice.cheaper["small"])
        broken, mixed = broken + (quality < 0.74), mixed + (share > 0)
    # 10 % are allowed; three standard deviations of 200 draws are 6.4 points.
    assert broken / tables <= 0.10 + 0.064
    assert mixed > tables / 2


def test_a_finite_population_needs_less_margin_and_the_whole_of_it_none() -> None:
    table = made(500, 8)
    endless, finite, whole = (
        choose(table, Rule(0.74, population=population)) for population in (None, 1000, 500)
    )
    assert endless is not None and finite is not None and whole is not None
    assert endless.escalation > finite.escalation > whole.escalation
    assert whole.quality == whole.quality_low


@pytest.mark.parametrize("right", [100, 130, 150, 165, 175])
def test_the_bound_for_a_finite_population_is_near_the_exact_one_and_on_its_safe_side(
    right: int,
) -> None:
    """Clopper and Pearson's bound for draws without replacement: the least population not refused.

    Wilson's at 97 % is below it at 95 %, and less than a point away; Serfling's, which needs no
    normal distribution, costs two more.
    """
    rows, drawn = 369, 184
    exact = next(
        whole / rows
        for whole in range(right, rows + 1)
        if hypergeom(rows, whole, drawn).sf(right - 1) > 0.05
    )
    answers = (1.0,) * right + (0.0,) * (drawn - right)
    table = CalibrationTable(("a", "b"), {"a": answers}, {"a": answers, "b": answers}, {})
    bound = policy_of(table, (ESCALATE_ALL,), Rule(0.5, 0.97, population=rows)).quality_low
    assert exact - 0.01 < bound <= exact
    left = 1 - (drawn - 1) / rows
    assert right / drawn - sqrt(log(1 / 0.05) / (2 * drawn) * left) < exact - 0.015


def test_three_stages_may_skip_one_that_is_of_no_use() -> None:
    table = made(3000, 9)
    noise = tuple(np.random.default_rng(1).random(3000).tolist())
    three = CalibrationTable(
        ("small", "noise", "large"),
        {"small": table.scores["small"], "noise": noise},
        {**table.qualities, "noise": tuple([0.3] * 3000)},
        {},
    )
    choice = choose(three, Rule(0.72))
    assert choice is not None
    assert choice.thresholds["noise"] == ESCALATE_ALL and choice.visits["noise"] == 0.0
    assert 0.0 < choice.visits["large"] < 1.0


def with_large(table: CalibrationTable, large: list[float]) -> CalibrationTable:
    return replace(table, qualities={**table.qualities, "large": tuple(large)})


def test_a_cascade_that_pays_is_worthwhile() -> None:
    verdict = judge(made(1000, 1), Rule(0.72, prices={"small": 0.1, "large": 1.0}))
    assert verdict.cascades and verdict.choice is not None
    assert verdict.choice.usd_per_question == pytest.approx(0.1 + verdict.choice.escalation)


def test_a_last_stage_that_gains_nothing_on_what_is_deferred_is_refused() -> None:
    table = made(1000, 2)
    same = with_large(table, list(table.qualities["small"]))
    verdict = judge(same, Rule(0.6))
    assert verdict.reason == "NoGain" and "worthless" in verdict.message
    # A smaller one behind a larger one loses on what is deferred.
    turned = CalibrationTable(
        ("large", "small"),
        {"large": table.scores["small"]},
        {"large": table.qualities["large"], "small": table.qualities["small"]},
        {},
    )
    assert judge(turned, Rule(0.6)).reason == "NoGain"


def test_a_score_that_is_a_coin_is_refused() -> None:
    verdict = judge(made(2000, 3, informative=0.0), Rule(0.65))
    assert verdict.reason == "BlindScore"
    assert "AUROC 0.5" in verdict.message or "AUROC 0.4" in verdict.message


def test_a_small_stage_that_keeps_the_floor_alone_needs_no_cascade() -> None:
    assert judge(made(1000, 4), Rule(0.45)).reason == "WeakSuffices"


def test_a_floor_above_the_last_stage_is_unreachable_and_says_what_is_missing() -> None:
    verdict = judge(made(200, 5), Rule(0.97))
    assert verdict.reason == "FloorUnreachable" and verdict.choice is None
    assert "97.0%" in verdict.message


def test_a_cascade_as_dear_as_its_last_stage_is_refused() -> None:
    verdict = judge(made(1000, 6), Rule(0.72, prices={"small": 0.9, "large": 1.0}))
    assert verdict.reason == "NotCheaper"


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    generator = np.random.default_rng(7)
    scores = generator.integers(0, 5, 40).astype(float)
    right = generator.random(40) < 0.5
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[right] for b in scores[~right]
    ]
    assert auroc(scores, right) == pytest.approx(float(np.mean(pairs)))
    assert auroc(scores, np.ones(40, dtype=bool)) is None


def test_one_score_for_all_questions_tells_nothing() -> None:
    table = replace(made(400, 8), scores={"small": (0.5,) * 400})
    found = deferral_of(table, "small", None, 0.95)
    assert found.sorting_low < 0.0 and found.auroc == 0.5


def test_the_frontier_holds_no_point_that_a_cheaper_one_beats() -> None:
    rule = Rule(0.7, prices={"small": 0.0001, "large": 0.001})
    curve = frontier(made(500, 9), rule).curve
    for a, b in itertools.pairwise(curve):
        assert (a.usd_per_question or 0) <= (b.usd_per_question or 0) and a.quality < b.quality
    assert "</svg>" in picture_of("a <title>", frontier(made(500, 9), rule), curve[:1])
    assert at_floors(made(500, 9), rule, [0.99])[0].cascade is None


def test_a_table_that_was_written_is_read_back() -> None:
    table = replace(made(40, 10), classes=("a", "b") * 20)
    tokens = {"small": ([10.0] * 40, [5.0] * 40)}
    text = table_text(table, [f'q"{i},' for i in range(40)], tokens)
    again = read_calibration(text, ("small", "large"))
    assert again.qualities == table.qualities and again.classes == table.classes
    assert again.scores["small"] == pytest.approx(table.scores["small"], rel=1e-8)
    assert again.mean_tokens == {"small": (10.0, 5.0)}


LINES = [
    "id,task,answer,a:pred,b:pred,c:pred,a:len,b:correct",
    "0,x,A,A,A,B,3,1",
    "1,x,B,A,B,A,9,1",
    "2,y,C,C,D,C,5,0",
    "3,y,D,A,D,A,5,1",
]


def test_outcomes_of_any_shape_become_scores_and_qualities() -> None:
    agree = read_outcomes(LINES, Asked({"a": "a", "b": "b"}, {"a": "agree:b,c"}))
    assert agree.qualities == {"a": (1, 0, 1, 0), "b": (1, 1, 0, 1)}
    assert agree.scores["a"] == (0.5, 0.5, 0.5, 0.5)
    ranked = read_outcomes(LINES, Asked({"a": "a", "b": "b"}, {"a": "column:-a:len"}, "task"))
    assert ranked.scores["a"] == (0.875, 0.125, 0.5, 0.5) and ranked.classes == ("x", "x", "y", "y")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"a": "column:nope"}, "nope"),
        ({"a": "agree:z"}, "z:pred"),
        ({"a": "history:nope"}, "nope"),
        ({"a": "magic"}, "magic"),
        ({"a": "column:answer"}, "line 2"),
        ({}, "a:score"),
    ],
)
def test_a_score_that_the_table_does_not_hold_is_named(scores: dict[str, str], said: str) -> None:
    with pytest.raises(SnapshotError, match=said):
        read_outcomes(LINES, Asked({"a": "a", "b": "b"}, scores))


def test_history_learns_on_one_fold_and_is_used_on_the_other() -> None:
    generator = np.random.default_rng(11)
    rows = ["task,a:correct,b:correct"]
    for i in range(600):
        hard = i % 2
        rows.append(f"{'hard' if hard else 'easy'},{int(generator.random() < 0.9 - 0.7 * hard)},1")
    table = read_outcomes(rows, Asked({"a": "a", "b": "b"}, {"a": "history:task"}))
    assert table.rows == 400
    assert len(set(table.scores["a"])) == 2
    assert judge(table, Rule(0.8)).cascades
