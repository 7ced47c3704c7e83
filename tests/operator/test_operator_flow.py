"""The whole operator against the small API: real planner, real rooms, every call counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from motley_operator.connection import Client
from motley_operator.main import Operator
from motley_operator.metrics import Metrics
from motley_operator.settings import Settings

POOL: dict[str, Any] = {
    "apiVersion": "motley.dev/v1alpha1",
    "kind": "ServingPool",
    "metadata": {"name": "chat", "namespace": "team-a", "generation": 1},
    "spec": {
        "model": {"id": "Qwen/Qwen3-8B", "precision": "bf16"},
        "workload": {
            "requestsPerSecond": 4,
            "classes": [{"name": "all", "promptTokens": 600, "outputTokens": 150, "weight": 1}],
        },
        "budget": {"dollarsPerHour": 100},
    },
}
WRITES = ("POST", "PATCH", "PUT", "DELETE")


@pytest.fixture
async def operator(api: Any, client: Client, node: Any) -> AsyncIterator[Operator]:
    for i in range(3):
        api.put("Node", node(f"n{i}", gpus=4))
    api.put("ServingPool", POOL)
    made = Operator(Settings(), client, Metrics())
    task = asyncio.create_task(made.store.run())
    await until(lambda: not made.store.problems())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(met: Any, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def engine_pods(api: Any) -> dict[str, Any]:
    return {
        name: pod
        for (_, name), pod in api.objects.get("pods", {}).items()
        if "motley.dev/replica" in pod["metadata"]["labels"]
    }


def run_all(api: Any) -> None:
    """Be scheduler and kubelet: bind and start every pod."""
    for pod in engine_pods(api).values():
        terms = pod["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]["nodeSelectorTerms"]
        pod["spec"]["nodeName"] = terms[0]["matchFields"][0]["values"][0]
        ready = [{"type": "Ready", "status": "True"}]
        api.put("Pod", {**pod, "status": {"phase": "Running", "conditions": ready}})


def writes(api: Any) -> dict[str, int]:
    return {call: n for call, n in api.calls.items() if call.startswith(WRITES)}


async def settle(operator: Operator, api: Any) -> None:
    """Cycle until one writes nothing."""
    for _ in range(6):
        await asyncio.sleep(0.1)
        api.calls.clear()
        assert await operator.cycle.once() is not None
        run_all(api)
        if not writes(api):
            return
    raise AssertionError(f"still writing: {writes(api)}")


async def test_a_pool_becomes_pods_and_the_next_cycle_writes_nothing(
    api: Any, operator: Operator
) -> None:
    await settle(operator, api)
    assert engine_pods(api)
    uids = {n: p["metadata"]["uid"] for n, p in engine_pods(api).items()}
    api.calls.clear()
    for _ in range(3):
        await asyncio.sleep(0.05)
        await operator.cycle.once()
    assert api.calls == {}
    assert uids == {n: p["metadata"]["uid"] for n, p in engine_pods(api).items()}


async def test_a_restarted_operator_changes_nothing(
    api: Any, operator: Operator, client: Client
) -> None:
    await settle(operator, api)
    successor = Operator(Settings(), client, Metrics())
    task = asyncio.create_task(successor.store.run())
    try:
        await until(lambda: not successor.store.problems())
        api.calls.clear()
        assert await successor.cycle.once() is not None
        assert writes(api) == {}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_lost_node_moves_only_what_was_on_it(api: Any, operator: Operator) -> None:
    await settle(operator, api)
    before = engine_pods(api)
    lost = next(iter(before.values()))["spec"]["nodeName"]
    api.drop("Node", lost)
    await settle(operator, api)
    after = engine_pods(api)
    for name, pod in before.items():
        if pod["spec"]["nodeName"] != lost:
            assert after[name]["metadata"]["uid"] == pod["metadata"]["uid"]
    assert all(pod["spec"]["nodeName"] != lost for pod in after.values())
    assert len(after) == len(before)


async def test_an_operator_killed_in_mid_apply_is_finished_by_its_successor(
    api: Any, operator: Operator, client: Client
) -> None:
    # A slow applier and a busy pool, so that the kill falls between two pods.
    busy = {**POOL["spec"], "workload": {**POOL["spec"]["workload"], "requestsPerSecond": 400}}
    api.put("ServingPool", {**POOL, "spec": busy})
    await asyncio.sleep(0.1)
    operator.applier._slots = asyncio.Semaphore(1)
    doomed = asyncio.create_task(operator.cycle.once())
    await until(lambda: engine_pods(api))
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    half = {n: p["metadata"]["uid"] for n, p in engine_pods(api).items()}
    successor = Operator(Settings(), client, Metrics())
    task = asyncio.create_task(successor.store.run())
    try:
        await until(lambda: not successor.store.problems())
        await settle(successor, api)
        whole = {n: p["metadata"]["uid"] for n, p in engine_pods(api).items()}
        assert half.items() < whole.items()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
