"""The Fleet's tenants and shapes in the planner's words."""

from __future__ import annotations

from collections.abc import Sequence

from motley_operator.api.common import Replan
from motley_operator.api.fleet import FleetSpec
from motley_operator.api.shapes import NodeShape
from motley_operator.domain.names import TRUST_ZONE
from motley_operator.translate.claims import Offers
from motley_operator.translate.nodes import Wish, has_labels
from motley_planner.domain.hardware import Catalog, Gpu, NodeClass
from motley_planner.domain.snapshot import Shape, Tenant

SECONDS_PER_HOUR = 3600.0


def tenants(fleet: FleetSpec) -> tuple[Tenant, ...]:
    """What each namespace is entitled to."""
    return tuple(
        Tenant(t.namespace, t.guaranteed_share.fraction, float(t.weight)) for t in fleet.tenants
    )


def fleet_gpus(fleet: FleetSpec) -> int | None:
    """GPUs that all resources together may hold; None: as many as there are."""
    return fleet.budget.gpus if fleet.budget is not None else None


def node_loss_tolerance(replan: Replan, fleet: FleetSpec) -> int:
    """Nodes that may be lost with the rate still served: the resource's word, else the Fleet's."""
    own = replan.node_loss_tolerance
    return fleet.replan.node_loss_tolerance if own is None else own


def shapes(
    fleet: FleetSpec, catalog: Catalog, wishes: Sequence[Wish], known_of: Offers
) -> tuple[Shape, ...]:
    """Nodes that an autoscaler could add; a shape of an unknown GPU is left out."""
    known = ((shape, catalog.gpu_by_label(shape.gpu_product)) for shape in fleet.shapes)
    return tuple(
        _shape(shape, gpu, wishes, known_of) for shape, gpu in known if isinstance(gpu, Gpu)
    )


def _shape(shape: NodeShape, gpu: Gpu, wishes: Sequence[Wish], known_of: Offers) -> Shape:
    price = shape.dollars_per_hour.usd
    excluded = {
        wish.key
        for wish in wishes
        if not all(has_labels(shape.node_labels, selector) for selector in wish.selectors)
    }
    # A gated pod has no node added for it, and nobody can tell how long it has waited for one.
    excluded |= known_of.queued
    return Shape(
        name=shape.name,
        node_class=NodeClass(
            gpu=gpu.name,
            zone=shape.zone or "",
            capacity_type=shape.capacity_type,
            trust_zone=shape.labels.get(TRUST_ZONE, ""),
            price_usd_per_gpu_hour=price / shape.gpus,
            excluded_for=frozenset(excluded),
        ),
        gpus=shape.gpus,
        cpu_milli=int(shape.cpu.value * 1000),
        memory_bytes=int(shape.memory.value),
        price_usd_per_hour=price,
        max_nodes=_left(shape, known_of),
        delay_hours=shape.delay.seconds / SECONDS_PER_HOUR,
        buys=shape.buys,
        taken=known_of.taken.get(shape.name, frozenset()),
    )


def _left(shape: NodeShape, known_of: Offers) -> int | None:
    """How many more of them there may be; none of one that is suspect."""
    if shape.name in known_of.closed:
        return 0
    if shape.max_nodes is None:
        return None
    return max(0, shape.max_nodes - known_of.there.get(shape.name, 0))
