"""Kueue: pods carry its labels, replicas over several nodes are groups, and a gate is no failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator import manifests, translate
from motley_operator.domain.actions import CreatePod
from motley_operator.domain.facts import PodFacts
from motley_operator.manifests.queues import GROUP, GROUP_COUNT, GROUP_SERVING
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, job, plan_of, pool, replica, slice_of
from motley_operator.testing.asking import Asking
from motley_operator.testing.operated import CATALOG, Operated, load

QUEUE = "kueue.x-k8s.io/queue-name"
Document = dict[str, Any]


def labelled(document: Document) -> Document:
    document["metadata"]["labels"] = {QUEUE: "research"}
    return document


def gate(pod: PodFacts) -> Mapping[str, Any]:
    """What Kueue's webhook makes of a pod."""
    if QUEUE not in pod.labels:
        return {}
    return {"bound": False, "phase": "Pending", "ready": False, "reason": "SchedulingGated"}


def test_pods_of_a_labelled_resource_are_queued_and_others_are_not() -> None:
    operated = Operated()
    operated.world.add(labelled(pool("queued")))
    operated.world.add(pool("free"))
    made = [a.manifest for a in operated.cycle().actions if isinstance(a, CreatePod)]
    found = {m["metadata"]["labels"]["motley.dev/resource"]: m["metadata"] for m in made}
    assert found["queued"]["labels"][QUEUE] == "research"
    assert GROUP not in found["queued"]["labels"]  # one pod alone needs no group
    assert QUEUE not in found["free"]["labels"]


def test_a_gang_is_one_group_and_only_what_serves_says_so() -> None:
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    world.config_maps["team-a", "table"] = {}
    gang = replica("trainer", engine="fsdp", tensor_parallel=8, nodes=("h0", "h1"), rates={})
    rollout = replica("rollout", engine="sglang", nodes=("h0", "h1"))
    key = world.add(labelled(job()))
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, Settings())
    plan = plan_of(slice_of(key, [rollout, gang]))
    objects = manifests.build(plan, translation, facts, CATALOG, Settings())
    groups: dict[str, list[Document]] = {}
    for pod in (o["metadata"] for o in objects if o["kind"] == "Pod"):
        assert pod["labels"][QUEUE] == "research"
        groups.setdefault(pod["labels"][GROUP], []).append(pod)
    assert {name: len(pods) for name, pods in groups.items()} == {
        f"math-{gang.name}": 2,
        f"math-{rollout.name}": 2,
    }
    for name, pods in groups.items():
        for pod in pods:
            assert pod["annotations"][GROUP_COUNT] == "2"
            assert (pod["annotations"].get(GROUP_SERVING) == "true") is ("rollout" in name)


def test_a_gated_pod_is_neither_failed_nor_suspect_however_long_it_waits_and_is_told() -> None:
    operated = Operated()
    operated.world.fate = gate
    key = operated.world.add(labelled(pool(workload=load(60))))
    operated.run()
    before = operated.uids(key)
    assert before
    for _ in range(12):
        operated.world.now += 3600.0
        operated.run()
    assert operated.uids(key) == before
    assert "suspects" not in operated.status(key)
    assert operated.condition(key, "Queued") == ("True", "SchedulingGated")
    assert f"of queue research: {len(before)} of main" in operated.message(key, "Queued")
    assert operated.condition(key, "Reconciling") == ("True", "Progressing")
    operated.world.fate = lambda pod: {"reason": ""}
    operated.run()
    assert operated.uids(key) == before
    assert operated.condition(key, "Ready") == ("True", "Serving")
    assert "Queued" not in {c["type"] for c in operated.status(key)["conditions"]}


def test_what_runs_goes_on_while_its_replacement_is_gated() -> None:
    operated = Operated()
    key = operated.world.add(labelled(pool(workload=load(2), parallelism={"maxTensor": 1})))
    operated.run()
    (old,) = operated.uids(key)
    operated.world.fate = lambda pod: {} if pod.uid == old else gate(pod)
    operated.edit(key, engine={"name": "vllm", "image": "example.test/engine:2"})
    for _ in range(10):
        operated.cycle()
        operated.world.settle()
        operated.world.now += 300.0
    assert old in operated.uids(key)
    assert operated.condition(key, "Ready") == ("True", "Serving")


def test_nodes_are_bought_for_no_resource_that_a_queue_may_hold_back() -> None:
    asking = Asking()
    free = pool("free", workload=load(100), parallelism={"maxTensor": 1})
    held = labelled(pool("held", workload=load(100), parallelism={"maxTensor": 1}))
    keys = [asking.world.add(free), asking.world.add(held)]
    asking.steps()
    waiting = {key: any(p.node is None for p in asking.world.engine_pods(key)) for key in keys}
    assert waiting == {keys[0]: True, keys[1]: False}
