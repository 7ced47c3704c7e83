"""Everything a plan wants on the cluster, as plain dicts, in the order in which it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from motley_operator.api import Fleet, ModelCascade, RLJob, ServingPool, read
from motley_operator.api.shapes import NodeShape
from motley_operator.demand.waking import may_sleep
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import ROLLOUT, TRAINER, TRUST_ZONE
from motley_operator.domain.translation import Translation
from motley_operator.errors import about
from motley_operator.manifests.access import gateway_access
from motley_operator.manifests.budgets import disruption_budget, gateway_budget
from motley_operator.manifests.credits import credits_of
from motley_operator.manifests.engines import engine_pod
from motley_operator.manifests.frame import Manifest, Owner
from motley_operator.manifests.gateways import PORT, gateway_deployment
from motley_operator.manifests.isolation import engine_isolation, gateway_isolation
from motley_operator.manifests.judging import Judging, judging_of
from motley_operator.manifests.launch import engine_process, stage_image
from motley_operator.manifests.pipelines import in_pipeline
from motley_operator.manifests.places import shapes_by_node
from motley_operator.manifests.pods import Seat, host_address
from motley_operator.manifests.provisioning import with_requests
from motley_operator.manifests.queues import with_queues
from motley_operator.manifests.routing import Surroundings, routing_config_map, wake_config_map
from motley_operator.manifests.services import gateway_service, headless_service
from motley_operator.manifests.stages import StageSpec, stages_of
from motley_operator.manifests.trainers import MASTER_PORT, config_map, trainer_pod
from motley_operator.manifests.weights import Fetched, weights_objects
from motley_operator.settings import Settings
from motley_planner.catalog import model_from_config
from motley_planner.dispatch import Hold
from motley_planner.domain.engines import LaunchSpec
from motley_planner.domain.hardware import Catalog, Gpu
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import Plan, PlannedReplica, Slice
from motley_planner.domain.snapshot import PodNeed, Snapshot
from motley_planner.remembering import Memory, Same

# By resource: most plans change a few, and thousands of pods are made of each.
_BUILT: Memory[tuple[Manifest, ...]] = Memory(4096)


@dataclass(frozen=True, slots=True)
class Site:
    """What the builders of one resource share."""

    owner: Owner
    part: Slice
    stages: tuple[StageSpec, ...]
    catalog: Catalog
    settings: Settings
    need: PodNeed
    tolerations: Sequence[Mapping[str, Any]]
    shapes: Mapping[str, NodeShape]  # of nodes that are to come or came for us, by node
    trust_zones: Mapping[str, str]  # by node
    zones: Mapping[str, str]  # by node

    def replicas(self, stage: str) -> tuple[PlannedReplica, ...]:
        """The stage's replicas; one that goes on keeps the name it runs under."""
        return tuple(r for r in self.part.replicas if r.stage == stage)


def build(
    plan: Plan,
    translation: Translation,
    facts: ClusterFacts,
    catalog: Catalog,
    settings: Settings,
) -> tuple[Manifest, ...]:
    """Desired objects of every planned resource; none for rejected, finished or leaving ones.

    What holds still is built from the spec that its plan was made from. What was built for the
    latest plan is given again where all that it was made from is the same: nobody may edit it.
    """
    resources = {resource.key: resource for resource in facts.resources}
    tolerations, shapes = _fleet_tolerations(facts), shapes_by_node(plan, facts)
    trust = {node: shape.labels.get(TRUST_ZONE, "") for node, shape in shapes.items()}
    trust |= {node.name: node.labels.get(TRUST_ZONE, "") for node in facts.nodes}
    zones = _zones(plan, translation.snapshot)
    manifests: list[Manifest] = []
    for part in sorted(plan.slices, key=lambda each: each.key):
        model, resource = translation.parsed.get(part.key), resources.get(part.key)
        if resource is None or model is None:
            continue
        owner, standing = Owner.of(resource), translation.standing.get(part.key)
        if standing is not None:
            model = standing.source or model
            if standing.broken:
                continue
            if not part.replicas and standing.record is None and standing.mode == "Preview":
                continue  # nothing of it was approved yet
        site = Site(
            owner=owner,
            part=part,
            stages=(),
            catalog=catalog,
            settings=settings,
            need=translation.snapshot.pod_need,
            tolerations=tolerations,
            shapes=shapes,
            trust_zones=trust,
            zones=zones,
        )
        with about(part.key):
            made_from = _made_from(site, model, facts)
            manifests += _BUILT.get(part.key, made_from, partial(_manifests, site, model, facts))
    _BUILT.keep(resources.__contains__)
    by_name = {shape.name: shape for shape in shapes.values()}
    return tuple(with_queues(with_requests(manifests, by_name, facts), facts))


def _made_from(site: Site, model: object, facts: ClusterFacts) -> tuple[object, ...]:
    """All that the manifests of one resource depend on; models are replaced and never edited."""
    common = (site.catalog, site.settings, site.need, site.tolerations)
    nodes = [node for replica in site.part.replicas for node in replica.nodes]
    at = [(site.shapes.get(n), site.trust_zones.get(n), site.zones.get(n)) for n in nodes]
    maps = facts.config_maps if isinstance(model, ModelCascade) else None
    return site.owner, site.part, Same(model), common, at, maps


def _manifests(site: Site, model: object, facts: ClusterFacts) -> tuple[Manifest, ...]:
    """The manifests of one resource."""
    site = replace(site, part=_with_running_names(site.part), stages=stages_of(model))
    made: list[Manifest] = []
    if isinstance(model, RLJob):
        made = _job(site, model)
    elif isinstance(model, ServingPool | ModelCascade):
        made = _serving(site, model, facts)
    fetched = Fetched(partial(_fetching_image, site), site.settings.image_pull_secrets)
    return (*made, *weights_objects(site.owner, site.stages, fetched))


def _with_running_names(part: Slice) -> Slice:
    named = (
        r if r.kept is None else replace(r, name=r.kept.rpartition("/")[2]) for r in part.replicas
    )
    return replace(part, replicas=tuple(named))


def _serving(site: Site, model: ServingPool | ModelCascade, facts: ClusterFacts) -> list[Manifest]:
    owner, gateway = site.owner, model.spec.gateway
    launches = {stage.name: _launch(site, stage) for stage in site.stages}
    ports = {name: launch.port for name, launch in launches.items()}
    judging, hold = Judging(), None
    if isinstance(model, ModelCascade):
        judging = judging_of(model, facts.config_maps, site.part)
    if wakes := may_sleep(model.spec.workload, gateway):
        hold = Hold(gateway.hold.requests, gateway.hold.time.seconds)
    workload, stages = model.spec.workload, [(s, _model(site.catalog, s)) for s in site.stages]
    credits = credits_of(site.catalog, stages, workload, gateway.replicas)
    around = Surroundings(
        workload,
        launches,
        site.zones,
        site.trust_zones,
        judging,
        hold,
        credits,
        gateway.replicas,
        gateway.dispatch.as_routed,
        gateway.workflows.as_routed,
    )
    manifests = [
        routing_config_map(owner, site.part, site.stages, around),
        *gateway_access(owner, wakes),
        *([wake_config_map(owner)] if wakes else []),
        gateway_service(owner, gateway.port),
        *(headless_service(owner, name, "serve", port) for name, port in ports.items()),
        gateway_deployment(
            owner,
            gateway,
            site.settings.gateway_image,
            model.spec.priority_class_name,
            replace(
                judging.extras,
                spans_to=site.settings.gateway_otlp_endpoint,
                pull_secrets=site.settings.image_pull_secrets,
            ),
        ),
    ]
    manifests += [*gateway_budget(owner, gateway.replicas), *_isolation(site, [*ports.values()])]
    if site.settings.network_policies:
        manifests.append(gateway_isolation(owner, PORT))
    for stage in site.stages:
        manifests += _stage_pods(site, stage, "serve")
    return manifests


def _isolation(site: Site, ports: Sequence[int]) -> list[Manifest]:
    """The policy of a resource's engines, where an admin asks for policies."""
    settings = site.settings
    if not settings.network_policies:
        return []
    return [engine_isolation(site.owner, ports, settings.metrics_namespaces)]


def _job(site: Site, job: RLJob) -> list[Manifest]:
    owner = site.owner
    rollout, trainer = site.stages
    port = _launch(site, rollout).port
    rollouts = [f"{host_address(owner, r)}:{port}" for r in site.replicas(ROLLOUT)]
    gang = next(iter(site.replicas(TRAINER)), None)
    manifests = [
        config_map(owner, job, trainer, rollouts, gang),
        headless_service(owner, ROLLOUT, ROLLOUT, port),
        headless_service(owner, TRAINER, TRAINER, MASTER_PORT),
        *_isolation(site, [port]),
        *_stage_pods(site, rollout, ROLLOUT),
    ]
    framework = site.catalog.frameworks[job.spec.framework.name]
    pods = [
        trainer_pod(seat, job, framework, rollouts, job.status.failures)
        for replica in site.replicas(TRAINER)
        for seat in _seats(site, trainer, replica)
    ]
    budget = [disruption_budget(owner, TRAINER, TRAINER, len(pods))] if pods else []
    return [*manifests, *budget, *pods]


def _stage_pods(site: Site, stage: StageSpec, role: str) -> list[Manifest]:
    """The stage's disruption budget and its engine pods."""
    engine, model = site.catalog.engines[stage.engine.name], _model(site.catalog, stage)
    pods = []
    for replica in site.replicas(stage.name):
        process = engine_process(stage, replica, engine, model, _plainest(site.catalog, replica))
        seats = _seats(site, stage, replica)
        pods += [engine_pod(seat, in_pipeline(process, seat)) for seat in seats]
    return [disruption_budget(site.owner, stage.name, role, len(pods)), *pods] if pods else []


def _seats(site: Site, stage: StageSpec, replica: PlannedReplica) -> list[Seat]:
    vendor = site.catalog.gpus[replica.gpu].vendor
    return [
        Seat(
            owner=site.owner,
            stage=stage,
            replica=replica,
            rank=rank,
            vendor=vendor,
            plan_hash=site.part.hash,
            need=site.need,
            tolerations=site.tolerations,
            shape=site.shapes.get(replica.nodes[rank]),
            pull_secrets=site.settings.image_pull_secrets,
        )
        for rank in range(len(replica.nodes))
    ]


def _plainest(catalog: Catalog, replica: PlannedReplica) -> Gpu:
    """The GPU type that decides on the dtype of all fragments: one without bf16, if there is one."""
    gpus = [catalog.gpus[replica.gpu_on(rank)] for rank in range(len(replica.nodes))]
    return next((gpu for gpu in gpus if not gpu.flop_per_s.get("bf16")), gpus[0])


def _fetching_image(site: Site, stage: StageSpec) -> str:
    """The image of the stage's engines: of those planned, else for the vendor with the first name."""
    launch = site.catalog.engines[stage.engine.name].launch
    assert launch is not None, f"{stage.engine.name} was not checked"
    vendors = [site.catalog.gpus[r.gpu].vendor for r in site.replicas(stage.name)]
    return stage_image(stage, launch, next(iter(vendors), min(launch.images, default="nvidia")))


def _model(catalog: Catalog, stage: StageSpec) -> ModelSpec:
    written = stage.model.architecture
    found = model_from_config(stage.model.id, written) if written is not None else None
    model = found or catalog.model(stage.model.id)
    assert isinstance(model, ModelSpec), f"{stage.model.id} was not checked"
    return model


def _launch(site: Site, stage: StageSpec) -> LaunchSpec:
    launch = site.catalog.engines[stage.engine.name].launch
    assert launch is not None, f"{stage.engine.name} was not checked"
    return launch


def _zones(plan: Plan, snapshot: Snapshot) -> dict[str, str]:
    """Zone of every node of a plan that the planner knew; "+shape/i" is one that is to come."""
    known = {node.name: node.node_class.zone for node in snapshot.nodes}
    coming = {shape.name: shape.node_class.zone for shape in snapshot.shapes}
    for part in plan.slices:
        for name in (name for replica in part.replicas for name in replica.nodes):
            if name not in known and name.startswith("+"):
                known[name] = coming.get(name[1:].rpartition("/")[0], "")
    return known


def _fleet_tolerations(facts: ClusterFacts) -> tuple[Mapping[str, Any], ...]:
    fleet = read(facts.fleet)[0] if facts.fleet is not None else None
    if not isinstance(fleet, Fleet):
        return ()
    return tuple(t.model_dump(by_alias=True, exclude_none=True) for t in fleet.spec.tolerations)
