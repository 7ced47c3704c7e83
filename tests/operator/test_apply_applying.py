"""What becomes of each action when the server says yes, no, not now, or no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motley_operator.apply import Applier
from motley_operator.apply.applying import batches
from motley_operator.connection import Client
from motley_operator.domain.actions import (
    Action,
    AdoptPod,
    ApplyObject,
    CreatePod,
    DeleteObject,
    DeletePod,
    EmitEvent,
    LabelPod,
    PatchStatus,
    TryPod,
)
from motley_operator.domain.verdicts import Refusal
from motley_operator.settings import Settings


class FakeView:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.absorbed: list[tuple[str, str]] = []
        self.forgotten: list[tuple[str, str]] = []
        self.versions: dict[str, int] = {}

    def version(self, kind: str, uid: str) -> int:
        return self.versions.get(uid, 0)

    def absorb(self, kind: str, document: Any) -> None:
        self.absorbed.append((kind, document["metadata"]["name"]))

    def forget(self, kind: str, uid: str) -> None:
        self.forgotten.append((kind, uid))


def create(name: str) -> CreatePod:
    metadata = {"name": name, "namespace": "team-a"}
    return CreatePod({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}})


def service(name: str) -> ApplyObject:
    metadata = {"name": name, "namespace": "team-a"}
    return ApplyObject({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}})


POOL = ("ServingPool", "team-a", "chat")


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def applier(client: Client, view: FakeView) -> Applier:
    return Applier(client, view, Settings())


async def result(applier: Applier, action: Action) -> str:
    (outcome,) = await applier.apply([action])
    assert outcome.action is action
    return outcome.result


async def test_a_pod_is_posted_once_and_a_second_post_finds_it(
    api: Any, applier: Applier, view: FakeView
) -> None:
    assert await result(applier, create("p0")) == "done"
    assert await result(applier, create("p0")) == "exists"
    assert view.absorbed == [("Pod", "p0")]
    assert api.calls == {"POST pods": 2}


async def test_a_pod_is_tried_and_not_made_and_the_servers_answer_is_told(
    api: Any, applier: Applier, view: FakeView
) -> None:
    trial = TryPod(create("p0").manifest)
    (outcome,) = await applier.apply([trial])
    assert (outcome.result, outcome.refusal) == ("done", None)
    assert ("team-a", "p0") not in api.objects["pods"] and view.absorbed == []
    api.fail_next(422, reason="Invalid", message="no such volume")
    (outcome,) = await applier.apply([trial])
    assert (outcome.result, outcome.refusal) == ("done", Refusal.INVALID)
    assert outcome.message == "422 Invalid: no such volume"
    api.fail_next(422, reason="Invalid", message="no such volume")
    (outcome,) = await applier.apply([create("p0")])
    assert (outcome.result, outcome.refusal) == ("failed", Refusal.INVALID)
    # What has its name is there still: that is looked at after everything else.
    await applier.apply([create("p0")])
    (outcome,) = await applier.apply([trial])
    assert (outcome.result, outcome.refusal) == ("done", None)


async def test_a_deletion_hits_only_the_object_that_was_meant(
    api: Any, applier: Applier, view: FakeView, pod: Any
) -> None:
    uid = api.put("Pod", pod("p0"))["metadata"]["uid"]
    assert await result(applier, DeletePod("team-a", "p0", "older", "NotNeeded")) == "conflict"
    assert ("team-a", "p0") in api.objects["pods"]
    assert await result(applier, DeletePod("team-a", "p0", uid, "NotNeeded")) == "done"
    assert ("team-a", "p0") not in api.objects["pods"]
    assert await result(applier, DeletePod("team-a", "p0", uid, "NotNeeded")) == "done"
    assert view.forgotten == [("Pod", "older"), ("Pod", uid), ("Pod", uid)]


async def test_an_object_of_ours_goes_with_its_uid(api: Any, applier: Applier) -> None:
    made = api.put("Service", {"metadata": {"name": "s", "namespace": "team-a"}})
    action = DeleteObject("Service", "team-a", "s", made["metadata"]["uid"])
    assert await result(applier, action) == "done"
    assert api.objects["services"] == {}


async def test_a_label_of_another_pod_of_that_name_stays(
    api: Any, applier: Applier, pod: Any
) -> None:
    made = api.put("Pod", pod("p0"))
    label = "motley.dev/serving"
    uid = made["metadata"]["uid"]
    assert await result(applier, LabelPod("team-a", "p0", "older", label, None)) == "conflict"
    assert await result(applier, LabelPod("team-a", "p0", uid, label, None)) == "done"
    assert await result(applier, LabelPod("team-a", "gone", uid, label, None)) == "conflict"


async def test_applies_create_and_statuses_do_not_outlive_their_object(
    api: Any, applier: Applier, view: FakeView
) -> None:
    assert await result(applier, service("s")) == "done"
    pool = api.put("ServingPool", {"metadata": {"name": "chat", "namespace": "team-a"}})
    uid = pool["metadata"]["uid"]
    view.versions = {uid: int(pool["metadata"]["resourceVersion"])}
    assert await result(applier, PatchStatus(*POOL, uid, {"conditions": []})) == "done"
    assert await result(applier, PatchStatus(*POOL, "older", {})) == "conflict"
    assert await result(applier, PatchStatus(*POOL, uid, {"conditions": [1]})) == "conflict"
    assert api.calls["PATCH servingpools/status"] == 2
    assert view.absorbed == [("Service", "s"), ("ServingPool", "chat")]


def config_map(kind: str, seen: dict[str, Any]) -> ApplyObject:
    metadata = {"name": "chat-routing", "namespace": "team-a"}
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": {"by": "us"}}
    return ApplyObject(manifest, seen["metadata"]["uid"], seen["metadata"]["resourceVersion"])


@pytest.mark.parametrize("kind", ["ConfigMap", "Deployment"])
async def test_what_is_applied_to_an_object_never_hits_its_successor(
    api: Any, applier: Applier, kind: str
) -> None:
    metadata = {"name": "chat-routing", "namespace": "team-a"}
    seen = api.put(kind, {"metadata": metadata})
    api.drop(kind, "chat-routing", "team-a")
    assert await result(applier, config_map(kind, seen)) == "conflict"
    assert not any(api.objects.values())  # nor is it made anew from what is outdated
    successor = api.put(kind, {"metadata": metadata, "data": {"by": "the next leader"}})
    assert await result(applier, config_map(kind, seen)) == "conflict"
    assert await result(applier, config_map(kind, successor)) == "done"


@pytest.mark.parametrize(("kind", "expected"), [("ConfigMap", "conflict"), ("Deployment", "done")])
async def test_what_another_leader_has_written_since_stays_where_only_edits_change_a_version(
    api: Any, applier: Applier, kind: str, expected: str
) -> None:
    metadata = {"name": "chat-routing", "namespace": "team-a"}
    seen = api.put(kind, {"metadata": metadata})
    api.put(kind, {"metadata": {**metadata}, "data": {"by": "the next leader"}})
    assert await result(applier, config_map(kind, seen)) == expected


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_asked_again(api: Any, applier: Applier, status: int) -> None:
    api.fail_next(status)
    assert await result(applier, create("p0")) == "done"
    assert api.calls == {"POST pods": 2}


async def test_retry_after_is_honored(api: Any, applier: Applier) -> None:
    api.fail_next(429, {"Retry-After": "1"})
    began = asyncio.get_running_loop().time()
    assert await result(applier, create("p0")) == "done"
    assert asyncio.get_running_loop().time() - began >= 1.0


@pytest.mark.parametrize(
    ("status", "expected"), [(403, "failed"), (422, "failed"), (404, "conflict"), (409, "conflict")]
)
async def test_a_refusal_is_an_outcome_with_the_servers_words(
    api: Any, applier: Applier, status: int, expected: str
) -> None:
    api.fail_next(status, message="exceeded quota: gpus")
    (outcome,) = await applier.apply([create("p0")])
    assert (outcome.result, api.calls["POST pods"]) == (expected, 1)
    assert "exceeded quota" in outcome.message


async def test_one_failure_does_not_hold_up_the_rest(api: Any, applier: Applier) -> None:
    api.fail_next(403)
    outcomes = await applier.apply([create("p0"), create("p1"), service("s")])
    assert sorted(o.result for o in outcomes) == ["done", "done", "failed"]


async def test_who_is_not_the_leader_writes_nothing(api: Any, client: Client) -> None:
    applier = Applier(client, FakeView(), Settings(), may_write=lambda: False)
    assert await result(applier, create("p0")) == "failed"
    assert api.calls == {}


async def test_who_loses_the_lease_between_two_attempts_does_not_try_again(
    api: Any, client: Client
) -> None:
    api.fail_next(503)
    applier = Applier(client, FakeView(), Settings(), may_write=lambda: not api.calls)
    assert await result(applier, create("p0")) == "failed"
    assert api.calls == {"POST pods": 1}


@pytest.mark.parametrize("event", [False, True])
async def test_no_write_is_on_its_way_once_the_lease_has_run_out(
    api: Any, client: Client, event: bool
) -> None:
    api.hanging, loop = True, asyncio.get_running_loop()
    until = loop.time() + 1.0
    applier = Applier(
        client,
        FakeView(),
        Settings(),
        may_write=lambda: loop.time() < until,
        left_s=lambda: max(0.0, until - loop.time()),
    )
    said = EmitEvent(*POOL, "uid-1", "Normal", "Planned", "3 replicas")
    assert await result(applier, said if event else create("p0")) == "failed"
    assert loop.time() < until + 15.0  # the answer takes 30 s
    assert sum(api.calls.values()) == 1


async def test_an_event_is_no_exception_to_who_may_write(api: Any, client: Client) -> None:
    api.fail_next(503)
    applier = Applier(client, FakeView(), Settings(), may_write=lambda: not api.calls)
    said = EmitEvent(*POOL, "uid-1", "Normal", "Planned", "3 replicas")
    assert await result(applier, said) == "failed"
    assert api.calls == {"POST events": 1}
    again = Applier(client, FakeView(), Settings())
    assert await result(again, said) == "done"


async def test_an_event_is_said_once_and_counted_when_said_again(
    api: Any, applier: Applier, client: Client
) -> None:
    event = EmitEvent(*POOL, "uid-1", "Normal", "Planned", "3 replicas on 2 nodes")
    assert [await result(applier, event) for _ in range(3)] == ["done", "exists", "exists"]
    restarted = Applier(client, FakeView(), Settings())
    assert await result(restarted, event) == "done"
    ((_, name),) = api.objects["events"]
    written = api.objects["events"]["team-a", name]
    assert (written["count"], written["involvedObject"]["kind"]) == (2, "ServingPool")
    assert await result(applier, EmitEvent(*POOL, "uid-1", "Normal", "Planned", "4")) == "done"
    assert len(api.objects["events"]) == 2


def test_neighbors_go_together_and_one_target_never_twice_at_once() -> None:
    label = LabelPod("team-a", "p0", "u", "a", None)
    other = LabelPod("team-a", "p0", "u", "b", None)
    actions: list[Action] = [service("s"), create("p0"), create("p1"), label, other, create("p2")]
    shape = [[type(a).__name__ for a in batch] for batch in batches(actions)]
    assert shape == [
        ["ApplyObject"], ["CreatePod", "CreatePod"], ["LabelPod"], ["LabelPod"], ["CreatePod"]
    ]  # fmt: skip
    assert [a for batch in batches(actions) for a in batch] == actions


def test_a_binding_waits_for_the_role_that_it_names() -> None:
    def of(kind: str, name: str) -> ApplyObject:
        metadata = {"name": name, "namespace": "team-a"}
        return ApplyObject({"apiVersion": "v1", "kind": kind, "metadata": metadata})

    mixed = [of("Role", "a"), of("RoleBinding", "a"), of("Role", "b"), of("RoleBinding", "b")]
    first, second = batches(mixed)
    assert [one.manifest["kind"] for one in first] == ["Role", "Role"]  # type: ignore[union-attr]
    assert [one.manifest["kind"] for one in second] == ["RoleBinding"] * 2  # type: ignore[union-attr]


OWNER = {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool", "name": "chat", "uid": "u1"}


def orphan(api: Any, kind: str, name: str) -> str:
    """An object that nobody owns; its UID."""
    metadata = {"name": name, "namespace": "team-a"}
    document: dict[str, Any] = {"metadata": metadata, "spec": {}}
    uid: str = api.put(kind, document)["metadata"]["uid"]
    return uid


@pytest.mark.parametrize(
    ("owner", "result_"),
    [
        ({"uid": "u1"}, "done"),
        ({"uid": "u1", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "conflict"),
        ({"uid": "u2"}, "conflict"),
        (None, "conflict"),
    ],
)
async def test_what_has_no_owner_is_given_to_one_that_stays(
    api: Any, applier: Applier, owner: dict[str, str] | None, result_: str
) -> None:
    """An orphaning deletion: the watch of pods may tell of it before that of resources does."""
    if owner is not None:
        api.put("ServingPool", {"metadata": {"name": "chat", "namespace": "team-a", **owner}})
    pod = AdoptPod("team-a", "p0", orphan(api, "Pod", "p0"), OWNER)
    assert await result(applier, pod) == result_
    metadata = {"name": "s0", "namespace": "team-a", "ownerReferences": [OWNER]}
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}}
    uid = orphan(api, "Service", "s0")
    assert await result(applier, ApplyObject(manifest, uid, adopts=True)) == result_
    given = result_ == "done"
    for plural, name in (("pods", "p0"), ("services", "s0")):
        found = api.objects[plural]["team-a", name]["metadata"]
        assert bool(found.get("ownerReferences")) == given
    assert api.calls["GET servingpools"] == 2


async def test_nobody_is_asked_for_the_owner_of_what_is_new_or_has_one(
    api: Any, applier: Applier
) -> None:
    metadata = {"name": "s0", "namespace": "team-a", "ownerReferences": [OWNER]}
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}}
    assert await result(applier, ApplyObject(manifest)) == "done"
    assert not api.calls["GET servingpools"]
