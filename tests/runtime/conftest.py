"""Stub engines and gateways on real sockets."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.runtime.phase_engines import cluster, make, pair

from motley_runtime.gateway.app import Gateway
from motley_runtime.gateway.options import GatewaySettings, Limits, Sharing
from motley_runtime.gateway.server import GatewayServer, serving, uvicorn_config

__all__ = ["cluster", "make", "pair"]  # fixtures of engines with their phases apart


@dataclass
class StubEngine:
    """An engine that speaks enough of OpenAI's API, and misbehaves on request."""

    name: str
    text: str = "forty two"
    token_probability: float = 0.9
    status: int = 200
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    chunks: int = 4
    dies_after_chunks: int | None = None
    drops_connections: int = 0
    garbage: bool = False
    choice: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    aborted: int = 0
    open_streams: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        try:
            await asyncio.sleep(self.delay_s)
            return await self._respond(request, body)
        except asyncio.CancelledError:
            self.aborted += 1
            raise

    async def _respond(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.drops_connections:
            self.drops_connections -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if self.status != 200:
            error = {"error": {"message": f"{self.name} says no", "code": "stub"}}
            return web.json_response(error, status=self.status)
        if self.garbage:
            return web.Response(body=b"\x00not json", content_type="application/json")
        if body.get("stream"):
            return await self._stream(request, body)
        return web.json_response(self.changed(self.answer(request.path, body)))

    def changed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer as a test wants it: `choice` and `message` overwrite the first choice's."""
        if self.choice or self.message:
            answer["choices"][0] |= self.choice
            answer["choices"][0].get("message", {}).update(self.message)
        return answer

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        lp = math.log(self.token_probability)
        words = self.text.split()
        usage = {
            "prompt_tokens": 10,
            "completion_tokens": len(words),
            "total_tokens": 10 + len(words),
            "prompt_tokens_details": {"cached_tokens": 1},
        }
        if path.endswith("embeddings"):
            item = {"object": "embedding", "index": 0, "embedding": [0.25, -1.0]}
            return {"object": "list", "model": body["model"], "data": [item], "usage": usage}
        if path.endswith("responses"):
            part = {"type": "output_text", "text": self.text, "annotations": []}
            said = {"type": "message", "id": "m", "role": "assistant", "content": [part]}
            head = {"id": "resp-1", "object": "response", "created_at": 1, "model": body["model"]}
            return head | {"status": "completed", "output": [said | {"status": "completed"}]}
        head = {"id": f"{self.name}-1", "created": 1, "model": body["model"], "usage": usage}
        if path.endswith("chat/completions"):
            scores = {"content": [{"token": w, "logprob": lp} for w in words]}
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": self.text}}
            choice["logprobs"] = scores if body.get("logprobs") else None
            kind = "chat.completion"
        else:
            choice = {"text": self.text}
            wanted = body.get("logprobs") is not None
            choice["logprobs"] = {"token_logprobs": [lp] * len(words)} if wanted else None
            kind = "text_completion"
        return head | {
            "object": kind,
            "choices": [choice | {"index": 0, "finish_reason": "stop"}],
        }

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        self.open_streams += 1
        try:
            for index in range(self.chunks):
                if index == self.dies_after_chunks:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                part = {"content": f"{self.name}{index} "}
                delta: dict[str, Any] = {"choices": [{"index": 0, "delta": part}]}
                if body.get("logprobs"):
                    scored = [{"token": "t", "logprob": math.log(self.token_probability)}]
                    delta["choices"][0]["logprobs"] = {"content": scored}
                await response.write(b"data: " + json.dumps(delta).encode() + b"\n\n")
                await asyncio.sleep(self.chunk_delay_s)
            if (body.get("stream_options") or {}).get("include_usage"):
                usage = {"prompt_tokens": 10, "completion_tokens": self.chunks, "total_tokens": 14}
                last = json.dumps({"choices": [], "usage": usage}).encode()
                await response.write(b"data: " + last + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        finally:
            self.open_streams -= 1
        return response


async def healthy(request: web.Request) -> web.Response:
    return web.Response()


StartEngine = Callable[..., Awaitable[StubEngine]]


@pytest.fixture
async def start_engine() -> AsyncIterator[StartEngine]:
    """Starts stub engines; all of them end with the test."""
    async with AsyncExitStack() as stack:

        async def start(name: str, **options: Any) -> StubEngine:
            engine = StubEngine(name, **options)
            app = web.Application(client_max_size=2**26)
            app.router.add_post("/v1/chat/completions", engine.handle)
            app.router.add_post("/v1/completions", engine.handle)
            app.router.add_post("/v1/embeddings", engine.handle)
            app.router.add_post("/v1/responses", engine.handle)
            app.router.add_get("/health", healthy)
            engine.url = await stack.enter_async_context(running_app(app))
            return engine

        yield start


@asynccontextmanager
async def running_app(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
def serve_app() -> Callable[[web.Application], Any]:
    """Runs any aiohttp application on a real socket."""
    return running_app


@dataclass
class RunningGateway:
    """A gateway on a real socket and a client for it."""

    gateway: Gateway
    server: GatewayServer
    url: str
    http: aiohttp.ClientSession
    responses: list[aiohttp.ClientResponse] = field(default_factory=list)

    def offer(self, document: dict[str, Any]) -> bool:
        return self.gateway.live.offer(json.dumps(document).encode())

    async def post(self, path: str, **body: Any) -> aiohttp.ClientResponse:
        headers = body.pop("headers", {})
        response = await self.http.post(f"{self.url}{path}", json=body, headers=headers)
        self.responses.append(response)
        return response

    async def chat(self, text: str = "hello", **fields: Any) -> aiohttp.ClientResponse:
        headers = fields.pop("headers", {})
        body = {"messages": [{"role": "user", "content": text}], **fields}
        url = f"{self.url}/v1/chat/completions"
        response = await self.http.post(url, json=body, headers=headers)
        self.responses.append(response)
        return response

    async def metric(self, line_start: str) -> float:
        """The sum of the samples whose line begins so."""
        async with self.http.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start))


StartGateway = Callable[..., Awaitable[RunningGateway]]


@pytest.fixture
async def start_gateway() -> AsyncIterator[StartGateway]:
    """Starts gateways in this process, on real sockets, with an optional routing document."""
    async with AsyncExitStack() as stack:

        async def start(
            document: dict[str, Any] | None = None, follow: Any = None, **settings: Any
        ) -> RunningGateway:
            limits = Limits(**settings.pop("limits", {}))
            if "sharing" in settings:
                settings["sharing"] = Sharing(**settings["sharing"])
            settings = {"settle_s": 0.0, "drain_s": 5.0, "limits": limits} | settings
            gateway = Gateway(GatewaySettings(host="127.0.0.1", port=0, **settings))
            server = GatewayServer(gateway, uvicorn_config(gateway))
            listener = socket.create_server(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            following = follow(gateway.live) if follow else asyncio.sleep(3600)
            await stack.enter_async_context(serving(server, following))
            task = asyncio.create_task(server.serve_on(listener))

            async def stop() -> None:
                server.should_exit = True
                await task

            stack.push_async_callback(stop)
            http = await stack.enter_async_context(aiohttp.ClientSession())
            running = RunningGateway(gateway, server, url, http)
            stack.callback(lambda: [response.close() for response in running.responses])
            while not server.started:
                await asyncio.sleep(0.005)
            if document is not None:
                assert running.offer(document), gateway.live.problem
            return running

        yield start


def replica(engine: StubEngine, **fields: Any) -> dict[str, Any]:
    url = {"name": engine.name, "url": engine.url}
    return {**url, "rates": {"all": 1.0}, "capacity": {"all": 2.0}, **fields}


def routing(
    *stages: tuple[str, list[dict[str, Any]]],
    policies: list[dict[str, Any]] | None = None,
    plan_hash: str = "aaaa1111",
    **fields: Any,
) -> dict[str, Any]:
    """A routing document with good defaults."""
    if policies is None and len(stages) > 1:
        policies = [{"id": "p0", "share": 1.0, "thresholds": {n: 0.5 for n, _ in stages[:-1]}}]
    return {
        "version": 1,
        "plan_hash": plan_hash,
        "resource": {"kind": "ModelCascade", "namespace": "team-a", "name": "support"},
        "served_model_names": ["support"],
        "classes": [{"name": "all", "prompt_tokens": 900, "output_tokens": 220}],
        "stages": [{"name": n, "model": f"org/{n}", "replicas": r} for n, r in stages],
        "policies": policies or [],
        "estimator": {"type": "LogProb"},
        **fields,
    }


@pytest.fixture
def routing_of() -> Callable[..., dict[str, Any]]:
    return routing


@pytest.fixture
def replica_of() -> Callable[..., dict[str, Any]]:
    return replica


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Waits until a condition holds, and fails if it does not within what a busy machine takes."""

    async def wait(condition: Callable[[], Any], limit_s: float = 30.0) -> None:
        async with asyncio.timeout(limit_s):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parents[2]
