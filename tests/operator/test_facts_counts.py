"""What the store counts by name: of what is gone nothing is left, however it went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from motley_operator.connection import Client
from motley_operator.facts import Store
from motley_operator.settings import Settings

WITHIN_S = 10.0


def resource(number: int) -> dict[str, Any]:
    """A resource of its own namespace that reads a ConfigMap."""
    table = {"configMapKeyRef": {"name": "table", "key": "table.csv"}}
    metadata = {"name": f"one{number}", "namespace": f"team-{number}"}
    return {"metadata": metadata, "spec": {"quality": {"calibration": table}}}


def counted(store: Store) -> Mapping[str, int]:
    """Entries of all that is kept by name."""
    return {
        "namespaces": len(store._planned_in),
        "references": len(store._uses),
        "reflectors of ConfigMaps": len(store._references),
        "their tasks": len(store._following),
        "nodes with GPUs": len(store._gpu_nodes),
    }


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not met():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def followed(client: Client) -> AsyncIterator[Store]:
    store = Store(client, Settings(), lambda cause: None)
    task = asyncio.create_task(store.run())
    try:
        await until(lambda: not store.problems())
        yield store
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("is_ours", [False, True], ids=["by others", "by ourselves"])
async def test_nothing_is_counted_of_resources_that_were_deleted(
    api: Any, client: Client, is_ours: bool
) -> None:
    """By ourselves: a finished job after its time, whose deletion is known before it is heard."""
    async with followed(client) as store:
        before = counted(store)
        made = [api.put("RLJob", resource(number)) for number in range(12)]
        await until(lambda: counted(store)["their tasks"] == len(made))
        assert counted(store)["namespaces"] == counted(store)["references"] == len(made)
        for number, document in enumerate(made):
            if is_ours:
                store.forget("RLJob", document["metadata"]["uid"])
            api.drop("RLJob", f"one{number}", f"team-{number}")
        last = api.put("RLJob", resource(99))  # heard after all of them
        await until(
            lambda: (
                [*store.documents("RLJob")] != []
                and store.version("RLJob", last["metadata"]["uid"]) > 0
            )
        )
        api.drop("RLJob", "one99", "team-99")
        await until(lambda: not [*store.documents("RLJob")])
        await until(lambda: counted(store) == before)


async def test_a_node_made_anew_under_its_name_while_nobody_watched_still_counts(
    api: Any, client: Client, node: Any
) -> None:
    """The LIST brings the new one before it is known that the old one has gone."""
    async with followed(client) as store:
        old = api.put("Node", node("n0"))
        await until(lambda: len(store.nodes) == 1)
        api.refusing = True
        api.cut()
        api.drop("Node", "n0")
        new = api.put("Node", node("n0"))
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        api.compact()
        api.refusing = False
        await until(lambda: [each.uid for each in store.nodes.values()] == [new["metadata"]["uid"]])
        assert set(store._gpu_nodes) == {"n0"}
        api.drop("Node", "n0")
        await until(lambda: not len(store.nodes))
        assert not store._gpu_nodes
