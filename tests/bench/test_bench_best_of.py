"""Choosing among branches by confidence: the bench's arithmetic, and two real models in its short form."""

from __future__ import annotations

import numpy as np
import pytest
from e2e import live
from tests.bench import best_of
from tests.bench.best_of import Asked, Sample

from motley_planner.dispatch import BranchRule


def drawn(questions: int, samples: int, seed: int) -> list[Asked]:
    """Answers of 1 to 9 tokens, right about half of the time whatever their scores."""
    rng = np.random.default_rng(seed)

    def sample() -> Sample:
        logprobs = np.log(rng.uniform(0.05, 1.0, rng.integers(1, 10)))
        return Sample(str(rng.choice(["right", "wrong"])), tuple(logprobs.tolist()))

    return [
        Asked(r"^right\b", sample(), tuple(sample() for _ in range(samples)))
        for _ in range(questions)
    ]


def test_the_gateway_takes_the_sample_of_the_highest_mean_log_probability() -> None:
    asked = drawn(60, 8, seed=1)
    found = best_of.chosen(BranchRule(8, 8), asked, seed=2)
    wanted = [max(one.samples, key=lambda s: s.score).vote == "right" for one in asked]
    assert found.tolist() == wanted
    assert 10 < sum(wanted) < 50


def test_a_score_that_knows_nothing_gains_nothing_and_one_that_knows_finds_every_right_answer() -> (
    None
):
    asked = drawn(300, 8, seed=3)
    one = np.mean([sample.vote == "right" for each in asked for sample in each.samples])
    assert best_of.score_auroc(asked) == pytest.approx(0.5, abs=0.05)
    assert best_of.chosen(BranchRule(8, 4), asked, seed=4).mean() == pytest.approx(one, abs=0.1)
    sure = {"right": (-0.1, -0.1), "wrong": (-1.0, -2.0)}
    knowing = [
        Asked(each.pattern, each.greedy, tuple(Sample(s.vote, sure[s.vote]) for s in each.samples))
        for each in asked
    ]
    assert best_of.score_auroc(knowing) == 1.0
    any_right = np.mean([any(s.vote == "right" for s in each.samples) for each in asked])
    assert best_of.chosen(BranchRule(8, 8), knowing, seed=5).mean() == any_right


def test_samples_are_kept_as_they_are() -> None:
    every = {"model": drawn(3, 2, seed=6)}
    assert best_of.read(best_of.written(every)) == every


@pytest.mark.slow
def test_on_real_models_the_confidence_of_a_sample_tells_right_ones_from_wrong_ones() -> None:
    """Measured on all questions: docs/benchmarks.md; here on a third of them, five samples each."""
    if reason := live.missing():
        pytest.skip(f"no real model can run here: {reason}")
    every = best_of.measured(5, range(0, len(best_of.QUESTIONS), 3))
    assert len(every) == 2
    assert np.mean([best_of.score_auroc(asked) for asked in every.values()]) > 0.6
    best, one = (
        np.concatenate([best_of.columns(asked)[way] for asked in every.values()]).mean()
        for way in ("4 / 4 best", "one answer")
    )
    assert best > one - 0.02, "84 questions tell a difference to two points (one standard error)"
