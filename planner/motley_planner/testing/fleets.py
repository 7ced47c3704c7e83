"""Synthetic fleets of any size, drawn by seed: the instances that the benchmarks solve.

Configurations come from an analytic roofline (below), so the numbers show how the solver behaves,
not how GPUs do. Three families, each for any number of GPUs:

    A   3 GPU types, 1 model,  3 classes, pipelines of up to 3 fragments, 1 zone
    B   5 GPU types, 2 models, 6 classes, pipelines of up to 3 fragments, 1 zone
    C   8 GPU types, 5 models, 9 classes, pipelines of up to 2 fragments, 3 zones

Layers of a pipeline are split so that the slowest fragment is as fast as memory allows. A
configuration is left out where fewer of its fragments, or two parts of it alone, do as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from random import Random

import numpy as np
from numpy.typing import NDArray

from motley_planner.domain.table import (
    Column,
    FleetTable,
    Fragment,
    NodeGroup,
    Previous,
    RequestClass,
    RunningReplica,
    TableNode,
)
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.program import formulate
from motley_planner.solver.blocks import Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.sifting import sift

Floats = NDArray[np.float64]
Shape = tuple[tuple[str, int], ...]  # (gpu, tp), sorted

# GPU memory (GB), bandwidth (TB/s), dense bf16 (Tflop/s), price (USD/h): rounded, for tests only
GPUS: dict[str, tuple[float, float, float, float]] = {
    "H100": (80, 3.35, 990, 3.5),
    "A100": (80, 2.0, 312, 1.9),
    "L40S": (48, 0.86, 362, 1.1),
    "L4": (24, 0.3, 121, 0.5),
    "A10G": (24, 0.6, 125, 0.75),
    "H200": (141, 4.8, 990, 4.4),
    "A6000": (48, 0.77, 155, 0.8),
    "V100": (32, 0.9, 125, 0.6),
}
# model: parameters (1e9), layers, KV bytes a token and layer
MODELS: dict[str, tuple[float, int, float]] = {
    "70B": (70, 80, 4096),
    "32B": (32, 64, 4096),
    "8B": (8, 32, 4096),
    "14B": (14, 48, 4096),
    "123B": (123, 88, 4096),
}
SIZES = (1, 2, 4, 8)
BATCH = 32
USABLE_MEMORY = 0.85
TP_POWER = 0.93  # speed of tp GPUs = tp ** this


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of fleets has; `depth` is the most fragments a replica may have."""

    types: int
    models: tuple[str, ...]
    classes: int
    depth: int
    zones: int


FAMILIES = {
    "A": Family(3, ("70B",), 3, 3, 1),
    "B": Family(5, ("70B", "32B"), 6, 3, 1),
    "C": Family(8, ("70B", "32B", "8B", "14B", "123B"), 9, 2, 3),
}


def fleet(family: str, gpus: int, seed: int = 0) -> FleetTable:
    """A table with about `gpus` GPUs; every class asks for rate 1 x its share (`loaded` scales)."""
    kind = FAMILIES[family]
    random = Random(f"{family}/{gpus}/{seed}")
    zones = tuple(f"z{i}" for i in range(kind.zones))
    nodes = nodes_of(random, tuple(GPUS)[: kind.types], zones, gpus)
    classes, tokens = [], {}
    for i in range(kind.classes):
        name = f"k{i}"
        model = kind.models[i % len(kind.models)]
        classes.append(RequestClass(name, model, random.uniform(0.3, 3.0)))
        tokens[name] = (random.choice((256, 1024, 4096)), random.choice((64, 256, 512)))
    columns = tuple(_columns(kind, nodes, classes, tokens))
    return FleetTable(tuple(classes), columns, nodes, objective="max_min")


def nodes_of(
    random: Random, types: tuple[str, ...], zones: tuple[str, ...], gpus: int
) -> tuple[NodeGroup, ...]:
    """Nodes of 8, 4 and 1 GPUs in random pools until there are enough."""
    pools = [(t, z) for t in types for z in zones]
    worth = [random.uniform(0.3, 1.0) for _ in pools]
    found: Counter[tuple[str, str, int]] = Counter()
    left = gpus
    while left > 0:
        gpu, zone = random.choices(pools, worth)[0]
        size = random.choices((8, 4, 1), (0.6, 0.3, 0.1))[0]
        while size > left:
            size //= 2
        step = max(1, gpus // 400)
        number = min(step, left // size)
        found[gpu, zone, size] += number
        left -= size * number
    return tuple(NodeGroup(g, z, size, n) for (g, z, size), n in sorted(found.items()))


def _columns(
    kind: Family,
    nodes: tuple[NodeGroup, ...],
    classes: list[RequestClass],
    tokens: dict[str, tuple[int, int]],
) -> Iterator[Column]:
    for model in kind.models:
        names = [c.name for c in classes if c.model == model]
        if not names:
            continue
        speeds = shapes(model, tuple(GPUS)[: kind.types], kind.depth, [tokens[n] for n in names])
        for zone in sorted({g.zone for g in nodes}):
            largest: dict[str, int] = {}
            for group in nodes:
                if group.zone == zone:
                    largest[group.gpu] = max(largest.get(group.gpu, 0), group.gpus)
            for shape, rates in speeds.items():
                if all(largest.get(gpu, 0) >= tp for gpu, tp in shape):
                    yield Column(
                        id=f"{model}/{zone}/" + "+".join(f"{g}x{t}" for g, t in shape),
                        model=model,
                        zone=zone,
                        fragments=tuple(Fragment(g, t) for g, t in shape),
                        requests_per_second=dict(zip(names, rates, strict=True)),
                        price_usd_per_hour=round(sum(GPUS[g][3] * t for g, t in shape), 4),
                    )


def shapes(
    model: str, types: tuple[str, ...], depth: int, tokens: list[tuple[int, int]]
) -> dict[Shape, tuple[float, ...]]:
    """Requests/s by class (in the order of `tokens`) of every shape that no part of it matches."""
    single = [(gpu, tp) for gpu in types for tp in SIZES]
    every = [s for d in range(1, depth + 1) for s in combinations_with_replacement(single, d)]
    speeds = {shape: _rates(model, shape, tokens) for shape in every}
    kept: dict[Shape, tuple[float, ...]] = {}
    for shape, rates in speeds.items():
        if rates.max() > 0 and not _matched_by_parts(shape, rates, speeds):
            kept[shape] = tuple(float(f"{r:.6g}") for r in rates)
    return kept


def _rates(model: str, shape: Shape, tokens: list[tuple[int, int]]) -> Floats:
    """Requests/s of one replica by class: 1 / time of the slowest fragment."""
    layers = MODELS[model][1]
    room, slow = [], []
    for gpu, tp in shape:
        room.append(layers_in(model, gpu, tp))
        slow.append(np.add(*_layer_seconds(model, gpu, tp, tokens)))
    room_of, busy = np.array(room), np.array(slow)
    if room_of.sum() < layers:
        return np.zeros(len(tokens))
    mean = busy.mean(axis=1)
    low, high = 0.0, float(layers * mean.max())
    for _ in range(50):
        middle = (low + high) / 2
        enough = np.minimum(room_of, middle / mean).sum() >= layers
        low, high = (low, middle) if enough else (middle, high)
    split = np.minimum(room_of, high / mean)
    split *= layers / split.sum()
    hop = 0.002 * (len(shape) - 1)
    return np.asarray(1.0 / ((split[:, None] * busy).max(axis=0) * (1 + hop)))


def layers_in(model: str, gpu: str, tp: int) -> float:
    """Layers of a model that `tp` GPUs hold with the KV caches of a batch, not rounded."""
    parameters, layers, kv = MODELS[model]
    return tp * GPUS[gpu][0] * USABLE_MEMORY / (parameters / layers + BATCH * 2000 * kv / 1e9)


def _layer_seconds(
    model: str, gpu: str, tp: int, tokens: list[tuple[int, int]]
) -> tuple[Floats, Floats]:
    """Seconds of one layer for a request of each class: prompt and answer."""
    parameters, layers, kv = MODELS[model]
    layer = parameters / layers  # GB at one byte a parameter
    _, bandwidth, flops, _ = GPUS[gpu]
    power = tp**TP_POWER
    prefill = [2 * layer * p / (0.5 * flops * 1e3 * power) for p, _ in tokens]
    decode = [
        o * (layer / BATCH + (p + o / 2) * kv / 1e9) / (0.7 * bandwidth * 1e3 * power)
        for p, o in tokens
    ]
    return np.array(prefill), np.array(decode)


def seconds_of(
    model: str, gpu: str, tp: int, tokens: list[tuple[int, int]]
) -> tuple[Floats, Floats] | None:
    """Seconds that prompt and answer of each class keep one replica busy; None where it has no room."""
    layers = MODELS[model][1]
    if layers_in(model, gpu, tp) < layers:
        return None
    prefill, decode = _layer_seconds(model, gpu, tp, tokens)
    return layers * prefill, layers * decode


def _matched_by_parts(shape: Shape, rates: Floats, speeds: dict[Shape, Floats]) -> bool:
    if len(shape) == 1:
        return False
    for size in range(1, len(shape)):
        for chosen in combinations(range(len(shape)), size):
            part = tuple(shape[i] for i in chosen)
            rest = tuple(shape[i] for i in range(len(shape)) if i not in chosen)
            if (speeds[part] + speeds[rest] >= rates).all():
                return True
    return False


def loaded(table: FleetTable, objective: str, capacity: float) -> FleetTable:
    """The table at the load of one benchmark; `capacity` is its largest scale without integrality.

    max_min at 100 % of the capacity (and with a budget of 60 % of the fleet's price), goodput at
    120 %, min_cost at 50 %.
    """
    factor = {"max_min": 1.0, "budget": 1.0, "goodput": 1.2, "min_cost": 0.5}[objective]
    classes = tuple(
        replace(c, requests_per_second=c.requests_per_second * factor * capacity)
        for c in table.classes
    )
    cascades = tuple(
        replace(c, requests_per_second=c.requests_per_second * factor * capacity)
        for c in table.cascades
    )
    table = replace(table, classes=classes, cascades=cascades)
    if objective != "budget":
        return replace(table, objective=objective)  # type: ignore[arg-type]
    price = sum(GPUS[g.gpu][3] * g.gpus * (g.count or 0) for g in table.nodes)
    return replace(table, budget_usd_per_hour=round(0.6 * price, 2))


def lp_capacity(table: FleetTable) -> float:
    """The largest scale of a max_min table without integrality."""
    milp, index = formulate(table)
    found = sift(Structured(milp, index.blocks), index.levels[0].cost, CLOCK.now() + 60)
    return max(0.0, found.bound)


def running(table: FleetTable, limit_s: float) -> FleetTable:
    """The table with its own plan running on concrete nodes."""
    nodes = tuple(
        TableNode(f"n{i}-{j}", g.gpu, g.zone, g.gpus)
        for i, g in enumerate(table.nodes)
        for j in range(g.count or 0)
    )
    empty = replace(table, nodes=(), previous=Previous(nodes), time_limit_s=limit_s)
    plan = solve_table(replace(empty, relative_gap=1e-3), use_worker=False)
    replicas = tuple(
        RunningReplica(f"r{i}", p.column, p.nodes) for i, p in enumerate(plan.placement)
    )
    return replace(empty, previous=Previous(nodes, replicas))


def lose(table: FleetTable, share: float, seed: int) -> FleetTable:
    """A share of the nodes is lost (at least one); moving the whole fleet once costs 5 %."""
    assert table.previous is not None
    nodes = table.previous.nodes
    number = max(1, round(share * len(nodes)))
    lost = Random(seed).sample([n.name for n in nodes], number)
    gpus = sum(n.gpus for n in nodes)
    return replace(
        table,
        lost_nodes=frozenset(lost),
        penalty_per_started_gpu=0.05 / gpus,
        penalty_per_stopped_gpu=0.01 / gpus,
    )
