"""The tables on which strategies are compared: tiny random ones and structured ones of each kind.

Structured tables have GPU types that differ in compute, memory bandwidth and price, so that some are
better per dollar at long prompts and others at long outputs; every kind comes with several seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from motley_planner.domain.table import (
    CascadeDemand,
    CascadePolicy,
    Column,
    FleetTable,
    Fragment,
    Link,
    NodeGroup,
    Objective,
    Phase,
    Previous,
    RequestClass,
    RunningReplica,
    TableNode,
)
from motley_planner.formulations.program import has_demand
from motley_planner.testing.limited import limited_table
from motley_planner.testing.tables import large_table, tiny_table

OBJECTIVES: tuple[Objective, ...] = ("max_min", "goodput", "min_cost")
# Relative compute, memory bandwidth, and USD/h of a GPU: shaped after H100, A100, L40S and A40.
TYPES: dict[str, tuple[float, float, float]] = {
    "H": (3.3, 1.7, 3.0),
    "A": (1.0, 1.0, 1.75),
    "L": (1.1, 0.43, 0.83),
    "V": (0.48, 0.35, 0.55),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A table with a name that says what it is about."""

    name: str
    table: FleetTable


def cost_efficient_example() -> FleetTable:
    """The worked example of arXiv 2502.00722, section 4.2, as a max_min table.

    Rates are its request counts, so the scale a is 1 / makespan; the optimum is 1 / 28.4314.
    """
    types = {"t1": 4.0, "t2": 2.0, "t3": 2.0}
    specs: tuple[tuple[str, str, int, float, float], ...] = (
        ("c1", "t1", 1, 1.0, 1.2),
        ("c2", "t2", 1, 0.9, 0.9),
        ("c3", "t3", 1, 0.3, 0.5),
        ("c4", "t2", 2, 2.4, 1.5),
    )
    return FleetTable(
        classes=(RequestClass("w1", "m", 80.0), RequestClass("w2", "m", 20.0)),
        columns=tuple(
            Column(
                name,
                "m",
                "z",
                (Fragment(gpu, tp),),
                {"w1": first, "w2": second},
                price_usd_per_hour=tp * types[gpu],
            )
            for name, gpu, tp, first, second in specs
        ),
        nodes=tuple(NodeGroup(gpu, "z", 2, 1) for gpu in types),
        objective="max_min",
        budget_usd_per_hour=8.0,
        relative_gap=1e-9,
    )


def mixed_pool(seed: int, objective: Objective, nodes_each: int = 3) -> FleetTable:
    """Two models, four classes, four priced GPU types, a budget for about half of the fleet."""
    random = Random(seed)
    classes = _classes(random, ("s", "l"), 6.0 * nodes_each)
    columns = _columns(random, classes, ("z0",), ("both",))
    nodes = tuple(NodeGroup(g, "z0", 8, random.randint(1, 2 * nodes_each)) for g in TYPES)
    whole = sum(8 * (n.count or 0) * TYPES[n.gpu][2] for n in nodes)
    budget = None if objective == "min_cost" else round(whole * random.uniform(0.3, 0.7), 2)
    return FleetTable(classes, columns, nodes, objective=objective, budget_usd_per_hour=budget)


def split_phases(seed: int, objective: Objective, link_bytes_per_s: float = 5e9) -> FleetTable:
    """Prefill, decode and colocated columns in two zones with a link between them."""
    random = Random(seed)
    classes = tuple(
        replace(c, kv_bytes=random.choice((0.2e9, 0.6e9))) for c in _classes(random, ("s",), 14.0)
    )
    columns = _columns(random, classes, ("z0", "z1"), ("both", "prefill", "decode"))
    nodes = tuple(
        NodeGroup(g, z, 8, 1) for g, z in zip(TYPES, ("z0", "z0", "z1", "z1"), strict=True)
    )
    links = tuple(Link(a, b, link_bytes_per_s) for a, b in (("z0", "z1"), ("z1", "z0")))
    budget = None if objective == "min_cost" else 40.0
    return FleetTable(
        classes, columns, nodes, links=links, objective=objective, budget_usd_per_hour=budget
    )


def cascade_fleet(seed: int, objective: Objective, *, mixture: bool, types: int = 2) -> FleetTable:
    """A cascade of three models over a grid of threshold policies, beside a plain class."""
    random = Random(seed)
    models = ("small", "middle", "large")
    own = RequestClass("chat", "small", random.uniform(1.0, 3.0))
    classes = (own, *(RequestClass(f"stage-{m}", m, 0.0) for m in models))
    columns = _columns(random, classes, ("z0",), ("both",), gpus=tuple(TYPES)[:types])
    policies = []
    for i in range(6):
        for j in range(6):
            second, third = i / 5, i / 5 * j / 5
            quality = 0.70 + 0.15 * second**0.7 + 0.10 * third**0.7
            load = {"stage-small": 1.0, "stage-middle": second, "stage-large": third}
            policies.append(CascadePolicy(f"p{i}{j}", round(quality, 4), load))
    cascade = CascadeDemand(
        "support", random.uniform(5.0, 9.0), random.choice((0.80, 0.85)), tuple(policies), mixture
    )
    nodes = tuple(NodeGroup(g, "z0", 8, 4) for g in tuple(TYPES)[:types])
    return FleetTable(classes, columns, nodes, cascades=(cascade,), objective=objective)


def after_a_loss(seed: int, objective: Objective, nodes_each: int = 4) -> FleetTable:
    """A filled fleet of which one node in eight (at least one) is gone; moves have a price."""
    random = Random(seed)
    table = replace(mixed_pool(seed, objective, nodes_each), budget_usd_per_hour=None)
    nodes = [
        TableNode(f"{g.gpu}-{i}", g.gpu, g.zone, g.gpus)
        for g in table.nodes
        for i in range(g.count or 0)
    ]
    free = {n.name: n.gpus for n in nodes}
    replicas: list[RunningReplica] = []
    for _ in range(40 * len(nodes)):
        column = random.choice(table.columns)
        homes = _homes(column, nodes, free)
        if homes is not None:
            replicas.append(RunningReplica(f"r{len(replicas)}", column.id, homes))
    lost = frozenset(n.name for n in random.sample(nodes, max(1, len(nodes) // 8)))
    return replace(
        table,
        previous=Previous(tuple(nodes), tuple(replicas)),
        lost_nodes=lost,
        penalty_per_started_gpu=0.0005 if objective != "min_cost" else 0.05,
        penalty_per_stopped_gpu=0.0001 if objective != "min_cost" else 0.01,
    )


def _homes(column: Column, nodes: list[TableNode], free: dict[str, int]) -> tuple[str, ...] | None:
    taken: list[tuple[str, int]] = []
    for fragment in column.fragments:
        fitting = [
            n.name
            for n in nodes
            if (n.gpu, n.zone) == (fragment.gpu, column.zone) and free[n.name] >= fragment.tp
        ]
        if not fitting:
            for name, gpus in taken:
                free[name] += gpus
            return None
        best = min(fitting, key=lambda name: (free[name], name))
        free[best] -= fragment.tp
        taken.append((best, fragment.tp))
    return tuple(name for name, _ in taken)


def _classes(random: Random, models: tuple[str, ...], total: float) -> tuple[RequestClass, ...]:
    parts = [random.uniform(0.5, 1.5) for _ in range(2 * len(models))]
    return tuple(
        RequestClass(
            f"{model}-{kind}",
            model,
            round(total * part / sum(parts), 3),
            weight=random.choice((1.0, 2.0)),
        )
        for (model, kind), part in zip(
            ((m, k) for m in models for k in ("read", "write")), parts, strict=True
        )
    )


def _columns(
    random: Random,
    classes: tuple[RequestClass, ...],
    zones: tuple[str, ...],
    phases: tuple[Phase, ...],
    gpus: tuple[str, ...] = tuple(TYPES),
) -> tuple[Column, ...]:
    """Every TP of every type, and pipelines over two types, for each model, zone and phase."""
    shapes: list[tuple[tuple[str, int], ...]]
    shapes = [((g, tp),) for g in gpus for tp in (1, 2, 4, 8)]
    shapes += [((a, 4), (b, 4)) for a in gpus for b in gpus if a < b]
    found = []
    for model in dict.fromkeys(c.model for c in classes):
        size = {"s": 1.0, "small": 1.0, "middle": 2.0}.get(model, 4.0)
        for zone in zones:
            for shape in shapes:
                if sum(tp for _, tp in shape) < size:
                    continue
                for phase in phases:
                    mine = [c for c in classes if c.model == model]
                    found.append(_column(random, (model, zone, phase), shape, mine, size))
    return tuple(replace(c, id=f"c{i}-{c.id}") for i, c in enumerate(found))


def _column(
    random: Random,
    kind: tuple[str, str, Phase],
    shape: tuple[tuple[str, int], ...],
    classes: list[RequestClass],
    size: float,
) -> Column:
    model, zone, phase = kind
    pipeline = 0.9 if len(shape) > 1 else 1.0
    compute = pipeline * sum(TYPES[g][0] * tp**0.9 for g, tp in shape) / size
    memory = pipeline * sum(TYPES[g][1] * tp**0.95 for g, tp in shape) / size
    rates = {}
    for request_class in classes:
        reads = 0.6 if request_class.name.endswith("read") else 0.2
        prefill, decode = reads / compute, (0.8 - reads) / memory
        busy = {"both": 1.15 * (prefill + decode), "prefill": prefill, "decode": decode}[phase]
        rates[request_class.name] = round(random.uniform(0.9, 1.1) / busy, 4)
    return Column(
        f"{model}-{zone}-{phase}",
        model,
        zone,
        tuple(Fragment(g, tp) for g, tp in shape),
        rates,
        phase,
        round(sum(TYPES[g][2] * tp for g, tp in shape), 4),
    )


KINDS: dict[str, Callable[[int, Objective], FleetTable]] = {
    "mixed pool": mixed_pool,
    "prefill and decode": split_phases,
    "cascade, mixture": lambda s, o: cascade_fleet(s, o, mixture=True),
    "cascade, one policy": lambda s, o: cascade_fleet(s, o, mixture=False),
    "one GPU type": lambda s, o: cascade_fleet(s, o, mixture=False, types=1),
    "after a loss": after_a_loss,
}


def structured_cases(seeds: int = 2, time_limit_s: float = 10.0) -> tuple[Case, ...]:
    """Every kind with every objective and `seeds` seeds, the published example, a larger table."""
    found = [Case("cost-efficiency example", cost_efficient_example())]
    for kind, make in KINDS.items():
        for objective in OBJECTIVES:
            for seed in range(seeds):
                table = replace(make(seed, objective), time_limit_s=time_limit_s)
                found.append(Case(f"{kind}, {objective}, seed {seed}", table))
    for objective in OBJECTIVES:
        table = replace(large_table(128, 120), objective=objective, time_limit_s=time_limit_s)
        found.append(Case(f"128 GPUs, {objective}", table))
    return tuple(found)


def tiny_cases(first: int, last: int) -> tuple[Case, ...]:
    """Random tiny tables by seed; tables without a largest scale are left out."""
    found = []
    for seed in range(first, last):
        table = tiny_table(seed)
        if table.objective == "max_min" and not has_demand(table):
            continue
        found.append(Case(f"tiny {seed}", table))
    return tuple(found)


def limited_cases(first: int, last: int) -> tuple[Case, ...]:
    """Tiny tables with the limits that only the fleet planner sets."""
    found = [Case(f"limited {seed}", limited_table(seed)) for seed in range(first, last)]
    return tuple(c for c in found if c.table.objective != "max_min" or has_demand(c.table))


def corpus(seeds: int = 2, tiny: int = 60) -> tuple[Case, ...]:
    """The whole test corpus."""
    return (*tiny_cases(0, tiny), *limited_cases(0, tiny), *structured_cases(seeds))
