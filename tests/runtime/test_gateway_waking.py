"""Requests for a pool without replicas: held, told to the operator, and sent once one answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from motley_planner.dispatch import RoutingTable, parse_routing, routing_document
from motley_runtime.gateway.routing_configmap import ApiServer
from motley_runtime.gateway.wake_configmap import HELD_AT, WakeConfigMap

HOLD = {"requests": 3, "seconds": 20.0}


class Engine:
    """An engine that starts when it is told to, on a port known before."""

    def __init__(self) -> None:
        self.is_well, self.answered = False, 0
        self.runner: web.AppRunner | None = None
        self.url = ""
        self._port = 0

    async def listen(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_post("/v1/chat/completions", self.chat)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self._port)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._port}"

    async def end(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_well else 503)

    async def chat(self, request: web.Request) -> web.Response:
        if not self.is_well:
            return web.Response(status=503)
        self.answered += 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "awake"}}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": 1}})


@pytest.fixture
async def engine() -> Any:
    made = Engine()
    yield made
    await made.end()


Offer = Callable[..., dict[str, Any]]


@pytest.fixture
def asleep(routing_of: Offer) -> dict[str, Any]:
    return routing_of(("main", []), plan_hash="none", hold=HOLD)


def awake(routing_of: Offer, url: str, **fields: Any) -> dict[str, Any]:
    replica = {"name": "r", "url": url, "rates": {"all": 1.0}, "capacity": {"all": 2.0}}
    return routing_of(("main", [replica]), plan_hash="one", hold=HOLD, **fields)


async def refused_port() -> str:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"


async def test_a_held_request_is_told_and_goes_out_once_a_replica_answers(
    start_gateway: Any, routing_of: Offer, asleep: dict[str, Any], engine: Engine, eventually: Any
) -> None:
    gateway = await start_gateway(asleep)
    told: list[RoutingTable] = []

    async def tell(table: RoutingTable) -> None:
        told.append(table)

    waking = gateway.gateway.waking
    waking.tell = tell
    asking = [asyncio.create_task(gateway.chat()) for _ in range(3)]
    await eventually(lambda: waking.held == 3 and told)
    assert await gateway.metric("motley_gateway_held") == 3
    assert [table.resource.name for table in told] == ["support"]
    await engine.listen()
    gateway.offer(awake(routing_of, engine.url))
    await asyncio.sleep(0.5)
    assert waking.held == 3, "the replica is planned and does not answer yet"
    engine.is_well = True
    responses = await asyncio.gather(*asking)
    for response in responses:
        assert response.status == 200
        assert response.headers["x-motley-plan"] == "one"
        assert (await response.json())["choices"][0]["message"]["content"] == "awake"
    assert waking.held == 0 and engine.answered == 3
    response = await gateway.chat()
    assert response.status == 200 and len(told) == 1


async def test_more_than_may_wait_are_sent_away_and_one_that_leaves_makes_room(
    start_gateway: Any, asleep: dict[str, Any], eventually: Any
) -> None:
    gateway = await start_gateway(asleep)
    waking = gateway.gateway.waking
    asking = [asyncio.create_task(gateway.chat()) for _ in range(3)]
    await eventually(lambda: waking.held == 3)
    response = await gateway.chat()
    assert response.status == 503
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert (await response.json())["error"]["code"] == "waking"
    assert await gateway.metric('motley_gateway_refused_requests_total{reason="hold"}') == 1
    asking[0].cancel()
    await eventually(lambda: waking.held == 2)
    asking.append(asyncio.create_task(gateway.chat()))
    await eventually(lambda: waking.held == 3)
    for task in asking:
        task.cancel()
    await eventually(lambda: waking.held == 0)
    await eventually(lambda: waking._look_out.done())
    assert gateway.gateway.in_flight == 0


async def test_a_request_is_held_no_longer_than_the_table_or_its_deadline_says(
    start_gateway: Any, routing_of: Offer
) -> None:
    document = routing_of(("main", []), hold={"requests": 3, "seconds": 0.3})
    gateway = await start_gateway(document)
    began = time.monotonic()
    async with asyncio.timeout(30.0):
        response = await gateway.chat()
    assert response.status == 503 and time.monotonic() - began > 0.25
    assert await gateway.metric('motley_gateway_refused_requests_total{reason="hold_t') == 1
    assert gateway.offer(routing_of(("main", []), plan_hash="b", hold={**HOLD, "seconds": 120.0}))
    async with asyncio.timeout(30.0):
        response = await gateway.chat(headers={"x-motley-deadline-ms": "50"})
    assert response.status == 503


async def test_without_a_hold_a_pool_without_replicas_refuses_at_once(
    start_gateway: Any, routing_of: Offer
) -> None:
    gateway = await start_gateway(routing_of(("main", [])))
    response = await gateway.chat()
    assert response.status == 503
    assert (await response.json())["error"]["code"] == "no_replica"
    async with gateway.http.get(f"{gateway.url}/ready") as ready:
        assert ready.status == 503


async def test_a_gateway_that_holds_requests_is_ready_or_no_service_would_send_it_any(
    start_gateway: Any, asleep: dict[str, Any]
) -> None:
    gateway = await start_gateway(asleep)
    async with gateway.http.get(f"{gateway.url}/ready") as ready:
        assert ready.status == 200


async def test_a_request_that_comes_while_replicas_start_waits_with_the_others(
    start_gateway: Any, routing_of: Offer, engine: Engine, eventually: Any
) -> None:
    # A gateway that was restarted meanwhile: the plan names a replica, and nobody listens there.
    gateway = await start_gateway(awake(routing_of, await refused_port()))
    waking = gateway.gateway.waking
    asking = [asyncio.create_task(gateway.chat()) for _ in range(2)]
    await eventually(lambda: waking.held == 2)
    await engine.listen()
    engine.is_well = True
    gateway.offer(awake(routing_of, engine.url) | {"plan_hash": "two"})
    for response in await asyncio.gather(*asking):
        assert (response.status, response.headers["x-motley-plan"]) == (200, "two")


async def test_pairs_are_awake_with_one_of_each_phase(
    start_gateway: Any, asleep: dict[str, Any], engine: Engine
) -> None:
    gateway = await start_gateway(asleep)
    waking = gateway.gateway.waking
    await engine.listen()
    engine.is_well = True
    away = await refused_port()

    def paired(prefill: str, decode: str) -> dict[str, Any]:
        one = {"rates": {"all": 1.0}, "capacity": {"all": 2.0}, "group": "z"}
        stage = {
            "name": "main",
            "model": "m",
            "replicas": [],
            "prefill": [one | {"name": "p", "url": prefill}],
            "decode": [one | {"name": "d", "url": decode}],
            "flows": [{"class": "all", "from": "z", "to": "z", "rate": 1}],
            "handoff": {"protocol": "nixl"},
        }
        return asleep | {"stages": [stage]}

    for prefill, decode, is_awake in (
        (away, engine.url, False),
        (engine.url, away, False),
        (engine.url, engine.url, True),
    ):
        assert gateway.offer(paired(prefill, decode))
        assert await waking._is_awake() is is_awake


async def test_a_word_that_fails_is_said_again(
    start_gateway: Any, asleep: dict[str, Any], eventually: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("motley_runtime.gateway.waking._TELL_ANEW_S", 0.02)
    gateway = await start_gateway(asleep)
    words: list[int] = []

    async def tell(table: RoutingTable) -> None:
        words.append(1)
        if len(words) < 3:
            raise aiohttp.ClientConnectionError("away")

    gateway.gateway.waking.tell = tell
    task = asyncio.create_task(gateway.chat())
    await eventually(lambda: len(words) == 3)
    await asyncio.sleep(0.1)
    assert len(words) == 3
    task.cancel()


async def test_a_gateway_that_ends_sends_away_whom_it_holds(
    start_gateway: Any, asleep: dict[str, Any], eventually: Any
) -> None:
    gateway = await start_gateway(asleep)
    task = asyncio.create_task(gateway.chat())
    await eventually(lambda: gateway.gateway.waking.held == 1)
    gateway.gateway.begin_drain()
    response = await task
    assert (response.status, response.headers["retry-after"]) == (503, "1")


async def test_the_word_is_an_annotation_on_one_config_map(
    serve_app: Any, asleep: dict[str, Any]
) -> None:
    seen: list[tuple[str, str, dict[str, Any]]] = []

    async def patch(request: web.Request) -> web.Response:
        seen.append((request.path_qs, request.content_type, json.loads(await request.read())))
        return web.json_response({})

    app = web.Application()
    app.router.add_patch("/{path:.*}", patch)
    async with serve_app(app) as url:
        teller = WakeConfigMap(ApiServer(url))
        table = parse_routing(asleep)
        await teller.tell(table)
        await teller.tell(table)
    path, kind, body = seen[0]
    assert path == ("/api/v1/namespaces/team-a/configmaps/support-wake?fieldManager=motley-gateway")
    assert kind == "application/merge-patch+json"
    assert list(body) == ["metadata"] and list(body["metadata"]) == ["annotations"]
    words = [each[2]["metadata"]["annotations"][HELD_AT] for each in seen]
    assert words[0] != words[1]


def test_the_hold_survives_the_routing_file(asleep: dict[str, Any]) -> None:
    table = parse_routing(asleep)
    assert table.hold is not None and table.hold.requests == 3
    assert parse_routing(routing_document(table)) == table
