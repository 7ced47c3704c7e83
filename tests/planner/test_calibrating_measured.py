"""Floors on published outcomes of real models; skipped where they are not there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import hypergeom
from tests.bench import calibration as bench
from tests.bench import least_calls

from motley_planner.calibrating import Rule, judge
from motley_planner.calibrating.frontier import at_floors, frontier
from motley_planner.calibrating.thresholds import path
from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.policies import replay

pytestmark = pytest.mark.skipif(not bench.DATA.exists(), reason=f"{bench.DATA} is not there")


def test_routellm_replay_gives_the_published_accuracies() -> None:
    """Source: lm-sys/RouteLLM@0b64fda, its shipped outcomes."""
    for task, rows, published in (
        ("mmlu", 14042, (0.681, 0.806, 0.859)),
        ("gsm8k", 1319, (0.638, 0.857, 0.929)),
        (None, 15361, (0.677, 0.810, None)),
    ):
        table = bench.routellm(task)
        small, large = (np.asarray(table.qualities[stage]) for stage in table.stages)
        found = (small.mean(), large.mean(), np.maximum(small, large).mean())
        assert table.rows == rows
        for mean, value in zip(found, published, strict=True):
            assert value is None or round(float(mean), 3) == value


def test_a_threshold_from_half_the_table_keeps_the_floor_on_all_of_it() -> None:
    table = bench.mmlu_pro()
    rule = Rule(0.5, bench.FINITE_CONFIDENCE, population=table.rows)
    kept, ratio = bench.halves(table, bench.floor_at(table, 0.7), rule, 30)
    assert kept >= 0.95
    assert ratio <= 1.15


@pytest.mark.slow
@pytest.mark.parametrize("gap", bench.GAPS)
def test_each_floor_is_kept_by_19_of_20_halves_with_at_most_15_percent_more_calls(
    gap: float,
) -> None:
    table = bench.mmlu_pro()
    rule = Rule(0.5, bench.FINITE_CONFIDENCE, population=table.rows)
    kept, ratio = bench.halves(table, bench.floor_at(table, gap), rule, bench.HALVES)
    assert kept >= 0.95
    assert ratio <= 1.15


def dates_at(gap: float) -> tuple[float, float, float]:
    """Halves that keep the floor, calls over the oracle threshold's, and the least there can be."""
    table = bench.dates()
    floor, rule = bench.floor_at(table, gap), Rule(0.5, bench.FINITE_CONFIDENCE, None, table.rows)
    least = least_calls.least_calls(table, floor) / bench.oracle_of(table, floor)
    return *bench.halves(table, floor, rule, bench.HALVES), least


@pytest.mark.parametrize("gap", bench.GAPS[:3])
def test_half_of_369_questions_keep_a_floor_with_at_most_15_percent_more_calls(gap: float) -> None:
    kept, ratio, least = dates_at(gap)
    assert kept >= 0.95
    assert least <= ratio <= 1.15


def test_no_rule_can_keep_the_highest_floor_on_369_questions_with_15_percent_more_calls() -> None:
    kept, ratio, least = dates_at(bench.GAPS[3])
    assert kept >= 0.95
    assert 1.15 < least <= ratio


def beside(gap: float, confidence: float) -> float:
    """Least share of halves that keep the floor, over tables with a policy just below it."""
    table = bench.dates()
    floor, rule = bench.floor_at(table, gap), Rule(0.5, confidence, None, table.rows)
    policies = list(path(table, ("small",)))[1:]
    kept = (each for each in policies if replay(table, each)[0].mean() >= floor)
    others = [least_calls.beside(table, floor, limits) for limits in kept]
    return min(bench.halves(other, floor, rule, bench.HALVES)[0] for other in others)


@pytest.mark.parametrize("gap", bench.GAPS)
def test_the_rule_keeps_floors_on_the_tables_beside_as_well(gap: float) -> None:
    assert beside(gap, bench.FINITE_CONFIDENCE) >= 0.95


def test_a_rule_with_fewer_calls_than_the_least_breaks_the_floor_on_a_table_beside() -> None:
    table, gap, confidence = bench.dates(), bench.GAPS[3], 0.9
    floor, rule = bench.floor_at(table, gap), Rule(0.5, confidence, None, table.rows)
    kept, ratio = bench.halves(table, floor, rule, bench.HALVES)
    # On this very table it looks as if it did better than can be ...
    assert kept >= 0.95
    assert ratio < least_calls.least_calls(table, floor) / bench.oracle_of(table, floor)
    assert beside(gap, confidence) < 0.93  # ... and 90 % is what it promises.


def test_the_normal_power_is_that_of_the_hypergeometric_test() -> None:
    """Right answers in a half, drawn without replacement from those of all questions."""
    rows, half, floor = 368, 184, 0.75
    for right in (276, 285, 300, 310):
        below = hypergeom(rows, round(rows * floor) - 1, half)
        limit = int(below.ppf(0.95))  # this many or fewer: not told from "below the floor"
        exact = float(hypergeom(rows, right, half).sf(limit))
        worth = np.array([1.0] * right + [0.0] * (rows - right))
        assert least_calls.power(worth, floor, half) == pytest.approx(exact, abs=0.06)


@pytest.mark.parametrize("outcomes", [bench.mmlu_pro, bench.dates])
def test_a_cascade_costs_less_than_one_model_and_than_the_best_fixed_threshold(
    outcomes: Callable[[], CalibrationTable],
) -> None:
    """Fixed thresholds have the advantage here: the cheapest of 19 is picked in hindsight."""
    table, rule = outcomes(), Rule(0.5, prices=bench.PRICES)
    floors = [bench.floor_at(table, gap) for gap in bench.GAPS]
    for each in at_floors(table, rule, floors):
        assert each.cascade is not None and each.single is not None and each.static is not None
        assert each.cascade < each.single
        assert each.cascade < each.static


def test_the_frontier_is_above_the_line_of_mixing_both_models_blindly() -> None:
    table, rule = bench.mmlu_pro(), Rule(0.5, prices=bench.PRICES)
    made = frontier(table, rule)
    (usd_0, low), (usd_1, high) = made.singles["small"], made.singles["large"]
    for point in made.curve:
        # Above the line that mixing both models blindly reaches, from where calls are few enough.
        usd = point.usd_per_question or 0.0
        if 0.2 < point.escalation < 0.7:
            assert point.quality > low + (high - low) * (usd - usd_0) / (usd_1 - usd_0)


def test_a_score_that_says_nothing_is_refused_on_measured_outcomes() -> None:
    # The length of the prompt, with GPT-4 behind Mixtral.
    verdict = judge(bench.routellm(), Rule(0.74))
    assert verdict.reason == "BlindScore"
    assert verdict.deferrals[0].auroc == pytest.approx(0.450, abs=5e-4)
