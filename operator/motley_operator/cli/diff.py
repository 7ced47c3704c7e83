"""`motley diff OLD.json NEW.json`: what would start, stop and move, and what it costs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from motley_operator.cli.output import Row, columns, emit, money, plural
from motley_operator.cli.plan_file import PlanFile, read_plan, replicas
from motley_operator.cli.plan_table import node_list, replica_text
from motley_planner.domain.plan import PlannedReplica

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers

# A replica is the same when it would serve the same thing in the same way.
Kind = tuple[str, str, str, str, str, str, int, int, str]


@dataclass(frozen=True, slots=True)
class Change:
    """Replicas of one configuration that start, stop, or move from nodes to other nodes."""

    action: str  # start | stop | move | flip: the same replica in its other role
    key: str
    stage: str
    model: str
    gpu: str
    tensor_parallel: int
    before: tuple[str, ...]  # node names; empty for a start
    after: tuple[str, ...]  # empty for a stop
    what: str = ""  # the replica in short, e.g. "TP4 L40S"


@dataclass(frozen=True, slots=True)
class Difference:
    """What lies between two plans."""

    changes: tuple[Change, ...]
    kept: int
    old_usd_per_hour: float
    new_usd_per_hour: float

    def count(self, action: str) -> int:
        """Replicas that start, stop, move or change their role."""
        return sum(change.action == action for change in self.changes)


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "diff",
        help="what would start, stop and move between two plans",
        description="Compares two plans that `motley plan -o json` wrote.",
    )
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")


def run(args: argparse.Namespace) -> int:
    """Prints the difference; 0 with or without one."""
    found = difference(read_plan(args.old), read_plan(args.new))
    emit(args, found, lambda: render(found))
    return 0


def difference(old: PlanFile, new: PlanFile) -> Difference:
    """Replicas matched by configuration: first on the same nodes (kept), then as moves.

    One of the same name on the same nodes that differs in its phase alone has changed its role.
    """
    flips = _flips(old, new)
    before, after = _by_kind(old, flips), _by_kind(new, flips)
    changes: list[Change] = [*flips.values()]
    kept = 0
    for kind in sorted({*before, *after}):
        had, gets = before.get(kind, Counter()), after.get(kind, Counter())
        kept += (had & gets).total()
        gone, come = sorted((had - gets).elements()), sorted((gets - had).elements())
        paired = min(len(gone), len(come))
        changes += [_change("move", kind, *pair) for pair in zip(gone, come, strict=False)]
        changes += [_change("stop", kind, nodes, ()) for nodes in gone[paired:]]
        changes += [_change("start", kind, (), nodes) for nodes in come[paired:]]
    prices = old.plan.price_usd_per_hour, new.plan.price_usd_per_hour
    return Difference(tuple(changes), kept, *prices)


def _flips(old: PlanFile, new: PlanFile) -> dict[str, Change]:
    """Replicas that go on in their other role, by unit."""
    before, after = replicas(old.plan), replicas(new.plan)
    found: dict[str, Change] = {}
    for unit in sorted(before.keys() & after.keys()):
        had, gets, key = before[unit], after[unit], unit.rpartition("/")[0]
        same = _kind(key, replace(had, phase="both")) == _kind(key, replace(gets, phase="both"))
        if same and had.nodes == gets.nodes and {had.phase, gets.phase} == {"prefill", "decode"}:
            found[unit] = _change("flip", _kind(key, gets), had.nodes, gets.nodes)
    return found


def _by_kind(content: PlanFile, but: Collection[str]) -> dict[Kind, Counter[tuple[str, ...]]]:
    found: dict[Kind, Counter[tuple[str, ...]]] = {}
    for unit, one in replicas(content.plan).items():
        if unit not in but:
            key = unit.rpartition("/")[0]
            found.setdefault(_kind(key, one), Counter())[one.nodes] += 1
    return found


def _kind(key: str, one: PlannedReplica) -> Kind:
    return (
        key,
        one.stage,
        one.role,
        one.model,
        one.precision,
        one.gpu,
        one.tensor_parallel,
        one.operating_batch,
        replica_text(one),
    )


def _change(action: str, kind: Kind, before: tuple[str, ...], after: tuple[str, ...]) -> Change:
    key, stage, _, model, _, gpu, tensor_parallel, _, what = kind
    return Change(action, key, stage, model, gpu, tensor_parallel, before, after, what)


def render(found: Difference) -> str:
    """The difference as text; equal changes share a line."""
    price = found.new_usd_per_hour - found.old_usd_per_hour
    sign = "+" if price > 0 else "-" if price < 0 else ""
    flips = f", {number} change role" if (number := found.count("flip")) else ""
    title = (
        f"{plural(found.kept, 'replica')} kept, {found.count('start')} started, "
        f"{found.count('stop')} stopped, {found.count('move')} moved{flips} | "
        f"{money(found.old_usd_per_hour)} -> {money(found.new_usd_per_hour)} "
        f"({sign}{money(abs(price))})"
    )
    if not found.changes:
        return title
    rows: list[Row] = [("", "RESOURCE", "STAGE", "REPLICA", "FROM", "TO")]
    grouped: dict[tuple[str, ...], tuple[Counter[str], Counter[str]]] = {}
    for change in found.changes:
        kind = (change.action, change.key, change.stage, change.what)
        sources, targets = grouped.setdefault(kind, (Counter(), Counter()))
        sources.update(change.before)
        targets.update(change.after)
    for shared, (sources, targets) in grouped.items():
        rows.append((*shared, node_list(sources), node_list(targets)))
    return f"{title}\n\n{columns(rows, indent=2)}"
