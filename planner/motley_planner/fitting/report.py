"""The fit as text: catalog/fitted.toml, and the error tables of docs/cost-model.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.fitting.priors import FIRST, FIXED, STEP
from motley_planner.fitting.rows import Array, Measured
from motley_planner.fitting.score import Score, bands, coverage, ordered_pairs, score, throughput

SOURCE = (
    "silicon_sample.csv of ai-dynamo/aiconfigurator@095f58a (InferenceX runs and NVIDIA's own), "
    "pulled to priors from the kernel timings of the same repository"
)
HEADER = (
    "| rows predicted | TPOT MAPE | median | within 25 % | bias | TTFT MAPE | median "
    "| pairs in order |"
)
BAND = "the band of each combination was taken from the others."


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fit to all rows, and the same rows predicted unseen."""

    rows: tuple[Measured, ...]
    group_of: Array
    logs: Mapping[str, float]
    seen: tuple[Array, Array]  # TPOT, TTFT
    unseen: tuple[Array, Array]
    measured: tuple[Array, Array]

    @property
    def kinds(self) -> list[str]:
        """Of each row: dense, moe or latent."""
        return [one.kind for one in self.rows]

    @property
    def ratios(self) -> Array:
        """Measured over unseen TPOT."""
        return self.measured[0] / self.unseen[0]


def fitted_toml(outcome: Outcome) -> str:
    """The text of catalog/fitted.toml."""
    lines = [
        "# Written by `make fit` from measured rows; do not edit. Each factor's prior stands behind it.",
        f'source = "{SOURCE}"',
        f"rows = {len(outcome.rows)}",
        "",
        "[factors]",
    ]
    for name, value in outcome.logs.items():
        lines.append(f'"{name}" = {np.exp(value):.4g} # {_origin(name)}')
    lines += [
        "",
        "# Measured over predicted TPOT: about 80 % of unseen rows lie between.",
        "[bands]",
    ]
    for kind, (low, high) in sorted(bands(outcome.kinds, outcome.ratios).items()):
        lines.append(f"{kind} = [{low:.3f}, {high:.3f}]")
    lines += ["", "# Smallest and largest value among the fitted rows.", "[fitted_range]"]
    lines += [f"{name} = [{low:g}, {high:g}]" for name, low, high in _ranges(outcome.rows)]
    return "\n".join(lines) + "\n"


def _origin(name: str) -> str:
    if name in FIXED:
        return "not fitted: kernel timings"
    prior, spread = {**STEP, **FIRST}[name]
    return f"prior {prior:g}, {spread:.0%}"


def _ranges(rows: Sequence[Measured]) -> list[tuple[str, float, float]]:
    columns: dict[str, list[float]] = {
        "requests": [one.load.requests for one in rows],
        "prompt_tokens": [one.load.prompt_tokens for one in rows],
        "output_tokens": [one.load.output_tokens for one in rows],
        "gpus": [one.setup.replica.gpus for one in rows],
    }
    return [(name, min(values), max(values)) for name, values in columns.items()]


def report_markdown(outcome: Outcome) -> str:
    """The error tables, as docs/cost-model.md holds them."""
    tpot, ttft = outcome.measured
    pairs = []
    for label, (own, first) in (("in the fit", outcome.seen), ("unseen", outcome.unseen)):
        right, total = ordered_pairs(
            outcome.rows,
            throughput(outcome.rows, first, own),
            throughput(outcome.rows, ttft, tpot),
        )
        pairs.append((label, score(own, tpot), score(first, ttft), right, total))
    known = bands(outcome.kinds, outcome.ratios)
    held = coverage(outcome.kinds, outcome.ratios, outcome.group_of, known)
    combinations = len(set(outcome.group_of.tolist()))
    lines = [
        f"{len(outcome.rows):,} unflagged rows, {combinations} combinations of model and GPU.",
        "",
        HEADER,
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {label} | {_percent(own.mape)} | {_percent(own.median)} | "
        f"{_percent(own.within_quarter)} | {own.bias:.2f} | {_percent(first.mape)} | "
        f"{_percent(first.median)} | {_percent(right)} of {total:,} |"
        for label, own, first, right, total in pairs
    ]
    lines += [
        "",
        f"The stated 80 % band of TPOT holds {_percent(held)} of unseen rows; {BAND}",
        "",
        "| combination, unseen | rows | TPOT MAPE | within 25 % | bias | TTFT MAPE | bias |",
        "|---|---|---|---|---|---|---|",
        *_by_combination(outcome),
    ]
    return "\n".join(lines) + "\n"


def _by_combination(outcome: Outcome) -> list[str]:
    lines = []
    for number in range(int(outcome.group_of.max()) + 1):
        own = outcome.group_of == number
        first = outcome.rows[int(np.flatnonzero(own)[0])].setup.replica
        tpot, ttft = (_of(outcome, column, own) for column in (0, 1))
        lines.append(
            f"| {first.model.name.split('/')[-1]} on {first.gpu.name} | {tpot.rows} | "
            f"{_percent(tpot.mape)} | {_percent(tpot.within_quarter)} | {tpot.bias:.2f} | "
            f"{_percent(ttft.mape)} | {ttft.bias:.2f} |"
        )
    return sorted(lines)


def _of(outcome: Outcome, column: int, own: Array) -> Score:
    return score(outcome.unseen[column][own], outcome.measured[column][own])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
