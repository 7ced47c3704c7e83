"""Real kopf wiring against an emulated API: custom resources wake the cycle and nothing is written."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import kmock
import kopf
import pytest
from kopf._core.reactor.inventory import ResourceMemories

from motley_operator.connection import Credentials
from motley_operator.handlers import build_registry, harden, run_kopf
from motley_operator.health import Health
from motley_operator.settings import Settings

WORKERS = 16  # of kopf, for each kind
POOLS = "/apis/motley.dev/v1alpha1/namespaces/team-a/servingpools"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Bell:
    """Stands in for the cycle: counts wake-ups."""

    def __init__(self) -> None:
        self.causes: list[str] = []
        self.settings = Settings(stuck_after_s=5.0, health_port=free_port())

    def wake(self, cause: str) -> None:
        self.causes.append(cause)

    def stuck_for_s(self) -> float:
        return 0.0


class KnowingStore:
    """Stands in for the store: behind for names it was not told of."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.lacking: list[str] = []

    def is_behind(self, kind: str, document: Any) -> bool:
        return document["metadata"]["name"] not in self.known


@pytest.fixture
def emulator(kmock: kmock.KubernetesEmulator) -> kmock.KubernetesEmulator:
    verbs = {"list", "watch", "get", "create", "patch", "delete"}
    declared = [("v1/namespaces", False), ("v1/events", True),
                ("apiextensions.k8s.io/v1/customresourcedefinitions", False),
                ("motley.dev/v1alpha1/servingpools", True),
                ("motley.dev/v1alpha1/modelcascades", True),
                ("motley.dev/v1alpha1/rljobs", True),
                ("motley.dev/v1alpha1/fleets", False)]  # fmt: skip
    for name, namespaced in declared:
        kmock.resources[name] = {"namespaced": namespaced, "verbs": verbs}
    return kmock


@pytest.fixture
def memories(monkeypatch: pytest.MonkeyPatch) -> list[ResourceMemories]:
    """What kopf remembers by resource, of every operator that is made."""
    made: list[ResourceMemories] = []
    begin = ResourceMemories.__init__

    def noted(self: ResourceMemories) -> None:
        begin(self)
        made.append(self)

    monkeypatch.setattr(ResourceMemories, "__init__", noted)
    return made


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def store() -> KnowingStore:
    return KnowingStore()


@pytest.fixture
async def registry(
    emulator: kmock.KubernetesEmulator, bell: Bell, store: KnowingStore
) -> kopf.OperatorRegistry:
    """The operator's own handlers."""
    url = str(emulator.url).rstrip("/")
    loop = asyncio.get_running_loop()
    return build_registry(
        bell,  # type: ignore[arg-type]
        store,  # type: ignore[arg-type]
        lambda: Credentials(server=url),
        loop,
        Health(bell, lambda: store.lacking, loop),  # type: ignore[arg-type]
    )


@pytest.fixture
async def running(
    emulator: kmock.KubernetesEmulator,
    registry: kopf.OperatorRegistry,
    bell: Bell,
    store: KnowingStore,
) -> AsyncIterator[tuple[Bell, KnowingStore, str]]:
    stop, url = threading.Event(), str(emulator.url).rstrip("/")
    thread = threading.Thread(target=run_kopf, args=(registry, bell.settings, stop))
    thread.start()
    await until(lambda: any("watch" in str(r.params) for r in emulator["get"]))
    await asyncio.sleep(0.5)
    yield bell, store, url
    stop.set()
    await until(lambda: not thread.is_alive())


async def until(met: Any, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_new_pool_wakes_the_cycle_and_stays_untouched(
    running: tuple[Bell, KnowingStore, str], emulator: kmock.KubernetesEmulator
) -> None:
    bell, store, url = running
    store.known.add("known")
    async with aiohttp.ClientSession() as session:
        for name in ("known", "news"):
            body = {
                "apiVersion": "motley.dev/v1alpha1",
                "kind": "ServingPool",
                "metadata": {"name": name, "namespace": "team-a"},
                "spec": {},
            }
            async with session.post(url + POOLS, json=body) as response:
                assert response.status < 300
        await until(lambda: bell.causes)
        await asyncio.sleep(0.3)
        assert bell.causes == ["kopf:ServingPool"]
        async with session.get(f"{url}{POOLS}/news") as response:
            metadata = (await response.json())["metadata"]
    assert "finalizers" not in metadata
    assert not metadata.get("annotations")
    assert not list(emulator["patch"])


async def test_kopf_handles_a_burst_a_few_resources_at_a_time(
    registry: kopf.OperatorRegistry, running: tuple[Bell, KnowingStore, str]
) -> None:
    """Of its own accord it begins a task for each resource there is, and keeps it for seconds."""
    _, _, url = running
    at_work: list[str] = []
    over = threading.Event()

    @kopf.on.event("motley.dev", "v1alpha1", "servingpools", registry=registry, id="slow")
    async def slow(name: str, **_: Any) -> None:
        at_work.append(name)
        while not over.is_set():
            await asyncio.sleep(0.01)

    try:
        async with aiohttp.ClientSession() as session:
            for number in range(WORKERS + 4):
                metadata = {"name": f"pool-{number}", "namespace": "team-a"}
                body = {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool"}
                async with session.post(
                    url + POOLS, json={**body, "metadata": metadata}
                ) as response:
                    assert response.status < 300
        await until(lambda: len(at_work) >= WORKERS)
        await asyncio.sleep(1.0)
        assert len(set(at_work)) == len(at_work) == WORKERS
    finally:
        over.set()


async def test_kopf_remembers_nothing_of_resources_that_are_gone(
    memories: list[ResourceMemories], running: tuple[Bell, KnowingStore, str]
) -> None:
    bell, _, url = running

    def remembered() -> set[str]:
        return {uid for one in memories for uid in one._items}

    async with aiohttp.ClientSession() as session:
        for name in ("stays", "goes-0", "goes-1", "goes-2"):
            metadata = {"name": name, "namespace": "team-a", "uid": f"uid-{name}"}
            body = {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool"}
            async with session.post(url + POOLS, json={**body, "metadata": metadata}) as response:
                assert response.status < 300
        await until(lambda: len(bell.causes) == 4)
        assert len(remembered()) == 4
        for name in ("goes-0", "goes-1", "goes-2"):
            async with session.delete(f"{url}{POOLS}/{name}") as response:
                assert response.status < 300
        await until(lambda: remembered() == {"uid-stays"})


async def test_the_probes_are_answered_from_kopfs_thread_and_end_with_it(
    running: tuple[Bell, KnowingStore, str],
) -> None:
    bell, store, _ = running
    at = f"http://127.0.0.1:{bell.settings.health_port}"
    async with aiohttp.ClientSession() as session:

        async def asked(path: str) -> tuple[int, str]:
            async with session.get(at + path) as response:
                return response.status, (await response.text()).strip()

        assert await asked("/healthz") == (200, "ok")
        assert await asked("/readyz") == (200, "ok")
        store.lacking = ["nodes: not read yet", "pods: not read yet"]
        assert await asked("/healthz") == (200, "ok")
        assert await asked("/readyz") == (503, "nodes: not read yet\npods: not read yet")


def test_kopf_is_kept_from_writing_and_from_going_deaf() -> None:
    settings = kopf.OperatorSettings()
    harden(settings)
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.watching.server_timeout is not None
    assert settings.watching.client_timeout is not None
    assert settings.watching.client_timeout > settings.watching.server_timeout
