"""Pods that wait for a node that an autoscaler adds: where they count, and for how long.

Theory of operation. A pod made for a node that is not there carries a claim (domain/claims.py) and
no pin. From the label alone follows where it counts, so that a restart changes nothing:

    bound                      on its node, like every other pod
    another of its claim is    on the same node: the pods of a claim share one, and no other claim's
    a fitting node is there    on that node: nothing but the claim can take it from the scheduler
    its time is not over yet   on a node "+shape/i" that is put among the nodes, cordoned
    its time is over           nowhere: it is no replica any more, and its shape is suspect

A shape whose labels lead to nodes with another GPU is suspect as well. A suspect shape is not on offer for a while that doubles with each failure. It is remembered in the
Fleet's status, and forgotten when a node of it came, or after a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from motley_operator.api import Fleet, FleetSpec, read
from motley_operator.api.fleetstatus import SuspectShape
from motley_operator.api.shapes import NodeShape
from motley_operator.domain.claims import (
    CLAIM,
    Suspicion,
    is_coming,
    node_of,
    number_of,
    shape_of,
)
from motley_operator.domain.facts import (
    ClusterFacts,
    Document,
    NodeFacts,
    PodFacts,
    Room,
    queues,
)
from motley_operator.domain.names import PRICE, key_of
from motley_operator.domain.notices import Notice, notice_of
from motley_operator.domain.purchases import REQUEST, live_requests, why_over
from motley_operator.translate.room import fits, held, is_engine, plus, room_left
from motley_planner.domain.hardware import Catalog

LEAST_PAUSE_S, LONGEST_PAUSE_S = 600.0, 7200.0  # that a suspect shape is not asked for
FORGET_S = 86_400.0
_PLENTY = 2**60


@dataclass(frozen=True, slots=True)
class Offers:
    """What is known of the shapes that may be bought."""

    suspects: tuple[Suspicion, ...] = ()
    overdue: frozenset[str] = frozenset()  # UIDs of pods whose time is over
    closed: frozenset[str] = frozenset()  # shapes that are not on offer now
    unserved: frozenset[str] = frozenset()  # of these: nobody here takes a request for them
    queued: frozenset[str] = frozenset()  # keys of resources that a queue may hold back
    there: Mapping[str, int] = field(
        default_factory=dict
    )  # nodes of each shape, coming ones included
    taken: Mapping[str, frozenset[int]] = field(default_factory=dict)  # numbers in use


def buying_shapes(fleet: FleetSpec) -> dict[str, NodeShape]:
    """Shapes for whose nodes pods are made, by name."""
    return {shape.name: shape for shape in fleet.shapes if shape.buys}


def with_claims(facts: ClusterFacts) -> ClusterFacts:
    """The facts with waiting pods where they count, and the nodes that are coming; idempotent."""
    fleet = read(facts.fleet)[0] if facts.fleet is not None else None
    shapes = buying_shapes(fleet.spec) if isinstance(fleet, Fleet) else {}
    if not shapes:
        return facts
    nodes = {node.name: _labeled(node, shapes.values()) for node in facts.nodes}
    facts = replace(facts, nodes=tuple(nodes.values()))
    claims = _claims(facts)
    places = _places(facts, claims, shapes)
    for name in sorted(set(places.values()) - nodes.keys()):
        nodes[name] = coming_node(name, shapes[shape_of(name)])
    pods = tuple(
        replace(pod, node=places.get(pod.labels[CLAIM])) if _waits(pod) else pod
        for pod in facts.pods
    )
    overdue = _overdue(facts, shapes)
    pods = tuple(replace(pod, node=None) if pod.uid in overdue else pod for pod in pods)
    return replace(facts, nodes=tuple(nodes[name] for name in sorted(nodes)), pods=pods)


def _waits(pod: PodFacts) -> bool:
    return CLAIM in pod.labels and is_engine(pod) and not pod.bound and not pod.terminal


def _claims(facts: ClusterFacts) -> dict[str, list[PodFacts]]:
    """Live pods by claim."""
    claims: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        if CLAIM in pod.labels and is_engine(pod) and not pod.terminal and not pod.deleting:
            claims.setdefault(pod.labels[CLAIM], []).append(pod)
    return dict(sorted(claims.items(), key=lambda item: (number_of(item[0]), item[0])))


def _places(
    facts: ClusterFacts,
    claims: Mapping[str, list[PodFacts]],
    shapes: Mapping[str, NodeShape],
) -> dict[str, str]:
    """The node of each claim that has waiting pods whose time is not over."""
    overdue, left = _overdue(facts, shapes), dict(room_left(facts))
    held_by = {p.node for pods in claims.values() for p in pods if p.bound}
    places: dict[str, str] = {}
    for claim, pods in claims.items():
        shape = shapes.get(shape_of(node_of(claim)))
        waiting = [pod for pod in pods if _waits(pod) and pod.uid not in overdue]
        if shape is None or not waiting:
            continue
        own = next((pod.node for pod in pods if pod.bound and pod.node in left), None)
        if own is None:
            free = {name: room for name, room in left.items() if name not in held_by}
            own = _fitting(facts.nodes, shape, waiting, free)
            held_by.add(own)
        places[claim] = own or node_of(claim)
    return places


def _fitting(
    nodes: Iterable[NodeFacts],
    shape: NodeShape,
    pods: Iterable[PodFacts],
    left: Mapping[str, Room],
) -> str | None:
    """A node that is there and takes all these pods."""
    need = Room()
    for pod in pods:
        need = plus(need, held(pod))
    for node in nodes:
        usable = node.ready and not node.unschedulable and _stays(node)
        if usable and shape.is_of(node.labels) and not is_coming(node.name) and node.name in left:
            room = left[node.name]
            # Pods that were put here by an earlier look at the same facts hold their room already.
            for pod in pods:
                room = plus(room, held(pod)) if pod.node == node.name else room
            if fits(need, room):
                return node.name
    return None


def _stays(node: NodeFacts) -> bool:
    """Whether nobody has announced that the node goes: one that is replaced takes no pod any more."""
    return notice_of(node) < Notice.LEAVING


def _labeled(node: NodeFacts, shapes: Iterable[NodeShape]) -> NodeFacts:
    """A young node gets its product label minutes after its GPUs; the shape says what it will be."""
    if node.gpu_label is not None or node.allocatable.gpus == 0:
        return node
    product = next((shape.gpu_product for shape in shapes if shape.is_of(node.labels)), None)
    return replace(node, gpu_label=product)


def coming_node(name: str, shape: NodeShape) -> NodeFacts:
    """A node that is asked for, as if it were there and closed to everything new."""
    cpu_milli, memory_bytes = int(shape.cpu.value * 1000), int(shape.memory.value)
    return NodeFacts(
        name=name,
        uid=name,
        labels=shape.node_labels,
        annotations={PRICE: str(shape.dollars_per_hour.usd)},
        taints=(),
        unschedulable=True,
        ready=True,
        not_ready_since=None,
        deleting=False,
        allocatable=Room(shape.gpus, cpu_milli, memory_bytes, _PLENTY, 110),
        gpu_resource="",
        gpu_label=shape.gpu_product,
    )


def _overdue(facts: ClusterFacts, shapes: Mapping[str, NodeShape]) -> frozenset[str]:
    """UIDs of the waiting pods whose time is over, or whose request for a node has come to nothing."""
    found, asked = set(), live_requests(facts)
    for pod in facts.pods:
        if _waits(pod) and not pod.deleting:
            shape = shapes.get(shape_of(node_of(pod.labels[CLAIM])))
            request = asked.get((key_of(pod.labels, pod.namespace), pod.labels[CLAIM]))
            vain = request is not None and bool(why_over(request))
            late = shape is not None and facts.now - pod.created_at >= shape.patience_s
            if shape is not None and (vain or late):
                found.add(pod.uid)
    return frozenset(found)


def offers(facts: ClusterFacts, fleet: FleetSpec, catalog: Catalog) -> Offers:
    """What is known of the Fleet's shapes that may be bought; `facts` are those `with_claims`."""
    shapes = buying_shapes(fleet)
    if not shapes:
        return Offers()
    overdue = _overdue(facts, shapes)
    blamed = _late(facts, overdue) | _mistaken(facts, shapes, catalog)
    suspects = _suspects(facts, shapes, blamed)
    asks = frozenset(name for name, shape in shapes.items() if shape.provision == REQUEST)
    unserved = asks if REQUEST not in facts.served else frozenset[str]()
    return Offers(
        suspects=suspects,
        overdue=overdue,
        closed=frozenset(s.shape for s in suspects if facts.now < s.until) | unserved,
        unserved=unserved,
        queued=frozenset(queues(facts)),
        there={name: _there(facts, shape) for name, shape in shapes.items()},
        taken={name: _numbers(facts, name) for name in shapes},
    )


def _there(facts: ClusterFacts, shape: NodeShape) -> int:
    """Nodes of a shape: those that stay, and those that are coming and not seen as such yet.

    One that is about to go is none of them, or where it is the last that may be there what runs on it
    could not be replaced, and an autoscaler that waits for these pods would never take it away.
    """
    busy = {pod.node for pod in facts.pods if is_engine(pod) and not pod.terminal}
    mine = [node.name for node in facts.nodes if shape.is_of(node.labels) and _stays(node)]
    coming = [name for name in mine if is_coming(name) and shape_of(name) == shape.name]
    real = [name for name in mine if not is_coming(name)]
    empty = sum(name not in busy for name in real)
    return len(real) + max(0, len(coming) - empty)


def _numbers(facts: ClusterFacts, shape: str) -> frozenset[int]:
    claims = {pod.labels[CLAIM] for pod in facts.pods if CLAIM in pod.labels}
    return frozenset(number_of(c) for c in claims if shape_of(node_of(c)) == shape)


def _late(facts: ClusterFacts, overdue: frozenset[str]) -> frozenset[str]:
    """Shapes of which no node came in time."""
    return frozenset(
        shape_of(node_of(claim))
        for claim, pods in _claims(facts).items()
        if not any(pod.bound for pod in pods) and any(pod.uid in overdue for pod in pods)
    )


def _mistaken(
    facts: ClusterFacts, shapes: Mapping[str, NodeShape], catalog: Catalog
) -> frozenset[str]:
    """Shapes whose labels led pods to nodes with another GPU: they would be made again and again."""
    products = {node.name: node.gpu_label for node in facts.nodes}
    found = set()
    for claim, pods in _claims(facts).items():
        shape = shapes.get(shape_of(node_of(claim)))
        for product in {products.get(p.node or "") for p in pods} - {None}:
            gpu = catalog.gpu_by_label(product or "")
            if shape is not None and gpu != catalog.gpu_by_label(shape.gpu_product):
                found.add(shape.name)
    return frozenset(found)


def _suspects(
    facts: ClusterFacts, shapes: Mapping[str, NodeShape], blamed: frozenset[str]
) -> tuple[Suspicion, ...]:
    """Shapes that failed, those of old as long as they are remembered."""
    came = [p for pods in _claims(facts).values() for p in pods if p.bound]
    found = []
    for name in shapes:
        row = _remembered(facts.fleet, name)
        if name in blamed and (row is None or facts.now >= row.until):
            failures = row.failures + 1 if row is not None else 1
            pause_s = min(LONGEST_PAUSE_S, LEAST_PAUSE_S * 2 ** min(failures - 1, 10))
            row = Suspicion(name, failures, facts.now, facts.now + pause_s)
        if row is None:
            continue
        mine = (p for p in came if shape_of(node_of(p.labels[CLAIM])) == name)
        over = name not in blamed and any(p.created_at > row.since for p in mine)
        over = over or facts.now - row.until > FORGET_S
        if facts.now < row.until or not over:
            found.append(row)
    return tuple(found)


def _remembered(fleet: Document | None, name: str) -> Suspicion | None:
    """What the Fleet's status says of a shape; nothing where somebody damaged it."""
    for written in ((fleet or {}).get("status") or {}).get("suspectShapes") or ():
        try:
            row = SuspectShape.model_validate(written)
            since, until = (datetime.fromisoformat(t).timestamp() for t in (row.since, row.until))
        except ValueError:
            continue
        if row.shape == name:
            return Suspicion(name, row.failures, since, until)
    return None
