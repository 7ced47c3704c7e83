"""Operating points of many pipelines at once: the rules of `operating`, as arrays.

All arrays are (pipelines, batches), (fragments, pipelines, batches) or (classes, pipelines,
batches). A class is admitted only where its targets hold beside the worst mix of the admitted ones,
as `operating` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motley_planner.candidates.layering import Bools, Floats, Ints, split_layers
from motley_planner.candidates.pipeline_grid import Grid
from motley_planner.candidates.targets import tpot_ratio
from motley_planner.costs.pipeline import hop_s

Admitted = tuple[int, ...]  # indices of classes in the grid


@dataclass(frozen=True, slots=True)
class Load:
    """The pipelines at stated batches, beside the worst mix of the admitted classes.

    `combos` names the kind of each fragment. Derived once: seconds a layer and fixed, of decoding
    and of prefill, for each fragment. `mixed`: memory is for a batch of the asked mix, not of the
    longest class.
    """

    grid: Grid
    combos: Ints  # (fragments, pipelines)
    batches: Floats
    admitted: Admitted
    mixed: bool = False

    @property
    def rounds(self) -> Floats:
        """Micro-batches of each batch: min(fragments, batch)."""
        return np.minimum(float(len(self.combos)), self.batches)

    @property
    def micro(self) -> Ints:
        """Index of the micro-batch's size in the grid, by batch."""
        return np.searchsorted(self.grid.micro, self.batches / self.rounds - 1e-9)

    def decode(self) -> tuple[Floats, Floats]:
        """Seconds of one micro-batch's step: a layer, and fixed."""
        grid, context = self.grid, max(self.admitted, key=lambda c: self.grid.context_tokens[c])
        layer = grid.decode_s[:, self.micro, context][self.combos]
        fixed = np.repeat(grid.fixed_s[self.combos][:, :, None], len(self.batches), axis=2)
        fixed[-1] += grid.decode_head_s[:, self.micro][self.combos[-1]]
        return layer, fixed

    def prefill(self, class_index: int) -> tuple[Floats, Floats]:
        """Seconds of one prompt of a class: a layer, and fixed; the same for every batch."""
        grid = self.grid
        layer = grid.prefill_s[:, class_index][self.combos][:, :, None]
        fixed = grid.fixed_s[self.combos][:, :, None]
        fixed[-1] += grid.prefill_head_s[:, class_index][self.combos[-1]][:, None]
        return layer, fixed

    def hops(self, tokens: Floats) -> Floats:
        """Seconds of each link: (fragments - 1, pipelines, batches)."""
        nic = self.grid.nic_bytes_per_s[self.combos]
        slower = np.minimum(nic[:-1], nic[1:])[:, :, None]
        problem = self.grid.problem
        first = hop_s(1.0, problem.model, 1.0, 0.0)  # bytes of one token's activations
        return problem.fabric.hop_latency_s + tokens * first / slower

    def room(self) -> tuple[Floats, Floats]:
        """Bytes of each fragment beside its vocabulary, and of one layer's KV of one sequence.

        Of the longest class; `mixed`: the mean over sequences that run, in proportion to outputs.
        """
        grid, combos = self.grid, self.combos
        room = grid.usable_bytes[combos]
        room[0] -= grid.vocabulary_bytes[combos[0]]
        if len(combos) > 1 or not grid.problem.model.tied_embeddings:
            room[-1] -= grid.vocabulary_bytes[combos[-1]]
        kinds = grid.kv_bytes[:, list(self.admitted)]
        if self.mixed:
            running = np.array([grid.classes[c].weight for c in self.admitted], dtype=np.float64)
            running *= grid.output_tokens[list(self.admitted)]
            return room, (kinds @ running / running.sum())[combos]
        return room, kinds.max(axis=1)[combos]

    def balanced_layers(self) -> Ints:
        """Layers of each fragment, for each batch: (fragments, pipelines, batches)."""
        grid = self.grid
        layer, fixed = self.decode()
        rounds, batches = self.rounds, self.batches
        per_layer, constant = rounds * layer, rounds * fixed
        prompts = [self.prefill(c) for c in self.admitted]
        outputs = grid.output_tokens[list(self.admitted)]
        share = [one[0] / o for one, o in zip(prompts, outputs, strict=True)]
        per_layer += batches * np.max(share, axis=0)
        share = [one[1] / o for one, o in zip(prompts, outputs, strict=True)]
        constant += batches * np.max(share, axis=0)
        room, kv = self.room()
        weights = grid.layer_bytes[self.combos][:, :, None]
        most = room[:, :, None] / (weights + batches * kv[:, :, None])
        return split_layers(per_layer, constant, most, grid.problem.model.layers)


@dataclass(frozen=True, slots=True)
class Points:
    """Latencies and capacities; capacity is 0 where memory or a target says no."""

    step_s: Floats  # (pipelines, batches)
    tpot_s: Floats
    ttft_s: Floats  # (admitted classes, pipelines, batches)
    capacity: Floats  # (admitted classes, pipelines, batches)


def evaluate(load: Load, layers: Ints) -> Points:
    """The pipelines with stated layers at every batch; formulas as in `operating.Evaluator`."""
    grid, problem = load.grid, load.grid.problem
    batches = load.batches
    outputs = grid.output_tokens[list(load.admitted)][:, None, None]
    step = _decode_step_s(load, layers)
    slowest, alone = _prefills(load, layers)
    per_output = (slowest / outputs).max(axis=0)
    tpot = step + (batches - 1.0) * per_output
    utilization = problem.busy * batches * per_output / (tpot + per_output)
    service = slowest.max(axis=0)
    slower = problem.efficiency.moe_prefill if problem.model.experts else 1.0
    first = problem.engine.first_token_overhead_s + step + slower * alone
    ttft = first + waits_s(utilization, service, 0.0)
    holds = _fits(load, layers) & (utilization < 1.0)
    for target in problem.targets:
        slow = tpot * tpot_ratio(problem.efficiency.tpot_quantiles, target.quantile)
        late = first + waits_s(utilization, service, target.quantile)
        whole = late + outputs * slow
        value = {"tpot": slow[None], "ttft": late}.get(target.what, whole)
        holds &= (value <= target.limit_s).all(axis=0)
    rate = batches / (ttft + outputs * tpot) * problem.busy
    return Points(step, tpot, ttft, np.where(holds, rate, 0.0))


def waits_s(utilization: Floats, service_s: Floats, quantile: float) -> Floats:
    """`costs.capacity.first_token_wait_s` for arrays."""
    rho = np.minimum(utilization, 1.0 - 1e-12)
    mean = rho * service_s / (2.0 * (1.0 - rho))
    if quantile > 0.0:
        missing = 1.0 - quantile
        late = np.log(np.maximum(rho, missing) / missing)
        mean = np.where(rho > missing, mean / np.maximum(rho, missing) * late, 0.0)
    return np.where(utilization >= 1.0, np.inf, mean)


def class_sets(classes: int) -> list[Admitted]:
    """The sets of classes worth a point: all, the lighter half, the lightest and the heaviest."""
    sizes: Sequence[int] = (classes, (classes + 1) // 2, 1)
    sets = [tuple(range(size)) for size in sizes]
    return list(dict.fromkeys([*sets, (classes - 1,)]))


def _decode_step_s(load: Load, layers: Ints) -> Floats:
    layer, fixed = load.decode()
    times = layers * layer + fixed
    busiest, total = times.max(axis=0), times.sum(axis=0)
    if len(layers) > 1:
        hops = load.hops(load.batches / load.rounds)
        busiest = np.maximum(busiest, hops.max(axis=0))
        total = total + hops.sum(axis=0)
    return np.asarray(np.maximum(load.rounds * busiest, total))


def _prefills(load: Load, layers: Ints) -> tuple[Floats, Floats]:
    """Seconds of the slowest fragment or link, and of all, for a prompt of each admitted class."""
    slowest, alone = [], []
    for c in load.admitted:
        layer, fixed = load.prefill(c)
        times = layers * layer + fixed
        most, total = times.max(axis=0), times.sum(axis=0)
        if len(layers) > 1:
            hops = load.hops(load.grid.prompt_tokens[c : c + 1])
            most = np.maximum(most, hops.max(axis=0))
            total = total + hops.sum(axis=0)
        slowest.append(most)
        alone.append(total)
    return np.stack(slowest), np.stack(alone)


def _fits(load: Load, layers: Ints) -> Bools:
    """Whether weights and the KV caches of the whole batch fit on every fragment."""
    room, kv = load.room()
    weights = load.grid.layer_bytes[load.combos][:, :, None]
    held = layers * (weights + load.batches * kv[:, :, None])
    return np.asarray(((held <= room[:, :, None] * (1 + 1e-12)) & (layers > 0)).all(axis=0))
