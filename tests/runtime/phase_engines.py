"""Mock engines with their phases apart, vLLM-like or SGLang-like, and a gateway before a pair of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

NIXL_ASK = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
CHAT = "/v1/chat/completions"


@dataclass
class Cluster:
    """What the engines of one test share: the caches that wait, and every breach of protocol."""

    wrong: list[str] = field(default_factory=list)
    caches: dict[str, dict[str, Any]] = field(default_factory=dict)  # by remote_request_id
    bodies: dict[str, bytes] = field(default_factory=dict)
    rooms: dict[int, asyncio.Event] = field(default_factory=dict)
    used_rooms: Counter[int] = field(default_factory=Counter)
    most_prompts: int = 0  # that prefill replicas read or kept for others at a time

    def must(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)


@dataclass
class PhaseEngine:
    """A vLLM-like or SGLang-like engine in one role (vLLM-like: or in both); it notes what is not
    as it should be."""

    name: str
    role: str
    protocol: str
    cluster: Cluster
    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    delay_s: float = 0.0
    status: int = 200
    drops: bool = False
    dies_after_chunks: int | None = None
    params: Any = "right"
    chunk_delay_s: float = 0.0
    bootstrap_port: int = 8998
    aborted: int = 0
    at_work: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        self.seen.append(body)
        self.paths.append(request.path)
        self.ids.append(request.headers["x-request-id"])
        self.at_work += 1
        if self.role == "prefill":
            kept = self.at_work + len(self.cluster.caches)
            self.cluster.most_prompts = max(self.cluster.most_prompts, kept)
        try:
            if self.protocol == "bootstrap":
                self._check_bootstrap(body)
            await asyncio.sleep(self.delay_s)
            if self.drops:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            if self.status != 200:
                return web.json_response({"error": {"message": "no"}}, status=self.status)
            if self.protocol == "nixl":
                return await self._nixl(request, body)
            return await self._bootstrap(request, body)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.at_work -= 1

    async def _nixl(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        must, params = self.cluster.must, body.get("kv_transfer_params")
        request_id = request.headers["x-request-id"]
        asked = isinstance(params, dict) and params.get("do_remote_decode") is True
        if self.role == "prefill" or (self.role == "both" and asked):
            must(params == NIXL_ASK, f"ask {params}")
            must(body["stream"] is False, "prefill is streamed")
            must(body["max_tokens"] == 1, "prefill makes more than a token")
            must(body.get("max_completion_tokens", 1) == 1, "max_completion_tokens")
            for key in ("stream_options", "min_tokens", "min_completion_tokens"):
                must(key not in body, f"{key} on the prefill leg")
            answer = {"id": "p", "object": "chat.completion", "choices": [], "usage": {}}
            told: Any = self.params
            if told == "right":
                told = {
                    "do_remote_prefill": True,
                    "do_remote_decode": False,
                    "remote_engine_id": f"engine-{self.name}",
                    "remote_block_ids": [[3, 1, 4], [1, 5]],
                    "remote_request_id": f"cmpl-{request_id}",
                    "remote_host": "10.0.0.7",
                    "remote_port": 5600,
                    "tp_size": 2,
                }
                self.cluster.caches[request_id] = told
            return web.json_response(answer | {"kv_transfer_params": told})
        if params is not None:
            kept = self.cluster.caches.pop(request_id, None)
            must(kept is not None, "decode before its prefill")
            must(json.dumps(params) == json.dumps(kept), f"carried {params}, kept {kept}")
        return await self._answer(request, body)

    def _check_bootstrap(self, body: dict[str, Any]) -> None:
        must, room = self.cluster.must, body.get("bootstrap_room")
        must(isinstance(room, int) and 0 <= room < 2**63, f"room {room!r}")
        must(body.get("bootstrap_host") == "127.0.0.1", "bootstrap_host")
        must(body.get("bootstrap_port") == self.bootstrap_port, "bootstrap_port")
        if self.role == "prefill":
            self.cluster.used_rooms[room] += 1

    async def _bootstrap(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        room = body["bootstrap_room"]
        if self.role == "decode":
            await self.cluster.rooms.setdefault(room, asyncio.Event()).wait()
            mine = {k: v for k, v in body.items()}
            other = self.cluster.bodies.get(str(room))
            self.cluster.must(json.dumps(mine).encode() == other, "the legs' bodies differ")
        else:
            self.cluster.bodies[str(room)] = json.dumps(body).encode()
            self.cluster.rooms.setdefault(room, asyncio.Event()).set()
        return await self._answer(request, body)

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not body.get("stream"):
            message = {"role": "assistant", "content": self.name}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
            return web.json_response({"id": "d", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for index in range(4):
            if index == self.dies_after_chunks:
                assert request.transport is not None
                request.transport.abort()
                return response
            delta = {"choices": [{"index": 0, "delta": {"content": f"{self.name}{index} "}}]}
            await response.write(b"data: " + json.dumps(delta).encode() + b"\n\n")
            await asyncio.sleep(self.chunk_delay_s)
        await response.write(b"data: [DONE]\n\n")
        return response


Make = Callable[..., Awaitable[PhaseEngine]]


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def make(cluster: Cluster, serve_app: Any) -> Any:
    """Starts engines of one protocol."""
    async with AsyncExitStack() as stack:

        async def start(name: str, role: str, protocol: str, **options: Any) -> PhaseEngine:
            engine = PhaseEngine(name, role, protocol, cluster, **options)
            app = web.Application()
            for path in (CHAT, "/v1/completions", "/v1/embeddings"):
                app.router.add_post(path, engine.handle)
            engine.url = await stack.enter_async_context(serve_app(app))
            return engine

        yield start


def entry(engine: Any, rate: float = 1.0, group: str = "z", **fields: Any) -> dict[str, Any]:
    rates = {"rates": {"all": rate}, "capacity": {"all": max(rate, 1.0)}}
    return {"name": engine.name, "url": engine.url, "group": group, **rates, **fields}


def document(
    routing_of: Any, protocol: str, prefill: list[Any], decode: list[Any], *whole: Any, **more: Any
) -> dict[str, Any]:
    """One pool whose flows join every group of prefill with every group of decode replicas."""
    made: dict[str, Any] = routing_of(("main", list(whole)))
    ends = [dict.fromkeys(each["group"] for each in some) for some in (prefill, decode)]
    flows = [{"class": "all", "from": a, "to": b, "rate": 1.0} for a in ends[0] for b in ends[1]]
    made["stages"][0] |= {
        "prefill": prefill,
        "decode": decode,
        "flows": more.pop("flows", flows),
        "handoff": {"protocol": protocol, **more},
    }
    return made


@dataclass
class Pair:
    gateway: Any
    prefill: PhaseEngine
    decode: PhaseEngine
    cluster: Cluster
    whole: Any = None

    async def said(self, **fields: Any) -> str:
        """What a chat answers, streamed or not, as text; an error's code."""
        response = await self.gateway.chat(**fields)
        if response.status != 200:
            return str((await response.json())["error"]["code"])
        if not fields.get("stream"):
            return str((await response.json())["choices"][0]["message"]["content"])
        events = [line for line in (await response.text()).splitlines() if line]
        deltas = [json.loads(e[6:]) for e in events if e != "data: [DONE]"]
        return "".join(d["choices"][0]["delta"]["content"] for d in deltas)

    async def at_rest(self, eventually: Any) -> None:
        """Nothing is left: no place, no task of a leg, no request at an engine."""
        await eventually(lambda: self.gateway.gateway.live.current.in_flight() == 0)
        await eventually(lambda: self.prefill.at_work == self.decode.at_work == 0)
        await eventually(lambda: not any(self.held().values()))

    def held(self) -> dict[str, float]:
        """KV tokens that requests hold, by replica; those that wait hold none."""
        queues = self.gateway.gateway._cascade._caller._credits.queues
        return {name: queue.used + len(queue) for name, queue in queues.items()}


@pytest.fixture
def pair(make: Make, start_gateway: Any, start_engine: Any, routing_of: Any, cluster: Any) -> Any:
    async def start(
        protocol: str,
        prefill: dict[str, Any] | None = None,
        decode: dict[str, Any] | None = None,
        colocated: bool = False,
        room: tuple[float, float] = (1e6, 1e6),
        **limits: Any,
    ) -> Pair:
        """`room`: KV tokens of either phase's replica."""
        p = await make("p", "prefill", protocol, **(prefill or {}))
        d = await make("d", "decode", protocol, **(decode or {}))
        whole = await start_engine("whole", text="whole") if colocated else None
        others = [entry(whole, rate=0.0, kv_tokens=1e6)] if whole else []
        ends = [entry(p, kv_tokens=room[0])], [entry(d, kv_tokens=room[1])]
        made = document(routing_of, protocol, *ends, *others)
        return Pair(await start_gateway(made, limits=limits), p, d, cluster, whole)

    return start


BOTH = pytest.mark.parametrize("protocol", ["nixl", "bootstrap"])
STREAM = pytest.mark.parametrize("stream", [False, True])
