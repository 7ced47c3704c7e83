"""Where routing comes from: files, a ConfigMap, swaps, refusals, readiness."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from motley_runtime.gateway.routing_configmap import ApiServer, ConfigMapWatch, follow_configmap
from motley_runtime.gateway.routing_file import follow_file


async def ready(gateway: Any) -> tuple[int, dict[str, Any]]:
    async with gateway.http.get(f"{gateway.url}/ready") as response:
        return response.status, await response.json()


async def plan_is(gateway: Any, plan_hash: str) -> bool:
    return (await ready(gateway))[1].get("plan_hash") == plan_hash


def write(path: Path, document: Any) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(document if isinstance(document, str) else json.dumps(document))
    os.replace(temporary, path)


async def test_without_a_plan_the_gateway_lives_but_is_not_ready(start_gateway: Any) -> None:
    gateway = await start_gateway()
    status, body = await ready(gateway)
    assert status == 503 and body["reasons"] == [
        "no routing in force: no routing has been read yet"
    ]
    async with gateway.http.get(f"{gateway.url}/health") as response:
        assert response.status == 200
    response = await gateway.chat()
    assert response.status == 503 and response.headers["retry-after"]


async def test_a_first_stage_without_replicas_is_not_ready_and_says_so(
    start_gateway: Any, start_engine: Any, routing_of: Any, replica_of: Any
) -> None:
    large = replica_of(await start_engine("large"))
    gateway = await start_gateway(routing_of(("small", []), ("large", [large])))
    status, body = await ready(gateway)
    assert status == 503
    assert body["reasons"] == ["stage 'small' has no replica that serves any class"]
    response = await gateway.chat()
    assert response.headers["x-motley-path"] == "small:failed,large", "it serves all the same"


async def test_a_file_is_followed_and_a_broken_one_is_refused(
    start_gateway: Any,
    start_engine: Any,
    routing_of: Any,
    replica_of: Any,
    tmp_path: Path,
    eventually: Any,
) -> None:
    path = tmp_path / "routing.json"
    replicas = [replica_of(await start_engine("r0"))]
    gateway = await start_gateway(follow=functools.partial(follow_file, path))
    await eventually(lambda: "No such file" in (gateway.gateway.live.problem or ""))
    write(path, routing_of(("main", replicas), plan_hash="one"))
    await eventually(lambda: plan_is(gateway, "one"))
    assert await gateway.metric('motley_gateway_plan_info{plan_hash="one"}') == 1
    refused = await gateway.metric("motley_gateway_routing_refused_total")

    write(path, '{"version": 2}')
    await eventually(lambda: "version" in (gateway.gateway.live.problem or ""))
    status, body = await ready(gateway)
    assert (status, body["plan_hash"]) == (200, "one"), "the last good one stays"
    assert body["refused"] == "version: must be 1, is 2"
    assert await gateway.metric("motley_gateway_routing_refused_total") == refused + 1
    assert (await gateway.chat()).status == 200

    path.unlink()
    await eventually(lambda: "No such file" in (gateway.gateway.live.problem or ""))
    assert (await gateway.chat()).headers["x-motley-plan"] == "one"

    write(path, routing_of(("main", replicas), plan_hash="two"))
    await eventually(lambda: plan_is(gateway, "two"))
    assert "refused" not in (await ready(gateway))[1]
    assert await gateway.metric("motley_gateway_plan_info") == 1, "one plan is in force"


async def test_a_stream_finishes_on_the_plan_it_began_with(
    start_gateway: Any, start_engine: Any, routing_of: Any, replica_of: Any
) -> None:
    old = await start_engine("old", chunks=6, chunk_delay_s=0.05)
    new = await start_engine("new")
    gateway = await start_gateway(routing_of(("main", [replica_of(old)]), plan_hash="one"))
    streaming = await gateway.chat(stream=True)
    assert gateway.offer(routing_of(("main", [replica_of(new)]), plan_hash="two"))
    fresh = await gateway.chat()
    assert fresh.headers["x-motley-plan"] == "two" and len(new.seen) == 1
    assert old.open_streams == 1, "the new plan was in force while the old stream ran"
    raw = await streaming.read()
    assert streaming.headers["x-motley-plan"] == "one"
    assert raw.count(b"old") == 6 and raw.endswith(b"data: [DONE]\n\n")


async def test_work_in_flight_is_known_to_the_next_plan(
    start_gateway: Any, start_engine: Any, routing_of: Any, replica_of: Any, eventually: Any
) -> None:
    busy = await start_engine("busy", delay_s=0.5)
    free = await start_engine("free")
    replicas = [replica_of(busy), replica_of(free)]
    only_busy = routing_of(("main", [replica_of(busy)]), plan_hash="one")
    gateway = await start_gateway(only_busy)
    pending = [asyncio.create_task(gateway.chat()) for _ in range(3)]
    await eventually(lambda: len(busy.seen) == 3)
    gateway.offer(routing_of(("main", replicas), plan_hash="two"))
    for _ in range(2):
        await gateway.chat()
    assert len(free.seen) == 2, "the replica with three requests in flight would finish later"
    assert {response.status for response in await asyncio.gather(*pending)} == {200}


class StubApiServer:
    """Lists and watches one ConfigMap the way the Kubernetes API does."""

    def __init__(self) -> None:
        self.version = 10
        self.data: dict[str, str] | None = None
        self.expired = False
        self.requests: list[dict[str, str]] = []
        self.tokens: list[str | None] = []
        self.watchers: list[asyncio.Queue[dict[str, Any] | None]] = []

    def item(self) -> dict[str, Any]:
        meta = {"name": "support-routing", "resourceVersion": str(self.version)}
        return {"kind": "ConfigMap", "metadata": meta, "data": self.data}

    def set(self, document: Any, kind: str = "MODIFIED") -> None:
        self.data = {"routing.json": json.dumps(document)}
        self.version += 1
        self.send({"type": kind, "object": self.item()})

    def send(self, event: dict[str, Any] | None) -> None:
        for queue in self.watchers:
            queue.put_nowait(event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append(query)
        self.tokens.append(request.headers.get("authorization"))
        assert query["fieldSelector"] == "metadata.name=support-routing"
        if "watch" not in query:
            items = [self.item()] if self.data is not None else []
            return web.json_response(
                {"metadata": {"resourceVersion": str(self.version)}, "items": items}
            )
        if self.expired:
            self.expired = False
            return web.json_response({"code": 410, "reason": "Expired"}, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.watchers.append(queue)
        while (event := await queue.get()) is not None:
            raw = json.dumps(event).encode() + b"\n"
            half = len(raw) // 2  # an event never fits one chunk here
            await response.write(raw[:half])
            await asyncio.sleep(0.01)
            await response.write(raw[half:])
        self.watchers.remove(queue)
        return response

    def watches(self) -> int:
        return sum("watch" in query for query in self.requests)

    def lists(self) -> int:
        return len(self.requests) - self.watches()


@pytest.fixture
async def api(serve_app: Any, tmp_path: Path) -> Any:
    stub = StubApiServer()
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/team-a/configmaps", stub.handle)
    async with serve_app(app) as url:
        (tmp_path / "token").write_text("t1\n")
        server = ApiServer(url, token_path=tmp_path / "token")
        stub.follow = lambda live: follow_configmap(server, "team-a", "support-routing", live)
        stub.token_path = tmp_path / "token"
        yield stub
        stub.send(None)


async def test_a_configmap_is_listed_watched_and_followed_through_every_break(
    api: Any,
    start_gateway: Any,
    start_engine: Any,
    routing_of: Any,
    replica_of: Any,
    eventually: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ConfigMapWatch, "retry_s", 0.05)
    replicas = [replica_of(await start_engine("r0"))]

    def plan(name: str) -> dict[str, Any]:
        return routing_of(("main", replicas), plan_hash=name, padding="p" * 200_000)

    api.set(plan("one"))
    gateway = await start_gateway(follow=api.follow)
    await eventually(lambda: plan_is(gateway, "one"))
    await eventually(lambda: api.watchers)
    assert api.requests[-1]["resourceVersion"] == "11"

    api.set(plan("two"))
    await eventually(lambda: plan_is(gateway, "two"))

    api.send(None)  # the server ends the watch: go on from the last version, with a fresh token
    api.token_path.write_text("t2")
    await eventually(lambda: api.watches() == 2 and api.watchers)
    assert api.requests[-1]["resourceVersion"] == "12" and api.lists() == 1
    assert api.tokens[0] == "Bearer t1" and api.tokens[-1] == "Bearer t2"

    bookmark = {"metadata": {"resourceVersion": "40"}}
    api.send({"type": "BOOKMARK", "object": bookmark})
    api.send(None)
    await eventually(lambda: api.watches() == 3 and api.watchers)
    assert api.requests[-1]["resourceVersion"] == "40"

    api.send({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    api.data = {"routing.json": json.dumps(plan("three"))}  # changed while nobody watched
    api.send(None)
    await eventually(lambda: plan_is(gateway, "three"))
    assert api.lists() == 2

    api.expired = True  # 410 as a status, not as an event
    await eventually(lambda: api.watchers)
    api.send(None)
    await eventually(lambda: api.lists() == 3)

    await eventually(lambda: api.watchers)
    api.send({"type": "DELETED", "object": api.item()})
    await eventually(lambda: "deleted" in (gateway.gateway.live.problem or ""))
    assert (await gateway.chat()).headers["x-motley-plan"] == "three"
    api.set(plan("four"), kind="ADDED")
    await eventually(lambda: plan_is(gateway, "four"))


async def test_a_configmap_that_comes_later_is_found(
    api: Any,
    start_gateway: Any,
    start_engine: Any,
    routing_of: Any,
    replica_of: Any,
    eventually: Any,
) -> None:
    gateway = await start_gateway(follow=api.follow)
    await eventually(lambda: api.watchers)
    assert "does not exist" in (await ready(gateway))[1]["reasons"][0]
    api.set(routing_of(("main", [replica_of(await start_engine("r0"))])), kind="ADDED")
    await eventually(lambda: plan_is(gateway, "aaaa1111"))


async def test_an_api_server_that_is_away_is_asked_again(
    start_gateway: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch, serve_app: Any
) -> None:
    monkeypatch.setattr(ConfigMapWatch, "retry_s", 0.02)
    stub, failures = StubApiServer(), [500, 403]
    stub.data = {"other": "key"}

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=failures.pop()) if failures else await stub.handle(request)

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/team-a/configmaps", handle)
    async with serve_app(app) as url:
        follow = functools.partial(follow_configmap, ApiServer(url), "team-a", "support-routing")
        gateway = await start_gateway(follow=follow)
        await eventually(lambda: stub.watchers)
        assert (
            gateway.gateway.live.problem
            == "ConfigMap team-a/support-routing has no key routing.json"
        )
        stub.send(None)


def test_outside_a_cluster_the_configmap_flag_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="use --routing-file"):
        ApiServer.in_cluster({})
    server = ApiServer.in_cluster(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    )
    assert server.url == "https://[fd00::1]:443"
