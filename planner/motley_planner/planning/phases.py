"""Prefill and decode apart: which resources may, what their KV caches weigh, what the links carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from motley_planner.candidates import Candidate, phase_candidates
from motley_planner.candidates.request import Request
from motley_planner.candidates.targets import targets_of
from motley_planner.costs.transfer import KV_COMPRESSION_CAVEAT, prompt_kv_bytes
from motley_planner.domain.demand import ServingDemand, Slo, StageDemand
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.plan import PlannedFlow, PlannedReplica, Refusal
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import Link
from motley_planner.planning.assembly import Assembly, class_id
from motley_planner.planning.demands import EXTRA_SUFFIX


def mode_of(service: ServingDemand, stage: StageDemand) -> str:
    """auto, always or never: the stage's own word, else the resource's."""
    return stage.disaggregation or service.disaggregation


def stage_phases(
    service: ServingDemand,
    stage: StageDemand,
    slo: Slo,
    allowed: Sequence[NodeClass],
    snapshot: Snapshot,
    catalog: Catalog,
) -> tuple[Candidate, ...]:
    """A stage's prefill and decode replicas; none where it wants none or no gateway pairs them.

    Six parameters: what a stage's colocated candidates depend on, and what runs in the fleet.
    """
    if mode_of(service, stage) == "never" or not snapshot.gateway_can_disaggregate:
        return ()
    request = Request(
        service.key, "serve", stage, tuple(service.classes), targets_of(slo), service.headroom
    )
    return phase_candidates(request, allowed, catalog, snapshot.kv_scales)


def phase_refusals(
    service: ServingDemand,
    stage: StageDemand,
    found: Sequence[Candidate],
    snapshot: Snapshot,
) -> tuple[Refusal, ...]:
    """Why a stage that must have its phases apart cannot, class by class; none for other stages."""
    if mode_of(service, stage) != "always":
        return ()
    field = "spec.disaggregation"
    if service.policies:
        field = f"spec.stages[{stage.name}].disaggregation"
    if not snapshot.gateway_can_disaggregate:
        message = "The gateway cannot yet pair a prefill with a decode replica."
        return (Refusal("GatewayRequired", field, message, f"{field} Auto"),)
    served = {name for c in found for name in c.capacity}
    return tuple(
        Refusal(
            "LatencyUnreachable",
            field,
            f"Class {c.name} has no prefill and decode replicas that together meet its targets.",
            f"{field} Auto, or a looser target",
        )
        for c in service.classes
        if c.name not in served
    )


def set_kv_bytes(assembly: Assembly, snapshot: Snapshot, catalog: Catalog) -> None:
    """Writes on every class what one request's KV cache weighs, where caches can move at all."""
    if not any(column.phase != "both" for column in assembly.columns.values()):
        return
    weights = {
        class_id(service.key, stage.name, c.name): prompt_kv_bytes(
            stage.model,
            float(max(1, c.prompt_tokens)),
            catalog.engines[stage.engine].kv_value_bytes,
        )
        for service in snapshot.services
        for stage in service.stages
        for c in service.classes
    }
    assembly.classes[:] = [
        replace(c, kv_bytes=weights.get(c.name.removesuffix(EXTRA_SUFFIX), 0.0))
        for c in assembly.classes
    ]


def table_links(assembly: Assembly, snapshot: Snapshot, catalog: Catalog) -> tuple[Link, ...]:
    """The stated links, and the catalog's default between other zones; none without P/D columns.

    Inside a zone only networks of replicas bound what moves, unless a link (zone, zone) is stated.
    """
    if not any(column.phase != "both" for column in assembly.columns.values()):
        return ()
    assert catalog.fabric is not None, "load_catalog() always gives it"
    stated = {(link.source, link.target): link for link in snapshot.links}
    zones = sorted({node.node_class.zone for node in snapshot.nodes})
    rate = catalog.fabric.zone_link_bytes_per_s
    default = {(a, b): Link(a, b, rate) for a in zones for b in zones if a != b}
    return tuple((default | stated).values())


def flows_of(key: str, solution: Solution, assembly: Assembly) -> tuple[PlannedFlow, ...]:
    """A resource's flows between zones, with the bytes they move."""
    weights = {c.name: c.kv_bytes for c in assembly.classes}
    found = []
    for flow in solution.flows:
        owner, _, name = flow.request_class.rpartition("/")
        resource, _, stage = owner.rpartition("/")
        if resource == key:
            moved = flow.requests_per_second * weights[flow.request_class] * flow.kv_scale
            found.append(
                PlannedFlow(
                    stage=stage,
                    request_class=name.removesuffix(EXTRA_SUFFIX),
                    source=flow.source,
                    target=flow.target,
                    kv_scale=flow.kv_scale,
                    requests_per_second=flow.requests_per_second,
                    bytes_per_second=moved,
                )
            )
    return tuple(found)


def caveats_of(replicas: Sequence[PlannedReplica]) -> tuple[str, ...]:
    """What a plan with these replicas takes for granted."""
    return (KV_COMPRESSION_CAVEAT,) if any(r.kv_scale < 1.0 for r in replicas) else ()
