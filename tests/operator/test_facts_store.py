"""The store against a small API server: what it sees, what wakes it, what it must never believe."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from motley_operator.connection import Client
from motley_operator.errors import FactsIncomplete
from motley_operator.facts import Store, gather, reflector
from motley_operator.facts import store as store_module
from motley_operator.facts.nodes import parse_node
from motley_operator.settings import Settings


class Watched:
    """A running store and what woke it."""

    def __init__(self, store: Store, wakes: Counter[str]) -> None:
        self.store, self.wakes = store, wakes

    async def until(self, met: Callable[[], bool], within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while not met():
            assert time.monotonic() < deadline, f"not met; problems: {self.store.problems()}"
            await asyncio.sleep(0.005)

    def names(self) -> set[str]:
        return {node.name for node in self.store.nodes.values()}

    def pods(self) -> set[str]:
        return {pod.name for pod in self.store.pods.values()}


@asynccontextmanager
async def watched(
    client: Client, settings: Settings | None = None, whole: bool = True
) -> AsyncIterator[Watched]:
    wakes: Counter[str] = Counter()
    store = Store(client, settings or Settings(), lambda cause: wakes.update([cause]))
    task = asyncio.create_task(store.run())
    view = Watched(store, wakes)
    try:
        if whole:
            await view.until(lambda: not store.problems())
            await asyncio.sleep(0.05)  # every watch is open
            wakes.clear()
        yield view
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_heartbeats_are_heard_and_not_read(
    api: Any, client: Client, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counter[str]()

    def parse(document: Any) -> Any:
        read[document["metadata"]["name"]] += 1
        return parse_node(document)

    monkeypatch.setattr(store_module, "parse_node", parse)
    api.put("Node", node("n0"))
    async with watched(client) as view:
        for second in range(6):
            beating = node("n0")
            (condition,) = beating["status"]["conditions"]
            condition["lastHeartbeatTime"] = f"2026-01-01T00:01:{second:02d}Z"
            api.put("Node", beating)
        await view.until(lambda: view.store.nodes.heard == api.version)
        assert read["n0"] == 2  # the LIST and the first line
        assert not view.wakes
        beating["spec"] = {"unschedulable": True}
        api.put("Node", beating)
        await view.until(lambda: view.wakes["Node"] == 1)
        assert read["n0"] == 3


async def test_a_chunked_list_brings_every_node(
    api: Any, client: Client, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "_PAGE", 3)
    for i in range(10):
        api.put("Node", node(f"n{i}"))
    async with watched(client) as view:
        assert view.names() == {f"n{i}" for i in range(10)}
        assert api.calls["GET nodes"] == 4


async def test_nothing_is_gathered_before_every_collection_was_read(
    api: Any, client: Client
) -> None:
    api.refusing = True
    async with watched(client, whole=False) as view:
        await asyncio.sleep(0.2)
        with pytest.raises(FactsIncomplete, match="nodes"):
            gather(view.store)
        api.refusing = False
        await view.until(lambda: not view.store.problems(), 15.0)
        assert gather(view.store).nodes == ()


async def test_objects_that_vanish_while_the_watch_is_cut_leave_the_facts_after_a_410(
    api: Any, client: Client, node: Any, pod: Any
) -> None:
    for i in range(4):
        api.put("Node", node(f"n{i}"))
        api.put("Pod", pod(f"p{i}", f"n{i}"))
    async with watched(client) as view:
        api.refusing = True
        api.cut()
        await asyncio.sleep(0.05)
        api.drop("Node", "n1")
        api.drop("Pod", "p1", "team-a")
        # The same name again is another object: its predecessor must go as well.
        api.drop("Pod", "p2", "team-a")
        reborn = api.put("Pod", pod("p2", "n2"))
        api.compact()
        api.refusing = False
        await view.until(lambda: view.names() == {"n0", "n2", "n3"}, 10.0)
        await view.until(lambda: len(view.store.pods) == 3, 10.0)
        assert view.pods() == {"p0", "p2", "p3"}
        assert reborn["metadata"]["uid"] in {p.uid for p in view.store.pods.values()}
        assert view.wakes["Node"] == 1


async def test_a_cut_watch_goes_on_where_it_was_without_a_list(
    api: Any, client: Client, node: Any
) -> None:
    async with watched(client) as view:
        lists = view.store.lists()
        api.cut()
        api.put("Node", node("late"))
        await view.until(lambda: view.names() == {"late"})
        assert view.store.lists() == lists


async def test_a_heartbeat_wakes_nobody_and_a_cordon_does(
    api: Any, client: Client, node: Any
) -> None:
    api.put("Node", node("n0"))
    async with watched(client) as view:
        beat = node("n0")
        beat["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:05:00Z"
        beat["metadata"]["annotations"]["csi.volume/nodeid"] = "y"
        beat["status"]["images"] = [{"names": ["big"]}]
        heard = api.put("Node", beat)
        await asyncio.sleep(0.1)
        assert not view.store.nodes.is_behind(heard)
        assert view.wakes == {}
        cordoned = node("n0")
        cordoned["spec"]["unschedulable"] = True
        api.put("Node", cordoned)
        await view.until(lambda: view.wakes["Node"] == 1)


async def test_foreign_pods_wake_only_where_there_are_gpus(
    api: Any, client: Client, node: Any, pod: Any
) -> None:
    api.put("Node", node("gpu"))
    bare = node("cpu")
    del bare["status"]["allocatable"]["nvidia.com/gpu"]
    api.put("Node", bare)
    async with watched(client) as view:
        api.put("Pod", pod("job", "cpu", gpus=0, ours=False))
        await view.until(lambda: "job" in view.pods())
        assert view.wakes == {}
        api.put("Pod", pod("taker", "gpu", gpus=2, ours=False))
        await view.until(lambda: view.wakes["Pod"] == 1)
        chatty = pod("taker", "gpu", gpus=2, ours=False)
        chatty["metadata"]["labels"]["app"] = "renamed"
        chatty["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        heard = api.put("Pod", chatty)
        await view.until(lambda: not view.store.pods.is_behind(heard))
        assert view.wakes["Pod"] == 1


async def test_our_own_writes_are_seen_before_the_watch_tells_of_them(
    api: Any, client: Client, pod: Any
) -> None:
    async with watched(client) as view:
        api.silent = True
        made = api.put("Pod", pod("p0", "n0"))
        view.store.absorb("Pod", made)
        assert [p.name for p in gather(view.store).pods] == ["p0"]
        api.silent = False
        assert view.wakes == {}


async def test_an_answer_that_arrives_after_the_deletion_is_no_ghost(
    api: Any, client: Client, pod: Any
) -> None:
    async with watched(client) as view:
        made = api.put("Pod", pod("p0", "n0"))
        await view.until(lambda: view.pods() == {"p0"})
        api.drop("Pod", "p0", "team-a")
        await view.until(lambda: view.pods() == set())
        view.store.absorb("Pod", made)
        assert view.pods() == set()


async def test_an_older_event_never_rolls_back_an_answer(
    api: Any, client: Client, pod: Any
) -> None:
    first = api.put("Pod", pod("p0", "n0"))
    async with watched(client) as view:
        newer = {**first, "metadata": {**first["metadata"], "resourceVersion": "9999"}}
        newer["status"] = {"phase": "Failed"}
        view.store.absorb("Pod", newer)
        view.store.pods.upsert(first)
        assert [p.phase for p in view.store.pods.values()] == ["Failed"]


async def test_referred_config_maps_are_followed_and_dropped(api: Any, client: Client) -> None:
    reference = {"configMapKeyRef": {"name": "table", "key": "table.csv"}}
    cascade = {
        "metadata": {"name": "support", "namespace": "team-a", "generation": 1},
        "spec": {"quality": {"calibration": reference}},
    }
    table = {"metadata": {"name": "table", "namespace": "team-a"}, "data": {"table.csv": "a,b"}}
    api.put("ConfigMap", table)
    api.put("ConfigMap", {"metadata": {"name": "other", "namespace": "team-a"}, "data": {}})
    api.put("ModelCascade", cascade)
    async with watched(client) as view:
        facts = gather(view.store)
        assert facts.config_maps == {("team-a", "table"): {"table.csv": "a,b"}}
        assert [r.key for r in facts.resources] == ["ModelCascade/team-a/support"]
        api.put("ConfigMap", {**table, "data": {"table.csv": "c"}})
        await view.until(lambda: view.wakes["ConfigMap"] == 1)
        api.put("ModelCascade", {**cascade, "spec": {}})
        await view.until(lambda: gather(view.store).config_maps == {})


async def test_resources_of_another_class_are_left_to_the_other_operator(
    api: Any, client: Client, pod: Any
) -> None:
    metadata = {"name": "chat", "namespace": "team-a", "annotations": {"motley.dev/class": "blue"}}
    api.put("ServingPool", {"metadata": metadata, "spec": {}})
    api.put("Pod", pod("theirs", "n0"))
    async with watched(client) as view:
        facts = gather(view.store)
        assert facts.resources == ()
        assert facts.pods[0].requests.gpus == 1
        assert "app.kubernetes.io/managed-by" not in facts.pods[0].labels
    async with watched(client, Settings(resource_class="blue")) as view:
        facts = gather(view.store)
        assert [r.name for r in facts.resources] == ["chat"]
        assert facts.pods[0].labels["app.kubernetes.io/managed-by"] == "motley"


async def test_the_fleet_is_read_by_all_and_told_of_by_the_operator_of_its_class(
    api: Any, client: Client
) -> None:
    blue = Settings(resource_class="blue")
    async with watched(client) as plain, watched(client, blue) as other:

        async def told(annotations: dict[str, str]) -> tuple[bool, bool]:
            version = api.put(
                "Fleet", {"metadata": {"name": "default", "annotations": annotations}, "spec": {}}
            )["metadata"]["resourceVersion"]

            def is_read(view: Watched) -> bool:
                fleet = gather(view.store).fleet
                return fleet is not None and fleet["metadata"]["resourceVersion"] == version

            for view in (plain, other):
                await view.until(lambda view=view: is_read(view))
            return gather(plain.store).tells_fleet, gather(other.store).tells_fleet

        assert await told({}) == (True, False)
        assert await told({"motley.dev/class": "blue"}) == (False, True)


async def test_a_view_that_cannot_be_refreshed_is_not_decided_on(api: Any, client: Client) -> None:
    async with watched(client, Settings(stale_after_s=0.3)) as view:
        api.refusing = True
        api.cut()
        await view.until(lambda: bool(view.store.problems()))
        with pytest.raises(FactsIncomplete):
            gather(view.store)
        api.refusing = False
        await view.until(lambda: not view.store.problems(), 15.0)
        assert view.wakes["Contact"] > 0


def quota(name: str, namespace: str, hard: str, used: str = "0") -> dict[str, Any]:
    gpus = "requests.nvidia.com/gpu"
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"hard": {gpus: hard, "services": "4"}},
        "status": {"hard": {gpus: hard}, "used": {gpus: used, "services": "1"}},
    }


def resource(name: str, namespace: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {}}


async def test_quotas_wake_where_something_is_planned_and_nowhere_else(
    api: Any, client: Client, pod: Any
) -> None:
    api.put("ServingPool", resource("chat", "team-a"))
    api.put("ResourceQuota", quota("q", "team-a", "4"))
    async with watched(client) as view:
        gathered = gather(view.store).quotas
        assert [(q.name, dict(q.hard)) for q in gathered] == [("q", {"requests.nvidia.com/gpu": 4})]
        api.put("ResourceQuota", quota("q", "team-b", "4"))
        api.put("LimitRange", {"metadata": {"name": "l", "namespace": "team-b"}, "spec": {}})
        other = quota("q", "team-a", "4")
        other["status"]["used"]["services"] = "2"  # nothing that pods take
        api.put("ResourceQuota", other)
        await view.until(lambda: len(gather(view.store).quotas) == 2)
        await asyncio.sleep(0.05)
        assert view.wakes["Quota"] == 0
        api.put("ResourceQuota", quota("q", "team-a", "4", used="1"))
        api.put("ResourceQuota", quota("q", "team-a", "6", used="1"))
        api.put("LimitRange", {"metadata": {"name": "l", "namespace": "team-a"}, "spec": {}})
        await view.until(lambda: view.wakes["Quota"] == 3)
        # A pod of others on a node without GPUs takes of the quota of the one namespace.
        view.wakes.clear()
        for namespace in ("team-b", "team-a"):
            document = pod("x", "cpu-node")
            document["metadata"] |= {"namespace": namespace, "labels": {}}
            api.put("Pod", document)
        await view.until(lambda: len(view.store.pods) == 2)
        assert view.wakes["Pod"] == 1


async def test_an_api_server_without_resource_slices_lacks_nothing_and_is_left_in_peace(
    api: Any, client: Client
) -> None:
    api.absent.add("resourceslices")
    async with watched(client) as view:
        assert gather(view.store).slices == ()
        await asyncio.sleep(0.3)
        assert api.calls["absent resourceslices"] == 3  # v1, v1beta2, v1beta1, each once


async def test_resource_slices_are_read_in_the_newest_version_that_the_server_has(
    api: Any, client: Client
) -> None:
    api.absent |= {"v1/resourceslices", "v1beta2/resourceslices"}
    offered = [
        {"name": f"{kind}-0", "basic": {"attributes": {"type": {"string": kind}}}}
        for kind in ("gpu", "mig")
    ]
    pool = {"name": "n0", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "n0", "pool": pool, "devices": offered}
    async with watched(client) as view:
        api.put("ResourceSlice", {"metadata": {"name": "s"}, "spec": spec})
        await view.until(lambda: view.wakes["Devices"] == 1)
        devices = gather(view.store).slices[0].devices
        assert {(each.name, each.part) for each in devices} == {("gpu-0", ""), ("mig-0", "mig")}
        assert api.calls["absent resourceslices"] == 2


async def test_a_right_that_lacks_is_named_with_the_rules_that_give_it(
    api: Any, client: Client
) -> None:
    api.forbidden |= {"nodes", "services"}
    async with watched(client, Settings(namespaces=("team-a",)), whole=False) as view:
        await view.until(lambda: sum("403" in line for line in view.store.problems()) == 2)
        nodes, services = (p for p in view.store.problems() if "403" in p)
        assert nodes.startswith("nodes: 403 Forbidden: nodes is forbidden: User ")
        assert nodes.endswith("files/rules-cluster.yaml to this account in the whole cluster")
        assert services.endswith("files/rules-namespace.yaml to this account in namespace team-a")
        api.forbidden.clear()
        await view.until(lambda: not view.store.problems(), 15.0)


async def test_resource_slices_wake_when_gpus_come_or_go(api: Any, client: Client) -> None:
    def offered(*gpus: str, generation: int = 1) -> dict[str, Any]:
        pool = {"name": "n0", "generation": generation, "resourceSliceCount": 1}
        devices = [{"name": gpu, "attributes": {"type": {"string": "gpu"}}} for gpu in gpus]
        spec = {"driver": "gpu.nvidia.com", "nodeName": "n0", "pool": pool, "devices": devices}
        return {"metadata": {"name": "s"}, "spec": spec}

    async with watched(client) as view:
        api.put("ResourceSlice", offered("gpu-0", "gpu-1"))
        await view.until(lambda: view.wakes["Devices"] == 1)
        api.put("ResourceSlice", offered("gpu-0", "gpu-1", generation=2))
        await view.until(lambda: gather(view.store).slices[0].generation == 2)
        assert view.wakes["Devices"] == 1
        api.put("ResourceSlice", offered("gpu-0"))
        await view.until(lambda: view.wakes["Devices"] == 2)
