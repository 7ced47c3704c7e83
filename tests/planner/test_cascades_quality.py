"""Certified quality: bounds for many policies at once, on synthetic and on measured cascades."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motley_planner.candidates.calibration import CalibrationTable
from motley_planner.candidates.certify import critical_value, folds, lower_bounds
from motley_planner.candidates.policies import replay, routing_policies
from motley_planner.domain.demand import RoutingPolicy

DATA = Path(__file__).parents[3] / "shared" / "data" / "cascade"
HALVES = 200
TABLES = 60


def made(rows: int, seed: int, gap: float = 0.25) -> CalibrationTable:
    """A small and a large model; the small one's score says how likely it is right."""
    generator = np.random.default_rng(seed)
    score = generator.random(rows)
    small = (generator.random(rows) < 0.2 + 0.7 * score).astype(float)
    large = (generator.random(rows) < 0.55 + gap).astype(float)
    return CalibrationTable(
        ("small", "large"),
        {"small": tuple(score.tolist())},
        {"small": tuple(small.tolist()), "large": tuple(large.tolist())},
        {},
    )


def true_quality(threshold: float, gap: float = 0.25) -> float:
    """Mean quality of a policy of `made`, in closed form."""
    t = min(max(threshold, 0.0), 1.0)
    kept = 0.2 * (1 - t) + 0.35 * (1 - t * t)
    return kept + t * (0.55 + gap)


def test_folds_share_no_row_and_leave_none_out() -> None:
    choosing, certifying = folds(100)
    assert sorted([*choosing, *certifying]) == list(range(100))
    assert len(certifying) == 67


def test_one_policys_critical_value_is_the_normal_quantile() -> None:
    answers = np.random.default_rng(1).random((1, 50))
    assert critical_value(answers, 0.95) == pytest.approx(1.6449, abs=1e-3)


def test_independent_policies_need_about_bonferronis_value_and_equal_ones_none_of_it() -> None:
    answers = np.random.default_rng(2).random((20, 400))
    # 20 independent errors: the quantile of 0.95^(1/20) of one, 2.80.
    assert critical_value(answers, 0.95) == pytest.approx(2.80, abs=0.12)
    alike = np.repeat(answers[:1], 20, axis=0)
    assert critical_value(alike, 0.95) == pytest.approx(1.645, abs=0.08)


def test_the_bounds_hold_for_all_policies_at_once_as_often_as_they_say() -> None:
    thresholds = np.linspace(0.05, 0.95, 15)
    truth = np.array([true_quality(t) for t in thresholds])
    held = 0
    for seed in range(120):
        table = made(300, seed)
        answers = np.stack([replay(table, (t,))[0] for t in thresholds])
        held += bool((lower_bounds(answers, 0.9) <= truth).all())
    # 120 draws of a 90 % event: three standard deviations are 8.2 points.
    assert 0.82 <= held / 120


def test_picking_the_cheapest_policy_at_a_floor_keeps_the_floor_in_truth() -> None:
    floor, broken, picked = 0.74, 0, 0
    for seed in range(TABLES):
        policies = routing_policies(made(600, 10_000 + seed), 0.95)
        choice = cheapest(policies, floor)
        if choice is not None:
            picked += 1
            broken += true_quality(choice.thresholds["small"]) < floor
    assert picked > TABLES / 2
    assert broken <= 0.05 * TABLES + 3 * np.sqrt(0.05 * 0.95 * TABLES)


def cheapest(policies: tuple[RoutingPolicy, ...], floor: float) -> RoutingPolicy | None:
    """The policy that asks the last stage least often, among those certified to keep the floor."""
    good = [p for p in policies if p.quality >= floor]
    return min(good, key=lambda p: p.visits["large"], default=None)


def measured(
    name: str, read: Callable[[dict[str, str]], tuple[float, float, float]]
) -> CalibrationTable:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt", newline="") as lines:
        rows = [read(row) for row in csv.DictReader(lines)]
    score, small, large = (tuple(column) for column in zip(*rows, strict=True))
    return CalibrationTable(
        ("small", "large"), {"small": score}, {"small": small, "large": large}, {}
    )


def vote_share() -> CalibrationTable:
    """Dates by self-consistency: Llama-2-13B's vote share, its answer, and GPT-4's."""
    return measured(
        "mot_date_selfconsistency.csv.gz",
        lambda r: (
            float(r["llama2-13b:vote_share"]),
            float(r["llama2-13b:correct"]),
            float(r["gpt-4:correct"]),
        ),
    )


OTHERS = ("Llama-2-7b-hf", "Qwen1.5-7B-Chat", "Mistral-7B-Instruct-v0.2", "Phi-3-mini-4k-instruct")


def agreement() -> CalibrationTable:
    """MMLU-Pro: how many of four other small models agree with Llama-3.1-8B; 70B behind it."""

    def read(row: dict[str, str]) -> tuple[float, float, float]:
        small = row["Meta-Llama-3_1-8B-Instruct:pred"]
        agree = sum(row[f"{other}:pred"] == small for other in OTHERS) / len(OTHERS)
        right = float(small == row["answer"])
        return agree, right, float(row["Meta-Llama-3_1-70B-Instruct:pred"] == row["answer"])

    return measured("mmlu_pro_preds.csv.gz", read)


def part(table: CalibrationTable, rows: np.ndarray) -> CalibrationTable:  # type: ignore[type-arg]
    def take(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(np.asarray(values)[rows].tolist())

    return CalibrationTable(
        table.stages,
        {s: take(v) for s, v in table.scores.items()},
        {s: take(v) for s, v in table.qualities.items()},
        {},
    )


def halves_below(table: CalibrationTable, floor: float, size: int) -> tuple[float, float]:
    """Share of random halves whose pick is below the floor on the other half, and of halves with one.

    Halves are drawn from `size` rows; the other half's own noise counts against the pick.
    """
    short = found = 0
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(table.rows)[:size]
        mine, other = part(table, order[: size // 2]), part(table, order[size // 2 :])
        choice = cheapest(routing_policies(mine, 0.95), floor)
        if choice is not None:
            found += 1
            short += mean_of(other, choice.thresholds["small"]) < floor
    return short / max(1, found), found / HALVES


def mean_of(table: CalibrationTable, threshold: float) -> float:
    return float(replay(table, (threshold,))[0].mean())


@pytest.mark.parametrize(
    ("read", "floor", "size"),
    [(vote_share, 0.75, 369), (agreement, 0.55, 1200)],
    ids=["vote share, 369 questions", "agreement, 1200 questions"],
)
def test_a_certified_floor_holds_on_the_other_half_of_measured_answers(
    read: Callable[[], CalibrationTable], floor: float, size: int
) -> None:
    short, found = halves_below(read(), floor, size)
    assert found >= 0.5
    assert short <= 0.05


def test_known_shares_of_the_measured_cascades_are_read_right() -> None:
    table = agreement()
    assert np.mean(table.qualities["small"]) == pytest.approx(0.442, abs=5e-4)
    assert np.mean(table.qualities["large"]) == pytest.approx(0.628, abs=5e-4)
    dates = vote_share()
    quality, visited = replay(dates, (0.6,))
    assert np.mean(dates.qualities["large"]) == pytest.approx(0.886, abs=5e-4)
    assert quality.mean() == pytest.approx(0.832, abs=0.02)
    assert visited[1].mean() == pytest.approx(0.41, abs=0.03)
