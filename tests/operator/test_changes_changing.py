from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from motley_operator import changes, manifests, translate
from motley_operator.changes.contained import is_contained
from motley_operator.changes.requests import pod_requests
from motley_operator.domain.actions import (
    Action,
    AdoptPod,
    ApplyObject,
    CreatePod,
    DeleteObject,
    DeletePod,
    LabelPod,
)
from motley_operator.domain.facts import Room
from motley_operator.facts.pods import requests
from motley_operator.settings import Settings
from motley_operator.status.conditions import timestamp
from motley_operator.testing import World, gpu_node, job, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import Plan, Refusal

CATALOG = load_catalog()
SETTINGS = Settings()


def wanted(world: World, plan: Plan) -> tuple[Action, ...]:
    """What one cycle with this plan would do now."""
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    desired = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    return changes.changes(desired, facts, plan)


def carried_out(world: World, plan: Plan) -> tuple[Action, ...]:
    """Carry a plan out until nothing is left to do; everything that was done."""
    done: list[Action] = []
    for _ in range(10):
        actions = wanted(world, plan)
        if not actions:
            return tuple(done)
        world.apply(actions)
        world.settle()
        done += actions
    raise AssertionError(f"no end after ten cycles: {actions}")


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]


def pod_names(world: World) -> list[str]:
    return [pod.name for pod in world.engine_pods()]


@pytest.fixture
def world() -> World:
    return World().add_node(gpu_node("h0"), gpu_node("h1"))


def test_the_second_run_does_nothing(world: World) -> None:
    plan = plan_of(slice_of(world.add(pool()), [replica(), replica(ordinal=1, nodes=("h1",))]))
    assert "CreatePod" in kinds(carried_out(world, plan))
    assert wanted(world, plan) == ()


def test_what_is_changed_is_the_object_that_was_seen(world: World) -> None:
    plan = plan_of(slice_of(world.add(pool()), [replica()]))
    made = [a for a in carried_out(world, plan) if isinstance(a, ApplyObject)]
    assert {(a.uid, a.version) for a in made} == {("", "")}
    place = ("ConfigMap", "team-a", "chat-routing")
    world.owned[place]["data"] = {"routing.json": "by somebody"}
    seen = world.owned[place]["metadata"]
    (again,) = wanted(world, plan)
    assert isinstance(again, ApplyObject)
    assert (again.uid, again.version) == (seen["uid"], seen["resourceVersion"])
    assert "uid" not in again.manifest["metadata"]


def test_services_and_rights_come_before_the_pods_that_need_them(world: World) -> None:
    order = kinds(wanted(world, plan_of(slice_of(world.add(pool()), [replica()]))))
    assert order == sorted(order, key=["ApplyObject", "CreatePod"].index)


def test_a_replica_that_is_no_longer_planned_leaves_its_service_first(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica(), replica(ordinal=1)])))
    before = {pod.name: pod.uid for pod in world.engine_pods()}
    actions = wanted(world, plan_of(slice_of(key, [replica()])))
    going = [a for a in actions if isinstance(a, LabelPod | DeletePod)]
    assert kinds(tuple(going)) == ["LabelPod", "DeletePod"]
    assert {a.name for a in going} == {"chat-main-0a1b2c3d-1"}
    world.apply(actions)
    world.settle()
    assert {p.name: p.uid for p in world.engine_pods()} == {
        "chat-main-0a1b2c3d-0": before["chat-main-0a1b2c3d-0"]
    }


def test_a_replacement_waits_until_the_old_replica_is_gone(world: World) -> None:
    key = world.add(pool())
    old = plan_of(slice_of(key, [replica(tensor_parallel=8)]))
    carried_out(world, old)
    new = plan_of(slice_of(key, [replica(tensor_parallel=8, column="ffffffff")]))
    first = wanted(world, new)
    assert "DeletePod" in kinds(first) and "CreatePod" not in kinds(first)
    world.apply(first)
    assert wanted(world, new) == ()  # the old one is still ending
    world.end_pods()
    assert kinds(wanted(world, new)) == ["CreatePod"]


@pytest.mark.parametrize(
    "taken",
    [
        Room(gpus=5),
        Room(cpu_milli=16_000 * 8 - 15_999),
        Room(memory_bytes=128 * 2**30 * 8 - 2**30),
    ],
    ids=["GPUs", "CPU", "memory"],
)
def test_nothing_is_created_where_a_foreign_pod_took_the_room(world: World, taken: Room) -> None:
    plan = plan_of(slice_of(world.add(pool()), [replica(tensor_parallel=4)]))
    world.foreign_pod("thief", "h0", taken, bound=False, phase="Pending")
    assert "CreatePod" not in kinds(wanted(world, plan))
    del world.pods[("other", "thief")]
    assert "CreatePod" in kinds(wanted(world, plan))


def test_a_gang_is_created_whole_or_not_at_all(world: World) -> None:
    key = world.add(job())
    gang = replica("trainer", tensor_parallel=8, nodes=("h0", "h1"), engine="fsdp")
    world.foreign_pod("thief", "h1", Room(gpus=1))
    plan = plan_of(slice_of(key, [gang]))
    assert "CreatePod" not in kinds(wanted(world, plan))
    del world.pods[("other", "thief")]
    assert kinds(wanted(world, plan)).count("CreatePod") == 2


@pytest.mark.parametrize("applied", range(1, 12))
def test_an_operator_killed_in_the_middle_converges(world: World, applied: int) -> None:
    key = world.add(pool())
    plan = plan_of(
        slice_of(key, [replica(), replica(ordinal=1), replica(ordinal=2, nodes=("h1",))])
    )
    world.apply(wanted(world, plan)[:applied])
    carried_out(world, plan)
    assert pod_names(world) == [f"chat-main-0a1b2c3d-{i}" for i in range(3)]


def test_the_pods_of_a_lost_node_are_replaced_and_no_other_pod_moves(world: World) -> None:
    key = world.add(pool())
    stays, goes = replica(), replica(ordinal=1, nodes=("h1",))
    carried_out(world, plan_of(slice_of(key, [stays, goes])))
    kept = {p.uid for p in world.engine_pods() if p.node == "h0"}
    world.lose_node("h1")
    replaced = replica(ordinal=2)
    carried_out(
        world, plan_of(slice_of(key, [replace(stays, kept=f"{key}/{stays.name}"), replaced]))
    )
    assert kept < {p.uid for p in world.engine_pods()}
    assert {p.node for p in world.engine_pods()} == {"h0"}


def test_a_pod_bound_to_a_node_that_is_gone_is_ended_at_once(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica(nodes=("h1",))])))
    del world.nodes["h1"]
    actions = wanted(world, plan_of(slice_of(key, [replica(ordinal=1)])))
    (deletion,) = (a for a in actions if isinstance(a, DeletePod))
    assert (deletion.reason, deletion.grace_seconds) == ("NodeLost", 0)


@pytest.mark.parametrize("was_bound", [True, False])
def test_a_pod_whose_node_is_gone_goes_even_if_its_resource_stays_as_it_is(
    world: World, was_bound: bool
) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica(), replica(ordinal=1, nodes=("h1",))])))
    (lost,) = (p for p in world.engine_pods() if p.node == "h1")
    if not was_bound:  # the node went before the scheduler came to it
        where = {"motley.dev/replica": lost.labels["motley.dev/replica"]}
        world.change_pods(where=where, bound=False, ready=False, phase="Pending")
    del world.nodes["h1"]
    blocked = plan_of(replace(slice_of(key), blocked=True))
    labels = [(a.uid, a.value) for a in wanted(world, blocked) if isinstance(a, LabelPod)]
    deletions = [a for a in wanted(world, blocked) if isinstance(a, DeletePod)]
    assert labels == [(lost.uid, None)]
    grace_s = 0 if was_bound else None  # nobody is asked about one that runs nowhere
    ended = [(a.uid, a.reason, a.grace_seconds) for a in deletions]
    assert ended == [(lost.uid, "NodeLost", grace_s)]


def orphaned(world: World, key: str) -> set[str]:
    """A deletion with --cascade=orphan: the pods stay, without an owner; their UIDs."""
    del world.documents[key]
    world.change_pods(where={"motley.dev/role": "serve"}, owner_uid=None)
    for live in world.owned.values():
        del live["metadata"]["ownerReferences"]
    return {pod.uid for pod in world.engine_pods()}


def test_orphans_of_a_resource_that_is_gone_are_left_alone(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()])))
    assert orphaned(world, key)
    assert wanted(world, plan_of()) == ()


@pytest.mark.parametrize("is_orphaned", [False, True])
def test_what_a_resource_owns_that_waits_for_finalizers_is_left_alone(
    world: World, is_orphaned: bool
) -> None:
    """The garbage collector has it, whether the deletion orphans, or begins with what is owned."""
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()])))
    document = world.documents[key]
    if is_orphaned:
        orphaned(world, key)
    document["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.documents[key] = document
    assert wanted(world, plan_of()) == ()


def test_a_resource_that_comes_back_adopts_its_orphans_and_moves_none(world: World) -> None:
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica(), replica(ordinal=1)]))
    carried_out(world, plan)
    before = orphaned(world, key)
    world.add(pool())
    world.documents[key]["metadata"]["uid"] = "another"
    done = carried_out(world, plan)
    assert {a.uid for a in done if isinstance(a, AdoptPod)} == before
    applied = [a for a in done if isinstance(a, ApplyObject) and a.uid]
    assert applied and all(a.adopts for a in applied)
    assert not [a for a in done if isinstance(a, CreatePod | DeletePod)]
    assert {pod.owner_uid for pod in world.engine_pods()} == {"another"}
    owners = {live["metadata"]["ownerReferences"][0]["uid"] for live in world.owned.values()}
    assert owners == {"another"}


def test_a_failed_pod_is_deleted_and_made_again(world: World) -> None:
    plan = plan_of(slice_of(world.add(pool()), [replica()]))
    carried_out(world, plan)
    world.change_pods(
        where={"motley.dev/role": "serve"}, phase="Failed", reason="UnexpectedAdmissionError"
    )
    actions = wanted(world, plan)
    (deletion,) = (a for a in actions if isinstance(a, DeletePod))
    assert deletion.reason == "UnexpectedAdmissionError"
    carried_out(world, plan)
    assert [p.phase for p in world.engine_pods()] == ["Running"]


def test_one_failed_trainer_ends_the_whole_gang(world: World) -> None:
    key = world.add(job())
    gang = replica("trainer", tensor_parallel=4, nodes=("h0", "h1"), engine="fsdp")
    plan = plan_of(slice_of(key, [gang]))
    carried_out(world, plan)
    world.change_pods(where={"motley.dev/rank": "1"}, phase="Failed")
    reasons = {a.name[-2:]: a.reason for a in wanted(world, plan) if isinstance(a, DeletePod)}
    assert reasons == {"r0": "PeerLost", "r1": "Failed"}


def test_finished_trainers_stay_until_the_status_says_so(world: World) -> None:
    key = world.add(job())
    gang = replica("trainer", tensor_parallel=4, engine="fsdp")
    carried_out(world, plan_of(slice_of(key, [gang, replica("rollout", engine="sglang")])))
    world.change_pods(where={"motley.dev/role": "trainer"}, phase="Succeeded", ready=False)
    deleted = {a.name for a in wanted(world, plan_of()) if isinstance(a, DeletePod)}
    assert deleted == {"math-rollout-0a1b2c3d-0"}
    condition = {
        "type": "Complete",
        "status": "True",
        "reason": "TrainerSucceeded",
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    world.documents[key]["status"] = {"conditions": [condition]}
    world.settle()
    deleted = {a.name for a in wanted(world, plan_of()) if isinstance(a, DeletePod)}
    assert "math-trainer-0a1b2c3d-0" in deleted


@pytest.mark.parametrize(
    "edit",
    [
        lambda w, k: w.add(pool(model={"id": "no/such-model"})),
        lambda w, k: w.documents[k]["metadata"].update(annotations={"motley.dev/paused": "true"}),
    ],
    ids=["an edit that is rejected", "a pause"],
)
def test_nothing_of_a_resource_is_touched_after(world: World, edit: Any) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()])))
    edit(world, key)
    assert wanted(world, plan_of()) == ()


def test_a_spec_that_no_plan_can_meet_stops_nothing(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()])))
    refusal = Refusal("LatencyUnreachable", "spec.slo.tpot", "too fast", "slower")
    blocked = replace(slice_of(key, [], [refusal]), blocked=True)
    assert wanted(world, plan_of(blocked)) == ()
    crowded_out = Refusal("InsufficientGPUs", "spec.workload", "no room", "+1 node")
    assert "DeletePod" in kinds(wanted(world, plan_of(slice_of(key, [], [crowded_out]))))


def test_without_a_solution_nothing_is_done(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()])))
    assert wanted(world, replace(plan_of(slice_of(key)), status="no_solution")) == ()


def test_pods_of_a_deleted_resource_are_left_to_the_garbage_collector(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()])))
    del world.documents[key]
    assert wanted(world, plan_of()) == ()


def test_drift_is_repaired_and_defaults_are_left_alone(world: World) -> None:
    plan = plan_of(slice_of(world.add(pool()), [replica()]))
    carried_out(world, plan)
    place = ("Deployment", "team-a", "chat-gateway")
    world.owned[place]["spec"]["progressDeadlineSeconds"] = 600
    assert wanted(world, plan) == ()
    world.owned[place]["spec"]["replicas"] = 7
    assert [a.manifest["kind"] for a in wanted(world, plan) if isinstance(a, ApplyObject)] == [
        "Deployment"
    ]


def test_objects_that_no_plan_wants_are_deleted(world: World) -> None:
    key = world.add(pool())
    carried_out(world, plan_of(slice_of(key, [replica()])))
    # Without replicas a stage needs no disruption budget.
    actions = carried_out(world, plan_of(slice_of(key, [])))
    deleted = [(a.kind, a.name) for a in actions if isinstance(a, DeleteObject)]
    assert deleted == [("PodDisruptionBudget", "chat")]


def test_a_gateways_disruption_budget_comes_and_goes_with_its_second_replica(
    world: World,
) -> None:
    def limits() -> list[object]:
        found = [o for (kind, _, _), o in world.owned.items() if kind == "PodDisruptionBudget"]
        return [o["spec"]["maxUnavailable"] for o in found if "maxUnavailable" in o["spec"]]

    for replicas, expected in ((1, []), (3, [1]), (1, []), (2, [1])):
        key = world.add(pool(gateway={"replicas": replicas}))
        plan = plan_of(slice_of(key, [replica()]))
        carried_out(world, plan)
        assert limits() == expected
        assert wanted(world, plan) == ()


def test_an_edited_engine_is_rolled_one_replica_at_a_time(world: World) -> None:
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica(), replica(ordinal=1), replica(ordinal=2)]))
    carried_out(world, plan)
    world.add(pool(engine={"name": "vllm", "extraArgs": ["--enforce-eager"]}))
    for expected in range(3):
        actions = wanted(world, plan)
        deleted = [a.name for a in actions if isinstance(a, DeletePod)]
        assert deleted == [f"chat-main-0a1b2c3d-{expected}"]
        world.apply(actions)
        assert not [a for a in wanted(world, plan) if isinstance(a, DeletePod)]
        world.end_pods()
        world.apply(wanted(world, plan))
        assert wanted(world, plan) == ()  # the new one is not ready yet
        world.settle()
    assert wanted(world, plan) == ()


@pytest.mark.parametrize(
    "memory", ["1Gi", "1048576Ki", "1e9", "0.00001P", "2Mi", "500000k", "1500m"]
)
def test_desired_requests_are_counted_as_facts_count_them(world: World, memory: str) -> None:
    sidecar = {
        "name": "log",
        "image": "x",
        "resources": {"requests": {"cpu": "1500m", "memory": memory}},
    }
    template = {
        "spec": {
            "containers": [sidecar],
            "initContainers": [
                {"name": "load", "image": "x", "resources": {"requests": {"cpu": "90"}}},
                {"name": "side", "image": "x", "restartPolicy": "Always"}
                | {"resources": {"limits": {"memory": "0.5Gi"}}},
            ],
        }
    }
    plan = plan_of(slice_of(world.add(pool(podTemplate=template)), [replica(tensor_parallel=2)]))
    (creation,) = (a for a in wanted(world, plan) if isinstance(a, CreatePod))
    assert pod_requests(creation.manifest) == requests(creation.manifest["spec"])
    assert pod_requests(creation.manifest).cpu_milli == 90_000


@pytest.mark.parametrize(
    ("desired", "live", "expected"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2], "c": 0}}, True),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": [{"name": "x"}]}, {"a": [{"name": "x", "defaulted": True}]}, True),
        ({"a": {}}, {}, True),
        ({"a": []}, {}, True),
        ({"a": {"b": 1}}, {}, False),
        ({"a": False}, {}, False),
    ],
    ids=lambda value: str(value),
)
def test_an_object_is_as_wanted_if_it_holds_what_is_wanted(
    desired: Any, live: Any, expected: bool
) -> None:
    assert is_contained(desired, copy.deepcopy(live)) is expected


@pytest.mark.parametrize(
    ("ttl_s", "ended_s_ago", "finished", "gone"),
    [
        (60, 61, "Complete", True),
        (60, 61, "Failed", True),
        (0, 0, "Complete", True),
        (60, 59, "Complete", False),
        (None, 10**6, "Complete", False),
        (60, 61, "Suspended", False),
    ],
    ids=["its time is over", "a failed one", "at once", "not yet", "no time given", "a pause"],
)
def test_a_finished_job_is_deleted_by_uid_after_its_time(
    world: World, ttl_s: int | None, ended_s_ago: int, finished: str, gone: bool
) -> None:
    key = world.add(job(ttlSecondsAfterFinished=ttl_s, suspend=finished == "Suspended"))
    at = timestamp(world.facts().now - ended_s_ago)
    world.documents[key]["status"] = {
        "conditions": [
            {"type": finished, "status": "True", "reason": "r", "lastTransitionTime": at}
        ],
        "completionTime": at,
    }
    uid = world.documents[key]["metadata"]["uid"]
    deleted = DeleteObject("RLJob", "team-a", "math", uid)
    assert (deleted in wanted(world, plan_of())) == gone
