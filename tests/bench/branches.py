"""`python -m tests.bench.branches [--write]`: branches stopped at M of N, predicted and measured.

The gateway's executor, dispatcher and credits run on a mock engine of constant steps and virtual
time (`branch_engine.py`); branch lengths are log-normal and independent of scores. Predicted is
`costs.order_statistics`. Accuracy is replayed from recorded answers: 20 samples a question of which
the data keep the most frequent one's share, not the others; what those were is assumed twice, for
the worst and for the best.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tests.bench import page
from tests.bench.branch_engine import (
    STEP_S,
    Drawn,
    Measured,
    Rig,
    StepEngine,
    lengths,
    measured,
    run_virtual,
)

from motley_planner.costs.order_statistics import branch_steps, branch_tokens
from motley_planner.dispatch import BranchRule, Confidence, Pruning
from motley_planner.simulator.branching import Branched, simulate_branches
from motley_planner.simulator.steps import FixedSteps

REQUESTS, MEAN, DEVIATION = 600, 60.0, 0.5
SPREAD = math.sqrt(math.exp(DEVIATION**2) - 1.0)
SHAPES = ((4, 4), (5, 4), (6, 4), (8, 4), (8, 8), (8, 2), (12, 4), (16, 4))
DATA = Path(__file__).parents[2] / "../shared/data/cascade/mot_date_selfconsistency.csv.gz"
MODELS = ("llama2-13b", "gpt-3.5-turbo")
SAMPLES = 20


def confidence_of(request: int, branch: int) -> float:
    """A branch's steady token log-probability: uniform on 0.3 to 1 as a probability."""
    rng = np.random.default_rng((99, request, branch))
    return math.log(float(rng.uniform(0.3, 1.0)))


@dataclass(frozen=True, slots=True)
class Row:
    """One shape: measured, and what order statistics say; relative to 4 of 4."""

    rule: BranchRule
    run: Measured
    seconds: float
    tokens: float
    simulated: tuple[float, float, float]  # latency and tokens, as above; given up a request

    @property
    def predicted(self) -> tuple[float, float]:
        """Latency and tokens relative to waiting for all of 4."""
        n, m = self.rule.samples, self.rule.stop_after
        return (
            branch_steps(n, m, SPREAD) / branch_steps(4, 4, SPREAD),
            branch_tokens(n, m, SPREAD) / branch_tokens(4, 4, SPREAD),
        )


def rows(
    shapes: Sequence[tuple[int, int]] = SHAPES, requests: int = REQUESTS, seed: int = 1
) -> list[Row]:
    """Every shape on the same draws, relative to waiting for all of 4."""
    drawn = lengths(requests, max(n for n, _ in (*shapes, (4, 4))), SPREAD, MEAN, seed)
    return [_row(BranchRule(n, m, choose="Vote"), drawn, None) for n, m in shapes]


def _row(rule: BranchRule, drawn: np.ndarray, score: Callable[[int, int], float] | None) -> Row:
    four = BranchRule(4, 4, choose="Vote")
    base, run = _measured_four(drawn[:, :4].tobytes(), len(drawn)), measured(rule, drawn, score)
    ours, theirs = simulated(rule, drawn, score), simulated(four, drawn, None)
    relative = (ours[0] / theirs[0], ours[1] / theirs[1], ours[2])
    return Row(rule, run, run.seconds / base.seconds, run.tokens / base.tokens, relative)


@lru_cache(maxsize=8)
def _measured_four(raw: bytes, requests: int) -> Measured:
    drawn = np.frombuffer(raw, dtype=int).reshape(requests, 4)
    return measured(BranchRule(4, 4, choose="Vote"), drawn, None)


def simulated(
    rule: BranchRule, drawn: np.ndarray, score: Callable[[int, int], float] | None
) -> tuple[float, float, float]:
    """Mean seconds, tokens and branches given up of the same requests in the simulator."""
    asked = []
    for number, row in enumerate(drawn[:, : rule.samples]):
        scores: tuple[float, ...] = ()
        if score is not None:
            scores = tuple(math.exp(score(number, b)) for b in range(rule.samples))
        asked.append(Branched(number * 1e6, 1.0, tuple(map(float, row)), scores))
    times = FixedSteps(prefill_s_per_token=STEP_S, decode_step_s=STEP_S)
    run = simulate_branches(asked, rule, times, rule.samples)
    mean = statistics.fmean
    return mean(run.latency_s), mean(run.tokens), run.pruned / len(asked)


def pruned_rows(
    shapes: Sequence[tuple[int, int]] = ((8, 4), (16, 4)),
    requests: int = REQUESTS // 2,
    seed: int = 1,
) -> list[Row]:
    """With two-phase pruning by confidence: below 0.5, M at most before the first has ended."""
    drawn = lengths(requests, max(n for n, _ in (*shapes, (4, 4))), SPREAD, MEAN, seed)
    rules = [BranchRule(n, m, Pruning(0.5, n - m, 10), Confidence("Tail", 8)) for n, m in shapes]
    return [_row(rule, drawn, confidence_of) for rule in rules]


@dataclass(frozen=True, slots=True)
class Question:
    """The 20 recorded answers to one question; "right" is the right one."""

    answers: tuple[str, ...]


def questions(model: str, is_best: bool) -> list[Question]:
    """The recorded questions; `is_best` assumes of what was not kept whatever helps most.

    Worst: the answers beside the most frequent one are alike as far as that leaves it the most
    frequent, and none of them is right. Best: no two wrong ones are alike, and where the most
    frequent one is wrong, as many as may be are right.
    """
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    found = []
    for row in table:
        top = max(1, round(float(row[f"{model}:vote_share"]) * SAMPLES))
        is_right = row[f"{model}:correct"] == "1"
        rest = SAMPLES - top
        made = ["right" if is_right else "wrong"] * top
        if is_best:
            right = 0 if is_right else min(rest, top - 1)
            made += ["right"] * right + [f"other {i}" for i in range(rest - right)]
        else:
            made += [f"other {i // top}" for i in range(rest)]
        found.append(Question(tuple(made)))
    return found


def accuracy(rule: BranchRule, asked: Sequence[Question], seeds: int = 3) -> float:
    """Share of questions that the gateway answers right, over drawn subsets of recorded answers.

    Lengths do not depend on answers (the data keep none by sample): SART's own assumption.
    """
    rng = np.random.default_rng(5)
    right = []
    for _ in range(seeds):
        drawn = lengths(len(asked), max(2, rule.samples), SPREAD, 12.0, int(rng.integers(10**6)))
        orders = [rng.permutation(SAMPLES)[: rule.samples] for _ in asked]
        right.append(_share_right(rule, asked, drawn, orders))
    return statistics.fmean(right)


def _share_right(
    rule: BranchRule, asked: Sequence[Question], drawn: np.ndarray, orders: Sequence[np.ndarray]
) -> float:
    order: dict[str, int] = {}

    def draw(name: str) -> Drawn:
        branch = order[name] = order.get(name, -1) + 1
        at = int(name)
        return Drawn(int(drawn[at, branch]), asked[at].answers[int(orders[at][branch])])

    async def work() -> float:
        rig, right = Rig(StepEngine(draw), rule), 0
        for number in range(len(asked)):
            answer, _ = await rig.ask(rig.job(str(number)))
            right += "{right}" in answer["choices"][0]["message"]["content"]
        return right / len(asked)

    return run_virtual(work)


def expected_single(asked: Sequence[Question]) -> float:
    """Share of recorded answers that are right: what one branch gives."""
    return statistics.fmean(q.answers.count("right") / SAMPLES for q in asked)


def latency_table() -> str:
    """Latency and tokens, as the page holds them."""
    head = (
        "| N / M | pruning | latency, predicted | simulated | measured | tokens, predicted "
        "| simulated | measured | given up a request | streams closed |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for row in [*rows(), *pruned_rows()]:
        (steps, tokens), rule, run = row.predicted, row.rule, row.run
        is_plain = rule.prune is None
        said = (f"{steps:.2f}", f"{tokens:.2f}") if is_plain else ("", "")
        lines.append(
            f"| {rule.samples} / {rule.stop_after} | {'no' if is_plain else 'yes'} | {said[0]} "
            f"| {row.simulated[0]:.2f} | {row.seconds:.2f} | {said[1]} | {row.simulated[1]:.2f} "
            f"| {row.tokens:.2f} | {run.pruned:.1f} | {run.aborted} of {run.opened} |"
        )
    return "\n".join(lines)


def accuracy_table(seeds: int = 3) -> str:
    """Accuracy, as the page holds it; empty where the data are not there."""
    if not DATA.exists():
        return ""
    rules: dict[str, Callable[[Sequence[Question]], float]] = {
        "one answer": expected_single,
        "4 / 4 vote": lambda q: accuracy(BranchRule(4, 4, choose="Vote"), q, seeds),
        "8 / 4 vote": lambda q: accuracy(BranchRule(8, 4, choose="Vote"), q, seeds),
        "8 / 8 vote": lambda q: accuracy(BranchRule(8, 8, choose="Vote"), q, seeds),
        "16 / 8 vote": lambda q: accuracy(BranchRule(16, 8, choose="Vote"), q, seeds),
    }
    lines = ["| model | assumed | " + " | ".join(rules) + " |", "|---" * (len(rules) + 2) + "|"]
    for model in MODELS:
        for is_best in (False, True):
            asked = questions(model, is_best)
            cells = " | ".join(f"{of(asked):.1%}" for of in rules.values())
            lines.append(f"| {model} | {'best' if is_best else 'worst'} | {cells} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; writes them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    args = parser.parse_args(arguments)
    made = [part for part in (latency_table(), accuracy_table()) if part]
    print("\n\n".join(made))
    if args.write:
        page.put("branches", "\n\n".join(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
