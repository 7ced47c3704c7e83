"""The fleet table as JSON, exactly as `motley solve` reads it; answers are in solution_json.py.

Reading is strict (docs/reference/solve.md lists the fields): whatever contradicts itself is refused
with a SnapshotError that names the entry and the fix.
"""

from __future__ import annotations

from collections import Counter
from typing import get_args

from motley_planner.collection import no_collection
from motley_planner.column_json import QuickColumns
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
from motley_planner.errors import SnapshotError
from motley_planner.json_reader import Fields, check_known, check_unique, parse_object
from motley_planner.strategies.listing import STRATEGIES

MOST_PENALTY = 1e6  # more would hide what it is taken from
MOST_VISITS = 1e6  # of a class by one request; more would hide every other demand


def read_table(text: str, where: str = "table") -> FleetTable:
    """The table in a JSON text.

    Raises: SnapshotError naming the entry, the rule and a fix.
    """
    return read_request(text, where)[0]


def read_request(text: str, where: str = "table") -> tuple[FleetTable, str]:
    """The table in a JSON text, and the name of the strategy it asks for.

    Raises: SnapshotError naming the entry, the rule and a fix.
    """
    with no_collection():
        return _read_request(text, where)


def _read_request(text: str, where: str) -> tuple[FleetTable, str]:
    fields = parse_object(text, where)
    fields.where = ""
    previous = fields.object_or_null("previous")
    table = FleetTable(
        classes=fields.objects("classes", _request_class, []),
        columns=fields.objects("columns", _column, [], QuickColumns()),
        nodes=fields.objects("nodes", _node_group, []),
        links=fields.objects("links", _link, []),
        cascades=fields.objects("cascades", _cascade, []),
        objective=fields.choice("objective", get_args(Objective), "goodput"),
        budget_usd_per_hour=fields.number_or_null("budget_usd_per_hour"),
        previous=None if previous is None else _previous(previous),
        lost_nodes=frozenset(fields.texts("lost_nodes", [])),
        penalty_per_started_gpu=fields.number("penalty_per_started_gpu", 0.0, MOST_PENALTY),
        penalty_per_stopped_gpu=fields.number("penalty_per_stopped_gpu", 0.0, MOST_PENALTY),
        time_limit_s=fields.number("time_limit_s", 10.0),
        relative_gap=fields.number("relative_gap", 1e-4),
    )
    strategy = fields.choice("strategy", [s.name for s in STRATEGIES], "exact")
    fields.close()
    _check_names(table)
    _check_previous(table)
    return table, strategy


def _node_group(fields: Fields) -> NodeGroup:
    return NodeGroup(
        gpu=fields.text("gpu"),
        zone=fields.text("zone"),
        gpus=fields.integer("gpus"),
        count=fields.integer_or_null("count"),
        price_usd_per_hour=fields.number_or_null("price_usd_per_hour"),
    )


def _request_class(fields: Fields) -> RequestClass:
    return RequestClass(
        name=fields.text("name"),
        model=fields.text("model"),
        requests_per_second=fields.number("requests_per_second"),
        priority=fields.integer("priority", 0),
        weight=fields.number("weight", 1.0),
        kv_bytes=fields.number("kv_bytes", 0.0),
    )


def _fragment(fields: Fields) -> Fragment:
    tp = fields.integer("tp")
    if tp < 1 or tp & (tp - 1):
        raise SnapshotError(fields.at("tp"), f"{tp} is not a power of two; use 1, 2, 4, 8, ...")
    return Fragment(gpu=fields.text("gpu"), tp=tp, layers=fields.integer("layers", 0))


def _column(fields: Fields) -> Column:
    fragments = fields.objects("fragments", _fragment)
    if not fragments:
        raise SnapshotError(fields.at("fragments"), "is empty; a replica needs at least one")
    return Column(
        id=fields.text("id"),
        model=fields.text("model"),
        zone=fields.text("zone"),
        fragments=fragments,
        requests_per_second=fields.numbers("requests_per_second", {}),
        phase=fields.choice("phase", get_args(Phase), "both"),
        price_usd_per_hour=fields.number_or_null("price_usd_per_hour") or 0.0,
        max_count=fields.integer_or_null("max_count"),
        kv_scale=fields.number("kv_scale", 1.0),
        nic_bytes_per_second=fields.number_or_null("nic_bytes_per_second"),
    )


def _link(fields: Fields) -> Link:
    return Link(
        source=fields.text("from"),
        target=fields.text("to"),
        bytes_per_second=fields.number("bytes_per_second"),
    )


def _policy(fields: Fields) -> CascadePolicy:
    load = fields.numbers("load", {})
    for name, visits in load.items():
        if visits > MOST_VISITS:
            rule = f"{visits:g} visits per request are over {MOST_VISITS:g}; write visits"
            raise SnapshotError(f"{fields.at('load')}[{name!r}]", rule)
    return CascadePolicy(id=fields.text("id"), quality=fields.number("quality"), load=load)


def _cascade(fields: Fields) -> CascadeDemand:
    policies = fields.objects("policies", _policy)
    if not policies:
        raise SnapshotError(fields.at("policies"), "a cascade without policies; give it one")
    return CascadeDemand(
        name=fields.text("name"),
        requests_per_second=fields.number("requests_per_second"),
        quality_floor=fields.number("quality_floor", 0.0),
        policies=policies,
        mixture=fields.flag("mixture", True),
        priority=fields.integer("priority", 0),
        weight=fields.number("weight", 1.0),
    )


def _table_node(fields: Fields) -> TableNode:
    return TableNode(
        name=fields.text("name"),
        gpu=fields.text("gpu"),
        zone=fields.text("zone"),
        gpus=fields.integer("gpus"),
        price_usd_per_hour=fields.number_or_null("price_usd_per_hour"),
    )


def _running(fields: Fields) -> RunningReplica:
    return RunningReplica(
        id=fields.text("id"),
        column=fields.text("column"),
        nodes=fields.texts("nodes"),
        flips_to=fields.texts("flips_to", []),
    )


def _previous(fields: Fields) -> Previous:
    found = Previous(
        nodes=fields.objects("nodes", _table_node, []),
        replicas=fields.objects("replicas", _running, []),
    )
    fields.close()
    return found


def _check_names(table: FleetTable) -> None:
    models = {c.name: c.model for c in table.classes}
    demands = [c.name for c in table.classes] + [c.name for c in table.cascades]
    check_unique(demands, "classes and cascades")
    check_unique((c.id for c in table.columns), "columns")
    for column in table.columns:
        model = column.model
        if all(models.get(name) == model for name in column.requests_per_second):
            continue
        where = f"columns[{column.id!r}].requests_per_second"
        for name in column.requests_per_second:
            check_known(name, models, where, "class")
            if models[name] != column.model:
                rule = f"class {name!r} is of model {models[name]!r}, not {column.model!r}"
                raise SnapshotError(where, f"{rule}; remove it")
    for cascade in table.cascades:
        where = f"cascades[{cascade.name!r}].policies"
        check_unique((p.id for p in cascade.policies), where)
        for policy in cascade.policies:
            for name in policy.load:
                check_known(name, models, f"{where}[{policy.id!r}].load", "class")
    _check_links(table)


def _check_links(table: FleetTable) -> None:
    zones = {n.zone for n in table.nodes} | {c.zone for c in table.columns}
    if table.previous is not None:
        zones |= {n.zone for n in table.previous.nodes}
    check_unique((f"{link.source} to {link.target}" for link in table.links), "links")
    for i, link in enumerate(table.links):
        for zone in (link.source, link.target):
            check_known(zone, zones, f"links[{i}]", "zone")


def _check_previous(table: FleetTable) -> None:
    previous = table.previous or Previous()
    nodes = {n.name: n for n in previous.nodes}
    columns = {c.id: c for c in table.columns}
    check_unique((n.name for n in previous.nodes), "previous.nodes")
    check_unique((r.id for r in previous.replicas), "previous.replicas")
    for name in sorted(table.lost_nodes):
        check_known(name, nodes, "lost_nodes", "node")
    taken: Counter[str] = Counter()
    for replica in previous.replicas:
        where = f"previous.replicas[{replica.id!r}]"
        check_known(replica.column, columns, where, "column")
        column = columns[replica.column]
        if len(replica.nodes) != len(column.fragments):
            rule = f"names {len(replica.nodes)} nodes for {len(column.fragments)} fragments"
            raise SnapshotError(where, f"{rule}; name one node a fragment")
        for name, fragment in zip(replica.nodes, column.fragments, strict=True):
            check_known(name, nodes, where, "node")
            node = nodes[name]
            if (node.gpu, node.zone) != (fragment.gpu, column.zone):
                rule = f"node {name!r} is {node.gpu} in {node.zone}"
                raise SnapshotError(
                    where, f"{rule}; its fragment needs {fragment.gpu} in {column.zone}"
                )
            taken[name] += fragment.tp
        for name in replica.flips_to:
            check_known(name, columns, f"{where}.flips_to", "column")
            if columns[name].frame != column.frame:
                rule = f"{name!r} takes other GPUs, zone, price or model; remove it"
                raise SnapshotError(f"{where}.flips_to", rule)
    for name, gpus in taken.items():
        if gpus > nodes[name].gpus:
            rule = f"replicas take {gpus} of its {nodes[name].gpus} GPUs"
            raise SnapshotError(f"previous.nodes[{name!r}]", f"{rule}; remove one or add GPUs")
