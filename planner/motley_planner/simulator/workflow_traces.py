"""Text-to-SQL workflows drawn from the published statistics of HexGen-Text2SQL's traces.

A query runs the CHESS pipeline: information retrieval, keywords, three retrievals, two candidates at
once, a loop of revisions, unit tests, evaluations at once, a last unit test. Token lengths of a step
are the published template's. Two numbers are solved from a trace's published means of calls a query
and of input tokens a call (mean revisions and mean evaluations), a third from its mean of output
tokens (the candidates' length); no outcome of any scheduler enters. How they scatter is assumed:
revisions are repeated until one works (geometric, at most ten), evaluations 1 + binomial, lengths
log-normal.

Source: traces and tables of Relaxed-System-Lab's Hexgen-Flow and Sim4Txt2SQL, read 2026-11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator

# step: (prompt tokens, output tokens) of the template
LENGTHS: dict[str, tuple[float, float]] = {
    "retrieve": (308.0, 5.0),
    "keywords": (667.0, 45.0),
    "generate": (11748.0, 678.0),
    "revise": (5963.0, 79.0),
    "unit_test": (275.0, 4.0),
    "write_tests": (1109.0, 103.0),
    "evaluate": (961.0, 22.0),
}
# Seconds of one request alone on a GPU, in the order of LENGTHS.
ALONE_S: dict[str, tuple[float, ...]] = {
    "A100": (0.225, 1.136, 18.24, 3.33, 0.174, 2.54, 0.867),
    "A6000": (0.487, 2.109, 34.27, 8.03, 0.391, 4.56, 1.79),
    "L40S": (0.400, 2.033, 32.62, 5.89, 0.308, 4.55, 1.54),
}
_MOST_REVISIONS = 10
_FIXED = ("retrieve",) * 4 + ("keywords",) + ("unit_test",) * 3 + ("write_tests",)
_CANDIDATES = 2


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """Published means of one trace."""

    queries: int
    calls_per_query: float
    prompt_tokens: float
    output_tokens: float


TRACES = {
    "trace1": TraceStatistics(90, 19.24, 2623.0, 102.9),
    "trace2": TraceStatistics(96, 20.67, 3370.0, 115.5),
    "trace3": TraceStatistics(110, 20.87, 3142.0, 120.0),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call."""

    step: str
    prompt_tokens: float
    output_tokens: float


Query = tuple[tuple[Call, ...], ...]  # stages in order, the calls of one at once


@dataclass(frozen=True, slots=True)
class Shape:
    """What a trace's means imply: mean revisions and evaluations a query, tokens of a candidate."""

    revisions: float
    evaluations: float
    candidate_tokens: float


def shape_of(trace: TraceStatistics) -> Shape:
    """Solves calls, input and output of a mean query for the three unknowns.

    r + e = calls - 11; 5963 r + 961 e = the input that is left; 2 g = the output that is left.
    """
    loops = trace.calls_per_query - len(_FIXED) - _CANDIDATES
    prompts = sum(LENGTHS[step][0] for step in _FIXED) + _CANDIDATES * LENGTHS["generate"][0]
    left = trace.calls_per_query * trace.prompt_tokens - prompts
    long, short = LENGTHS["revise"][0], LENGTHS["evaluate"][0]
    revisions = (left - short * loops) / (long - short)
    evaluations = loops - revisions
    outputs = sum(LENGTHS[step][1] for step in _FIXED)
    outputs += revisions * LENGTHS["revise"][1] + evaluations * LENGTHS["evaluate"][1]
    total = trace.calls_per_query * trace.output_tokens
    return Shape(revisions, evaluations, (total - outputs) / _CANDIDATES)


def drawn_queries(
    trace: TraceStatistics, rng: Rng, count: int | None = None, variation: float = 0.3
) -> list[Query]:
    """Queries of a trace's statistics; `variation` is that of lengths (assumed)."""
    shape = shape_of(trace)
    again = _repeat_probability(shape.revisions)
    found = []
    for _ in range(count or trace.queries):
        revisions = 0
        while revisions < _MOST_REVISIONS and rng.random() < again:
            revisions += 1
        most = round(2 * (shape.evaluations - 1))
        evaluations = 1 + int(rng.binomial(most, (shape.evaluations - 1) / most))
        stages = ["retrieve", "keywords", *["retrieve"] * 3]
        row: list[tuple[str, ...]] = [(step,) for step in stages]
        row += [("generate",) * _CANDIDATES, *[("revise",)] * revisions]
        row += [("unit_test",), ("write_tests",), ("unit_test",)]
        row += [("evaluate",) * evaluations, ("unit_test",)]
        found.append(tuple(tuple(_call(s, shape, rng, variation) for s in each) for each in row))
    return found


def poisson_arrivals(count: int, queries_per_s: float, rng: Rng) -> NDArray[np.float64]:
    """Arrival times of a Poisson process, seconds."""
    times: NDArray[np.float64] = np.cumsum(rng.exponential(1.0 / queries_per_s, count))
    return times


def seconds_per_token(gpu: str) -> tuple[float, float]:
    """Seconds of prefill and of decode a token: least squares of in x p + out x d over the table."""
    lengths = np.array(list(LENGTHS.values()))
    prefill, decode = np.linalg.lstsq(lengths, np.array(ALONE_S[gpu]), rcond=None)[0]
    return float(prefill), float(decode)


def scaled_seconds_per_token(gpu: str) -> tuple[float, float]:
    """The A100's seconds a token times the GPU's seconds of the largest step over the A100's.

    Less unequal than the table in short steps, where A6000 and L40S lose more: the milder of two
    readings of it.
    """
    largest = tuple(LENGTHS).index("generate")
    ratio = ALONE_S[gpu][largest] / ALONE_S["A100"][largest]
    prefill, decode = seconds_per_token("A100")
    return ratio * prefill, ratio * decode


def standard_slo_s(gpus: tuple[str, ...]) -> float:
    """The published base deadline: mean single-request seconds of the 15-call template."""
    template = [*_FIXED, "generate", *["revise"] * 4, "evaluate"]
    mean = {
        step: float(np.mean([ALONE_S[gpu][i] for gpu in gpus])) for i, step in enumerate(LENGTHS)
    }
    return sum(mean[step] for step in template)


def _call(step: str, shape: Shape, rng: Rng, variation: float) -> Call:
    prompt, output = LENGTHS[step]
    if step == "generate":
        output = shape.candidate_tokens
    sigma = np.sqrt(np.log1p(variation**2))
    spread = rng.lognormal(-sigma * sigma / 2.0, sigma, 2) if variation > 0 else (1.0, 1.0)
    return Call(step, max(1.0, round(prompt * spread[0])), max(1.0, round(output * spread[1])))


def _repeat_probability(mean: float) -> float:
    """q with q + q^2 + ... + q^most = mean: the mean of a geometric loop that ends at `most`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        total = sum(middle**k for k in range(1, _MOST_REVISIONS + 1))
        low, high = (middle, high) if total < mean else (low, middle)
    return low
