"""`python -m tests.bench.gateway [--write]`: what the gateway costs, as one table.

The gateway runs as a process of its own on core 0, a mock engine and the load on core 1. Costs are
CPU seconds of the gateway's process (user and system, from /proc), so that neighbours on the
machine do not count; only the added latency is wall time, the median of calls that alternate with
direct ones. Bodies: a 2 kB prompt, a 0.5 kB answer; the scored path has an answer of 100 tokens
with their log-probabilities. Streams send 50 chunks a second each.
The table in docs/benchmarks.md between the two `bench:gateway` marks is replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import page

from motley_planner.dispatch import Dispatcher, parse_routing

CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
CHUNK_S = 0.02
WARM_ROUNDS = 10  # of streams, until what is filled once is full; as many again must add nothing
KEY = "sk-bench"  # of proxies that do not start without one
CHUNKS = re.compile(rb'"max_(?:completion_)?tokens":(\d+)')
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}],"status":"ok"}'
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
        self._left = 0

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
            self._transport.write(self.stream_head)
            self._step()
        else:
            self._transport.write(self.scored if b'"logprobs":true' in asked else self.plain)

    def _step(self) -> None:
        if self._transport.is_closing():
            return
        if not self._left:
            self._transport.write(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return
        self._left -= 1
        self._transport.write(chunked(CHUNK))
        asyncio.get_running_loop().call_later(CHUNK_S, self._step)


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
    command = [sys.executable, "-m", "tests.bench.gateway", "--mock"]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    engine = await asyncio.create_subprocess_exec(*command, **pipes)  # type: ignore[arg-type]
    os.sched_setaffinity(engine.pid, {(os.cpu_count() or 1) - 1})
    assert engine.stdout is not None
    return Mock(engine, int(await engine.stdout.readline()))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@asynccontextmanager
async def running(thresholds: tuple[float, ...] = ()) -> AsyncIterator[Running]:
    """A mock engine on core 1 and a gateway on core 0, or wherever there is room."""
    engine = await mock_on()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "routing.json"
        path.write_text(json.dumps(routing(f"http://127.0.0.1:{engine.port}", thresholds)))
        with (Path(folder) / "log").open("w") as log:
            flags = ["--routing-file", str(path), "--host", "127.0.0.1", "--port", "0"]
            gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "motley_runtime.gateway", *flags, stderr=log
            )
            os.sched_setaffinity(gateway.pid, {0})  # its threads come later
            try:
                yield Running(gateway.pid, await _port(Path(folder) / "log"), engine.port)
            finally:
                gateway.kill()
                engine.process.kill()
                await asyncio.gather(gateway.wait(), engine.process.wait())


async def _port(log: Path) -> int:
    async with asyncio.timeout(30):
        while True:
            lines = [json.loads(line) for line in log.read_text().splitlines() if line[-1:] == "}"]
            if any(line["message"] == "routing in force" for line in lines):
                return next(line["port"] for line in lines if line["message"] == "listening")
            await asyncio.sleep(0.05)


def request(n_chunks: int = 0, model: str = "") -> bytes:
    """A request with a prompt of 2 kB."""
    body: dict[str, Any] = {"model": model} if model else {}
    body |= {"messages": [{"role": "user", "content": "word " * 400}]}
    if n_chunks:
        body |= {"stream": True, "max_tokens": n_chunks}
    raw = json.dumps(body, separators=(",", ":")).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {KEY}\r\n" if model else ""
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
        self._writer.write(raw)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            await self._reader.readexactly(length)
            return b" 200 " in head
        whole = await self._reader.readuntil(b"\r\n0\r\n\r\n")
        return b" 200 " in head and b"[DONE]" in whole[-200:]

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


async def added_p50_ms(at: Running, calls: int, model: str = "") -> float:
    """Median milliseconds that the gateway adds to a call, one at a time."""
    raw = request(model=model)
    direct, through = await Connection.to(at.engine_port), await Connection.to(at.port)
    times: dict[Connection, list[float]] = {direct: [], through: []}
    for number in range(calls):
        for connection, taken in times.items():
            began = time.perf_counter()
            assert await connection.ask(raw)
            if number >= calls // 10:
                taken.append(time.perf_counter() - began)
    for connection in times:
        connection.close()
    return 1000 * (statistics.median(times[through]) - statistics.median(times[direct]))


async def per_cpu_second(at: Running, clients: int, calls: int, model: str = "") -> float:
    """Requests answered per CPU second of the gateway."""
    connections = [await Connection.to(at.port) for _ in range(clients)]
    raw = request(model=model)

    async def some(connection: Connection, count: int) -> None:
        for _ in range(count):
            assert await connection.ask(raw)

    await asyncio.gather(*(some(c, 5) for c in connections))
    before = at.cpu_s()
    await asyncio.gather(*(some(c, calls // clients) for c in connections))
    spent = at.cpu_s() - before
    for connection in connections:
        connection.close()
    return calls // clients * clients / spent


@dataclass(frozen=True, slots=True)
class Streams:
    """What many streams at once cost."""

    failures: int
    us_per_chunk: float
    rss_mib: float


async def streams(at: Running, count: int, chunks: int) -> Streams:
    """So many streams at once, each with so many chunks."""
    connections = [await Connection.to(at.port) for _ in range(count)]
    before, raw = at.cpu_s(), request(chunks)
    whole = await asyncio.gather(*(c.ask(raw) for c in connections), return_exceptions=True)
    spent = at.cpu_s() - before
    for connection in connections:
        connection.close()
    failures = sum(each is not True for each in whole)
    return Streams(failures, 1e6 * spent / (count * chunks), at.rss_mib())


def dispatch_us(replicas: int, decisions: int) -> float:
    """CPU microseconds of one decision and its end, among so many replicas."""
    document = routing("http://x")
    one = document["stages"][0]["replicas"][0]
    document["stages"][0]["replicas"] = [
        one | {"name": f"r{i}", "rates": {"all": 1 + i % 7}, "capacity": {"all": 2 + i % 5}}
        for i in range(replicas)
    ]
    dispatcher = Dispatcher(parse_routing(document))
    held = [dispatcher.choose("main", "all", 0.0) for _ in range(2 * replicas)]
    began = time.process_time()
    for number in range(decisions):
        slot = number % len(held)
        ticket = held[slot]
        assert ticket is not None
        dispatcher.finish(ticket)
        held[slot] = dispatcher.choose("main", "all", 0.0)
    return 1e6 * (time.process_time() - began) / decisions


async def memory_rows(at: Running, many: int, chunks: int) -> list[tuple[str, str, str]]:
    """What so many streams at a time leave behind, round after round."""
    start = at.rss_mib()
    rounds = [await streams(at, many, chunks if i < 2 else 5) for i in range(2 * WARM_ROUNDS)]
    rss = [start, *(each.rss_mib for each in rounds)]
    failures = sum(each.failures for each in rounds)
    half, total = WARM_ROUNDS * many, len(rounds) * many
    return [
        (f"failures of {total:,} streams, {many:,} at a time", str(failures), "0"),
        (f"memory for the first {many:,}, MiB", f"{rss[1] - rss[0]:.1f}", ""),
        (f"gained up to {half:,}, MiB", f"{rss[WARM_ROUNDS] - rss[1]:.1f}", ""),
        (f"gained by {half:,} more, MiB", f"{rss[-1] - rss[WARM_ROUNDS]:.1f}", "0"),
    ]


async def rows(scale: float) -> list[str]:
    """The lines of the table; `scale` below 1 measures less."""
    found: list[tuple[str, str, str]] = []
    async with running() as at:
        value = await added_p50_ms(at, max(20, int(1000 * scale)))
        found.append(("added P50, 1 client, ms", f"{value:.2f}", "< 0.5"))
        rate = await per_cpu_second(at, 64, max(640, int(19_200 * scale)))
        found.append(("requests per CPU second, 64 clients", f"{rate:,.0f}", ">= 3,000"))
        some = await streams(at, 80, max(20, int(150 * scale)))
        found.append(("CPU us per chunk, 80 streams", f"{some.us_per_chunk:.0f}", "<= 45"))
        many, chunks = (1000 if scale >= 0.25 else 20), max(5, int(50 * scale))
        found += await memory_rows(at, many, chunks)
    async with running((0.5,)) as at:
        rate = await per_cpu_second(at, 64, max(640, int(9_600 * scale)))
        found.append(("scored requests per CPU second, 64 clients", f"{rate:,.0f}", ">= 2,000"))
    decision = dispatch_us(1000, max(2000, int(100_000 * scale)))
    found.append(("CPU us a dispatch decision, 1,000 replicas", f"{decision:.1f}", "<= 20"))
    return [
        "| what | measured | wanted |",
        "|---|---|---|",
        *(f"| {' | '.join(f)} |" for f in found),
    ]


def main(arguments: list[str]) -> int:
    """Prints the table, and writes it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mock", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=float, default=1.0, help="measure less (0.1) or all (1)")
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    args = parser.parse_args(arguments)
    if args.mock:
        import uvloop

        uvloop.run(mock_engine())
        return 0
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    table = "\n".join(asyncio.run(rows(args.scale)))
    print(table)
    if args.write:
        page.put("gateway", table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
