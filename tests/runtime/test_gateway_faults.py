"""Engines and clients that misbehave: what is retried, what is cut off, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from motley_runtime.gateway.streams import LineSplitter, UsageRewriter

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
CHUNKED = HEAD[:-2] + b"transfer-encoding: chunked\r\n\r\n"


def events(raw: bytes) -> list[Any]:
    found = [line[6:] for line in raw.decode().splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in found]


class RawEngine:
    """A server that says what it likes once a request has come; it knows who has hung up."""

    def __init__(self, talk: Talk) -> None:
        self.talk, self.asked, self.open = talk, 0, 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.asked += 1
            await self.talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def raw_engine() -> AsyncIterator[Callable[[Talk], Awaitable[RawEngine]]]:
    async with AsyncExitStack() as stack:

        async def start(talk: Talk) -> RawEngine:
            engine = RawEngine(talk)
            server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
            stack.callback(server.close)
            engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            return engine

        yield start


def says(*pieces: bytes, then: str = "close", pause_s: float = 0.0) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if then == "hang":
            await reader.read()
        elif then == "reset":
            writer.transport.abort()

    return talk


@pytest.fixture
def beside(raw_engine: Any, start_engine: Any, start_gateway: Any, routing_of: Any) -> Any:
    """A gateway with a raw engine that is asked first and, if wanted, a sound one."""

    async def start(talk: Talk, sound: bool = True, **limits: Any) -> Any:
        bad = await raw_engine(talk)
        good = await start_engine("good")
        replicas = [{"name": "bad", "url": bad.url, "rates": {"all": 9}, "capacity": {"all": 9}}]
        if sound:
            share = {"rates": {"all": 0.01}, "capacity": {"all": 1}}
            replicas.append({"name": "good", "url": good.url, **share})
        gateway = await start_gateway(routing_of(("main", replicas)), limits=limits)
        return gateway, bad, good

    return start


BEFORE_THE_FIRST_BYTE = [
    pytest.param(says(then="reset"), "disconnected", id="reset"),
    pytest.param(says(then="close"), "disconnected", id="closed"),
    pytest.param(says(HEAD), "disconnected", id="a head and nothing more"),
    pytest.param(says(CHUNKED, b"0\r\n\r\n"), "disconnected", id="an empty answer"),
    pytest.param(says(then="hang"), "timeout", id="silence"),
    pytest.param(says(HEAD, then="hang"), "timeout", id="silence after the head"),
    pytest.param(says(b"\x16\x03\x01 what?\r\n\r\n"), "garbage", id="not HTTP"),
    pytest.param(says(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000), "garbage", id="endless head"),
    pytest.param(says(HEAD + b"\x00\xff\x00"), "garbage", id="not events"),
    pytest.param(
        says(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>"), "garbage", id="HTML"
    ),
    pytest.param(
        says(b"HTTP/1.1 302 Found\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n"),
        "status",
        id="a redirect",
    ),
]


@pytest.mark.parametrize(("talk", "kind"), BEFORE_THE_FIRST_BYTE)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_fails_before_the_first_byte_is_retried_elsewhere(
    beside: Any, talk: Talk, kind: str, stream: bool, eventually: Any
) -> None:
    gateway, bad, good = await beside(talk, answer_s=0.3)
    response = await gateway.chat(stream=stream)
    raw = await response.read()
    assert response.status == 200 and (b"good" in raw or b"forty two" in raw)
    assert (bad.asked, len(good.seen)) == (1, 1)
    if stream:
        found = f'motley_gateway_upstream_failures_total{{kind="{kind}"'
        assert await gateway.metric(found) == 1
    await eventually(lambda: bad.open == 0)
    assert gateway.gateway.live.current.in_flight() == 0


async def test_a_connection_that_is_not_accepted_is_given_up_and_retried(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # the queue of a listener that never accepts
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        good = await start_engine("good")
        deaf = {"name": "deaf", "url": f"http://127.0.0.1:{port}"}
        deaf |= {"rates": {"all": 9}, "capacity": {"all": 9}}
        document = routing_of(("main", [deaf, replica_of(good, rates={"all": 0.01})]))
        gateway = await start_gateway(document, limits={"connect_s": 0.2})
        response = await asyncio.wait_for(gateway.chat(), 5)
        assert response.status == 200
        for filler in fillers:
            filler.close()


MID_STREAM = [
    pytest.param(says(HEAD, b'data: {"a": 1}\n\n', then="hang"), "timeout", id="hangs"),
    pytest.param(
        says(CHUNKED, b'10\r\ndata: {"a": 1}\n\n\r\n', then="reset"), "disconnected", id="dies"
    ),
    pytest.param(
        says(CHUNKED, b'10\r\ndata: {"a": 1}\n\n\r\n', b"what?\r\n", pause_s=0.05),
        "garbage",
        id="garbage",
    ),
]


@pytest.mark.parametrize(("talk", "kind"), MID_STREAM)
async def test_what_fails_in_mid_stream_is_told_and_never_retried(
    beside: Any, talk: Talk, kind: str, eventually: Any
) -> None:
    gateway, bad, good = await beside(talk, idle_s=0.3 if kind == "timeout" else 5.0)
    response = await gateway.chat(stream=True)
    seen = events(await response.read())
    assert seen[0] == {"a": 1} and seen[-1]["error"]["code"] == "upstream_failed"
    assert kind in seen[-1]["error"]["message"]
    assert (bad.asked, len(good.seen)) == (1, 0)
    await eventually(lambda: bad.open == 0)
    assert gateway.gateway.live.current.in_flight() == 0


async def test_a_line_of_ten_megabytes_is_relayed_and_not_collected(beside: Any) -> None:
    pieces = [b"data: "] + [b"x" * 2**20] * 10 + [b"\n\ndata: [DONE]\n\n"]
    gateway, *_ = await beside(says(HEAD, *pieces))
    response = await gateway.chat(stream=True)
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        assert len(chunk) < 2**20
    assert size == sum(map(len, pieces))


def test_a_line_of_ten_megabytes_costs_a_rewriter_no_more_than_its_limit() -> None:
    splitter, out, most = LineSplitter(limit=1000), bytearray(), 0
    line = b"data: " + b"y" * 10**7 + b"\n"
    for start in range(0, len(line), 600):
        for piece, is_whole in splitter.feed(line[start : start + 600]):
            out += piece
            most = max(most, len(piece))
            assert not is_whole
    assert out == line and most <= 1600
    assert list(splitter.feed(b"next\n")) == [(b"next\n", True)]
    rewriter = UsageRewriter({"total_tokens": 1})
    assert rewriter.feed(b"z" * 3 * 2**20) == b"z" * 3 * 2**20, "handed on, not held back"


async def test_an_answer_larger_than_the_limit_is_refused(beside: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"
    gateway, *_ = await beside(says(head, b" " * 100_000), sound=False, answer_bytes=50_000)
    response = await gateway.chat()
    assert response.status == 502
    assert "too_large" in (await response.json())["error"]["message"]


async def test_a_client_that_reads_nothing_is_cut_off_and_frees_the_engine(
    beside: Any, eventually: Any
) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while not reader.at_eof():
            writer.write(b"data: " + b"x" * 60_000 + b"\n\n")
            await writer.drain()

    gateway, bad, _ = await beside(flood, client_s=0.3)
    port = int(gateway.url.rsplit(":", 1)[1])
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await eventually(lambda: bad.asked == 1)
    await eventually(lambda: bad.open == 0 and gateway.gateway.in_flight == 0)
    writer.close()


async def test_a_slow_reader_is_not_taken_for_a_silent_engine(beside: Any) -> None:
    pieces = [b"data: " + b"x" * 60_000 + b"\n\n"] * 300 + [b"data: [DONE]\n\n"]
    gateway, *_ = await beside(says(HEAD, *pieces), idle_s=0.2)
    response = await gateway.chat(stream=True)
    await asyncio.sleep(1.0)
    raw = await response.read()
    assert len(raw) == sum(map(len, pieces)) and raw.endswith(b"data: [DONE]\n\n")


async def test_a_failed_replica_gets_one_probe_and_then_its_traffic_back(
    start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    engines = [await start_engine("r0", status=500), await start_engine("r1", delay_s=0.01)]
    gateway = await start_gateway(routing_of(("main", [replica_of(e) for e in engines])))
    for _ in range(4):
        await gateway.chat()
    assert len(engines[0].seen) == 1
    await asyncio.sleep(1.05)
    engines[0].status, engines[0].delay_s = 200, 0.5
    probing = [asyncio.create_task(gateway.chat()) for _ in range(12)]
    await asyncio.sleep(0.2)
    assert len(engines[0].seen) == 2, "one request probes, the others do not wait for it"
    assert {(await each).status for each in probing} == {200}
    engines[0].delay_s = 0.0
    for _ in range(10):
        await gateway.chat()
    assert len(engines[0].seen) >= 5


CHILD = [sys.executable, "-m", "motley_runtime.gateway", "--host", "127.0.0.1", "--port", "0"]


async def start_child(path: Path) -> tuple[asyncio.subprocess.Process, str, list[dict[str, Any]]]:
    flags = ["--routing-file", str(path), "--settle-seconds", "0.5"]
    child = await asyncio.create_subprocess_exec(
        *CHILD, *flags, stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    lines: list[dict[str, Any]] = []
    assert child.stderr is not None
    while not any(each["message"] == "routing in force" for each in lines):
        lines.append(json.loads(await asyncio.wait_for(child.stderr.readline(), 15)))
    port = next(each["port"] for each in lines if each["message"] == "listening")
    return child, f"http://127.0.0.1:{port}", lines


async def test_sigterm_under_load_drops_no_request(
    start_engine: Any, routing_of: Any, replica_of: Any, tmp_path: Path
) -> None:
    """Two gateways behind a Service whose endpoints follow readiness; one is told to stop."""
    engine = await start_engine("r0", chunks=10, chunk_delay_s=0.02)
    path = tmp_path / "routing.json"
    path.write_text(json.dumps(routing_of(("main", [replica_of(engine)]))))
    leaving, leaving_url, _ = await start_child(path)
    staying, staying_url, _ = await start_child(path)
    ready = {leaving_url: True, staying_url: True}
    done: dict[str, int] = {leaving_url: 0, staying_url: 0}
    stop = asyncio.Event()

    async def follow(http: aiohttp.ClientSession) -> None:
        while not stop.is_set():
            async with http.get(f"{leaving_url}/ready") as response:
                ready[leaving_url] = response.status == 200
            if not ready[leaving_url]:
                return
            await asyncio.sleep(0.1)

    async def ask(http: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while not stop.is_set():
            turn += 1
            urls = [url for url, is_ready in ready.items() if is_ready]
            url = urls[turn % len(urls)]
            body = {"messages": [{"role": "user", "content": "x"}], "stream": turn % 3 > 0}
            async with http.post(f"{url}/v1/chat/completions", json=body) as response:
                raw = await response.read()
                assert response.status == 200, raw
                assert not body["stream"] or raw.endswith(b"data: [DONE]\n\n"), raw
            done[url] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        tasks = [asyncio.create_task(ask(http, number)) for number in range(24)]
        following = asyncio.create_task(follow(http))
        await asyncio.sleep(1.0)
        leaving.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(leaving.wait(), 10) == 0
        before = done[staying_url]
        await asyncio.sleep(0.3)
        stop.set()
        await asyncio.gather(*tasks, following)
    assert done[leaving_url] > 20 and done[staying_url] > before
    staying.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(staying.wait(), 10) == 0
    for child in (leaving, staying):
        child._transport.close()  # type: ignore[attr-defined]
