"""Facts and resources to one Snapshot; everything that cannot be planned is named, never guessed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from motley_operator import lifecycle
from motley_operator.api import FleetSpec, ModelCascade, Resource, RLJob, ServingPool, read
from motley_operator.api.nametaken import name_findings
from motley_operator.api.quality import cascade_policies
from motley_operator.api.semantics import semantic_findings
from motley_operator.api.surroundings import Surroundings
from motley_operator.demand import Settled
from motley_operator.domain.facts import ClusterFacts, PodFacts, Room
from motley_operator.domain.names import PAUSED, REPLAN_REQUESTED, key_of
from motley_operator.domain.translation import NodeFigures, Translation
from motley_operator.settings import Settings
from motley_operator.translate.demand import Measuring, with_demand
from motley_operator.translate.entitlements import fleet_gpus, shapes, tenants
from motley_operator.translate.fleet import read_fleet
from motley_operator.translate.held import Held
from motley_operator.translate.jobs import job_demand
from motley_operator.translate.measured import with_profiles
from motley_operator.translate.nodes import Site, Wish, figures, planner_node, survey
from motley_operator.translate.parts import pod_tolerations, refusals_of
from motley_operator.translate.restoring import Places, counted
from motley_operator.translate.room import is_engine, plus, room_left
from motley_operator.translate.running import Running, running_units
from motley_operator.translate.serving import cascade_demand, pool_demand
from motley_operator.translate.standing import Limits, Stand, stand
from motley_planner.domain.demand import MovePrice, RlDemand, ServingDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Refusal
from motley_planner.domain.snapshot import PodNeed, Snapshot

HORIZON_S = 3600.0


@dataclass(slots=True)
class _Asked:
    """What the resources ask for, as they are read one by one."""

    around: Surroundings
    demands: dict[str, ServingDemand | RlDemand] = field(default_factory=dict)
    parsed: dict[str, Resource] = field(default_factory=dict)
    rejected: dict[str, tuple[Refusal, ...]] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Settled | None] = field(default_factory=dict)


def translate(facts: ClusterFacts, catalog: Catalog, settings: Settings) -> Translation:
    """The planner's snapshot of the cluster, with what was read and what was rejected.

    A rejected resource keeps what it runs: its pods count as foreign and nobody touches them.
    """
    told = read_fleet(facts.fleet, catalog)
    fleet, catalog = told.spec, told.catalog
    asked = _read_resources(facts, catalog, fleet, settings)
    wishes = [_wish(key, asked.parsed[key]) for key in sorted(asked.demands)]
    surveyed = survey(facts, catalog, fleet, settings, wishes)
    standing = {site.facts.name for site in surveyed.sites}
    running = running_units(facts, asked.demands.keys(), standing)
    held = Held(facts, {key: asked.parsed[key] for key in asked.demands}, fleet)
    room = _room(facts, running, need := PodNeed())
    stood = _stood(facts, asked, held, (running, surveyed.sites, room))
    frozen = held.frozen(running, stood.standing)
    actual, reserved = running, running.reserved | stood.going
    running = replace(running, units=stood.units, reserved=reserved)
    sites = [s for s in surveyed.sites if not _unused(s, running)]
    snapshot = Snapshot(
        nodes=tuple(planner_node(site, room[site.facts.name]) for site in sites),
        services=tuple(d for d in asked.demands.values() if isinstance(d, ServingDemand)),
        jobs=tuple(d for d in asked.demands.values() if isinstance(d, RlDemand)),
        running=running.units,
        reserved=running.reserved,
        pod_need=need,
        move_price=MovePrice(horizon_hours=fleet.replan.horizon.seconds / HORIZON_S),
        budget_usd_per_hour=_fleet_budget(fleet),
        budget_gpus=fleet_gpus(fleet),
        tenants=tenants(fleet),
        shapes=shapes(fleet, catalog, wishes),
        frozen=frozenset(frozen),
        cooling=held.cooling(),
        latency_tiers=settings.latency_tiers,
        time_limit_s=min(settings.time_limit_s, fleet.solver.time_limit.seconds),
        relative_gap=max(settings.relative_gap, fleet.solver.relative_gap.fraction),
        min_improvement=fleet.replan.min_improvement.fraction,
        improvements=held.improvements(),
    )
    catalog = with_profiles(catalog, asked.parsed, asked.demands, facts.config_maps)
    return Translation(
        snapshot=snapshot,
        catalog=catalog,
        parsed=asked.parsed,
        rejected=asked.rejected,
        frozen=frozen,
        phases=asked.phases,
        demands={key: found for key, found in asked.measured.items() if found is not None},
        unknown_gpus=surveyed.unknown,
        standing=stood.standing,
        marks=stood.marks,
        inventory=_inventory(facts, surveyed.sites, actual),
        unmet=told.unmet,
        fleet_ignored=told.ignored,
        inputs_hash=_inputs_hash(facts, sites, asked, catalog),
    )


def _stood(
    facts: ClusterFacts,
    asked: _Asked,
    held: Held,
    there: tuple[Running, Sequence[Site], dict[str, Room]],
) -> Stand:
    """What stands of the resources in Preview and Disabled."""
    running, sites, room = there
    asking = {key: (asked.parsed[key], asked.demands[key], held.mode(key)) for key in asked.demands}
    places = Places.of(sites, room, running.units, PodNeed(), running.reserved)
    limits = Limits(_fleet_budget(held.fleet), fleet_gpus(held.fleet))
    made = stand(facts, asking, running, places, limits)
    for key, standing in made.standing.items():
        source = standing.source
        sound = isinstance(source, Resource) and not semantic_findings(source, asked.around)
        if standing.record is not None and not sound:
            made.standing[key] = replace(standing, broken=True)
    return made


def _read_resources(
    facts: ClusterFacts, catalog: Catalog, fleet: FleetSpec, settings: Settings
) -> _Asked:
    around = Surroundings(catalog, facts.config_maps, facts.priority_classes, settings.pairs_phases)
    asked = _Asked(around)
    pods = _pods_by_key(facts)
    for resource in sorted(facts.resources, key=lambda each: each.key):
        if resource.deleting:
            continue
        model, findings = read(resource.document)
        if model is None:
            asked.rejected[resource.key] = refusals_of(findings)
            continue
        asked.parsed[resource.key] = model
    taken = name_findings(asked.parsed)
    measuring = Measuring(facts, fleet)
    for resource in sorted(facts.resources, key=lambda each: each.key):
        model = asked.parsed.get(resource.key)
        if model is None:
            continue
        if isinstance(model, RLJob):
            phase = lifecycle.phase_of(model, pods.get(resource.key, ()), facts.now)
            asked.phases[resource.key] = phase
            if phase in lifecycle.GONE:
                continue
        findings = semantic_findings(model, around)
        if resource.key in taken:
            findings += (taken[resource.key],)
        if findings:
            asked.rejected[resource.key] = refusals_of(findings)
        else:
            if isinstance(model, ServingPool | ModelCascade):
                demand = asked.measured[resource.key] = measuring.settled(resource.key, model)
                model = with_demand(model, demand)
            asked.demands[resource.key] = _demand(resource.key, model, facts, (catalog, fleet))
    return asked


def _demand(
    key: str, model: Resource, facts: ClusterFacts, fleet: tuple[Catalog, FleetSpec]
) -> ServingDemand | RlDemand:
    """What a checked resource asks for."""
    catalog, spec = fleet
    assert isinstance(model, ServingPool | ModelCascade | RLJob)
    priority = facts.priority_classes.get(model.spec.priority_class_name or "", 0)
    if isinstance(model, ModelCascade):
        routing = (priority, cascade_policies(model, facts.config_maps))
        return cascade_demand(key, model, catalog, spec, routing)
    if isinstance(model, ServingPool):
        return pool_demand(key, model, catalog, spec, priority)
    return job_demand(key, model, catalog, priority)


def _wish(key: str, model: Resource) -> Wish:
    """What the resource's stages say about nodes."""
    if isinstance(model, ServingPool):
        placements, templates = [model.spec.placement], [model.spec.pod_template]
    elif isinstance(model, ModelCascade):
        placements = [stage.placement for stage in model.spec.stages]
        templates = [stage.pod_template for stage in model.spec.stages]
    else:
        assert isinstance(model, RLJob)
        spec = model.spec
        placements = [spec.placement, spec.rollout.placement, spec.trainer.placement]
        templates = [spec.rollout.pod_template, spec.trainer.pod_template]
    selectors = tuple(p.node_selector for p in placements if p.node_selector)
    return Wish(key, selectors, tuple(pod_tolerations(template) for template in templates))


def _room(facts: ClusterFacts, running: Running, need: PodNeed) -> dict[str, Room]:
    """Room on each node, with what the planner will count for our running replicas given back.

    What they are counted for is given back, not what they request, so that a replica that runs
    always fits where it runs. The room of pods of ours that are on their way out is given back
    too: a plan made while they go must be the plan made when they are gone, or each replacement
    would cause another. `changes` creates nothing before they really are.
    """
    going = frozenset(pod.uid for pod in running.leaving)
    left = {name: _not_below_zero(room) for name, room in room_left(facts, going).items()}
    for unit in running.units:
        for rank, node in enumerate(unit.nodes):
            left[node] = plus(left[node], counted(unit.gpus_on(rank), need))
    return left


def _not_below_zero(room: Room) -> Room:
    return Room(
        max(0, room.gpus),
        max(0, room.cpu_milli),
        max(0, room.memory_bytes),
        max(0, room.ephemeral_bytes),
        max(0, room.pods),
    )


def _unused(site: Site, running: Running) -> bool:
    """A node that takes nothing new and holds nothing of ours is no part of the problem."""
    name = site.facts.name
    return site.cordoned and not any(name in unit.nodes for unit in running.units)


def _inventory(
    facts: ClusterFacts, sites: Sequence[Site], running: Running
) -> tuple[NodeFigures, ...]:
    foreign = room_left(facts, running.pod_uids)
    ours: dict[str, int] = {}
    for unit in running.units:
        for rank, node in enumerate(unit.nodes):
            ours[node] = ours.get(node, 0) + unit.gpus_on(rank)
    return tuple(
        figures(site, ours.get(site.facts.name, 0), foreign[site.facts.name]) for site in sites
    )


def _fleet_budget(fleet: FleetSpec) -> float | None:
    if fleet.budget is None or fleet.budget.dollars_per_hour is None:
        return None
    return fleet.budget.dollars_per_hour.usd


def _pods_by_key(facts: ClusterFacts) -> dict[str, list[PodFacts]]:
    owners = {resource.key: resource.uid for resource in facts.resources}
    pods: dict[str, list[PodFacts]] = {}
    for pod in facts.pods:
        key = key_of(pod.labels, pod.namespace)
        if is_engine(pod) and pod.belongs_to(owners.get(key)):
            pods.setdefault(key, []).append(pod)
    return pods


def _usable(room: Room) -> int:
    """GPUs that engine pods can use: all that the planner makes of a node's room."""
    need = PodNeed()
    return min(
        room.gpus,
        room.cpu_milli // need.cpu_milli_per_gpu,
        room.memory_bytes // need.memory_bytes_per_gpu,
        room.pods,
    )


def _inputs_hash(
    facts: ClusterFacts, sites: Sequence[Site], asked: _Asked, catalog: Catalog
) -> str:
    """Hash over everything that planning depends on, except our own engine pods.

    Those change because of plans; `policies` looks at them apart.
    """
    ours = frozenset(pod.uid for pod in facts.pods if is_engine(pod))
    room = room_left(facts, ours)
    requested = sorted(
        (r.key, r.annotations.get(REPLAN_REQUESTED, ""), r.annotations.get(PAUSED, ""))
        for r in facts.resources
    )
    nodes = [
        (s.facts.name, s.node_class.gpu, s.node_class.id, s.cordoned, _usable(room[s.facts.name]))
        for s in sites
    ]
    demands = [json.dumps(asdict(asked.demands[key]), default=sorted) for key in asked.demands]
    fleet = (facts.fleet or {}).get("spec")
    measured = sorted(catalog.profiles.items())
    text = repr((nodes, demands, sorted(asked.rejected.items()), requested, fleet, measured))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
