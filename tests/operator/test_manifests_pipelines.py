"""Replicas over several nodes: their pods, what they are told, and that they live and end together."""

from __future__ import annotations

from typing import Any

from motley_operator import manifests, translate
from motley_operator.changes import changes
from motley_operator.domain.actions import Action, CreatePod, DeletePod, PatchStatus
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_operator.translate.running import read_unit
from motley_planner.catalog import load_catalog
from motley_planner.domain.fragments import ReplicaFragment
from motley_planner.domain.plan import Plan, PlannedReplica
from motley_planner.planning import plan as planned

CATALOG = load_catalog()
SETTINGS = Settings(gateway_image="example.org/motley:test")
KEY = "ServingPool/team-a/chat"
CUT = (ReplicaFragment("L40S", 4, 44), ReplicaFragment("A10", 4, 20))


def spanning(**changed: Any) -> PlannedReplica:
    """A 64-layer model over an L40S and an A10 node."""
    fields: dict[str, Any] = {
        "model": "Qwen/Qwen3-32B",
        "gpu": "L40S",
        "tensor_parallel": 4,
        "nodes": ("n0", "n1"),
        "pipeline": CUT,
    }
    return replica(**(fields | changed))


def world(product: str = "NVIDIA-L40S") -> World:
    """Two nodes of four GPUs and a pool that allows two fragments."""
    made = World().add_node(gpu_node("n0", product, 4), gpu_node("n1", "NVIDIA-A10", 4))
    spec = {"model": {"id": "Qwen/Qwen3-32B"}, "parallelism": {"maxPipeline": 2}}
    made.add(pool(**spec))
    return made


def pods_of(made: World, *replicas: PlannedReplica) -> list[dict[str, Any]]:
    facts = made.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    assert not translation.rejected
    plan = plan_of(slice_of(KEY, replicas, digest="0123456789ab"))
    objects = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    return [each for each in objects if each["kind"] == "Pod"]


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e["value"] for e in pod["spec"]["containers"][0]["env"] if "value" in e}


def value_of(args: list[str], flag: str) -> str:
    return args[args.index(flag) + 1]


def test_every_pod_is_told_the_same_partition_and_where_the_first_one_is() -> None:
    first, second = pods_of(world(), spanning())
    leader = f"{first['spec']['hostname']}.{first['spec']['subdomain']}.team-a.svc"
    for rank, pod in enumerate((first, second)):
        args, env = pod["spec"]["containers"][0]["args"], environment(pod)
        assert env["VLLM_PP_LAYER_PARTITION"] == "44,20"
        assert env["VLLM_HOST_IP"] == "$(POD_IP)"
        assert value_of(args, "--pipeline-parallel-size") == value_of(args, "--nnodes") == "2"
        assert value_of(args, "--tensor-parallel-size") == "4"
        assert value_of(args, "--master-addr") == leader
        assert value_of(args, "--node-rank") == str(rank)
        assert ("--headless" in args) == (rank > 0)
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 4}
    names = [e["name"] for e in first["spec"]["containers"][0]["env"]]
    # Kubernetes expands $(POD_IP) only from variables that stand before it.
    assert names.index("POD_IP") < names.index("VLLM_HOST_IP")


def test_only_the_first_pod_answers_and_no_container_restarts_alone() -> None:
    first, second = pods_of(world(), spanning())
    assert "readinessProbe" in first["spec"]["containers"][0]
    for probe in ("readinessProbe", "livenessProbe", "startupProbe", "ports"):
        assert probe not in second["spec"]["containers"][0]
    assert first["spec"]["restartPolicy"] == second["spec"]["restartPolicy"] == "Never"


def test_a_replica_of_one_piece_is_as_before() -> None:
    (pod,) = pods_of(world(), replica())
    args = pod["spec"]["containers"][0]["args"]
    assert "--pipeline-parallel-size" not in args and "--nnodes" not in args
    assert "VLLM_PP_LAYER_PARTITION" not in environment(pod)
    assert pod["spec"]["restartPolicy"] == "Always"
    assert "pipeline" not in pod["metadata"]["annotations"]["motley.dev/unit"]


def test_fragments_with_other_numbers_of_gpus_ask_for_their_own() -> None:
    cut = (ReplicaFragment("L40S", 4, 44), ReplicaFragment("A10", 2, 20))
    first, second = pods_of(world(), spanning(pipeline=cut))
    limits = [p["spec"]["containers"][0]["resources"]["limits"] for p in (first, second)]
    assert limits == [{"nvidia.com/gpu": 4}, {"nvidia.com/gpu": 2}]


def test_the_plainest_gpu_decides_on_the_dtype_of_all_pods() -> None:
    cut = (ReplicaFragment("L40S", 4, 44), ReplicaFragment("T4", 4, 20))
    for pod in pods_of(world(), spanning(pipeline=cut)):
        assert value_of(pod["spec"]["containers"][0]["args"], "--dtype") == "half"


def test_the_gateway_sends_to_the_first_pod_only() -> None:
    made = world()
    facts = made.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    plan = plan_of(slice_of(KEY, [spanning()], digest="0123456789ab"))
    objects = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    (table,) = [o for o in objects if o["kind"] == "ConfigMap"]
    assert table["data"]["routing.json"].count("http://main-0a1b2c3d-0-r0.") == 1
    assert "-r1." not in table["data"]["routing.json"]


def turn(made: World) -> tuple[Plan, tuple[Action, ...]]:
    """One cycle: facts, plan, desired objects, actions, and the world after them."""
    facts = made.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    plan = planned(translation.snapshot, translation.catalog, use_worker=False)
    objects = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    actions = changes(objects, facts, plan)
    made.apply(actions)
    made.settle()
    return plan, tuple(a for a in actions if not isinstance(a, PatchStatus))


def small_world() -> World:
    """Nodes with one GPU each, none of which holds a 32B model in 16 bits."""
    made = World()
    for i in range(3):
        made.add_node(gpu_node(f"l{i}", "NVIDIA-L40S", 1), gpu_node(f"a{i}", "NVIDIA-A10", 1))
    spec = {
        "model": {"id": "Qwen/Qwen3-32B"},
        "parallelism": {"maxPipeline": 3},
        "workload": {
            "requestsPerSecond": "0.3",
            "classes": [{"name": "all", "promptTokens": 400, "outputTokens": 100}],
        },
    }
    made.add(pool(**spec))
    return made


def test_a_planned_pipeline_is_created_whole_recognized_and_left_alone() -> None:
    made = small_world()
    plan, actions = turn(made)
    (wanted,) = plan.slices[0].replicas
    assert len(wanted.pipeline) > 1 and not plan.slices[0].refusals
    assert sum(isinstance(a, CreatePod) for a in actions) == len(wanted.pipeline)
    again, actions = turn(made)
    (kept,) = again.slices[0].replicas
    assert kept.kept == f"{KEY}/{wanted.name}" and kept.pipeline == wanted.pipeline
    assert not [a for a in actions if isinstance(a, CreatePod | DeletePod)]


def test_one_failed_pod_ends_the_replica_and_it_is_made_anew() -> None:
    made = small_world()
    plan, _ = turn(made)
    (wanted,) = plan.slices[0].replicas
    made.change_pods(where={"motley.dev/rank": "1"}, phase="Failed", ready=False)
    _, actions = turn(made)
    deleted = [a for a in actions if isinstance(a, DeletePod)]
    assert len(deleted) == len(wanted.pipeline)
    made.end_pods()
    for _ in range(3):
        turn(made)
        made.end_pods()
    pods = made.engine_pods()
    assert len(pods) >= 2 and all(pod.phase == "Running" for pod in pods)


def test_a_damaged_description_is_no_replica() -> None:
    good = '{"gpu": "L4", "tensor_parallel": 1, "operating_batch": 1, "model": "m", '
    good += '"precision": "bf16", "role": "serve", "stage": "main", "fragments": 2'
    for cut in ("[1]", '[["L4", 1]]', '[["L4", 1, "x"], ["L4", 1, 2]]', '[["L4", 1, 9]]', '"x"'):
        assert read_unit({"motley.dev/unit": good + f', "pipeline": {cut}}}'}) is None
    cut = '[["L4", 1, 9], ["A10", 1, 7]]'
    found = read_unit({"motley.dev/unit": good + f', "pipeline": {cut}}}'})
    assert found is not None and found["pipeline"] == [["L4", 1, 9], ["A10", 1, 7]]
