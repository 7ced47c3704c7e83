"""The Fleet's tenants and shapes in the planner's words."""

from __future__ import annotations

from collections.abc import Sequence

from motley_operator.api.common import Replan
from motley_operator.api.fleet import FleetSpec, NodeShape
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


def shapes(fleet: FleetSpec, catalog: Catalog, wishes: Sequence[Wish]) -> tuple[Shape, ...]:
    """Nodes that an autoscaler could add; a shape of an unknown GPU is left out."""
    known = ((shape, catalog.gpu_by_label(shape.gpu_product)) for shape in fleet.shapes)
    return tuple(_shape(shape, gpu, wishes) for shape, gpu in known if isinstance(gpu, Gpu))


def _shape(shape: NodeShape, gpu: Gpu, wishes: Sequence[Wish]) -> Shape:
    price = shape.dollars_per_hour.usd
    excluded = {
        wish.key
        for wish in wishes
        if not all(has_labels(shape.labels, selector) for selector in wish.selectors)
    }
    return Shape(
        name=shape.name,
        node_class=NodeClass(
            gpu=gpu.name,
            zone=shape.zone or "",
            capacity_type=shape.capacity_type,
            trust_zone="",
            price_usd_per_gpu_hour=price / shape.gpus,
            excluded_for=frozenset(excluded),
        ),
        gpus=shape.gpus,
        cpu_milli=int(shape.cpu.value * 1000),
        memory_bytes=int(shape.memory.value),
        price_usd_per_hour=price,
        max_nodes=shape.max_nodes,
        delay_hours=shape.delay.seconds / SECONDS_PER_HOUR,
    )
