"""Operating points: how many sequences a replica should run, and which classes it then admits.

Rules. A class is admitted only where its targets hold beside the worst mix of the admitted classes:
the longest context and the most prefill work per output token of any of them. Then every mix of
them is no worse, and capacities (requests/s alone) may be added up.

Percentiles are predicted: TPOT by the multipliers of catalog/efficiency.toml, TTFT by the waiting
time of prompts behind prompts. Waiting for a free slot is not in them; headroom keeps it rare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from motley_planner.candidates.measured import UNCORRECTED, Correction, Ratio
from motley_planner.costs.capacity import first_token_wait_s, most_sequences
from motley_planner.costs.replica import Replica
from motley_planner.costs.steps import decode_step_s, prefill_s
from motley_planner.domain.demand import Slo, WorkloadClass
from motley_planner.domain.measurements import ProfilePoint

BATCHES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LEAST_GAIN = 1.05  # a column for fewer classes must serve one of them this much faster


@dataclass(frozen=True, slots=True)
class ClassLoad:
    """A workload class on a given replica; times alone, in seconds."""

    name: str
    prompt_tokens: float
    output_tokens: float
    prefill_s: float
    most_sequences: float

    @property
    def prefill_s_per_output_token(self) -> float:
        """Seconds of prefill work that come with each output token."""
        return self.prefill_s / self.output_tokens


@dataclass(frozen=True, slots=True)
class Target:
    """One latency target: "tpot" at 0.95 must be at most 0.06 s."""

    what: str  # ttft | tpot | e2e
    percentile: str  # as written: "p95"
    quantile: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class Miss:
    """A target that does not hold, with the value predicted instead."""

    target: Target
    class_name: str
    value_s: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A batch size and the classes admitted at it, with mean latencies and capacity alone."""

    batch: int
    capacity: dict[str, float]
    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    provenance: str = "modeled"  # modeled | profiled


def targets_of(slo: Slo) -> tuple[Target, ...]:
    """The targets of a resource, in a fixed order."""
    tables = (("ttft", slo.ttft_s), ("tpot", slo.tpot_s), ("e2e", slo.e2e_s))
    return tuple(
        Target(what, name, quantile_of(name), limit)
        for what, table in tables
        for name, limit in sorted(table.items())
    )


def quantile_of(percentile: str) -> float:
    """0.95 for "p95"; 0.999 for "p99.9" or "p999"; 0 (the mean) for "mean"."""
    digits = percentile.removeprefix("p").replace(".", "")
    return float("0." + digits) if digits.isdigit() else 0.0


def class_loads(replica: Replica, classes: Sequence[WorkloadClass]) -> tuple[ClassLoad, ...]:
    """The classes as loads on this replica, least prefill work per output token first."""
    loads = []
    for c in classes:
        prompt, output = float(max(1, c.prompt_tokens)), float(max(1, c.output_tokens))
        most = most_sequences(replica, prompt, output)
        loads.append(ClassLoad(c.name, prompt, output, prefill_s(replica, prompt), most))
    return tuple(sorted(loads, key=lambda load: (load.prefill_s_per_output_token, load.name)))


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates batches of one replica; `busy` is the planned share of capacity (1 - headroom)."""

    replica: Replica
    targets: tuple[Target, ...]
    busy: float
    closed_loop: bool = False  # requests come as slots free up: no prompt waits for another
    correction: Correction = UNCORRECTED

    def point(self, admitted: Sequence[ClassLoad], batch: int) -> OperatingPoint:
        """Latencies and capacities at a batch, beside the worst mix of the admitted classes.

        TPOT = decode(B, longest context) + (B - 1) worst prefill per output token;
        capacity = B / (TTFT + OSL x TPOT) x busy.
        """
        step, tpot, utilization = self._steady(admitted, batch)
        wait = self._wait_s(admitted, utilization, 0.0)
        ttft = {
            load.name: (self._first_token_s(load, step) + wait) * self._ttft_ratio(load, batch)
            for load in admitted
        }
        capacity = {
            load.name: batch / (ttft[load.name] + load.output_tokens * tpot) * self.busy
            for load in admitted
        }
        source = "profiled" if self.is_measured(admitted, batch) else "modeled"
        return OperatingPoint(batch, capacity, ttft, dict.fromkeys(ttft, tpot), source)

    def misses(self, admitted: Sequence[ClassLoad], batch: int) -> list[Miss]:
        """Targets that do not hold at a batch; a queue that never drains misses them all."""
        step, tpot, utilization = self._steady(admitted, batch)
        found = []
        ratios = self.replica.efficiency.tpot_quantiles
        for target in self.targets:
            slow = tpot * tpot_ratio(ratios, target.quantile)
            wait = self._wait_s(admitted, utilization, target.quantile)
            for load in admitted:
                first = (self._first_token_s(load, step) + wait) * self._ttft_ratio(load, batch)
                value = {"tpot": slow, "ttft": first}.get(
                    target.what, first + load.output_tokens * slow
                )
                if value > target.limit_s:
                    found.append(Miss(target, load.name, value))
        return found

    def largest_batch(self, admitted: Sequence[ClassLoad]) -> int:
        """The largest batch of the grid that fits the memory and misses no target; 0 if none.

        Latencies grow with the batch, so bisection finds it.
        """
        memory = min(load.most_sequences for load in admitted)
        fitting = [batch for batch in BATCHES if batch <= memory]
        low, high = 0, len(fitting)
        while low < high:
            middle = (low + high) // 2
            if self.holds(admitted, fitting[middle]):
                low = middle + 1
            else:
                high = middle
        return fitting[low - 1] if low else 0

    def holds(self, admitted: Sequence[ClassLoad], batch: int) -> bool:
        """Whether every target holds at a batch, and prompts do not pile up."""
        _, _, utilization = self._steady(admitted, batch)
        return utilization < 1.0 and not self.misses(admitted, batch)

    def _steady(self, admitted: Sequence[ClassLoad], batch: int) -> tuple[float, float, float]:
        """Step time, TPOT, and the share of time that prefills take at the planned load."""
        context = max(load.prompt_tokens + load.output_tokens / 2.0 for load in admitted)
        prefill = max(load.prefill_s_per_output_token for load in admitted)
        step = decode_step_s(self.replica, batch, context)
        ratio = max(
            self.correction.tpot_at(batch, load.prompt_tokens, load.output_tokens)
            for load in admitted
        )
        step, prefill = step * ratio, prefill * ratio
        tpot = step + (batch - 1.0) * prefill
        utilization = 0.0 if self.closed_loop else self.busy * batch * prefill / (tpot + prefill)
        return step, tpot, utilization

    def is_measured(self, admitted: Sequence[ClassLoad], batch: int) -> bool:
        """Whether a user's measurement says how fast every one of the classes is at a batch."""
        return all(
            self.correction.covers(batch, load.prompt_tokens, load.output_tokens)
            for load in admitted
        )

    def _ttft_ratio(self, load: ClassLoad, batch: float) -> float:
        return self.correction.ttft_at(batch, load.prompt_tokens, load.output_tokens)

    def _first_token_s(self, load: ClassLoad, step_s: float) -> float:
        slower = self.replica.efficiency.moe_prefill if self.replica.model.experts else 1.0
        return self.replica.engine.first_token_overhead_s + step_s + slower * load.prefill_s

    def _wait_s(self, admitted: Sequence[ClassLoad], utilization: float, quantile: float) -> float:
        service = max(load.prefill_s for load in admitted)
        return first_token_wait_s(utilization, service, quantile) if utilization > 0 else 0.0


def corrected(evaluator: Evaluator, points: Sequence[ProfilePoint]) -> Evaluator:
    """The evaluator with a user's measurements of its replica before the model.

    TTFT is compared after TPOT is corrected, as prompts wait for each other at the pace of steps.
    """
    tpot, ttft = [], []
    for point in points:
        modeled, _ = _alone(evaluator, point)
        tpot.append(Ratio(*_load(point), point.tpot_s / modeled))
    paced = replace(evaluator, correction=Correction(tuple(tpot)))
    for point in points:
        if point.ttft_s is not None:
            _, modeled = _alone(paced, point)
            ttft.append(Ratio(*_load(point), point.ttft_s / modeled))
    return replace(paced, correction=Correction(tuple(tpot), tuple(ttft)))


def _alone(evaluator: Evaluator, point: ProfilePoint) -> tuple[float, float]:
    """TPOT and TTFT that an evaluator gives a measured load by itself."""
    own = WorkloadClass("own", round(point.prompt_tokens), round(point.output_tokens))
    made = evaluator.point(class_loads(evaluator.replica, (own,)), max(1, round(point.batch)))
    return made.tpot_s["own"], made.ttft_s["own"]


def _load(point: ProfilePoint) -> tuple[float, float, float]:
    return point.batch, point.prompt_tokens, point.output_tokens


def tpot_ratio(ratios: Mapping[str, float], quantile: float) -> float:
    """TPOT at a quantile over its mean: the smallest listed percentile that covers it."""
    listed = sorted((quantile_of(name), ratio) for name, ratio in ratios.items())
    if quantile <= 0.0:
        return 1.0
    return float(next((ratio for q, ratio in listed if q >= quantile - 1e-9), listed[-1][1]))


def operating_points(evaluator: Evaluator, loads: Sequence[ClassLoad]) -> list[OperatingPoint]:
    """The useful points of one replica: the largest batch for all classes, and for fewer.

    Fewer: every prefix by prefill work, and each class alone, kept only where a class gains at
    least a twentieth over every wider point. Batches are distinct, so that a batch names its point.
    """
    points: list[OperatingPoint] = []
    for admitted in _class_sets(loads):
        batch = evaluator.largest_batch(admitted)
        taken = {point.batch for point in points}
        while batch in taken:
            batch -= 1
        if batch < 1:
            continue
        point = evaluator.point(admitted, batch)
        if _is_worth(point, points):
            points.append(point)
    return points


def _is_worth(point: OperatingPoint, others: Sequence[OperatingPoint]) -> bool:
    return any(
        all(rate > LEAST_GAIN * other.capacity.get(name, 0.0) for other in others)
        for name, rate in point.capacity.items()
    )


def _class_sets(loads: Sequence[ClassLoad]) -> list[tuple[ClassLoad, ...]]:
    sets = [tuple(loads[:size]) for size in range(len(loads), 0, -1)]
    sets += [tuple(loads[index : index + 1]) for index in range(1, len(loads))]
    return list(dict.fromkeys(sets))
