"""Random small fleet tables that between them use every feature of the table."""

from __future__ import annotations

from dataclasses import asdict, replace
from random import Random
from typing import Any

from motley_planner.domain.table import (
    CascadeDemand,
    CascadePolicy,
    Column,
    FleetTable,
    Fragment,
    Link,
    NodeGroup,
    Phase,
    Previous,
    RequestClass,
    RunningReplica,
    SideRow,
    TableNode,
)

GPUS = ("A", "B")


def tiny_table(seed: int) -> FleetTable:
    """A table small enough to enumerate: at most 4 nodes and about 10 GPUs."""
    random = Random(seed)
    zones = ("z0", "z1") if random.random() < 0.35 else ("z0",)
    classes = _classes(random)
    columns = _columns(random, classes, zones)
    cascades = _cascades(random, classes) if random.random() < 0.4 else ()
    table = FleetTable(
        classes=classes,
        columns=columns,
        nodes=_groups(random, zones),
        links=_links(random, zones),
        cascades=cascades,
        objective=random.choice(("max_min", "goodput", "min_cost")),
        time_limit_s=20.0,
        relative_gap=1e-7,
    )
    if random.random() < 0.4:
        budget = random.choice((0.0, 2.0, 5.0, 9.0))
        table = replace(table, budget_usd_per_hour=budget)
    if random.random() < 0.45:
        table = _with_previous(random, table, zones)
    elif random.random() < 0.5:
        table = replace(table, penalty_per_started_gpu=random.choice((0.01, 0.1)))
    if random.random() < 0.15:
        table = replace(table, side_rows=_side_rows(random, columns))
    if random.random() < 0.15:
        table = replace(table, penalty_in_price=True)
    return table


def flipping_table(seed: int) -> FleetTable:
    """A tiny re-plan in which every replica may go on as others of its frame, too."""
    random = Random(seed)
    table = tiny_table(seed)
    if table.previous is None or not table.previous.replicas:
        table = _with_previous(random, table, ("z0",))
    assert table.previous is not None
    columns = {c.id: c for c in table.columns}
    twins = {
        name: replace(
            columns[name],
            id=f"{name} flipped",
            phase=random.choice(("prefill", "decode", "both")),
            requests_per_second={
                k: random.choice((0.0, 0.5, 2.0)) * (rate or 1.0)
                for k, rate in columns[name].requests_per_second.items()
            },
            max_count=random.choice((None, None, 1)),
        )
        for name in sorted({r.column for r in table.previous.replicas})
    }
    every = (*table.columns, *twins.values())
    replicas = tuple(
        replace(r, flips_to=flips)
        for r in table.previous.replicas
        for flips in (tuple(c.id for c in every if c.frame == columns[r.column].frame),)
    )
    return replace(table, columns=every, previous=replace(table.previous, replicas=replicas))


def _classes(random: Random) -> tuple[RequestClass, ...]:
    models = random.choice((("m",), ("m", "n")))
    return tuple(
        RequestClass(
            name=f"k{i}",
            model=random.choice(models),
            requests_per_second=random.choice((0.0, 1.0, 2.5, 4.0)),
            priority=random.choice((0, 0, 1)),
            weight=random.choice((1.0, 1.0, 3.0)),
            kv_bytes=random.choice((0.0, 1.0, 2.0)),
        )
        for i in range(random.choice((1, 2, 2, 3)))
    )


def _columns(
    random: Random, classes: tuple[RequestClass, ...], zones: tuple[str, ...]
) -> tuple[Column, ...]:
    columns = []
    split = random.random() < 0.35
    phases: tuple[Phase, ...] = ("prefill", "decode", "both") if split else ("both",)
    for i in range(random.choice((2, 3)) + split):
        model = random.choice([c.model for c in classes])
        fragments = tuple(
            Fragment(random.choice(GPUS), random.choice((1, 1, 2, 2, 4)))
            for _ in range(random.choice((1, 1, 1, 2)))
        )
        speed = sum(f.tp for f in fragments) * random.uniform(0.4, 1.2)
        rates = {
            c.name: random.choice((0.0, round(speed, 2), round(speed * 1.7, 2)))
            for c in classes
            if c.model == model
        }
        columns.append(
            Column(
                id=f"c{i}",
                model=model,
                zone=random.choice(zones),
                fragments=fragments,
                requests_per_second=rates,
                phase=phases[i % len(phases)],
                price_usd_per_hour=random.choice((0.0, 1.0, 1.5, 3.0)),
                max_count=random.choice((None, None, None, 0, 1, 2)),
                kv_scale=random.choice((1.0, 1.0, 1.0, 0.5)),
                nic_bytes_per_second=random.choice((None, None, 1.0, 3.0)),
            )
        )
    return tuple(columns)


def _groups(random: Random, zones: tuple[str, ...]) -> tuple[NodeGroup, ...]:
    return tuple(
        NodeGroup(
            gpu=random.choice(GPUS),
            zone=random.choice(zones),
            gpus=random.choice((1, 2, 3, 4)),
            count=random.choice((0, 1, 1, 2)),
            price_usd_per_hour=random.choice((None, None, 1.0, 2.5)),
        )
        for _ in range(random.choice((1, 2, 2)))
    )


def _links(random: Random, zones: tuple[str, ...]) -> tuple[Link, ...]:
    pairs = [(a, b) for a in zones for b in zones]
    return tuple(
        Link(a, b, random.choice((0.0, 0.7, 5.0))) for a, b in pairs if random.random() < 0.4
    )


def _cascades(random: Random, classes: tuple[RequestClass, ...]) -> tuple[CascadeDemand, ...]:
    policies = tuple(
        CascadePolicy(
            id=f"p{i}",
            quality=random.choice((0.7, 0.8, 0.9, 0.95)),
            load={c.name: random.choice((0.0, 0.3, 1.0)) for c in classes if random.random() < 0.8},
        )
        for i in range(random.choice((1, 2, 3)))
    )
    return (
        CascadeDemand(
            name="cascade",
            requests_per_second=random.choice((0.0, 1.0, 2.0)),
            quality_floor=random.choice((0.0, 0.75, 0.85, 0.99)),
            policies=policies,
            mixture=random.random() < 0.6,
            priority=random.choice((0, 1)),
            weight=random.choice((1.0, 2.0)),
        ),
    )


def _side_rows(random: Random, columns: tuple[Column, ...]) -> tuple[SideRow, ...]:
    some = {c.id: float(random.choice((1, 2))) for c in columns if random.random() < 0.7}
    if random.random() < 0.5:
        return (SideRow("quota", some, at_most=random.choice((1.0, 3.0))),)
    return (SideRow("minimum", some, at_least=random.choice((1.0, 2.0))),)


def _with_previous(random: Random, table: FleetTable, zones: tuple[str, ...]) -> FleetTable:
    nodes = [
        TableNode(
            name=f"n{i}",
            gpu=random.choice(GPUS),
            zone=random.choice(zones),
            gpus=random.choice((1, 2, 3, 4, 4)),
            price_usd_per_hour=random.choice((None, None, None, 1.0)),
        )
        for i in range(random.choice((2, 3, 4)))
    ]
    free = {n.name: n.gpus for n in nodes}
    replicas: list[RunningReplica] = []
    for _ in range(random.choice((1, 2, 3, 4))):
        column = random.choice(table.columns)
        homes = _homes(random, column, nodes, free)
        if homes is not None:
            replicas.append(RunningReplica(f"r{len(replicas)}", column.id, homes))
    lost = frozenset(n.name for n in nodes if random.random() < 0.2)
    cordoned = frozenset(n.name for n in nodes if random.random() < 0.1)
    return replace(
        table,
        previous=Previous(tuple(nodes), tuple(replicas)),
        lost_nodes=lost,
        cordoned_nodes=cordoned,
        penalty_per_started_gpu=random.choice((0.0, 0.01, 0.1)),
        penalty_per_stopped_gpu=random.choice((0.0, 0.01, 0.05)),
    )


def _homes(
    random: Random, column: Column, nodes: list[TableNode], free: dict[str, int]
) -> tuple[str, ...] | None:
    """A node for each fragment, taken off `free`; None (and nothing taken) where they don't fit."""
    before, homes = dict(free), []
    for fragment in column.fragments:
        fitting = [
            n.name
            for n in nodes
            if (n.gpu, n.zone) == (fragment.gpu, column.zone) and free[n.name] >= fragment.tp
        ]
        if not fitting:
            free.update(before)
            return None
        homes.append(random.choice(fitting))
        free[homes[-1]] -= fragment.tp
    return tuple(homes)


def large_table(gpus: int, columns: int, seed: int = 0) -> FleetTable:
    """About `gpus` GPUs of 4 types in 2 zones, 5 models, 9 classes and `columns` configurations."""
    random = Random(seed)
    types, zones, models = ("A", "B", "C", "D"), ("z0", "z1"), tuple(f"m{i}" for i in range(5))
    speed = dict(zip(types, (4.0, 2.0, 1.0, 0.6), strict=True))
    price = dict(zip(types, (4.0, 1.8, 1.0, 0.5), strict=True))
    each = gpus // (len(types) * len(zones) * 8)
    nodes = tuple(NodeGroup(t, z, 8, max(1, each)) for t in types for z in zones)
    classes = tuple(
        RequestClass(f"k{i}", models[i % 5], gpus * random.uniform(0.03, 0.08)) for i in range(9)
    )
    found = []
    for i in range(columns):
        model = models[i % 5]
        shape = tuple(
            Fragment(random.choice(types), random.choice((1, 2, 4, 8)))
            for _ in range(random.choice((1, 2, 2, 3)))
        )
        power = sum(speed[f.gpu] * f.tp**0.93 for f in shape) / (1 + 0.05 * len(shape))
        rates = {c.name: power * random.uniform(0.2, 0.4) for c in classes if c.model == model}
        cost = sum(price[f.gpu] * f.tp for f in shape)
        column = Column(f"c{i}", model, random.choice(zones), shape, rates, "both", cost)
        found.append(column)
    return FleetTable(classes, tuple(found), nodes, objective="goodput")


# What the planner adds to a table and `motley solve` does not read.
INTERNAL = frozenset(
    {
        "side_rows", "scenarios", "purchasable", "spread_models", "penalty_in_price",
        "held_replicas", "cordoned_nodes", "bought_nodes", "most_stopped", "start",
        "starts", "min_count", "pool_steps", "tier",
        "time_share", "kv_share",
    }
)  # fmt: skip


def as_json(table: FleetTable) -> dict[str, Any]:
    """The table as the JSON value that `motley solve` reads, without what it does not read."""
    value: dict[str, Any] = _public(asdict(table))
    for link in value["links"]:
        link["from"], link["to"] = link.pop("source"), link.pop("target")
    if value["previous"] is None:
        del value["previous"]
    return value


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (k for k, v in value.items() if k not in INTERNAL and (v or k != "flips_to"))
        return {k: _public(value[k]) for k in kept}
    if isinstance(value, tuple | list | frozenset | set):
        return [_public(v) for v in value]
    return value
