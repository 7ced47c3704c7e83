"""Operating points at which long and short requests share a replica's KV memory.

The points of `operating` fit a full batch of whichever class they admit, so the longest one sets
the batch for all. Here the batch is larger, and the plan has a row for the memory beside the row
for the time (docs/decisions: kv-row). With p the share of the time that goes to prompts, Little's law gives
the mean bytes in use

    sum_k rate_k kv_k (prefill_k + output_k step / (1 - p)) <= free,   p = sum_k rate_k prefill_k,

for which it is enough, and linear, that

    sum_k rate_k (prefill_k (1 + 1 / m_k) + output_k step / m_k) <= 1,   m_k = free / kv_k.

That is the row of time with m_k in the place of the batch. The share of the right side that may be
planned is the utilisation at which the most memory-hungry classes, alone and with m_k slots, wait no
longer than the targets leave: of all mixes that hold as many bytes on average, theirs vary most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import cycle, permutations

from motley_planner.candidates.full_batches import operating_points
from motley_planner.candidates.loads import ClassLoad
from motley_planner.candidates.operating import BATCHES, LEAST_GAIN, Evaluator
from motley_planner.candidates.point import OperatingPoint
from motley_planner.costs.capacity import Service, utilization_cap

CACHED = 1024  # replicas with their targets and classes; tiers of a cascade are a hundred or two


@dataclass(frozen=True, slots=True)
class _Asked:
    text: str  # everything of both: they hold mappings, which have no hash
    evaluator: Evaluator = field(compare=False)
    loads: tuple[ClassLoad, ...] = field(compare=False)


def offered_points(evaluator: Evaluator, loads: Sequence[ClassLoad]) -> list[OperatingPoint]:
    """The useful points of one replica, with one that shares its memory where that serves more.

    More: a twentieth of the asked mix of all classes over every other point. A mix changes while
    replicas run; see `shared_point` for one that is there already. The answer is kept for later
    plans, the least recently used of `CACHED` is forgotten.
    """
    return list(_cached(_Asked(repr((evaluator, loads)), evaluator, tuple(loads))))


@lru_cache(maxsize=CACHED)
def _cached(asked: _Asked) -> tuple[OperatingPoint, ...]:
    evaluator, loads = asked.evaluator, asked.loads
    points = operating_points(evaluator, loads)
    mix = {load.name: load.share for load in loads}
    best = max((point.mix_per_second(mix) for point in points), default=0.0)
    batch, _ = best_mix(evaluator, loads)
    while batch in {point.batch for point in points}:
        batch -= 1
    found = shared_point(evaluator, loads, batch)
    if found is not None and found.mix_per_second(mix) > LEAST_GAIN * best:
        points.append(found)
    return tuple(points)


def shared_point(
    evaluator: Evaluator, loads: Sequence[ClassLoad], batch: int
) -> OperatingPoint | None:
    """The point that admits all classes at a batch that not all of them could fill; or None."""
    if evaluator.closed_loop or not min(c.most_sequences for c in loads) < batch <= _largest(loads):
        return None
    return _shared(evaluator).shared_point(loads, batch)


def point_at_batch(
    evaluator: Evaluator, loads: Sequence[ClassLoad], batch: int
) -> OperatingPoint | None:
    """The point of a batch that was chosen for another workload or other targets.

    All classes where they may share the memory, else as many as still hold at that batch.
    """
    shared = shared_point(evaluator, loads, batch)
    if shared is not None:
        return shared
    for size in range(len(loads), 0, -1):
        admitted = loads[:size]
        if batch <= min(c.most_sequences for c in admitted) and evaluator.holds(admitted, batch):
            return evaluator.point(admitted, batch)
    return None


@dataclass(frozen=True, slots=True)
class SharedMemory(Evaluator):
    """An evaluator whose worst mix is one that the memory holds, not a full batch of the longest."""

    def _worst(self, admitted: Sequence[ClassLoad], batch: int) -> tuple[float, float]:
        context = {c.name: c.prompt_tokens + c.output_tokens / 2.0 for c in admitted}
        prompts = {c.name: c.prefill_s_per_output_token for c in admitted}
        rooms = {c.name: c.most_sequences for c in admitted}
        longest = most_together(context, rooms, batch) / batch
        return longest, most_together(prompts, rooms, batch) * (batch - 1.0) / batch

    def _services(self, admitted: Sequence[ClassLoad], batch: int) -> list[Service]:
        """A request may wait for a slot or for memory: each gets half of what the target leaves."""
        listed = Evaluator._services(self, admitted, batch)
        return [replace(one, quantile=(1.0 + one.quantile) / 2.0) for one in listed]

    def shared_point(self, admitted: Sequence[ClassLoad], batch: int) -> OperatingPoint | None:
        """Capacities with their shares of time and memory; None where a target does not hold."""
        rho = self.memory_utilization(admitted, batch)
        if rho < self.least_utilization or not self.holds(admitted, batch):
            return None
        made = self.point(admitted, batch)
        step, _ = self._steady(admitted, batch)
        memory = {load.name: rho * _most(load, step) for load in admitted}
        capacity = {name: min(rate, memory[name]) for name, rate in made.capacity.items()}
        steps = []
        for servers, factor in made.pool_steps:
            gain = min(factor, self.memory_utilization(admitted, batch, servers) / rho)
            if gain > LEAST_GAIN:
                steps.append((servers, gain))
        return replace(
            made,
            capacity=capacity,
            pool_steps=tuple(steps),
            time_share={name: rate / made.capacity[name] for name, rate in capacity.items()},
            kv_share={name: rate / memory[name] for name, rate in capacity.items()},
        )

    def memory_utilization(
        self, admitted: Sequence[ClassLoad], batch: int, servers: int = 1
    ) -> float:
        """The share of its memory's rate at which requests wait for room within the targets.

        The least over the classes of which memory holds fewer than the batch.
        """
        found = self.busy
        for service, load in zip(self._services(admitted, batch), cycle(admitted), strict=False):
            slots = int(load.most_sequences)
            if slots < batch:
                sizes = [size for size in BATCHES[::2] if size < slots]
                steps = tuple((n, self._steady(admitted, n)[0]) for n in (*sizes, slots))
                found = utilization_cap(servers, replace(service, steps_s=steps), found)
        return found

    def mix_per_second(self, admitted: Sequence[ClassLoad], batch: int) -> float:
        """Requests/s of the asked mix with no time or memory kept free."""
        step, _ = self._steady(admitted, batch)
        time = sum(c.share * (c.prefill_s + c.output_tokens * step / batch) for c in admitted)
        return 1.0 / max(time, sum(c.share / _most(c, step) for c in admitted))


def most_together(values: dict[str, float], rooms: dict[str, float], batch: float) -> float:
    """max sum n_k value_k over n >= 0 with sum n_k <= batch and sum n_k / room_k <= 1.

    The largest over the corners: one kind alone, or two that use up both.
    """
    best = max(values[name] * min(batch, rooms[name]) for name in values)
    for a, b in permutations(values, 2):
        if rooms[a] < batch < rooms[b]:
            of_a = (1.0 - batch / rooms[b]) / (1.0 / rooms[a] - 1.0 / rooms[b])
            best = max(best, of_a * values[a] + (batch - of_a) * values[b])
    return best


def best_mix(evaluator: Evaluator, loads: Sequence[ClassLoad]) -> tuple[int, float]:
    """The batch that serves most of the asked mix, of those beyond the longest class, and its rate.

    Requests/s with no time or memory kept free; both 0 if there is none.
    """
    least = min(load.most_sequences for load in loads)
    beyond = [batch for batch in BATCHES if least < batch <= _largest(loads)]
    shared, best, most = _shared(evaluator), 0, 0.0
    for batch in beyond if not evaluator.closed_loop else ():
        if shared.misses(loads, batch):
            break
        rate = shared.mix_per_second(loads, batch)
        if rate > most:
            best, most = batch, rate
    return best, most


def _most(load: ClassLoad, step_s: float) -> float:
    """Requests/s that fill the memory with one class."""
    room = load.most_sequences
    return 1.0 / (load.prefill_s * (1.0 + 1.0 / room) + load.output_tokens * step_s / room)


def _largest(loads: Sequence[ClassLoad]) -> float:
    return max(load.most_sequences for load in loads)


def _shared(one: Evaluator) -> SharedMemory:
    return SharedMemory(*(getattr(one, each.name) for each in fields(one)))
