"""Synthetic fleets with phases, cascades or many resources, drawn by seed, on the rooflines of fleets.py.

phases      2 models with 6 classes on 5 GPU types in 3 zones; prefill, decode and whole replicas,
            networks of replicas and links between zones as rows of bytes
cascade     1 cascade of 3 models with a grid of 11 x 11 threshold policies, 8 GPU types
resources   12 pools and 8 cascades of 2 or 3 stages with 5 models, 8 GPU types in 3 zones; they
            share replicas, or each has its own, as the operator plans them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

from motley_planner.domain.table import (
    CascadeDemand,
    CascadePolicy,
    Column,
    FleetTable,
    Fragment,
    Link,
    NodeGroup,
    RequestClass,
)
from motley_planner.testing.fleets import (
    FAMILIES,
    GPUS,
    MODELS,
    SIZES,
    nodes_of,
    seconds_of,
    shapes,
)

Stage = tuple[str, str, tuple[int, int]]  # class, model, (prompt tokens, output tokens)
INTERFERENCE = 1.15  # of prompts and steps on one replica, in the manner of ThunderServe's profile
NIC_BYTES_PER_S = 12.5e9  # 100 Gb/s a GPU
ZONE_LINK_BYTES_PER_S = 50e9
PROMPTS, ANSWERS = (256, 1024, 4096), (64, 256, 512)
ZONES = ("z0", "z1", "z2")


def phases_fleet(gpus: int, seed: int) -> FleetTable:
    """Prefill, decode and whole replicas of one GPU type each, in three zones."""
    random = Random(f"phases/{gpus}/{seed}")
    kind = FAMILIES["B"]
    nodes = nodes_of(random, tuple(GPUS)[: kind.types], ZONES, gpus)
    classes, tokens = [], {}
    for i in range(kind.classes):
        name, model = f"k{i}", kind.models[i % len(kind.models)]
        tokens[name] = (random.choice(PROMPTS), random.choice(ANSWERS))
        _, layers, kv = MODELS[model]
        kv_bytes = tokens[name][0] * kv * layers
        classes.append(RequestClass(name, model, random.uniform(0.3, 3.0), kv_bytes=kv_bytes))
    columns = tuple(_phase_columns(nodes, classes, tokens))
    links = tuple(Link(a, b, ZONE_LINK_BYTES_PER_S) for a in ZONES for b in ZONES if a != b)
    return FleetTable(tuple(classes), columns, nodes, links=links, objective="max_min")


def _phase_columns(
    nodes: tuple[NodeGroup, ...],
    classes: Sequence[RequestClass],
    tokens: dict[str, tuple[int, int]],
) -> Iterator[Column]:
    for model in dict.fromkeys(c.model for c in classes):
        names = [c.name for c in classes if c.model == model]
        for group, tp in product(_largest(nodes), SIZES):
            if tp > group.gpus:
                continue
            busy_s = seconds_of(model, group.gpu, tp, [tokens[n] for n in names])
            if busy_s is None:
                continue
            read, write = busy_s
            times = {"both": INTERFERENCE * (read + write), "prefill": read, "decode": write}
            for phase, busy in times.items():
                yield Column(
                    id=f"{model}/{group.zone}/{phase}/{group.gpu}x{tp}",
                    model=model,
                    zone=group.zone,
                    fragments=(Fragment(group.gpu, tp),),
                    requests_per_second={
                        n: float(f"{1.0 / b:.6g}") for n, b in zip(names, busy, strict=True)
                    },
                    phase=phase,  # type: ignore[arg-type]
                    price_usd_per_hour=round(GPUS[group.gpu][3] * tp, 4),
                    nic_bytes_per_second=None if phase == "both" else tp * NIC_BYTES_PER_S,
                )


def _largest(nodes: tuple[NodeGroup, ...]) -> list[NodeGroup]:
    """The largest node of every GPU type in every zone."""
    found: dict[tuple[str, str], NodeGroup] = {}
    for group in nodes:
        place = (group.gpu, group.zone)
        if place not in found or found[place].gpus < group.gpus:
            found[place] = group
    return list(found.values())


def cascade_fleet(gpus: int, seed: int) -> FleetTable:
    """One cascade whose answers escalate by two thresholds, each of 11 values."""
    random = Random(f"cascade/{gpus}/{seed}")
    nodes = nodes_of(random, tuple(GPUS), ZONES, gpus)
    stages = [
        (f"stage-{m}", m, (random.choice(PROMPTS), random.choice(ANSWERS)))
        for m in ("8B", "32B", "70B")
    ]
    columns = tuple(_stage_columns(nodes, stages, ""))
    classes = tuple(RequestClass(name, model, 0.0) for name, model, _ in stages)
    cascade = _cascade(random, "support", [name for name, _, _ in stages], steps=11)
    return FleetTable(classes, columns, nodes, cascades=(cascade,), objective="max_min")


def resources_fleet(gpus: int, seed: int, *, shared: bool) -> FleetTable:
    """Twelve pools with one or two classes and eight cascades."""
    random = Random(f"resources/{gpus}/{seed}")
    nodes = nodes_of(random, tuple(GPUS), ZONES, gpus)
    models = tuple(MODELS)
    classes: list[RequestClass] = []
    columns: list[Column] = []
    cascades: list[CascadeDemand] = []
    every: list[Stage] = []
    for i in range(20):
        cascaded, key = i % 5 in (1, 3), f"r{i}"
        sizes = random.sample(("8B", "14B", "32B", "70B"), random.choice((2, 3)))
        names = sorted(sizes, key=lambda m: MODELS[m][0]) if cascaded else [models[i % 5]]
        number = 1 if cascaded else random.choice((1, 2))
        stages = [
            (f"{key}-{m}-{k}", m, (random.choice(PROMPTS), random.choice(ANSWERS)))
            for m in names
            for k in range(number)
        ]
        if shared:
            every += stages
        else:
            columns += _stage_columns(nodes, stages, key)
        for name, model, _ in stages:
            rate = 0.0 if cascaded else random.uniform(0.3, 3.0)
            classes.append(RequestClass(name, model if shared else f"{key}/{model}", rate))
        if cascaded:
            cascades.append(_cascade(random, key, [name for name, _, _ in stages], steps=6))
    columns += _stage_columns(nodes, every, "")
    return FleetTable(
        tuple(classes), tuple(columns), nodes, cascades=tuple(cascades), objective="max_min"
    )


def _cascade(random: Random, key: str, stages: Sequence[str], steps: int) -> CascadeDemand:
    """A cascade whose policies let 0, 1/(steps-1), ... 1 of a stage's questions escalate."""
    policies = []
    for shares in product(range(steps), repeat=len(stages) - 1):
        visits, reached = {stages[0]: 1.0}, 1.0
        quality = 0.70
        for stage, share, gain in zip(stages[1:], shares, (0.15, 0.10), strict=False):
            reached *= share / (steps - 1)
            visits[stage] = reached
            quality += gain * reached**0.7
        name = "-".join(str(share) for share in shares)
        policies.append(CascadePolicy(f"p{name}", round(quality, 4), visits))
    floor = 0.70 + random.uniform(0.5, 0.9) * (max(p.quality for p in policies) - 0.70)
    return CascadeDemand(key, random.uniform(0.3, 3.0), round(floor, 4), tuple(policies))


def _stage_columns(
    nodes: tuple[NodeGroup, ...], stages: Sequence[Stage], key: str
) -> Iterator[Column]:
    """Replicas of one or two fragments of every zone, for each of the stages' models."""
    for model in dict.fromkeys(m for _, m, _ in stages):
        mine = [(name, tokens) for name, m, tokens in stages if m == model]
        speeds = shapes(model, tuple(GPUS), 2, [tokens for _, tokens in mine])
        for zone in ZONES:
            largest = {g.gpu: g.gpus for g in _largest(nodes) if g.zone == zone}
            for shape, rates in speeds.items():
                if all(largest.get(gpu, 0) >= tp for gpu, tp in shape):
                    yield Column(
                        id=f"{key}/{model}/{zone}/" + "+".join(f"{g}x{t}" for g, t in shape),
                        model=f"{key}/{model}" if key else model,
                        zone=zone,
                        fragments=tuple(Fragment(g, t) for g, t in shape),
                        requests_per_second=dict(
                            zip([name for name, _ in mine], rates, strict=True)
                        ),
                        price_usd_per_hour=round(sum(GPUS[g][3] * t for g, t in shape), 4),
                    )
