"""A gateway and an operator together: who scales to zero is woken by the request that comes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

from motley_operator.decision import decide
from motley_operator.domain.measurement import Measurement, Reading, Targets
from motley_operator.domain.names import HELD_AT, routing_name, wake_name
from motley_operator.main import plan_with
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, pool
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import RoutingTable, parse_routing

CATALOG, SETTINGS = load_catalog(), Settings()
STEPS = 10


class Cluster:
    """An operator in a fake world with one measured pool that may be scaled to zero."""

    def __init__(self, engine_url: str) -> None:
        self.world = World().add_node(gpu_node("h0"), gpu_node("h1"))
        self.world.fleet = {
            "apiVersion": "motley.dev/v1alpha1",
            "kind": "Fleet",
            "metadata": {"name": "default", "uid": "fleet", "generation": 1},
            "spec": {"prometheus": {"url": "http://prometheus:9090"}},
        }
        workload = {
            "requestsPerSecond": 4,
            "minRequestsPerSecond": 0,
            "demand": "Measured",
            "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
        }
        self.key = self.world.add(pool(workload=workload))
        self.planner = RememberingPlanner(plan_with)
        self._engine_url = engine_url

    def rest(self) -> None:
        """Cycles until one changes nothing."""
        for _ in range(8):
            decision = decide(self.world.facts(), CATALOG, SETTINGS, self.planner)
            self.world.apply(decision.statuses)
            self.world.apply(decision.actions)
            self.world.settle()
            if not decision.actions and not decision.statuses:
                return
        raise AssertionError("the operator does not come to rest")

    def see_nothing(self) -> None:
        """Prometheus shows that nobody asked for a whole window."""
        self.world.now += 1000.0
        targets = Targets(2, 2, 5.0, (2.0,) * STEPS)
        idle = Measurement(gateways=targets, arrived={"all": (0.0,) * STEPS})
        self.world.reading = Reading(self.world.now, 90.0, {self.key: idle})

    async def hear(self, table: RoutingTable) -> None:
        """What the API server and the operator's watch do with a gateway's word."""
        place = ("ConfigMap", table.resource.namespace, wake_name(table.resource.name))
        metadata = self.world.owned[place]["metadata"]
        metadata.setdefault("annotations", {})[HELD_AT] = f"word {self.world.now}"
        await asyncio.to_thread(self.rest)

    def routing(self) -> dict[str, Any]:
        """The routing as the operator wrote it; all replicas are the one engine that there is."""
        place = ("ConfigMap", "team-a", routing_name("chat"))
        document = json.loads(self.world.owned[place]["data"]["routing.json"])
        for stage in document["stages"]:
            stage["replicas"] = [r | {"url": self._engine_url} for r in stage["replicas"]]
        return dict(document)


async def test_a_request_to_a_pool_at_zero_starts_a_replica_and_is_answered_by_it(
    start_engine: Any, start_gateway: Any
) -> None:
    engine = await start_engine("only")
    cluster = Cluster(engine.url)
    cluster.rest()
    for _ in range(3):
        cluster.see_nothing()
        cluster.rest()
    assert not cluster.world.engine_pods(cluster.key)
    gateway = await start_gateway(cluster.routing())

    async def tell(table: RoutingTable) -> None:
        await cluster.hear(table)
        assert gateway.offer(cluster.routing())

    gateway.gateway.waking.tell = tell
    response = await gateway.chat(model="chat")
    assert response.status == 200
    assert len(cluster.world.engine_pods(cluster.key)) == 1
    assert len(engine.seen) == 1
    cluster.see_nothing()
    cluster.see_nothing()
    cluster.rest()
    assert not cluster.world.engine_pods(cluster.key), "it goes back to sleep"
    table = parse_routing(cluster.routing())
    assert table.hold is not None and replace(table.stages[0], replicas=()) == table.stages[0]
