"""Who sits on which node, decided beside how many: for small fleets whose promise falls short.

Theory of operation. In the fleet's table nodes of a class are alike, so a scenario can only guess
what goes with one of them. Here each node is a class of its own and each configuration has a copy
on each node that it fits; the loss of a node then is the loss of its copies, exactly. All else
stays as it is: what the plan before keeps goes on, and other resources get no dearer, nor, where
anything runs, more replicas than there, though on other nodes if that helps. Of configurations that
serve a class on the same GPUs only the best few are there. Replicas of one configuration on several
nodes count as pools of their own, which they are not, so capacity is understated and never
overstated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.solution import Rate, ReplicaCount, Solution
from motley_planner.domain.table import (
    Column,
    FleetTable,
    Fragment,
    Previous,
    Scenario,
    SideRow,
    TableNode,
)
from motley_planner.planning.limits import demand_names

MOST_ENTRIES = 20_000  # copies x scenarios; beyond, the program is no small one
MOST_ALIKE, LEAST_SHARE = 4, 0.5  # columns for one class and GPU, and the worst beside the best
DEARER = 0.05  # of a model's price, for the promise of another
MOST_LOSSES = 120  # sets of nodes of one resource


@dataclass(frozen=True, slots=True)
class NodeTable:
    """The table with a copy of each column for each place, and what the copies are copies of."""

    table: FleetTable
    columns: Mapping[str, str]  # copy -> column

    def read_back(self, solution: Solution) -> Solution | None:
        """The solution in words of the table it came from; None where it breaks a least count."""
        of = self.columns
        counts: Counter[str] = Counter()
        for replicas in solution.replicas:
            counts[of[replicas.column]] += replicas.count
        rates: dict[tuple[str, str], float] = defaultdict(float)
        for rate in solution.rates:
            rates[of[rate.column], rate.request_class] += rate.requests_per_second
        least = {of[c.id]: c.min_count for c in self.table.columns}
        if any(0 < n < least[column] for column, n in counts.items()):
            return None
        return replace(
            solution,
            replicas=tuple(ReplicaCount(c, n) for c, n in sorted(counts.items())),
            rates=tuple(Rate(c, k, rate) for (c, k), rate in sorted(rates.items())),
            placement=tuple(replace(p, column=of[p.column]) for p in solution.placement),
        )


def node_table(
    table: FleetTable, services: Sequence[ServingDemand], plan: Solution
) -> NodeTable | None:
    """The table of nodes for improving `plan`; None where it would not be small.

    The table's own scenarios, which speak of no columns, are kept. Resources that are not
    protected get no dearer than in `plan`, and beside what runs no more replicas.
    """
    assert table.previous is not None
    if table.purchasable:
        return None
    models = {f"{s.key}/{stage.name}" for s in services for stage in s.stages}
    places = _places(table, plan)
    copies = {c.id: [_copy(c, at) for at in sorted(places[c.id])] for c in table.columns}
    own = {c.id: tuple(copy.id for copy in copies[c.id]) for c in table.columns}
    losses = [s for service in services for s in _losses(table, service, places)]
    number = sum(len(each) for each in copies.values())
    if not losses or len(losses) * number > MOST_ENTRIES:
        return None
    most = {c.id: c.max_count for c in table.columns}
    counts = Counter(p.column for p in plan.placement)
    others = [c for c in table.columns if c.model not in models]
    if table.previous.replicas:
        most |= {c.id: counts[c.id] for c in others}
    kept = frozenset(p.kept for p in plan.placement if p.kept is not None)
    there = [n for n in table.previous.nodes if n.name not in table.lost_nodes]
    running = tuple(
        replace(
            r,
            column=_name(r.column, r.nodes),
            flips_to=tuple(_name(column, r.nodes) for column in r.flips_to),
        )
        for r in table.previous.replicas
        if not set(r.nodes) & table.lost_nodes
    )
    made = replace(
        table,
        columns=tuple(copy for each in copies.values() for copy in each),
        side_rows=(
            *(_row_over(row, own) for row in table.side_rows),
            *_most_rows(own, most),
            *_price_rows(own, others, counts),
        ),
        scenarios=(*table.scenarios, *losses),
        purchasable=(),
        spread_models=frozenset(),
        previous=Previous(tuple(_alone(n) for n in there), running),
        lost_nodes=frozenset(),
        held_replicas=kept,
        start=tuple(replace(p, column=_name(p.column, p.nodes)) for p in plan.placement),
        starts=(),
    )
    return NodeTable(made, {copy: c for c, each in own.items() for copy in each})


def _name(column: str, nodes: tuple[str, ...]) -> str:
    return f"{column} on {'+'.join(nodes)}"


def _alone(node: TableNode) -> TableNode:
    return replace(node, gpu=f"{node.gpu} of {node.name}")


def _places(table: FleetTable, plan: Solution) -> dict[str, set[tuple[str, ...]]]:
    """By column, where copies may be: where the plan or what runs has it, and whole on one node."""
    assert table.previous is not None
    found: dict[str, set[tuple[str, ...]]] = {c.id: set() for c in table.columns}
    there = [(p.column, p.nodes) for p in plan.placement]
    there += [(r.column, r.nodes) for r in table.previous.replicas]
    for name, at in there:
        if not set(at) & table.lost_nodes:
            found[name].add(at)
    gone = table.lost_nodes | table.cordoned_nodes
    nodes = [n for n in table.previous.nodes if n.name not in gone]
    able = _able(table)
    for column in table.columns:
        if column.id in able or found[column.id]:
            gpus = {f.gpu for f in column.fragments}
            whole = (n for n in nodes if {n.gpu} == gpus and n.zone == column.zone)
            here = [n.name for n in whole if n.gpus >= column.gpus]
            found[column.id] |= {(name,) * len(column.fragments) for name in here}
    return found


def _able(table: FleetTable) -> set[str]:
    """Columns that serve a class not much worse than the best on the same GPUs, by GPU taken."""
    by_use: dict[tuple[object, ...], list[tuple[float, str]]] = defaultdict(list)
    for column in table.columns:
        gpus = frozenset((f.gpu, column.zone) for f in column.fragments)
        for name, rate in column.requests_per_second.items():
            by_use[gpus, name, column.phase].append((rate / column.gpus, column.id))
    found: set[str] = set()
    for uses in by_use.values():
        best = max(uses)[0]
        found |= {c for rate, c in sorted(uses)[-MOST_ALIKE:] if rate >= LEAST_SHARE * best}
    return found


def _copy(column: Column, nodes: tuple[str, ...]) -> Column:
    fragments = tuple(
        Fragment(f"{f.gpu} of {node}", f.tp, f.layers)
        for f, node in zip(column.fragments, nodes, strict=True)
    )
    return replace(column, id=_name(column.id, nodes), fragments=fragments, max_count=None)


def _most_rows(
    own: Mapping[str, Iterable[str]], most: Mapping[str, int | None]
) -> Iterable[SideRow]:
    """Copies together are no more than the column may have."""
    for column, limit in most.items():
        ones = dict.fromkeys(own[column], 1.0)
        if ones and limit is not None:
            yield SideRow(f"{column}|on all nodes", ones, at_most=float(limit))


def _price_rows(
    own: Mapping[str, Iterable[str]], others: Iterable[Column], counts: Mapping[str, int]
) -> Iterable[SideRow]:
    """No model that is not protected gets dearer than it is in the plan: nobody pays for another."""
    prices: dict[str, dict[str, float]] = defaultdict(dict)
    spent: dict[str, float] = defaultdict(float)
    for column in others:
        spent[column.model] += column.price_usd_per_hour * counts.get(column.id, 0)
        prices[column.model] |= dict.fromkeys(own[column.id], column.price_usd_per_hour)
    for model, each in prices.items():
        if each:
            most = spent[model] * (1.0 + DEARER)
            yield SideRow(f"{model}|price", each, at_most=most)


def _row_over(row: SideRow, own: Mapping[str, Iterable[str]]) -> SideRow:
    """The row with each column's amount on each of its copies."""
    return replace(
        row,
        per_replica={copy: v for c, v in row.per_replica.items() for copy in own[c]},
        per_rate={(copy, k): v for (c, k), v in row.per_rate.items() for copy in own[c]},
    )


def _losses(
    table: FleetTable, service: ServingDemand, places: Mapping[str, set[tuple[str, ...]]]
) -> Iterable[Scenario]:
    """One scenario for each set of nodes that may be lost; none where there are too many."""
    models = {f"{service.key}/{stage.name}" for stage in service.stages}
    mine = [(c.id, at) for c in table.columns if c.model in models for at in sorted(places[c.id])]
    nodes = sorted({name for _, at in mine for name in at})
    size = min(service.node_loss_tolerance, len(nodes))
    if not size or comb(len(nodes), size) > MOST_LOSSES:
        return
    for gone in combinations(nodes, size):
        lost = (_name(column, at) for column, at in mine if set(gone) & set(at))
        yield Scenario(
            f"{service.key}|node loss",
            demand_names(service),
            service.loss_share,
            thinned=dict.fromkeys(lost, 1.0),
        )
