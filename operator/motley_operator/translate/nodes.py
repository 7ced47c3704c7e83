"""Nodes as the planner sees them: GPU product, class, price, and whether anything may start there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from motley_operator.api.fleet import FleetSpec
from motley_operator.api.shapes import Toleration
from motley_operator.domain.claims import is_coming
from motley_operator.domain.facts import ClusterFacts, NodeFacts, Room, Taint
from motley_operator.domain.names import EXCLUDE, INSTANCE_TYPE, PRICE, TRUST_ZONE, ZONE
from motley_operator.domain.notices import NOTICES, Notice, notice_of
from motley_operator.domain.translation import NodeFigures, UnknownGpu
from motley_operator.settings import Settings
from motley_operator.translate.devices import gpus_by_driver, left_out, offered
from motley_operator.translate.running import is_lost
from motley_planner.domain.hardware import Catalog, Gpu, Node, NodeClass
from motley_planner.remembering import Memory, Same

# Tolerated by every engine pod: cloud providers put these on GPU nodes to keep other pods away.
GPU_TAINTS = ("nvidia.com/gpu", "amd.com/gpu")
# Mirrors of what the facts say by themselves (cordoned, not ready), or no bar to scheduling.
MIRRORED_TAINTS = (
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
)
_CAPACITY_LABELS = ("karpenter.sh/capacity-type", "eks.amazonaws.com/capacityType")
_CAPACITY_TYPES = {
    "spot": "spot",
    "on-demand": "on-demand",
    "on_demand": "on-demand",
    "reserved": "reserved",
    "capacity_block": "reserved",
    "capacity-block": "reserved",
}
# Of nodes as facts, which are replaced and never edited, and of what is asked of them all.
_SITES: Memory[Site] = Memory(16_384)
_ASKED: Memory[object] = Memory(1)


@dataclass(frozen=True, slots=True)
class Wish:
    """What one resource says about nodes: labels they must have, taints its pods tolerate."""

    key: str
    selectors: tuple[Mapping[str, str], ...] = ()
    tolerations: tuple[tuple[Mapping[str, str], ...], ...] = ((),)  # by stage


@dataclass(frozen=True, slots=True)
class Site:
    """A usable node, its GPU, and the pieces that a planner Node is made of."""

    facts: NodeFacts
    gpu: Gpu
    node_class: NodeClass
    cordoned: bool
    bought: bool = False  # one of a shape for which pods are made

    @property
    def coming(self) -> bool:
        """Whether the node is only asked for."""
        return is_coming(self.facts.name)

    @property
    def waits(self) -> bool:
        """Whether the node is not ready and not lost yet: what runs there goes on, nothing starts."""
        return not (self.facts.ready or self.cordoned)


@dataclass(frozen=True, slots=True)
class Survey:
    """All usable nodes, and the GPU products that nobody knows."""

    sites: tuple[Site, ...]
    unknown: tuple[UnknownGpu, ...]

    @property
    def there(self) -> tuple[Site, ...]:
        """Without those that are only asked for."""
        return tuple(site for site in self.sites if not site.coming)


def survey(
    facts: ClusterFacts,
    catalog: Catalog,
    fleet: FleetSpec,
    settings: Settings,
    wishes: Sequence[Wish],
) -> Survey:
    """The nodes that are there and have a known GPU.

    A node that the fleet leaves out (label `motley.dev/exclude`, node selector) stays as a
    cordoned one: what runs there goes on, nothing starts; so does one that is not ready and not
    lost yet. One that is leaving is left out altogether:
    what runs there has to be replaced (`changes` lets it serve until then).
    """
    sites = []
    alike = _alike(wishes)
    asked = _ASKED.get("", (fleet, alike), object)
    unknown = Counter[tuple[str, str]]()  # nodes by product and reason
    drivers = gpus_by_driver(facts.slices)
    for node in sorted(facts.nodes, key=lambda each: each.name):
        if is_lost(node, facts.now, settings.node_loss_seconds):
            continue
        if notice_of(node) >= Notice.LEAVING:
            continue
        refused = left_out(node, drivers.get(node.name, {}))
        unknown.update(refused)
        if node.gpu_resource is None and (node.gpu_label is None or refused):
            continue
        found = catalog.gpu_by_label(node.gpu_label or "")
        if not isinstance(found, Gpu):
            product = node.gpu_label or f"({node.gpu_resource} without a product label)"
            unknown[product, found.reason] += 1
            continue
        made_from = (Same(node), Same(found), asked)
        sites.append(_SITES.get(node.name, made_from, partial(_site, node, found, fleet, alike)))
    _SITES.keep({node.name for node in facts.nodes}.__contains__)
    unknown.update({each: 0 for each in offered(drivers.get("", {}))})  # on no single node
    listed = tuple(UnknownGpu(name, n, why) for (name, why), n in sorted(unknown.items()))
    return Survey(tuple(sites), listed)


def planner_node(site: Site, room: Room) -> Node:
    """The node with the room that everything but our running replicas leaves."""
    return Node(
        name=site.facts.name,
        node_class=site.node_class,
        gpus=max(0, min(room.gpus, site.facts.allocatable.gpus)),
        cpu_milli=max(0, room.cpu_milli),
        memory_bytes=max(0, room.memory_bytes),
        pods=max(0, room.pods),
        total_gpus=site.facts.allocatable.gpus,
        cordoned=site.cordoned or site.waits,
        coming=site.coming,
        bought=site.bought,
    )


def figures(site: Site, ours: int, room: Room) -> NodeFigures:
    """The node's row of the inventory; `ours` GPUs are held by replicas that go on."""
    total = site.facts.allocatable.gpus
    return NodeFigures(
        gpu=site.gpu.name,
        product=site.facts.gpu_label or "",
        zone=site.node_class.zone,
        capacity_type=site.node_class.capacity_type,
        gpus=total,
        gpus_ours=ours,
        gpus_foreign=max(0, total - room.gpus),
        price_usd_per_hour=site.node_class.price_usd_per_gpu_hour * total,
    )


@dataclass(frozen=True, slots=True)
class _Alike:
    """Resources that say the same about nodes: thousands of nodes are asked once for all of them."""

    wish: Wish  # the first one's
    keys: frozenset[str]


def _alike(wishes: Sequence[Wish]) -> tuple[_Alike, ...]:
    groups: dict[str, list[Wish]] = {}
    for wish in wishes:
        groups.setdefault(repr((wish.selectors, wish.tolerations)), []).append(wish)
    return tuple(_Alike(same[0], frozenset(w.key for w in same)) for same in groups.values())


def _keys(groups: Iterable[_Alike]) -> frozenset[str]:
    return frozenset[str]().union(*(group.keys for group in groups))


def _site(node: NodeFacts, gpu: Gpu, fleet: FleetSpec, alike: Sequence[_Alike]) -> Site:
    capacity = capacity_type(node.labels)
    shape = next((shape for shape in fleet.shapes if shape.is_of(node.labels)), None)
    given = (*fleet.tolerations, *(shape.tolerations if shape is not None else ()))
    open_taints = [t for t in node.taints if _bars(t) and not _tolerated(t, given)]
    barred = _keys(a for a in alike if not _all_tolerate(a.wish, open_taints))
    misfits = _keys(a for a in alike if not _all_labels(a.wish, node.labels))
    left_out = (
        node.labels.get(EXCLUDE, node.annotations.get(EXCLUDE)) == "true"
        or not has_labels(node.labels, fleet.node_selector)
        or bool(open_taints and barred == _keys(alike))
    )
    excluded = misfits if left_out else misfits | barred
    return Site(
        facts=node,
        gpu=gpu,
        node_class=NodeClass(
            gpu=gpu.name,
            zone=node.labels.get(ZONE, ""),
            capacity_type=capacity,
            trust_zone=node.labels.get(TRUST_ZONE, ""),
            price_usd_per_gpu_hour=gpu_price(node, gpu, capacity, fleet),
            excluded_for=excluded,
        ),
        cordoned=node.unschedulable or left_out or notice_of(node) == Notice.CANDIDATE,
        bought=shape is not None,
    )


def capacity_type(labels: Mapping[str, str]) -> str:
    """on-demand, spot or reserved, from whichever label the cloud writes."""
    for label in _CAPACITY_LABELS:
        if label in labels:
            return _CAPACITY_TYPES.get(labels[label].casefold(), "on-demand")
    if labels.get("cloud.google.com/gke-spot") == "true":
        return "spot"
    if labels.get("kubernetes.azure.com/scalesetpriority") == "spot":
        return "spot"
    return "on-demand"


def gpu_price(node: NodeFacts, gpu: Gpu, capacity: str, fleet: FleetSpec) -> float:
    """US dollars per GPU and hour: the node's own word, else the Fleet's, else the catalog's.

    The node's label or annotation, the Fleet's instance prices and those of shapes that may be
    bought are for the whole node. The
    catalog's is that of the node's instance type where it lists one, else of the GPU alone.
    """
    count = max(1, node.allocatable.gpus)
    own = _number(node.labels.get(PRICE, node.annotations.get(PRICE)))
    if own is not None:
        return own / count
    for whole in fleet.prices.instance_types:
        if (whole.instance_type, whole.capacity_type) == (node.labels.get(INSTANCE_TYPE), capacity):
            return whole.dollars_per_hour.usd / count
    for bought in fleet.shapes:
        if bought.is_of(node.labels):
            return bought.dollars_per_hour.usd / bought.gpus
    for each in fleet.prices.gpus:
        if each.gpu in (gpu.name, node.gpu_label) and each.capacity_type == capacity:
            return each.dollars_per_hour.usd
    shape = gpu.node_shape(node.labels.get(INSTANCE_TYPE))
    listed = shape.per_gpu_hour(spot=capacity == "spot") if shape else None
    if listed is not None:
        return listed
    spot = capacity == "spot" and gpu.spot_price_usd_per_hour > 0
    return gpu.spot_price_usd_per_hour if spot else gpu.price_usd_per_hour


def tolerates(toleration: Mapping[str, str], taint: Taint) -> bool:
    """Kubernetes' rule: key, operator and effect; an absent key with Exists matches every taint."""
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    key, exists = toleration.get("key") or "", toleration.get("operator") == "Exists"
    if not key:
        return exists
    return key == taint.key and (exists or (toleration.get("value") or "") == taint.value)


def _bars(taint: Taint) -> bool:
    return (
        taint.effect in ("NoSchedule", "NoExecute")
        and taint.key not in MIRRORED_TAINTS
        and taint.key not in GPU_TAINTS
        and taint.key not in NOTICES
    )


def _tolerated(taint: Taint, given: Sequence[Toleration]) -> bool:
    written = [t.model_dump(by_alias=True, exclude_none=True) for t in given]
    return any(tolerates(toleration, taint) for toleration in written)


def _all_tolerate(wish: Wish, taints: Sequence[Taint]) -> bool:
    """Every stage of the resource must tolerate every taint: classes are told apart by resource."""
    return all(
        any(tolerates(toleration, taint) for toleration in stage)
        for taint in taints
        for stage in wish.tolerations
    )


def _all_labels(wish: Wish, labels: Mapping[str, str]) -> bool:
    return all(has_labels(labels, selector) for selector in wish.selectors)


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all wanted labels are there."""
    return all(labels.get(key) == value for key, value in wanted.items())


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < float("inf") else None
