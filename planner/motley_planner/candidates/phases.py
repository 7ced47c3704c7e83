"""Prefill and decode on replicas of their own.

A prefill replica works off prompts one after the other, at the largest utilization at which the
first token still comes in time: waiting behind other prompts, its own prefill and the way of its KV
cache through the replica's network count. A decode replica runs the largest batch at which memory
and TPOT hold, and no prompt of others lands in its steps. Which prefill replica feeds which decode
replica is the plan's choice; rows of bytes over links and networks bound it.

Approximations. An end-to-end target is split: `PREFILL_SHARE` for the first token, the rest for the
others, which is stricter than needed. The receiving network bounds rates but adds no latency.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from motley_planner.candidates.candidate import Candidate
from motley_planner.candidates.operating import (
    BATCHES,
    LEAST_GAIN,
    ClassLoad,
    Evaluator,
    OperatingPoint,
    Target,
)
from motley_planner.candidates.request import Request, is_allowed
from motley_planner.candidates.serving import (
    TENSOR_PARALLEL,
    can_split,
    evaluator_of,
    fitting_classes,
    is_beaten_by_two,
    shape_of,
)
from motley_planner.candidates.targets import tpot_ratio
from motley_planner.costs.capacity import first_token_wait_s
from motley_planner.costs.steps import decode_step_s
from motley_planner.costs.transfer import prompt_kv_bytes, transfer_s
from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.table import Phase

PREFILL_SHARE = 0.25  # of an end-to-end target; assumed: answers are longer than prompts take
HALVINGS = 30
LEAST_UTILIZATION = 1e-3  # below it a prefill replica serves nothing worth a column
_PHASES: tuple[Phase, ...] = ("prefill", "decode")


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
        moved = prompt_kv_bytes(replica.model, load.prompt_tokens, replica.kv_value_bytes)
        way = transfer_s(moved * self.kv_scale, self.nic_bytes_per_s)
        return replica.engine.first_token_overhead_s + wait_s + slower * load.prefill_s + way

    def prefill_point(self, admitted: Sequence[ClassLoad], number: int) -> OperatingPoint | None:
        """The point at the largest utilization that the targets allow; None where there is none.

        capacity = utilization / prefill. `number` only tells points of one replica apart.
        """
        low, high = 0.0, self.evaluator.busy
        if not self._in_time(admitted, high):
            for _ in range(HALVINGS):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if self._in_time(admitted, middle) else (low, middle)
            high = low
        if high < LEAST_UTILIZATION:
            return None
        service = max(load.prefill_s for load in admitted)
        wait = first_token_wait_s(high, service, 0.0)
        capacity = {load.name: high / load.prefill_s for load in admitted}
        ttft = {load.name: self.first_token_s(load, wait) for load in admitted}
        return OperatingPoint(number, capacity, ttft, {})

    def _in_time(self, admitted: Sequence[ClassLoad], utilization: float) -> bool:
        service = max(load.prefill_s for load in admitted)
        for target in self.evaluator.targets:
            limit = first_token_limit_s(target)
            wait = first_token_wait_s(utilization, service, target.quantile)
            if any(self.first_token_s(load, wait) > limit for load in admitted):
                return False
        return True

    def decode_point(
        self, admitted: Sequence[ClassLoad], taken: Collection[int]
    ) -> OperatingPoint | None:
        """The point of the largest batch that fits memory and targets, below `taken` ones.

        TPOT = decode(B, longest context); capacity = B / (OSL x TPOT) x busy.
        """
        memory = min(load.most_sequences for load in admitted)
        fitting = (b for b in reversed(BATCHES) if b <= memory and self._holds(admitted, b))
        batch = next(fitting, 0)
        while batch in taken:
            batch -= 1
        if batch < 1:
            return None
        step, busy = self._step_s(admitted, batch), self.evaluator.busy
        capacity = {c.name: batch / (c.output_tokens * step) * busy for c in admitted}
        return OperatingPoint(batch, capacity, {}, dict.fromkeys(capacity, step))

    def _holds(self, admitted: Sequence[ClassLoad], batch: int) -> bool:
        step = self._step_s(admitted, batch)
        return all(self._is_fast(admitted, target, step) for target in self.evaluator.targets)

    def _step_s(self, admitted: Sequence[ClassLoad], batch: int) -> float:
        context = max(load.prompt_tokens + load.output_tokens / 2.0 for load in admitted)
        return decode_step_s(self.evaluator.replica, batch, context)

    def _is_fast(self, admitted: Sequence[ClassLoad], target: Target, step_s: float) -> bool:
        slow = step_s * tpot_ratio(
            self.evaluator.replica.efficiency.tpot_quantiles, target.quantile
        )
        if target.what == "tpot":
            return slow <= target.limit_s
        rest = (1.0 - PREFILL_SHARE) * target.limit_s
        return target.what == "ttft" or all(c.output_tokens * slow <= rest for c in admitted)


def first_token_limit_s(target: Target) -> float:
    """Seconds a target leaves for the first token."""
    if target.what == "ttft":
        return target.limit_s
    return PREFILL_SHARE * target.limit_s if target.what == "e2e" else float("inf")


def phase_candidates(
    request: Request,
    node_classes: Sequence[NodeClass],
    catalog: Catalog,
    kv_scales: Sequence[float] = (1.0,),
    *,
    paired: bool = True,
) -> tuple[Candidate, ...]:
    """Prefill and decode replicas on every node class that the placement allows.

    Only classes that both phases can serve (for one KV scale) are in `paired` ones. None where the allowed
    nodes are of several trust zones: KV caches would cross between them.
    """
    allowed = [
        c
        for c in node_classes
        if request.key not in c.excluded_for and is_allowed(request.stage.placement, c)
    ]
    if len({c.trust_zone for c in allowed}) != 1:
        return ()
    found: list[Candidate] = []
    for kv_scale in kv_scales:
        made = [
            candidate
            for phase in _PHASES
            for gpu in dict.fromkeys(c.gpu for c in allowed)
            for ranks, point in _points(request, (gpu, phase, kv_scale), catalog)
            for candidate in _placed(
                request, (gpu, ranks, phase, kv_scale), point, allowed, catalog
            )
        ]
        found += _paired(made) if paired else made
    return tuple(found)


def candidate_for_phase(
    unit: RunningUnit, request: Request, node_class: NodeClass, catalog: Catalog
) -> Candidate | None:
    """The candidate of a running prefill or decode replica; None if it may not go on as it is."""
    same = unit.model == request.stage.model.name and unit.precision == request.stage.precision
    if not same:
        return None
    listed = phase_candidates(request, [node_class], catalog, (unit.kv_scale,), paired=False)
    kind = (unit.phase, unit.tensor_parallel, unit.operating_batch)
    return next(
        (c for c in listed if (c.phase, c.tensor_parallel, c.operating_batch) == kind), None
    )


def _points(
    request: Request, kind: tuple[str, Phase, float], catalog: Catalog
) -> list[tuple[int, OperatingPoint]]:
    gpu, phase, kv_scale = kind
    assert catalog.fabric is not None, "load_catalog() always gives it"
    found: list[tuple[int, OperatingPoint]] = []
    for ranks in TENSOR_PARALLEL:
        if not can_split(request.stage, ranks):
            continue
        evaluator = evaluator_of(request, gpu, ranks, catalog)
        if isinstance(evaluator, str):
            break
        loads = fitting_classes(request, evaluator.replica)
        one = PhaseReplica(evaluator, ranks * catalog.fabric.nic_of(gpu), kv_scale)
        halves = [point for half, point in found if 2 * half == ranks]
        found += [
            (ranks, point)
            for point in phase_points(one, phase, loads)
            if not is_beaten_by_two(point, halves)
        ]
    return found


def phase_points(
    one: PhaseReplica, phase: Phase, loads: Sequence[ClassLoad]
) -> Iterator[OperatingPoint]:
    """For all classes, and for fewer (without the longest prompts) where that serves more."""
    order = sorted(loads, key=lambda load: (load.prefill_s, load.name))
    best: dict[str, float] = {}
    taken: set[int] = set()  # a batch names its point
    for size in range(len(order), 0, -1):
        admitted = order[:size]
        if phase == "prefill":
            point = one.prefill_point(admitted, len(taken) + 1)
        else:
            point = one.decode_point(admitted, taken)
        if point is None:
            continue
        if any(rate > LEAST_GAIN * best.get(name, 0.0) for name, rate in point.capacity.items()):
            yield point
            taken.add(point.batch)
            best |= {n: max(r, best.get(n, 0.0)) for n, r in point.capacity.items()}


def _placed(
    request: Request,
    kind: tuple[str, int, Phase, float],
    point: OperatingPoint,
    allowed: Sequence[NodeClass],
    catalog: Catalog,
) -> Iterator[Candidate]:
    gpu, ranks, phase, kv_scale = kind
    assert catalog.fabric is not None, "load_catalog() always gives it"
    shape = replace(
        shape_of(request, gpu, ranks),
        phase=phase,
        kv_scale=kv_scale,
        nic_bytes_per_s=ranks * catalog.fabric.nic_of(gpu),
    )
    for node_class in allowed:
        if node_class.gpu == gpu:
            parts = (point.batch, point.capacity, point.ttft_s, point.tpot_s)
            yield shape.on((node_class,), parts)


def _paired(found: Sequence[Candidate]) -> Iterator[Candidate]:
    """The candidates with only those classes that both phases serve."""
    sides = {phase: {n for c in found if c.phase == phase for n in c.capacity} for phase in _PHASES}
    both = sides["prefill"] & sides["decode"]
    for c in found:
        capacity = {name: rate for name, rate in c.capacity.items() if name in both}
        if capacity:
            yield replace(c, capacity=capacity)
