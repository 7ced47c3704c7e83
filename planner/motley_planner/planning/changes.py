"""Changes that a person asks about: "+1 H100", "lose a100-80-2", "support budget +5".

    +2 GPU[@ZONE]             nodes like the most common one of that GPU join
    -1 GPU[@ZONE]             the fullest such node is lost
    lose NODE                 the named node is lost
    budget +5 | =60           the fleet's USD/h
    NAME FIELD +V | -V | =V   one resource; FIELD is one of FIELDS

A GPU is a catalog id or the beginning of one ("H100", "h100-node"); a NAME is a resource's name, or
"namespace/name", or its whole key. "+20%" is relative; times take ms or s; a point of the quality
floor is written 1pt or 1%.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from motley_planner.domain.demand import Demand, RlDemand, ServingDemand, Slo
from motley_planner.domain.hardware import Node
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import SnapshotError

FIELDS = ("rate", "budget", "gpus", "ttft", "tpot", "e2e", "floor", "headroom")

MOST = 1e12  # of an amount, in the unit of its field
MOST_DIGITS = 5  # of a number of nodes
_NODES = re.compile(r"([+-])(\d+)\s+(\S+?)(?:-nodes?)?(?:@(\S+))?", re.IGNORECASE)
_VALUE = re.compile(r"([+\-=])\s*\$?(\d+(?:\.\d+)?)\s*(ms|s|%|pt|)")
_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "%": 0.01, "pt": 0.01}


@dataclass(frozen=True, slots=True)
class Amount:
    """A new value, or a difference to the old one; `relative` = times the old one."""

    sign: str  # + | - | =
    value: float
    relative: bool = False

    def of(self, old: float) -> float:
        """The value after the change, never below zero."""
        if self.sign == "=":
            return self.value
        step = self.value * (abs(old) if self.relative else 1.0)
        return max(0.0, old + (step if self.sign == "+" else -step))


def changed(snapshot: Snapshot, text: str) -> Snapshot:
    """The snapshot after the change that `text` describes.

    Raises: SnapshotError that names the text, what is wrong with it, and what there is.
    """
    words = text.split()
    if found := _NODES.fullmatch(text.strip()):
        sign, count, gpu, zone = found.groups()
        if len(count) > MOST_DIGITS:
            rule = f"more than {10**MOST_DIGITS - 1:,} nodes at once; write fewer"
            raise SnapshotError(f"change {text[:40]!r}", rule)
        nodes = _nodes_of(snapshot, text, gpu, zone)
        if sign == "+":
            return _with_nodes(snapshot, nodes, int(count))
        return _without(snapshot, _fullest(snapshot, text, nodes, int(count)))
    if len(words) == 2 and words[0] == "lose":
        if words[1] not in {node.name for node in snapshot.nodes}:
            raise SnapshotError(f"change {text!r}", f"no node {words[1]!r}")
        return _without(snapshot, {words[1]})
    if len(words) >= 2 and words[0] == "budget":
        return _with_fleet_budget(snapshot, text, "".join(words[1:]))
    if len(words) >= 3 and words[1] in FIELDS:
        demand = _demand(snapshot, text, words[0])
        return _with_demand(snapshot, _edited(demand, text, words[1], "".join(words[2:])))
    raise SnapshotError(
        f"change {text!r}",
        "is not understood; write '+1 GPU', '-1 GPU', 'lose NODE', 'budget +5' or 'NAME FIELD +VALUE' "
        f"with FIELD one of {', '.join(FIELDS)}",
    )


def _amount(text: str, written: str, *, relative_percent: bool) -> Amount:
    found = _VALUE.fullmatch(written)
    if found is None:
        raise SnapshotError(
            f"change {text!r}", f"{written!r} is no amount; write +5, -10%, =400ms or -1pt"
        )
    sign, number, unit = found.groups()
    relative = unit == "%" and relative_percent and sign != "="
    value = float(number) * _UNITS[unit]
    if value > MOST:
        raise SnapshotError(f"change {text!r}", f"the amount is over {MOST:g}; write less")
    return Amount(sign, value, relative)


def _nodes_of(snapshot: Snapshot, text: str, gpu: str, zone: str | None) -> list[Node]:
    known = sorted({node.node_class.gpu for node in snapshot.nodes})
    exact = [name for name in known if name.casefold() == gpu.casefold()]
    meant = exact or [name for name in known if name.casefold().startswith(gpu.casefold())]
    if len(meant) != 1:
        problem = f"several GPUs begin so: {', '.join(meant)}" if meant else "no such GPU"
        raise SnapshotError(f"change {text!r}", f"{problem}; the fleet has {', '.join(known)}")
    nodes = [node for node in snapshot.nodes if node.node_class.gpu == meant[0]]
    nodes = [node for node in nodes if zone is None or node.node_class.zone == zone]
    if not nodes:
        raise SnapshotError(f"change {text!r}", f"no {meant[0]} node in zone {zone!r}")
    return nodes


def _with_nodes(snapshot: Snapshot, like: list[Node], count: int) -> Snapshot:
    """Copies of the most common node, empty as it would join."""
    counted = Counter((node.node_class, node.total_gpus) for node in like)
    node_class, gpus = min(counted, key=lambda kind: (-counted[kind], kind[0].id))
    model = max(
        (n for n in like if (n.node_class, n.total_gpus) == (node_class, gpus)),
        key=lambda n: (n.cpu_milli, n.memory_bytes, n.pods),
    )
    taken = {node.name for node in snapshot.nodes}
    free = (f"new-{number}" for number in range(1, len(taken) + count + 1))
    names = [name for name in free if name not in taken][:count]
    joined = (replace(model, name=name, gpus=gpus, cordoned=False) for name in names)
    return replace(snapshot, nodes=(*snapshot.nodes, *joined))


def _fullest(snapshot: Snapshot, text: str, nodes: list[Node], count: int) -> set[str]:
    if count > len(nodes):
        raise SnapshotError(f"change {text!r}", f"the fleet has only {len(nodes)} such nodes")
    held: Counter[str] = Counter()
    for unit in snapshot.running:
        for rank, name in enumerate(unit.nodes):
            held[name] += unit.gpus_on(rank)
    return {n.name for n in sorted(nodes, key=lambda n: (-held[n.name], n.name))[:count]}


def _without(snapshot: Snapshot, lost: set[str]) -> Snapshot:
    """Steady, as the operator plans after a loss: only service may move what is left."""
    return replace(
        snapshot,
        steady=True,
        nodes=tuple(node for node in snapshot.nodes if node.name not in lost),
        running=tuple(unit for unit in snapshot.running if not lost.intersection(unit.nodes)),
    )


def _with_fleet_budget(snapshot: Snapshot, text: str, written: str) -> Snapshot:
    old = snapshot.budget_usd_per_hour
    amount = _amount(text, written, relative_percent=True)
    if old is None and amount.sign != "=":
        raise SnapshotError(f"change {text!r}", "the fleet has no budget; write 'budget =60'")
    return replace(snapshot, budget_usd_per_hour=amount.of(old or 0.0))


def _demand(snapshot: Snapshot, text: str, name: str) -> Demand:
    found = [d for d in snapshot.demands if d.key == name or d.key.endswith(f"/{name}")]
    if len(found) != 1:
        known = ", ".join(d.key for d in snapshot.demands) or "none"
        problem = "several resources have this name" if found else f"no resource {name!r}"
        raise SnapshotError(f"change {text!r}", f"{problem}; there are: {known}")
    return found[0]


def _with_demand(snapshot: Snapshot, new: Demand) -> Snapshot:
    services = tuple(
        new if isinstance(new, ServingDemand) and old.key == new.key else old
        for old in snapshot.services
    )
    jobs = tuple(
        new if isinstance(new, RlDemand) and old.key == new.key else old for old in snapshot.jobs
    )
    edited = snapshot.edited | {new.key}
    return replace(snapshot, services=services, jobs=jobs, edited=edited)


def _edited(demand: Demand, text: str, field: str, written: str) -> Demand:
    relative = field not in ("floor", "headroom")
    amount = _amount(text, written, relative_percent=relative)
    if field in ("budget", "gpus"):
        return _with_budget(demand, text, field, amount)
    if not isinstance(demand, ServingDemand):
        raise SnapshotError(f"change {text!r}", f"an RLJob has no {field}; it has budget and gpus")
    editors: dict[str, Callable[[], ServingDemand]] = {
        "rate": lambda: replace(demand, requests_per_second=amount.of(demand.requests_per_second)),
        "headroom": lambda: replace(demand, headroom=min(0.95, amount.of(demand.headroom))),
        "floor": lambda: _with_floor(demand, text, amount),
    }
    if field in editors:
        return editors[field]()
    return replace(demand, slo=_with_target(demand.slo, text, field, amount))


def _with_budget(demand: Demand, text: str, field: str, amount: Amount) -> Demand:
    budget = demand.budget
    old: float | None = budget.usd_per_hour if field == "budget" else budget.gpus
    if old is None and amount.sign != "=":
        raise SnapshotError(f"change {text!r}", f"{demand.key} has no limit here; write '=VALUE'")
    new = amount.of(old or 0.0)
    if field == "budget":
        return replace(demand, budget=replace(budget, usd_per_hour=new))
    return replace(demand, budget=replace(budget, gpus=round(new)))


def _with_floor(demand: ServingDemand, text: str, amount: Amount) -> ServingDemand:
    if not demand.policies:
        raise SnapshotError(f"change {text!r}", f"{demand.key} is no cascade: it has no floor")
    return replace(demand, quality_floor=min(1.0, amount.of(demand.quality_floor)))


def _with_target(slo: Slo, text: str, field: str, amount: Amount) -> Slo:
    """Every percentile of one latency target, moved together."""
    table = {"ttft": slo.ttft_s, "tpot": slo.tpot_s, "e2e": slo.e2e_s}[field]
    if not table:
        raise SnapshotError(f"change {text!r}", f"there is no {field} target to change")
    moved = {percentile: amount.of(limit_s) for percentile, limit_s in table.items()}
    if min(moved.values()) <= 0.0:
        raise SnapshotError(f"change {text!r}", "a target must be above 0; write '=VALUE'")
    if field == "ttft":
        return replace(slo, ttft_s=moved)
    return replace(slo, tpot_s=moved) if field == "tpot" else replace(slo, e2e_s=moved)
