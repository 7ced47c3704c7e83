from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from motley_operator import changes, manifests, translate
from motley_operator.domain.facts import ClusterFacts, Room, Taint
from motley_operator.domain.translation import Translation
from motley_operator.settings import Settings
from motley_operator.status.conditions import timestamp
from motley_operator.testing import (
    CALIBRATION,
    World,
    cascade,
    gpu_node,
    job,
    plan_of,
    pool,
    replica,
    slice_of,
)
from motley_operator.testing.samples import GIB
from motley_operator.translate.nodes import capacity_type, tolerates
from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import RlDemand, ServingDemand

CATALOG = load_catalog()
SETTINGS = Settings()
NEED = 4000, 16 * GIB


def translated(world: World | ClusterFacts) -> Translation:
    facts = world.facts() if isinstance(world, World) else world
    return translate.translate(facts, CATALOG, SETTINGS)


def running(world: World, key: str, *replicas: Any) -> None:
    """Bring replicas up as an earlier plan would have."""
    facts = world.facts()
    plan = plan_of(slice_of(key, replicas))
    desired = manifests.build(plan, translated(facts), facts, CATALOG, SETTINGS)
    world.apply(changes.changes(desired, facts, plan))
    world.settle()


def test_room_is_what_bound_and_pinned_pods_leave() -> None:
    world = World().add_node(gpu_node("h0"))
    half = Room(gpus=2, cpu_milli=1000, memory_bytes=GIB)
    world.foreign_pod("bound", "h0", half)
    world.foreign_pod("pinned", "h0", half, bound=False, phase="Pending")
    world.foreign_pod("ending", "h0", half, deleting=True)
    world.foreign_pod("finished", "h0", half, phase="Succeeded")
    (node,) = translated(world).snapshot.nodes
    allocatable = world.nodes["h0"].allocatable
    assert (node.gpus, node.total_gpus) == (2, 8)
    assert node.cpu_milli == allocatable.cpu_milli - 3000
    assert node.memory_bytes == allocatable.memory_bytes - 3 * GIB
    assert node.pods == allocatable.pods - 3


def test_what_runs_is_given_back_and_read_from_its_pods_alone() -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool())
    running(world, key, replica(tensor_parallel=4))
    world.documents[key].pop("status", None)
    snapshot = translated(world).snapshot
    (unit,) = snapshot.running
    assert unit.id == f"{key}/main-0a1b2c3d-0"
    assert (unit.gpu, unit.tensor_parallel, unit.operating_batch) == ("H100-SXM5-80GB", 4, 32)
    assert (unit.role, unit.stage, unit.nodes) == ("serve", "main", ("h0",))
    assert snapshot.nodes[0].gpus == 8
    assert snapshot.reserved == frozenset()


@pytest.mark.parametrize(
    "change",
    [{"deleting": True}, {"phase": "Failed"}, {"phase": "Succeeded"}, {"owner_uid": "somebody"}],
    ids=["ending", "failed", "finished", "of an earlier resource of the name"],
)
def test_a_replica_that_is_not_alive_does_not_run_and_keeps_its_name(change: Any) -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool())
    running(world, key, replica(tensor_parallel=4))
    world.change_pods(where={"motley.dev/role": "serve"}, **change)
    snapshot = translated(world).snapshot
    assert snapshot.running == ()
    assert snapshot.reserved == {f"{key}/main-0a1b2c3d-0"}
    # What is on its way out will be gone when the plan is carried out; a stranger will not.
    assert snapshot.nodes[0].gpus == (4 if "owner_uid" in change else 8)


def test_part_of_a_gang_does_not_run() -> None:
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    key = world.add(job())
    gang = replica("trainer", tensor_parallel=8, nodes=("h0", "h1"), engine="fsdp")
    running(world, key, gang)
    assert [u.nodes for u in translated(world).snapshot.running] == [("h0", "h1")]
    (name,) = (n for n, p in world.pods.items() if p.labels.get("motley.dev/rank") == "1")
    del world.pods[name]
    snapshot = translated(world).snapshot
    assert (snapshot.running, snapshot.reserved) == ((), {f"{key}/trainer-0a1b2c3d-0"})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "used"),
        ({"unschedulable": True}, "cordoned"),
        ({"deleting": True}, "left out"),
        ({"taints": [("team", "x", "NoSchedule")]}, "cordoned"),
        ({"taints": [("team", "x", "NoExecute")]}, "cordoned"),
        ({"taints": [("team", "x", "PreferNoSchedule")]}, "used"),
        ({"taints": [("nvidia.com/gpu", "present", "NoSchedule")]}, "used"),
        ({"labels": {"motley.dev/exclude": "true"}}, "cordoned"),
        ({"ready": False, "not_ready_since": 1.0}, "left out"),
    ],
    ids=lambda value: str(value),
)
def test_a_node_is_used_cordoned_or_left_out(change: dict[str, Any], expected: str) -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool())
    running(world, key, replica())
    world.add_node(gpu_node("h0", **dict(change)))
    snapshot = translated(world).snapshot
    if expected == "left out":
        assert (snapshot.nodes, snapshot.running) == ((), ())
        assert snapshot.reserved == {f"{key}/main-0a1b2c3d-0"}
    else:
        assert [n.cordoned for n in snapshot.nodes] == [expected == "cordoned"]
        assert len(snapshot.running) == 1


def test_a_node_is_lost_only_after_the_time_given() -> None:
    world = World().add_node(gpu_node("h0", ready=False, not_ready_since=World().now - 5))
    patient = replace(SETTINGS, node_loss_seconds=10.0)
    assert len(translate.translate(world.facts(), CATALOG, patient).snapshot.nodes) == 1
    assert translate.translate(world.facts(), CATALOG, SETTINGS).snapshot.nodes == ()


def test_a_taint_that_one_resource_tolerates_bars_only_the_others() -> None:
    world = World().add_node(gpu_node("h0", taints=[("team", "x", "NoSchedule")]))
    toleration = {"key": "team", "operator": "Equal", "value": "x", "effect": "NoSchedule"}
    world.add(pool("open", podTemplate={"spec": {"tolerations": [toleration]}}))
    barred = world.add(pool("shut"))
    (node,) = translated(world).snapshot.nodes
    assert not node.cordoned
    assert node.node_class.excluded_for == {barred}


def test_a_node_selector_bars_the_nodes_without_the_label() -> None:
    world = World().add_node(gpu_node("h0", labels={"rack": "r1"}), gpu_node("h1"))
    key = world.add(pool(placement={"nodeSelector": {"rack": "r1"}}))
    nodes = {n.name: n.node_class.excluded_for for n in translated(world).snapshot.nodes}
    assert nodes == {"h0": frozenset(), "h1": {key}}


def test_products_nobody_knows_are_named_and_left_out() -> None:
    world = World().add_node(
        gpu_node("a", "NVIDIA-H100-80GB-HBM3-SHARED"),
        gpu_node("b", "Frobnicator-9000"),
        gpu_node("c", "Frobnicator-9000"),
        gpu_node("d"),
    )
    done = translated(world)
    assert [n.name for n in done.snapshot.nodes] == ["d"]
    assert {(u.product, u.nodes) for u in done.unknown_gpus} == {
        ("NVIDIA-H100-80GB-HBM3-SHARED", 1),
        ("Frobnicator-9000", 2),
    }


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, "on-demand"),
        ({"karpenter.sh/capacity-type": "spot"}, "spot"),
        ({"karpenter.sh/capacity-type": "reserved"}, "reserved"),
        ({"cloud.google.com/gke-spot": "true"}, "spot"),
        ({"eks.amazonaws.com/capacityType": "SPOT"}, "spot"),
        ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, "on-demand"),
        ({"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}, "reserved"),
    ],
)
def test_capacity_types_of_all_clouds_are_read(labels: dict[str, str], expected: str) -> None:
    assert capacity_type(labels) == expected


def test_a_nodes_own_price_goes_before_the_fleets_and_that_before_the_catalogs() -> None:
    world = World().add_node(
        gpu_node("own", labels={"motley.dev/price-usd-per-hour": "16"}),
        gpu_node("fleet"),
        gpu_node("spot", labels={"karpenter.sh/capacity-type": "spot"}),
        gpu_node("typed", labels={"node.kubernetes.io/instance-type": "big"}),
        gpu_node("nonsense", labels={"motley.dev/price-usd-per-hour": "-1"}),
    )
    world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default"},
        "spec": {
            "prices": {
                "gpus": [{"gpu": "NVIDIA-H100-80GB-HBM3", "dollarsPerHour": 3}],
                "instanceTypes": [{"instanceType": "big", "dollarsPerHour": 8}],
            }
        },
    }
    prices = {n.name: n.node_class.price_usd_per_gpu_hour for n in translated(world).snapshot.nodes}
    catalog = CATALOG.gpus["H100-SXM5-80GB"]
    assert prices == {
        "own": 2.0,
        "fleet": 3.0,
        "spot": catalog.spot_price_usd_per_hour,
        "typed": 1.0,
        "nonsense": 3.0,
    }


def test_the_fleet_adds_gpus_and_says_which_nodes() -> None:
    gpu = {
        "id": "FROB",
        "productLabels": ["Frobnicator-9000"],
        "memoryGigabytes": 100,
        "memoryGigabytesPerSecond": 2000,
        "bf16Teraflops": 500,
    }
    world = World().add_node(
        gpu_node("in", "Frobnicator-9000", labels={"use": "yes"}), gpu_node("out")
    )
    world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default"},
        "spec": {"nodeSelector": {"use": "yes"}, "catalog": {"gpus": [gpu]}},
    }
    done = translated(world)
    assert [(n.name, n.node_class.gpu) for n in done.snapshot.nodes] == [("in", "FROB")]
    assert done.catalog.gpus["FROB"].hbm_bytes == 100e9


def test_resources_become_demand_in_si_units() -> None:
    world = World(priority_classes={"high": 7}).add_node(gpu_node("h0"))
    world.config_maps[("team-a", "table")] = {"table.csv": CALIBRATION}
    world.add(
        pool(
            slo={"ttft": {"p95": "400ms"}},
            budget={"dollarsPerHour": "12.5", "gpus": 4},
            replan={"headroom": "20%"},
            priorityClassName="high",
            placement={"gpuProducts": ["NVIDIA-L4", "H100-SXM5-80GB"], "maxSpotShare": "50%"},
        )
    )
    world.add(cascade())
    world.add(job())
    snapshot = translated(world).snapshot
    demands = {d.key.split("/")[0]: d for d in (*snapshot.services, *snapshot.jobs)}
    served, routed, trained = demands["ServingPool"], demands["ModelCascade"], demands["RLJob"]
    assert isinstance(served, ServingDemand) and isinstance(routed, ServingDemand)
    assert served.slo.ttft_s == {"p95": 0.4}
    assert (served.budget.usd_per_hour, served.budget.gpus) == (12.5, 4)
    assert (served.priority, served.headroom) == (7, 0.2)
    placement = served.stages[0].placement
    assert placement.gpus == {"L4", "H100-SXM5-80GB"}
    assert placement.max_spot_share == 0.5
    assert [s.name for s in routed.stages] == ["small", "large"]
    assert routed.quality_floor == 0.5
    assert len(routed.policies) > 2
    assert isinstance(trained, RlDemand)
    assert (trained.mean_new_tokens, trained.rollout.min_replicas) == (1024, 2)


@pytest.mark.parametrize(
    ("document", "reason", "field"),
    [
        (pool(model={"id": "no/such-model"}), "UnknownModel", "spec.model.id"),
        (pool(engine={"name": "frob"}), "UnknownEngine", "spec.engine.name"),
        (
            pool(placement={"gpuProducts": ["Frobnicator"]}),
            "UnknownGPU",
            "spec.placement.gpuProducts[0]",
        ),
        (pool(priorityClassName="none"), "PriorityClassMissing", "spec.priorityClassName"),
        (pool(modle={}), "InvalidSpec", "spec.modle"),
        (cascade(), "CalibrationMissing", "spec.quality.calibration.configMapKeyRef.name"),
        (
            pool(podTemplate={"spec": {"nodeName": "h0"}}),
            "PodTemplateRefused",
            "spec.podTemplate.spec.nodeName",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_rejected_with_a_reason_a_field_and_a_way_out(
    document: dict[str, Any], reason: str, field: str
) -> None:
    world = World().add_node(gpu_node("h0"))
    good, bad = world.add(pool("good")), world.add({**document, "metadata": {"name": "bad"}})
    done = translated(world)
    assert [s.key for s in done.snapshot.services] == [good]
    refusal = done.rejected[bad][0]
    assert (refusal.reason, refusal.field) == (reason, field)
    assert ": " in refusal.message  # what is wrong, and what would lift it


def test_what_the_fleet_allows_in_a_podtemplate_is_planned_and_nothing_else() -> None:
    world = World().add_node(gpu_node("h0"))
    disk = {"spec": {"volumes": [{"name": "d", "hostPath": {"path": "/data"}}]}}
    rest = {"spec": {**disk["spec"], "hostNetwork": True}}
    one, other = world.add(pool("one", podTemplate=disk)), world.add(pool("two", podTemplate=rest))
    assert {*translated(world).rejected} == {one, other}
    world.fleet = fleet_of(podTemplates={"allow": ["HostPath"]})
    done = translated(world)
    assert [s.key for s in done.snapshot.services] == [one]
    (refusal,) = done.rejected[other]
    assert refusal.field == "spec.podTemplate.spec.hostNetwork"
    assert "have an admin add HostNetwork to the Fleet's podTemplates.allow" in refusal.message


def test_a_rejected_resource_keeps_its_pods_and_their_room() -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool())
    running(world, key, replica(tensor_parallel=4))
    world.add(pool(model={"id": "no/such-model"}))
    snapshot = translated(world).snapshot
    assert (snapshot.services, snapshot.running) == ((), ())
    assert snapshot.nodes[0].gpus == 4


def test_jobs_that_are_suspended_and_resources_that_go_ask_for_nothing() -> None:
    world = World().add_node(gpu_node("h0"))
    world.add(job("waiting", suspend=True))
    world.add(pool("going"))
    facts = world.facts()
    going = tuple(replace(r, deleting=r.name == "going") for r in facts.resources)
    done = translated(replace(facts, resources=going))
    assert (done.snapshot.jobs, done.snapshot.services, done.rejected) == ((), (), {})


@pytest.mark.parametrize(
    ("spec", "annotations", "reason"),
    [
        ({}, {}, None),
        ({}, {"motley.dev/paused": "true"}, "Paused"),
        ({"replan": {"mode": "Preview"}}, {}, "PreviewHolds"),
        ({"replan": {"mode": "Disabled"}}, {}, None),
    ],
)
def test_a_resource_is_frozen_by_pause_and_preview_but_not_before_its_first_plan(
    spec: dict[str, Any], annotations: dict[str, str], reason: str | None
) -> None:
    world = World().add_node(gpu_node("h0"))
    document = pool(**spec)
    document["metadata"]["annotations"] = annotations
    key = world.add(document)
    done = translated(world)
    assert done.frozen.get(key) == reason
    assert (key in done.snapshot.frozen) == (reason is not None)


def test_a_disabled_resource_is_frozen_while_all_that_was_planned_runs() -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool(replan={"mode": "Disabled"}))
    running(world, key, replica(), replica(ordinal=1))
    group = {
        "column": "0a1b2c3d",
        "model": "m",
        "gpu": "H100-SXM5-80GB",
        "gpuProduct": "x",
        "tensorParallel": 1,
        "count": 2,
    }
    world.documents[key]["status"] = {"plan": {"hash": "h", "status": "optimal", "groups": [group]}}
    assert translated(world).frozen == {key: "ReplanDisabled"}
    del world.pods[("team-a", "chat-main-0a1b2c3d-1")]
    assert translated(world).frozen == {}


def test_the_inputs_hash_sees_foreign_pods_and_edits_but_not_our_own_replicas() -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool())
    empty = translated(world).inputs_hash
    running(world, key, replica())
    gateways = translated(world).inputs_hash
    world.change_pods(where={"motley.dev/role": "serve"}, deleting=True)
    assert translated(world).inputs_hash == gateways == empty
    world.foreign_pod("other", "h0", Room(gpus=1))
    other = translated(world).inputs_hash
    world.add(pool(replan={"headroom": "30%"}))
    assert len({empty, other, translated(world).inputs_hash}) == 3


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "l", "operator": "Exists"}, False),
        ({}, False),
    ],
    ids=lambda value: str(value),
)
def test_tolerations_are_matched_as_kubernetes_does(
    toleration: dict[str, str], expected: bool
) -> None:
    assert tolerates(toleration, Taint("k", "v", "NoSchedule")) is expected


def test_a_name_that_another_resource_needs_goes_to_the_older_one() -> None:
    world = World().add_node(gpu_node("h0"))
    world.config_maps[("team-a", "table")] = {"table.csv": CALIBRATION}
    young = pool("support-small")
    young["metadata"]["creationTimestamp"] = "2026-11-21T12:00:01Z"
    old = cascade("support")
    old["metadata"]["creationTimestamp"] = "2026-11-21T12:00:00Z"
    key, first = world.add(young), world.add(old)
    done = translated(world)
    assert [s.key for s in done.snapshot.services] == [first]
    assert first in done.rejected[key][0].message
    elsewhere = {**young, "metadata": {"name": "support-small", "namespace": "team-b"}}
    assert world.add(elsewhere) not in translated(world).rejected


def test_a_stage_may_not_be_called_like_the_gateway() -> None:
    world = World().add_node(gpu_node("h0"))
    table = CALIBRATION.replace("small", "gateway")
    world.config_maps[("team-a", "table")] = {"table.csv": table}
    document = cascade()
    document["spec"]["stages"][0]["name"] = "gateway"
    key = world.add(document)
    assert "its own gateway" in translated(world).rejected[key][0].message


def fleet_of(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "f"},
        "spec": spec,
    }


TINY = {
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "intermediate_size": 8192,
    "vocab_size": 32000,
}


def test_the_fleet_adds_models_and_their_aliases() -> None:
    world = World().add_node(gpu_node("h0"))
    entry = {"id": "acme/tiny", "aliases": ["acme/tiny-instruct"], "architecture": TINY}
    world.fleet = fleet_of(catalog={"models": [entry]})
    key = world.add(pool(model={"id": "Acme/Tiny-Instruct"}))
    done = translated(world)
    (service,) = done.snapshot.services
    assert (service.key, service.stages[0].model.layers) == (key, 16)
    assert done.unmet == ()


def test_a_model_of_the_fleet_that_takes_anothers_name_is_left_out_and_named() -> None:
    world = World().add_node(gpu_node("h0"))
    entry = {"id": "acme/tiny", "aliases": ["Qwen/Qwen3-8B"], "architecture": TINY}
    world.fleet = fleet_of(catalog={"models": [entry]})
    world.add(pool())
    done = translated(world)
    assert done.snapshot.services[0].stages[0].model.name == "Qwen/Qwen3-8B"
    assert [refusal.field for refusal in done.unmet] == ["spec.catalog.models[0]"]


def test_limits_of_a_jobs_gang_and_rollouts_reach_the_planner() -> None:
    world = World().add_node(gpu_node("h0"))
    world.add(
        job(trainer={"minGpus": 2, "maxGpus": 4}, rollout={"minReplicas": 2, "maxReplicas": 3})
    )
    (asked,) = translated(world).snapshot.jobs
    assert (asked.trainer_min_gpus, asked.trainer_max_gpus) == (2, 4)
    assert (asked.rollout.min_replicas, asked.max_rollout_replicas) == (2, 3)


@pytest.mark.parametrize(
    ("stopped", "age_s", "spec", "cools"),
    [
        (1, 100.0, {}, True),  # the Fleet's 10 minutes
        (1, 700.0, {}, False),
        (0, 100.0, {}, False),
        (1, 100.0, {"replan": {"cooldown": "30s"}}, False),
        (1, 700.0, {"replan": {"cooldown": "1h"}}, True),
    ],
    ids=["just changed", "long ago", "only repaired", "a short cooldown", "a long one"],
)
def test_a_resource_cools_down_from_its_last_change_that_was_no_repair(
    stopped: int, age_s: float, spec: dict[str, Any], cools: bool
) -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool(**spec))
    at = timestamp(world.facts().now - age_s)
    world.documents[key]["status"] = {
        "lastReplan": {"reason": "Saves", "stopped": stopped, "time": at}
    }
    assert translated(world).snapshot.cooling == (frozenset({key}) if cools else frozenset())
