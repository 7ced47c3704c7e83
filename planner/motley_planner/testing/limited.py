"""Tiny tables with the limits that only the fleet planner sets: rows on rates, pools, scenarios.

Each adds to `tiny_table(seed)`, which stays as it is, from a generator of its own.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from motley_planner.domain.table import (
    Column,
    FleetTable,
    NodeShape,
    PoolStep,
    Scenario,
    SideRow,
)
from motley_planner.testing.tables import GPUS, tiny_table


def limited_table(seed: int) -> FleetTable:
    """A tiny table with one or two of the internal limits."""
    random = Random(f"limited {seed}")
    table = tiny_table(seed)
    added = 0
    for chance, add in (
        (0.35, _with_rate_rows),
        (0.3, _with_guarantee),
        (0.3, _with_pools),
        (0.3, _with_scenarios),
        (0.5 if table.previous is not None else 0.0, _with_shapes),
    ):
        if random.random() < chance and added < 2:
            table = add(random, table)
            added += 1
    return table


def quota_table(seed: int) -> FleetTable:
    """A tiny table under quotas: pods, GPUs, cores and bytes of some of its models together."""
    random = Random(f"quota {seed}")
    table = tiny_table(seed)
    models = sorted({c.model for c in table.columns})
    rows = list(table.side_rows)
    for number in range(random.choice((1, 2, 3))):
        inside = set(random.sample(models, random.randint(1, len(models))))
        per_pod, per_gpu, hard = random.choice(
            (
                (1, 0, random.choice((0, 1, 2, 3))),
                (0, 1, random.choice((1, 2, 4))),
                (250, 4000, random.choice((3999, 8500, 17_000))),
                (0, 16 * 2**30, random.choice((16 * 2**30, 50 * 10**9, 64 * 2**30))),
            )
        )
        amounts = {
            c.id: float(sum(per_pod + per_gpu * f.tp for f in c.fragments))
            for c in table.columns
            if c.model in inside
        }
        rows.append(SideRow(f"quota|{number}", amounts, at_most=float(hard)))
    return replace(table, side_rows=tuple(rows))


def memory_table(seed: int) -> FleetTable:
    """A limited table whose columns have a row of KV memory beside the row of time."""
    random = Random(f"memory {seed}")
    table = limited_table(seed)
    columns = []
    for column in table.columns:
        time, kv = dict[str, float](), dict[str, float]()
        for name in column.requests_per_second:
            less = random.choice((0.1, 0.3, 0.6, 1.0))
            time[name], kv[name] = random.choice(((1.0, less), (less, 1.0)))
        columns.append(replace(column, time_share=time, kv_share=kv))
    return replace(table, columns=tuple(columns))


def _with_rate_rows(random: Random, table: FleetTable) -> FleetTable:
    """KV memory a column, or a share of the rate; sometimes a mix of policies."""
    rows = list(table.side_rows)
    column = random.choice(table.columns)
    able = [k for k, rate in column.requests_per_second.items() if rate > 0]
    kind = "policy" if table.cascades else random.choice(("memory", "share", "served"))
    if kind == "memory" and able:
        use = {(column.id, k): random.choice((0.5, 1.0, 2.0)) * 1e9 for k in able}
        rows.append(
            SideRow("memory", {column.id: -random.choice((0.7, 1.5)) * 1e9}, 0.0, None, use)
        )
    elif kind == "share":
        name, share = random.choice(table.classes).name, random.choice((0.3, 0.5, 0.8))
        terms = {
            (c.id, name): (1.0 if c is column else 0.0) - share
            for c in table.columns
            if c.requests_per_second.get(name, 0.0) > 0 and c.phase != "decode"
        }
        rows.append(SideRow("share", at_most=0.0, per_rate=terms))
    elif kind == "policy" and table.cascades:
        cascade = table.cascades[0]
        tiered = tuple(replace(p, tier=random.choice("ab")) for p in cascade.policies)
        cascade = replace(cascade, policies=tiered)
        table = replace(table, cascades=(cascade,))
        miss = {(cascade.name, p.id): random.choice((-0.05, -0.02, 0.04)) for p in cascade.policies}
        rows.append(SideRow("latency", at_most=0.0, per_policy=miss))
    else:
        served = {c.name: 1.0 for c in table.classes}
        rows.append(SideRow("served", at_least=random.choice((1.0, 3.0)), per_served=served))
    return replace(table, side_rows=tuple(rows))


def _with_guarantee(random: Random, table: FleetTable) -> FleetTable:
    """Minimums of one model's served rate and of another's GPUs, of different importance."""
    model = random.choice(table.columns).model
    gpus = {c.id: float(c.gpus) for c in table.columns if c.model == model}
    served = {c.name: random.choice((0.5, 1.0)) for c in table.classes if c.model != model}
    rows = (
        SideRow("minimum gpus", gpus, at_least=random.choice((2.0, 4.0))),
        SideRow(
            "guarantee",
            at_least=random.choice((1.0, 2.0)),
            per_served=served,
            importance=random.choice((1.0, 10.0)),
        ),
    )
    return replace(table, side_rows=(*table.side_rows, *rows))


def _with_pools(random: Random, table: FleetTable) -> FleetTable:
    columns = list(table.columns)
    at = random.randrange(len(columns))
    if random.random() < 0.5:
        columns[at] = replace(columns[at], min_count=random.choice((2, 3)))
    else:
        steps = (PoolStep(2, 1.2), PoolStep(3, 1.5))
        columns[at] = replace(columns[at], pool_steps=steps[: random.choice((1, 2))])
    return replace(table, columns=tuple(columns))


def _with_scenarios(random: Random, table: FleetTable) -> FleetTable:
    """More demand of one class, and the loss of some replicas of one column."""
    scenarios = []
    names = [c.name for c in table.classes if c.requests_per_second > 0]
    names += [c.name for c in table.cascades if c.requests_per_second > 0]
    if not names:
        return table
    for kind in random.choice((("more",), ("loss",), ("more", "loss"))):
        served = tuple(n for n in names if random.random() < 0.7) or (names[0],)
        factor = {n: random.choice((1.0, 1.3)) for n in served} if kind == "more" else {}
        lost, thinned = {}, dict[str, float]()
        if kind == "loss":
            column: Column = random.choice(table.columns)
            lost = {column.id: random.choice(((1, 1), (1, 2), (2, 2)))}
        if kind == "loss" and random.random() < 0.3:
            lost, thinned = {}, dict.fromkeys(lost, 1 / 3)
        share = random.choice((0.5, 1.0))
        scenarios.append(Scenario(random.choice(("a", "b")), served, share, factor, lost, thinned))
    return replace(table, scenarios=tuple(scenarios))


def _with_shapes(random: Random, table: FleetTable) -> FleetTable:
    zones = sorted({c.zone for c in table.columns})
    shape = NodeShape(
        name="big",
        gpu=random.choice(GPUS),
        zone=random.choice(zones),
        gpus=random.choice((2, 4)),
        count=1,
        price_usd_per_hour=random.choice((None, 1.0)),
        delay_usd_per_hour=0.0
        if table.budget_usd_per_hour is not None
        else random.choice((0.0, 0.3)),
    )
    return replace(table, purchasable=(shape,))
