"""Facts and resources to one Snapshot; everything that cannot be planned is named, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from motley_operator.api import FleetSpec, ModelCascade, Resource, RLJob, ServingPool
from motley_operator.api.semantics import semantic_findings
from motley_operator.domain.facts import ClusterFacts, Room
from motley_operator.domain.translation import NodeFigures, Translation
from motley_operator.settings import Settings
from motley_operator.translate.asked import Asked, read_resources
from motley_operator.translate.budgets import budgets_in_transition, left_to_plan
from motley_operator.translate.claims import offers
from motley_operator.translate.demand import unmeasured
from motley_operator.translate.entitlements import fleet_gpus, shapes, tenants
from motley_operator.translate.fleet import read_fleet
from motley_operator.translate.held import Held
from motley_operator.translate.inputs import inputs_hash
from motley_operator.translate.learning import learn
from motley_operator.translate.measured import measurements_of, with_profiles
from motley_operator.translate.nodes import Site, Wish, figures, planner_node, survey
from motley_operator.translate.parts import pod_tolerations
from motley_operator.translate.quotas import namespace_quotas
from motley_operator.translate.restoring import Places, counted
from motley_operator.translate.room import not_below_zero, plus, pod_need, room_left
from motley_operator.translate.running import Running, lost_nodes, running_units
from motley_operator.translate.standing import Limits, Stand, stand
from motley_operator.translate.suspects import avoided_columns, avoiding, suspicions, with_losses
from motley_planner.domain.demand import MovePrice, RlDemand, ServingDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.snapshot import Avoided, PodNeed, Snapshot

HORIZON_S = 3600.0


def translate(facts: ClusterFacts, catalog: Catalog, settings: Settings) -> Translation:
    """The planner's snapshot of the cluster, with what was read and what was rejected.

    A rejected resource keeps what it runs: its pods count as foreign and nobody touches them.
    """
    told = read_fleet(facts.fleet, catalog)
    fleet, catalog = told.spec, told.catalog
    asked = read_resources(facts, catalog, fleet, settings)
    wishes = [_wish(key, asked.parsed[key]) for key in sorted(asked.demands)]
    surveyed = survey(facts, catalog, fleet, settings, wishes)
    standing = {site.facts.name for site in surveyed.sites}
    asking = {key: asked.parsed[key] for key in asked.demands}
    suspected = suspicions(facts, asking, fleet, settings)
    running = running_units(facts, asked.demands.keys(), standing, suspected.broken)
    suspected = with_losses(suspected, asking, running)
    avoided = avoided_columns(suspected, facts.now)
    surveyed = replace(surveyed, sites=avoiding(surveyed.sites, suspected, running, facts.now))
    held = Held(facts, asking, fleet)
    known = offers(facts, fleet, catalog)
    room = _room(facts, running, need := pod_need(fleet))
    stood = _stood(facts, asked, held, (running, surveyed.sites, room, avoided))
    frozen = held.frozen(running, stood.standing)
    actual, reserved = running, running.reserved | stood.going
    running = replace(running, units=stood.units, reserved=reserved)
    sites = [s for s in surveyed.sites if not _unused(s, running)]
    offered = shapes(fleet, catalog, wishes, known)
    vendors = {s.gpu.vendor for s in sites}
    vendors |= {catalog.gpus[shape.node_class.gpu].vendor for shape in offered}
    budgets = budgets_in_transition(facts, fleet, catalog, asking, (surveyed.sites, offered))
    money, gpus = left_to_plan(facts, fleet, budgets, asked.rejected)
    snapshot = Snapshot(
        nodes=tuple(planner_node(site, room[site.facts.name]) for site in sites),
        services=tuple(d for d in asked.demands.values() if isinstance(d, ServingDemand)),
        jobs=tuple(d for d in asked.demands.values() if isinstance(d, RlDemand)),
        running=running.units,
        reserved=running.reserved,
        pod_need=need,
        move_price=MovePrice(horizon_hours=fleet.replan.horizon.seconds / HORIZON_S),
        budget_usd_per_hour=money,
        budget_gpus=gpus,
        tenants=tenants(fleet),
        quotas=namespace_quotas(facts, asking, vendors, need),
        shapes=offered,
        frozen=frozenset(frozen),
        gateway_can_disaggregate=True,
        avoided=avoided,
        cooling=held.cooling() | unmeasured(asked.measured),
        latency_tiers=settings.latency_tiers,
        time_limit_s=min(settings.time_limit_s, fleet.solver.time_limit.seconds),
        relative_gap=max(settings.relative_gap, fleet.solver.relative_gap.fraction),
        min_improvement=fleet.replan.min_improvement.fraction,
        improvements=held.improvements(),
    )
    learning = learn(facts, fleet, asked.demands, catalog)
    catalog = with_profiles(catalog, asked.parsed, asked.demands, facts.config_maps)
    catalog = learning.taught(catalog)
    return Translation(
        snapshot=snapshot,
        catalog=catalog,
        parsed=asked.parsed,
        rejected=asked.rejected,
        frozen=frozen,
        phases=asked.phases,
        demands={key: found for key, found in asked.measured.items() if found is not None},
        unknown_gpus=surveyed.unknown,
        waiting=frozenset(site.facts.name for site in sites if site.waits),
        lost_nodes=lost_nodes(facts, settings.node_loss_seconds),
        standing=stood.standing,
        marks=stood.marks,
        suspicions=suspected,
        budgets=budgets,
        learning=learning,
        inventory=(inventory := _inventory(facts, surveyed.there, actual)),
        products={f.gpu: f.product for f in sorted(inventory, key=_product, reverse=True)},
        unmet=told.unmet,
        fleet_ignored=told.ignored,
        holding=actual.holding | stood.going,
        moved_lately=held.moved_lately(),
        window_s=fleet.replan.cooldown.seconds,
        suspect_shapes=known.suspects,
        unserved_shapes=tuple(sorted(known.unserved)),
        inputs_hash=inputs_hash(
            facts,
            [s for s in sites if not s.coming],
            asked.demands,
            (asked.rejected, measurements_of(catalog), avoided, snapshot.quotas, known),
            need,
        ),
    )


def _stood(
    facts: ClusterFacts,
    asked: Asked,
    held: Held,
    there: tuple[Running, Sequence[Site], dict[str, Room], frozenset[Avoided]],
) -> Stand:
    """What stands of the resources in Preview and Disabled."""
    running, sites, room, avoided = there
    asking = {key: (asked.parsed[key], asked.demands[key], held.mode(key)) for key in asked.demands}
    places = Places.of(sites, room, running.units, pod_need(held.fleet), running.reserved)
    places = replace(places, avoided=avoided)
    limits = Limits(_fleet_budget(held.fleet), fleet_gpus(held.fleet))
    made = stand(facts, asking, running, places, limits)
    for key, standing in made.standing.items():
        source = standing.source
        sound = isinstance(source, Resource) and not semantic_findings(source, asked.around)
        if standing.record is not None and not sound:
            made.standing[key] = replace(standing, broken=True)
    return made


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
    left = {name: not_below_zero(room) for name, room in room_left(facts, going).items()}
    for unit in running.units:
        for rank, node in enumerate(unit.nodes):
            left[node] = plus(left[node], counted(unit.gpus_on(rank), need))
    return left


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


def _product(figure: NodeFigures) -> str:
    return figure.product


def _fleet_budget(fleet: FleetSpec) -> float | None:
    if fleet.budget is None or fleet.budget.dollars_per_hour is None:
        return None
    return fleet.budget.dollars_per_hour.usd
