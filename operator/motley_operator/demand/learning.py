"""How fast engines are over what is modeled, from what they counted (pure).

Each step of the window gives a ratio: measured TPOT over the model's at the very load that was
measured in it. TPOT begins at the first token, so what waits is never taken for slow. The estimate
is the median of the steps' ratios; its interval reaches from the least to the greatest of them,
which of n exchangeable steps misses the median with chance 2^(1 - n): below 1 % from eight on,
whatever the noise is like. Bursts, a hiccup or a mixed load widen it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from motley_operator.domain.measurement import EngineSteps, Steps
from motley_planner.costs.learned import MeasuredLoad, predicted_tpot, predicted_ttft_s
from motley_planner.costs.replica import Replica

FEWEST_STEPS = 8  # 1 - 2^(1 - n) >= 0.99
FEWEST_REQUESTS = 10.0  # finished in a step
FULL_CACHE = 0.95  # from here on engines drop requests and begin them again
WIDEST = 1.5  # an interval whose ends lie further apart tells nothing
UNSTEADY = 1.5  # largest over smallest predicted TPOT of the steps
# No interval is narrower than this, and a part of TPOT's share that is prompts of others, which come
# in lumps. Simulated engines lay inside it at Poisson arrivals and at gaps of twice their variation.
FLOOR, PROMPTS_FLOOR = 0.03, 0.20
PLAUSIBLE = (0.05, 20.0)  # ratios beyond are another unit or another thing than a token's time
MISMATCH = 2.0  # between requests in batches as counted and as Little's law has them


class Verdict(StrEnum):
    """What became of the measurement of one configuration."""

    LEARNED = "Learned"
    UNREAD = "Unread"  # no reading, or too old a one
    NOT_SCRAPED = "NotScraped"  # not all replicas of it, all the time
    FEW_REQUESTS = "FewRequests"
    CACHE_FULL = "CacheFull"
    INCONSISTENT = "Inconsistent"
    UNSTEADY = "Unsteady"
    NOISY = "Noisy"
    UNMODELED = "Unmodeled"


@dataclass(frozen=True, slots=True)
class Source:
    """The replicas of one column of one resource, and what they counted."""

    steps: EngineSteps
    replicas: int  # that answer now
    slots: int  # requests that each runs at once
    output_variation: float = 1.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Measured over modeled TPOT of one configuration; `ttft` is told and not learned from."""

    value: float
    low: float
    high: float
    samples: int
    ttft: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """An estimate, or why there is none."""

    verdict: Verdict
    estimate: Estimate | None = None


@dataclass(frozen=True, slots=True)
class _Sample:
    ratio: float
    predicted_s: float
    prompt_share: float  # of the predicted time
    requests: float
    ttft: float | None


def judge_speed(replica: Replica, sources: Sequence[Source], step_s: float) -> Judged:
    """What the columns of one configuration say together; `replica` is uncorrected."""
    count = min((len(source.steps.alive) for source in sources), default=0)
    samples: list[_Sample] = []
    refused: list[Verdict] = []
    for at in range(count):
        found = [_sample(replica, source, at, step_s) for source in sources]
        told = [one for one in found if isinstance(one, _Sample)]
        refused += [one for one in found if isinstance(one, Verdict)][: not told]
        if told:
            samples.append(_together(told))
    if len(samples) < FEWEST_STEPS:
        verdict = max(set(refused), key=refused.count) if refused else Verdict.NOT_SCRAPED
        return Judged(verdict)
    predicted = [one.predicted_s for one in samples]
    if max(predicted) > UNSTEADY * min(predicted):
        return Judged(Verdict.UNSTEADY)
    ratios = [one.ratio for one in samples]
    value = median(ratios)
    floor = 1.0 + FLOOR + PROMPTS_FLOOR * median(one.prompt_share for one in samples)
    low, high = min(*ratios, value / floor), max(*ratios, value * floor)
    if high > WIDEST * low:
        return Judged(Verdict.NOISY)
    firsts = [one.ttft for one in samples if one.ttft is not None]
    requests = round(sum(one.requests for one in samples))
    first = median(firsts) if firsts else None
    return Judged(Verdict.LEARNED, Estimate(value, low, high, requests, first))


def _sample(replica: Replica, source: Source, at: int, step_s: float) -> _Sample | Verdict:
    """One step of one column, or why it says nothing."""
    steps, n = source.steps, float(source.replicas)
    if n < 1.0 or _at(steps.up, at) != n or _at(steps.alive, at) < n:
        return Verdict.NOT_SCRAPED
    requests, output = _at(steps.requests, at), _at(steps.output, at)
    count, total = _at(steps.tpot_count, at), _at(steps.tpot_total_s, at)
    if requests < FEWEST_REQUESTS or min(output, count, total) <= 0.0:
        return Verdict.FEW_REQUESTS
    if _at(steps.kv_usage, at) >= FULL_CACHE:
        return Verdict.CACHE_FULL
    tpot = total / count
    in_flight = tpot * output / (step_s * n)  # Little's law, of what is past its first token
    counted = _at(steps.running, at) / n
    if counted > MISMATCH * in_flight + 1.0 or in_flight > MISMATCH * counted + 1.0:
        return Verdict.INCONSISTENT
    prompt, each = _at(steps.prompt, at) / requests, output / requests
    load = MeasuredLoad(in_flight, prompt, each, source.slots, source.output_variation)
    predicted = predicted_tpot(replica, load)
    firsts, first_s = _at(steps.ttft_count, at), _at(steps.ttft_total_s, at)
    ttft = None
    if firsts > 0.0:
        ttft = first_s / firsts / predicted_ttft_s(replica, load, requests / (step_s * n))
    modeled = predicted.seconds
    if not PLAUSIBLE[0] <= tpot / modeled <= PLAUSIBLE[1]:
        return Verdict.INCONSISTENT
    return _Sample(tpot / modeled, modeled, predicted.prompts_s / modeled, requests, ttft)


def _at(steps: Steps, at: int) -> float:
    """A step's value; 0 where there is none, which no rule takes for a good one."""
    return (steps[at] or 0.0) if at < len(steps) else 0.0


def _together(told: Sequence[_Sample]) -> _Sample:
    """Columns of one configuration in one step: means of logarithms, weighted by requests."""
    requests = sum(one.requests for one in told)
    firsts = [one.ttft for one in told if one.ttft is not None]

    def mean(values: Sequence[float]) -> float:
        logs = (one.requests * math.log(v) for one, v in zip(told, values, strict=True))
        return math.exp(sum(logs) / requests)

    ratio = mean([one.ratio for one in told])
    predicted = mean([one.predicted_s for one in told])
    share = max(one.prompt_share for one in told)
    return _Sample(ratio, predicted, share, requests, median(firsts) if firsts else None)
