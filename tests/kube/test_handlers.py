"""Real kopf wiring against an emulated API: custom resources wake the cycle and nothing is written."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import kmock
import kopf
import pytest

from motley_operator import handlers
from motley_operator.connection import Credentials
from motley_operator.handlers import answers, build_registry, harden, probe, run_kopf
from motley_operator.settings import Settings

POOLS = "/apis/motley.dev/v1alpha1/namespaces/team-a/servingpools"


class Bell:
    """Stands in for the cycle: counts wake-ups."""

    def __init__(self) -> None:
        self.causes: list[str] = []
        self.settings = Settings(stuck_after_s=5.0)
        self.busy_s = 0.0

    def wake(self, cause: str) -> None:
        self.causes.append(cause)

    def stuck_for_s(self) -> float:
        return self.busy_s


class KnowingStore:
    """Stands in for the store: behind for names it was not told of."""

    def __init__(self) -> None:
        self.known: set[str] = set()

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
async def running(
    emulator: kmock.KubernetesEmulator,
) -> AsyncIterator[tuple[Bell, KnowingStore, str]]:
    bell, store, stop = Bell(), KnowingStore(), threading.Event()
    url = str(emulator.url).rstrip("/")
    registry = build_registry(
        bell,  # type: ignore[arg-type]
        store,  # type: ignore[arg-type]
        lambda: Credentials(server=url),
        asyncio.get_running_loop(),
    )
    thread = threading.Thread(target=run_kopf, args=(registry, Settings(health_port=0), stop))
    thread.start()
    await until(lambda: any("watch" in str(r.params) for r in emulator["get"]))
    await asyncio.sleep(0.5)
    yield bell, store, url
    stop.set()
    await until(lambda: not thread.is_alive())


async def until(met: Any, within_s: float = 8.0) -> None:
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


def test_liveness_tells_a_stuck_cycle() -> None:
    bell = Bell()
    assert probe(bell) == "ok"  # type: ignore[arg-type]
    bell.busy_s = 6.0
    with pytest.raises(kopf.PermanentError, match="running for 6 s"):
        probe(bell)  # type: ignore[arg-type]


async def test_liveness_tells_a_blocked_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_ANSWER_S", 0.1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        await answers(loop)
        loop.call_soon_threadsafe(time.sleep, 0.5)
        with pytest.raises(kopf.PermanentError, match="blocked"):
            await answers(loop)
    finally:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop))
        loop.call_soon_threadsafe(loop.stop)
        await until(lambda: not thread.is_alive())
        loop.close()


def test_kopf_is_kept_from_writing_and_from_going_deaf() -> None:
    settings = kopf.OperatorSettings()
    harden(settings)
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.watching.server_timeout is not None
    assert settings.watching.client_timeout is not None
    assert settings.watching.client_timeout > settings.watching.server_timeout
