"""`python -m tests.bench.best_of [--write]`: the branch with the highest confidence, on real models.

Two small language models are asked short tasks with known answers (`e2e/live_questions.py`) by
llama.cpp, each many times at a temperature; kept of each sample are its text and the
log-probabilities of its tokens. The gateway's own executor, meter and rules then run on these samples
(`branch_engine.py`, virtual time): which branches end first is by their real lengths, which is
chosen by their real scores. Intervals are over questions, of differences on the same questions.

`--answers FILE` keeps each model's samples, and takes from there what it has. Needs the package xllamacpp and the two
models (e2e/README.md).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from e2e import live
from e2e.live_manifests import BUSY, STAGES
from e2e.live_questions import QUESTIONS, TIMEOUT_S, body_of, is_right
from numpy.typing import NDArray
from tests.bench import page
from tests.bench.branch_engine import Drawn, Rig, StepEngine, run_virtual

from motley_planner.calibrating.deferral import auroc
from motley_planner.dispatch import BranchRule

SAMPLES, TEMPERATURE, DRAWS = 12, 0.8, 5
RULES = {
    "4 / 4 best": BranchRule(4, 4),
    "4 / 4 vote": BranchRule(4, 4, choose="Vote"),
    "8 / 4 best": BranchRule(8, 4),
    "8 / 4 vote": BranchRule(8, 4, choose="Vote"),
    "8 / 8 best": BranchRule(8, 8),
    "8 / 8 vote": BranchRule(8, 8, choose="Vote"),
}
PAIRS = (("8 / 8 best", "8 / 8 vote"), ("8 / 8 best", "temperature 0"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer: its first word, as it votes, and its tokens' log-probabilities."""

    vote: str
    logprobs: tuple[float, ...]

    @property
    def score(self) -> float:
        """The gateway's confidence in it: exp of the mean log-probability."""
        return float(np.exp(np.mean(self.logprobs)))


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: the pattern of its answer, and what was answered."""

    pattern: str
    greedy: Sample
    samples: tuple[Sample, ...]

    def is_right(self, vote: str) -> bool:
        """Whether an answer's first word is the known one."""
        return is_right(vote, self.pattern)


def ask(url: str, prompt: str, temperature: float, seed: int) -> Sample:
    """One sample of an engine."""
    asked = body_of(prompt) | {"temperature": temperature, "seed": seed, "logprobs": 1}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(asked).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        (choice,) = json.loads(answer.read())["choices"]
    logprobs = [float(each["logprob"]) for each in (choice["logprobs"] or {}).get("content", ())]
    words = re.sub(r"[{}\\]", "", choice["text"]).lower().split()
    return Sample(words[0].rstrip(".,;:!") if words else "", tuple(logprobs) or (-1e3,))


def sampled(url: str, numbers: Sequence[int], samples: int) -> list[Asked]:
    """Every question once without temperature and `samples` times with it."""

    def one(number: int) -> Asked:
        prompt, pattern = QUESTIONS[number]
        made = [ask(url, prompt, TEMPERATURE, 1000 * number + seed) for seed in range(samples)]
        return Asked(pattern, ask(url, prompt, 0.0, 0), tuple(made))

    with ThreadPoolExecutor(BUSY[0]) as pool:
        return list(pool.map(one, numbers))


def chosen(rule: BranchRule, asked: Sequence[Asked], seed: int) -> NDArray[np.float64]:
    """1 where the gateway's answer to a question is right; its branches are drawn from the samples."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(one.samples))[: rule.samples] for one in asked]
    started: dict[str, int] = {}

    def draw(name: str) -> Drawn:
        branch = started[name] = started.get(name, -1) + 1
        sample = asked[int(name)].samples[int(orders[int(name)][branch])]
        if not rule.needs_logprobs:
            return Drawn(len(sample.logprobs), sample.vote)
        # The end of a stream holds the vote and counts as a token: one like the others' mean.
        logprobs = [*sample.logprobs, float(np.mean(sample.logprobs))]
        return Drawn(len(sample.logprobs), sample.vote, logprobs)

    async def work() -> list[bool]:
        rig, right = Rig(StepEngine(draw), rule), []
        for number, one in enumerate(asked):
            answer, _ = await rig.ask(rig.job(str(number)))
            said = answer["choices"][0]["message"]["content"]
            right.append(one.is_right(said.rpartition("\\boxed{")[2].removesuffix("}")))
        return right

    return np.array(run_virtual(work), dtype=float)


def columns(asked: Sequence[Asked]) -> dict[str, NDArray[np.float64]]:
    """Share right of each question, by how the answer was got; means over draws of branches."""
    each = [[one.is_right(sample.vote) for sample in one.samples] for one in asked]
    found = {
        "one answer": np.array([np.mean(right) for right in each]),
        "temperature 0": np.array([float(one.is_right(one.greedy.vote)) for one in asked]),
    }
    for name, rule in RULES.items():
        if rule.samples > len(each[0]):
            continue
        found[name] = np.mean([chosen(rule, asked, seed) for seed in range(DRAWS)], axis=0)
    found[f"any of {len(each[0])}"] = np.array([float(any(right)) for right in each])
    return found


def score_auroc(asked: Sequence[Asked]) -> float:
    """How well the score tells right samples from wrong ones of the same question: 0.5 is not at all.

    Mean over questions with both kinds: what choosing among branches of one request can use.
    """
    found = []
    for one in asked:
        right = np.array([one.is_right(sample.vote) for sample in one.samples])
        value = auroc(np.array([sample.score for sample in one.samples]), right)
        if value is not None:
            found.append(value)
    return float(np.mean(found))


def interval(difference: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of means over questions drawn anew (bootstrap, 10,000 draws)."""
    rng = np.random.default_rng(3)
    picks = rng.integers(0, len(difference), (10_000, len(difference)))
    low, high = np.percentile(difference[picks].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def gain(better: NDArray[np.float64], than: NDArray[np.float64]) -> str:
    """A difference in points, and its interval."""
    low, high = interval(better - than)
    return f"{100 * np.mean(better - than):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def table(every: Mapping[str, Sequence[Asked]]) -> str:
    """As the page holds it: a row a way, a pair of columns a model."""
    names, one = list(every), "one answer"
    head = " | ".join(f"{name}, right | over {one}, points" for name in names)
    lines = [f"| answer | {head} |", "|---" * (1 + 2 * len(names)) + "|"]
    found = [columns(asked) for asked in every.values()]

    def row(name: str, cells: Iterable[tuple[str, str]]) -> None:
        lines.append(f"| {name} | " + " | ".join(f"{a} | {b}" for a, b in cells) + " |")

    for way in found[0]:
        row(
            way,
            ((f"{c[way].mean():.1%}", gain(c[way], c[one]) if way != one else "") for c in found),
        )
    for better, than in PAIRS:
        row(f"{better} over {than}", (("", gain(c[better], c[than])) for c in found))
    aurocs = (f"{score_auroc(asked):.2f}" for asked in every.values())
    row("AUROC of the score among samples of one question", ((a, "") for a in aurocs))
    return "\n".join(lines)


def measured(
    samples: int,
    numbers: Sequence[int] = range(len(QUESTIONS)),
    names: Sequence[str] = tuple(STAGES.values()),
) -> dict[str, list[Asked]]:
    """Samples of the models, one after the other."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="motley-best-of-") as folder:
        for name in names:
            with live.Engine(name, Path(folder) / f"{name}.log") as url:
                found[name] = sampled(url, numbers, samples)
    return found


def read(text: str) -> dict[str, list[Asked]]:
    """What `written` made."""

    def sample(item: Mapping[str, object]) -> Sample:
        return Sample(str(item["vote"]), tuple(item["logprobs"]))  # type: ignore[arg-type]

    return {
        name: [
            Asked(one["pattern"], sample(one["greedy"]), tuple(map(sample, one["samples"])))
            for one in rows
        ]
        for name, rows in json.loads(text).items()
    }


def written(every: Mapping[str, Sequence[Asked]]) -> str:
    """Samples as JSON."""
    return json.dumps({name: [asdict(one) for one in rows] for name, rows in every.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; writes it into the page. 2 where no real model can run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="keep samples, or take them")
    args = parser.parse_args(arguments)
    kept: Path | None = args.answers
    every = read(kept.read_text(encoding="utf-8")) if kept and kept.exists() else {}
    lacking = [name for name in STAGES.values() if name not in every]
    if lacking and (reason := live.missing()):
        print(f"best_of: {reason}", file=sys.stderr)
        return 2
    for name in lacking:
        every |= measured(SAMPLES, names=[name])
        if kept is not None:
            kept.write_text(written(every), encoding="utf-8")
    made = table(every)
    print(made)
    if args.write:
        page.put("best-of", made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
