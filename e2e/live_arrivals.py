"""When the live demo's questions come and which: as in a slice of a recorded trace, else as Poisson.

The trace is Azure's conversation trace of 2023 where `../shared/data/traces` has it. Its gaps are
scaled to the demo's rate, so its bursts and lulls stay; its prompts are far longer than what two small
models on a CPU can read, so only their order by length is kept: the request at some quantile of the
slice's prompt lengths asks the question at that quantile of the questions' lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

import numpy as np

from motley_planner.simulator.arrivals import Arrivals
from motley_planner.simulator.traces import read_trace

TRACE = Path(__file__).parents[2] / "shared" / "data" / "traces" / "azure2023_conv.csv.gz"
FIRST, COUNT = 1000, 1000  # the slice: later requests than a demo sends begin anew at its first
SEED = 7


@dataclass(frozen=True, slots=True)
class Source:
    """Where arrivals come from; gaps have a mean of 1. `places` are quantiles of prompt length, 0..1."""

    name: str
    gaps: tuple[float, ...] = ()
    places: tuple[float, ...] = ()


def source(path: Path = TRACE) -> Source:
    """The slice of the trace, or Poisson where it is not there."""
    if not path.exists():
        return Source("Poisson (no recorded trace is there)")
    last = FIRST + COUNT
    return sliced(
        read_trace(path).first(last + 1),
        f"Azure conversations 2023, requests {FIRST:,} to {last:,}",
    )


def sliced(found: Arrivals, name: str, first: int = FIRST) -> Source:
    """The requests of a trace from `first` on, but for its last, after which no gap is known."""
    gaps = np.diff(found.time_s[first:])
    lengths = found.prompt_tokens[first:-1]
    ranks = np.argsort(np.argsort(lengths, kind="stable"), kind="stable")
    return Source(
        f"{name}, gaps scaled",
        tuple((gaps / gaps.mean()).tolist()),
        tuple(((ranks + 0.5) / len(ranks)).tolist()),
    )


def arrivals(of: Source, rate: float, lengths: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Endlessly: which question is asked, and the seconds until the next. `lengths` are the questions'."""
    random = Random(SEED)
    if not of.gaps:
        while True:
            yield random.randrange(len(lengths)), random.expovariate(rate)
    order = sorted(range(len(lengths)), key=lambda number: (lengths[number], number))
    for gap, place in cycle(zip(of.gaps, of.places, strict=True)):
        yield order[int(place * len(order))], gap / rate
