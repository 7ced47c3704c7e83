"""The rig of tests/bench/gateway.py: a mock engine, a gateway process, and a client.

The gateway runs as a process of its own on core 0, the mock engine and the load on the last core.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
SCORED = CHUNK.replace(
    b'"logprobs":null',
    b'"logprobs":{"content":[{"token":" token","logprob":-0.1,"bytes":null,"top_logprobs":[]}]}',
)
USAGE = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":500,"completion_tokens":50,"total_tokens":550}}\n\n'
CHUNK_S = 0.02
KEY = "sk-bench"  # of proxies that do not start without one
CHUNKS = re.compile(rb'"max_(?:completion_)?tokens":(\d+)')
PACE = re.compile(rb'"seed":(\d+)')  # milliseconds between chunks; every proxy passes a seed on
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}],"status":"ok"}'
NICE = -15  # of all that is measured, and of the load: neighbours would wait in its latencies
TICKS = os.sysconf("SC_CLK_TCK")


def answer_of(tokens: int) -> bytes:
    """A chat answer; with log-probabilities where tokens are given."""
    scores = {"content": [{"token": " token", "logprob": -0.1, "top_logprobs": []}] * tokens}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " token" * 40},
        "logprobs": scores if tokens else None,
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 500, "completion_tokens": 40, "total_tokens": 540}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps(head | {"choices": [choice], "usage": usage}).encode()


def framed(body: bytes) -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def chunked(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class MockEngine(asyncio.Protocol):
    """The least an engine can be: no parsing but of the body's length."""

    plain, scored = framed(answer_of(0)), framed(answer_of(100))
    stream_head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._pending = b""
        self._left, self._pace_s = 0, CHUNK_S
        self._chunk, self._last = chunked(CHUNK), b""

    def data_received(self, data: bytes) -> None:
        self._pending += data
        head, found, body = self._pending.partition(b"\r\n\r\n")
        if not found:
            return
        if b"content-length:" not in head.lower():  # a health check, or what is served
            self._pending = body
            self._transport.write(framed(MODELS))
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._pending = body[length:]
        asked = body[:length].replace(b": ", b":")  # as proxies write it anew
        if b'"stream":true' in asked:
            found_tokens = CHUNKS.search(asked)
            self._left = int(found_tokens[1]) if found_tokens else 0
            pace = PACE.search(asked)
            self._pace_s = int(pace[1]) / 1000 if pace else CHUNK_S
            self._chunk = chunked(SCORED if b'"logprobs":true' in asked else CHUNK)
            self._last = chunked(USAGE) if b'"include_usage":true' in asked else b""
            self._transport.write(self.stream_head)
            self._step()
        else:
            self._transport.write(self.scored if b'"logprobs":true' in asked else self.plain)

    def _step(self) -> None:
        if self._transport.is_closing():
            return
        if not self._left:
            self._transport.write(self._last + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return
        self._left -= 1
        self._transport.write(self._chunk)
        asyncio.get_running_loop().call_later(self._pace_s, self._step)


async def mock_engine() -> None:
    """Serves until standard input closes; prints its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(MockEngine, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def routing(url: str, thresholds: tuple[float, ...] = ()) -> dict[str, Any]:
    """A routing document: one stage, or two with a threshold."""
    replica = {"name": "r0", "url": url, "rates": {"all": 1}, "capacity": {"all": 2}}
    names = ("small", "large") if thresholds else ("main",)
    policies = [{"id": "p", "share": 1.0, "thresholds": {"small": t}} for t in thresholds]
    return {
        "version": 1,
        "plan_hash": "bench",
        "resource": {"kind": "ServingPool", "namespace": "a", "name": "chat"},
        "served_model_names": ["chat", "m"],
        "classes": [{"name": "all", "prompt_tokens": 500, "output_tokens": 40}],
        "stages": [{"name": n, "model": "m", "replicas": [replica]} for n in names],
        "policies": policies,
    }


@dataclass(slots=True)
class Running:
    """A gateway process and the ports of it and of its engine."""

    pid: int
    port: int
    engine_port: int

    def cpu_s(self) -> float:
        """CPU seconds the gateway and its children have used."""
        return sum(_cpu_s(pid) for pid in _family(self.pid))

    def rss_mib(self) -> float:
        """Resident memory of the gateway, MiB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_s(pid: int) -> float:
    """User and system seconds; to the nanosecond where the kernel tells, else in its ticks."""
    try:
        threads = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9
    except FileNotFoundError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@dataclass(slots=True)
class Mock:
    """A mock engine's process and its port."""

    process: asyncio.subprocess.Process
    port: int


async def mock_on() -> Mock:
    """A mock engine on the last core."""
    command = [sys.executable, "-m", "tests.bench.gateway_rig"]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    engine = await asyncio.create_subprocess_exec(
        *command, **pipes, preexec_fn=lambda: pinned((os.cpu_count() or 1) - 1)
    )  # type: ignore[call-overload]
    assert engine.stdout is not None
    return Mock(engine, int(await engine.stdout.readline()))


def pinned(core: int) -> None:
    """Puts this process on a core, before neighbours on the machine where that is allowed."""
    os.sched_setaffinity(0, {core})
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@asynccontextmanager
async def gateway_on(document: dict[str, Any], *flags: str) -> AsyncIterator[tuple[int, int]]:
    """The pid and the port of a gateway process on core 0 that runs a routing document."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "routing.json"
        path.write_text(json.dumps(document))
        with (Path(folder) / "log").open("w") as log:
            where = ["--routing-file", str(path), "--host", "127.0.0.1", "--port", "0"]
            gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "motley_runtime.gateway", *where, *flags,
                stderr=log, preexec_fn=lambda: pinned(0),
            )  # fmt: skip
            try:
                yield gateway.pid, await _port(Path(folder) / "log")
            finally:
                gateway.kill()
                await gateway.wait()


@asynccontextmanager
async def running(thresholds: tuple[float, ...] = ()) -> AsyncIterator[Running]:
    """A mock engine on core 1 and a gateway on core 0, or wherever there is room."""
    engine = await mock_on()
    try:
        document = routing(f"http://127.0.0.1:{engine.port}", thresholds)
        async with gateway_on(document) as (pid, port):
            yield Running(pid, port, engine.port)
    finally:
        engine.process.kill()
        await engine.process.wait()


async def _port(log: Path) -> int:
    async with asyncio.timeout(30):
        while True:
            lines = [json.loads(line) for line in log.read_text().splitlines() if line[-1:] == "}"]
            if any(line["message"] == "routing in force" for line in lines):
                return next(line["port"] for line in lines if line["message"] == "listening")
            await asyncio.sleep(0.05)


def request(n_chunks: int = 0, model: str = "", *, headers: str = "", **more: Any) -> bytes:
    """A request with a prompt of 2 kB; `headers` are whole lines, `more` are further fields."""
    body: dict[str, Any] = {"model": model} if model else {}
    body |= {"messages": [{"role": "user", "content": "word " * 400}]}
    if n_chunks:
        body |= {"stream": True, "max_tokens": n_chunks}
    raw = json.dumps(body | more, separators=(",", ":")).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {KEY}\r\n{headers}" if model else headers
    return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw


class Connection:
    """A client that keeps its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @staticmethod
    async def to(port: int) -> Connection:
        """Opens one."""
        return Connection(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, raw: bytes) -> bool:
        """Whether the answer came whole, with status 200."""
        return await self.status(raw) == 200

    async def status(self, raw: bytes) -> int:
        """The status of an answer that came whole; 0 of a stream that did not."""
        self._writer.write(raw)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        if b"content-length:" in head:
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            await self._reader.readexactly(length)
            return status
        whole = await self._reader.readuntil(b"\r\n0\r\n\r\n")
        return status if b"[DONE]" in whole[-200:] else 0

    async def first_byte(self, raw: bytes) -> float:
        """Seconds to the first byte of a stream that came whole.

        Raises: ConnectionError where it did not.
        """
        began = time.perf_counter()
        self._writer.write(raw)
        head = await self._reader.readuntil(b"\r\n\r\n")
        some = await self._reader.read(1)
        first = time.perf_counter() - began
        whole = some + await self._reader.readuntil(b"\r\n0\r\n\r\n")
        if b" 200 " not in head or b"[DONE]" not in whole[-200:]:
            raise ConnectionError("the stream was cut")
        return first

    def close(self) -> None:
        """Closes it."""
        self._writer.transport.abort()


if __name__ == "__main__":
    import uvloop

    uvloop.run(mock_engine())
