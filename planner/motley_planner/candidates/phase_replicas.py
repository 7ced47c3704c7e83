"""Operating points of a replica that only prefills, or only decodes.

A prefill replica works off prompts one after the other, at the largest utilization at which the
first token still comes in time: waiting behind other prompts, its own prefill and the way of its KV
cache through the replica's network count, and waiting behind other caches. A prompt's cache stays
until it has left, so prompts also wait for room: with m_k caches of class k in the memory,

    sum_k rate_k (prefill_k + way_k) / m_k <= share,

a row of its own where it is not implied by the row of time. A decode replica is a replica whose
prompts take no time (`operating`): classes share its memory as they do a whole replica's, and no
prompt of others lands in its steps.

Approximations. An end-to-end target is split: `PREFILL_SHARE` for the first token, the rest for the
others, which is stricter than needed. The receiving network bounds rates but adds no latency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from motley_planner.candidates.loads import ClassLoad
from motley_planner.candidates.measured import UNCORRECTED
from motley_planner.candidates.operating import LEAST_GAIN, MEAN_AS_QUANTILE, Evaluator
from motley_planner.candidates.point import OperatingPoint
from motley_planner.candidates.shared_memory import offered_points
from motley_planner.candidates.targets import Target
from motley_planner.costs.capacity import first_token_wait_s, late_share, most_sequences
from motley_planner.costs.transfer import prompt_kv_bytes, transfer_s
from motley_planner.domain.table import Phase

PREFILL_SHARE = 0.25  # of an end-to-end target; assumed: answers are longer than prompts take
HALVINGS = 30
LEAST_UTILIZATION = 1e-3  # below it a prefill replica serves nothing worth a column


@dataclass(frozen=True, slots=True)
class PhaseReplica:
    """One replica of one phase: what it is made of and what its network moves."""

    evaluator: Evaluator
    nic_bytes_per_s: float
    kv_scale: float

    def first_token_s(self, load: ClassLoad, wait_s: float) -> float:
        """Seconds to the first token: overhead, waiting, own prefill, the KV cache's way."""
        replica = self.evaluator.replica
        slower = replica.efficiency.moe_prefill if replica.model.experts else 1.0
        own = slower * load.prefill_s + self.way_s(load)
        return replica.engine.first_token_overhead_s + wait_s + own

    def way_s(self, load: ClassLoad) -> float:
        """Seconds a prompt's KV cache takes through the network, alone."""
        replica = self.evaluator.replica
        moved = prompt_kv_bytes(replica.model, load.prompt_tokens, replica.kv_value_bytes)
        return transfer_s(moved * self.kv_scale, self.nic_bytes_per_s)

    def prefill_point(self, admitted: Sequence[ClassLoad], batch: int) -> OperatingPoint | None:
        """The point at the largest utilization that the targets allow; None where there is none.

        capacity = utilization / prefill, whatever `batch` the engine is started for. Memory has
        a row of its own only where that serves some class better than idleness that covers both.
        """
        alone = self._largest(lambda rho: self._in_time(admitted, rho, self._fullest(admitted)))
        apart = self._largest(lambda rho: self._in_time(admitted, rho, {}))
        if max(alone, apart) < LEAST_UTILIZATION:
            return None
        service = max(load.prefill_s for load in admitted)
        wait = first_token_wait_s(max(alone, apart), service, 0.0)
        ttft = {load.name: self.first_token_s(load, wait) for load in admitted}
        capacity = {load.name: alone / load.prefill_s for load in admitted}
        shared = self._rows(admitted, apart)
        if all(shared.capacity[name] <= LEAST_GAIN * rate for name, rate in capacity.items()):
            return OperatingPoint(batch, capacity, ttft, {}) if alone > 0.0 else None
        return replace(shared, batch=batch, ttft_s=ttft)

    def _rows(self, admitted: Sequence[ClassLoad], rho: float) -> OperatingPoint:
        """Time and memory apart: each may make half of those late that a percentile leaves."""
        time = {load.name: rho / load.prefill_s for load in admitted}
        memory = {}
        for load, (slots, each_s) in self._fullest(admitted).items():
            share = self._largest(
                lambda busy, kept=(slots, each_s): all(  # type: ignore[misc]
                    late_share(kept[0], busy, kept[1], slack) <= missing / 2.0
                    for slack, missing in self._slacks(admitted)
                )
            )
            memory[load.name] = share * slots / each_s
        capacity = {name: min(rate, memory[name]) for name, rate in time.items()}
        if not all(capacity.values()):
            return OperatingPoint(0, dict.fromkeys(capacity, 0.0), {}, {})
        of_time, of_memory = (
            {name: rate / most[name] for name, rate in capacity.items()} for most in (time, memory)
        )
        return OperatingPoint(0, capacity, {}, {}, time_share=of_time, kv_share=of_memory)

    def _largest(self, holds: Callable[[float], bool]) -> float:
        """The largest share up to `busy` at which something holds, which less of it does as well."""
        low, high = 0.0, self.evaluator.busy
        if holds(high):
            return high
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    def _in_time(
        self,
        admitted: Sequence[ClassLoad],
        rho: float,
        caches: Mapping[ClassLoad, tuple[int, float]],
    ) -> bool:
        """Whether prompts, sent caches and `caches` in memory make few enough wait for too long.

        Each wait is held against the whole slack, as in `costs.capacity.utilization_cap`.
        """
        service = max(load.prefill_s for load in admitted)
        way = max(self.way_s(load) for load in admitted)
        sent = rho * max(self.way_s(load) / load.prefill_s for load in admitted)
        sent = min(self.evaluator.busy, sent)
        for slack, missing in self._slacks(admitted):
            late = late_share(1, rho, service, slack) + late_share(1, sent, way, slack)
            full = [
                late_share(slots, rho * stay / load.prefill_s / slots, stay, slack)
                for load, (slots, stay) in caches.items()
            ]
            if late + max(full, default=missing / 2.0) > missing:
                return False
        return True

    def _slacks(self, admitted: Sequence[ClassLoad]) -> Iterator[tuple[float, float]]:
        """Of each target: how long a prompt may wait, and what share of them may wait longer."""
        slowest = max(self.first_token_s(load, 0.0) for load in admitted)
        for target in self.evaluator.targets:
            quantile = target.quantile or MEAN_AS_QUANTILE
            yield first_token_limit_s(target) - slowest, 1.0 - quantile

    def _fullest(self, admitted: Sequence[ClassLoad]) -> dict[ClassLoad, tuple[int, float]]:
        """Of each class: how many caches the memory holds, and seconds that each stays."""
        replica, found = self.evaluator.replica, {}
        for load in admitted:
            slots = max(1, int(min(1e6, most_sequences(replica, load.prompt_tokens, 0.0))))
            found[load] = slots, load.prefill_s + self.way_s(load)
        return found

    def decoder(self, loads: Sequence[ClassLoad]) -> tuple[Evaluator, tuple[ClassLoad, ...]]:
        """The evaluator of a decode replica, and the classes as loads on it.

        What was measured was measured with prompts in the steps, and says nothing here.
        """
        made = replace(
            self.evaluator,
            targets=tuple(decode_targets(self.evaluator.targets)),
            correction=UNCORRECTED,
            decodes_only=True,
        )
        order = sorted(loads, key=lambda load: (load.prefill_s, load.name))
        found = (replace(load, prefill_s=0.0, alone_s=self.way_s(load)) for load in order)
        return made, tuple(found)


def decode_targets(targets: Sequence[Target]) -> Iterator[Target]:
    """What the targets leave for the tokens after the first."""
    for target in targets:
        if target.what == "tpot":
            yield target
        elif target.what == "e2e":
            yield replace(target, limit_s=(1.0 - PREFILL_SHARE) * target.limit_s)


def first_token_limit_s(target: Target) -> float:
    """Seconds a target leaves for the first token."""
    if target.what == "ttft":
        return target.limit_s
    return PREFILL_SHARE * target.limit_s if target.what == "e2e" else float("inf")


def phase_points(
    one: PhaseReplica, phase: Phase, loads: Sequence[ClassLoad]
) -> list[OperatingPoint]:
    """For all classes, and for fewer (without the longest prompts) where that serves more.

    Prefill points have the batch of the first decode point: one process may do either.
    """
    decode = offered_points(*one.decoder(loads)) if loads else []
    if phase == "decode":
        return [replace(point, ttft_s={}) for point in decode]
    batch = decode[0].batch if decode else 1
    order = sorted(loads, key=lambda load: (load.prefill_s, load.name))
    best: dict[str, float] = {}
    found: list[OperatingPoint] = []
    for size in range(len(order), 0, -1):
        point = one.prefill_point(order[:size], batch)
        if point is None:
            continue
        if any(rate > LEAST_GAIN * best.get(name, 0.0) for name, rate in point.capacity.items()):
            found.append(point)
            best |= {n: max(r, best.get(n, 0.0)) for n, r in point.capacity.items()}
    return found
