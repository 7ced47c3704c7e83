"""A proxy in front of the API server that makes it slow, unwilling or absent on demand.

Plain HTTP on 127.0.0.1, with a kubeconfig of its own; upstream it speaks TLS. Clients of the
Kubernetes API do not pipeline, so while a request is read no answer is under way: a connection is
one upstream connection whose answers are copied as they come, and a fault answers in between.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

REASONS = {
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
HELD_LOOK_S = 0.01
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(slots=True)
class Fault:
    """What to do to requests whose path (with its query) matches.

    First waits `delay_s` and calls `act` (on the proxy's thread), then cuts the connection (`reset`),
    never answers (`hang`, no FIN either), answers `status`, or passes on. With `swallow` the request
    is carried out, and its answer is thrown away: `act` is called then, and the connection cut.
    With `hold` it is passed on once that event is set, however late; `answered` is then the server's
    status, `taken` the request (method and path) and `body` what it said.
    The first `skip` requests pass; of the others each is taken with probability `rate`, drawn with
    `seed`. `times` counts down; None means until it is removed.
    """

    path: str
    methods: tuple[str, ...] = ()
    delay_s: float = 0.0
    status: int | None = None
    reset: bool = False
    hang: bool = False
    swallow: bool = False
    hold: threading.Event | None = None
    act: Callable[[], object] | None = None
    skip: int = 0
    rate: float = 1.0
    seed: int = 0
    times: int | None = None
    hits: int = 0
    taken: str = ""
    body: bytes = b""
    answered: int | None = None
    _dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is one of those, counting it if so."""
        if self.times is not None and self.hits >= self.times:
            return False
        if self.methods and method not in self.methods:
            return False
        if re.search(self.path, path) is None:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.rate < 1.0 and self._dice.random() >= self.rate:
            return False
        self.hits += 1
        return True


def redirect(kubeconfig: Path, port: int) -> None:
    """Leads a kubeconfig through the proxy on that port."""
    config = yaml.safe_load(kubeconfig.read_text())
    config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
    kubeconfig.write_text(yaml.safe_dump(config))


class FaultProxy:
    """Runs in a thread of its own between `start` and `stop`."""

    def __init__(self, upstream_port: int, authority: Path) -> None:
        self._upstream_port = upstream_port
        self._trust = ssl.create_default_context(cafile=str(authority))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self.faults: list[Fault] = []
        self.port = 0

    def start(self) -> None:
        """Starts to listen on a free port."""
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """Cuts every connection and stops listening."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, path: str) -> int:
        """Cuts the connections whose last request matches, such as watches; how many."""
        return self._run(self._cut(path))

    def freeze(self, path: str) -> int:
        """Silences the connections whose last request matches, without closing them; how many.

        What the API server sends on them is lost, what the client sends goes nowhere: the black
        hole that a firewall makes of a connection it has forgotten. New connections work.
        """
        return self._run(self._freeze(path))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut("")

    async def _cut(self, path: str) -> int:
        hit = [task for task, link in self._links.items() if re.search(path, link.path)]
        for task in hit:
            task.cancel()
        await asyncio.gather(*hit, return_exceptions=True)
        return len(hit)

    async def _freeze(self, path: str) -> int:
        hit = [link for link in self._links.values() if re.search(path, link.path)]
        for link in hit:
            link.frozen = True
        return len(hit)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(reader, writer, self.faults)
        task = asyncio.ensure_future(link.serve(self._upstream_port, self._trust))
        self._links[task] = link
        task.add_done_callback(lambda done: self._links.pop(done, None))
        await asyncio.gather(task, return_exceptions=True)


class _Link:
    """One client's connection and its counterpart upstream."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: list[Fault]
    ) -> None:
        self._reader, self._writer, self._faults = reader, writer, faults
        self._swallows: Fault | None = None
        self._held: Fault | None = None
        self.path = ""
        self.frozen = False

    async def serve(self, port: int, trust: ssl.SSLContext) -> None:
        """Passes requests on until either side ends."""
        pump: asyncio.Task[None] | None = None
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
            pump = asyncio.ensure_future(self._copy(answers))
            while head := await _head(self._reader):
                method, self.path, *_ = head.decode("latin-1").split(" ", 2)
                body = await _body(head, self._reader)
                if not await self._is_answered(method, body):
                    upstream.write(head + body)
                    await upstream.drain()
        except (OSError, asyncio.IncompleteReadError, _Cut):
            pass
        finally:
            if pump is not None:
                pump.cancel()
            for one in (self._writer, upstream):
                if one is not None:
                    one.transport.abort()

    async def _is_answered(self, method: str, body: bytes) -> bool:
        """Applies the first fault that takes the request; True if upstream must not see it."""
        if self.frozen:
            return True
        fault = next((one for one in self._faults if one.takes(method, self.path)), None)
        if fault is None:
            return False
        if fault.swallow:
            self._swallows = fault
            return False
        await asyncio.sleep(fault.delay_s)
        fault.taken, fault.body = f"{method} {self.path}", body
        if fault.act is not None:
            fault.act()
        if fault.hold is not None:
            while not fault.hold.is_set():
                await asyncio.sleep(HELD_LOOK_S)
            self._held = fault
        if fault.reset:
            raise _Cut
        if fault.hang:
            self.frozen = True
            return True
        if fault.status is None:
            return False
        self._writer.write(_answer(fault.status))
        await self._writer.drain()
        return True

    async def _copy(self, answers: asyncio.StreamReader) -> None:
        """Copies what upstream sends, unless it is to be thrown away."""
        try:
            while block := await answers.read(65536):
                if self.frozen:
                    continue
                if self._swallows is not None:
                    if self._swallows.act is not None:
                        self._swallows.act()
                    self._writer.transport.abort()
                    return
                if self._held is not None:  # nothing is pipelined: this is how its answer begins
                    self._held.answered, self._held = int(block.split(b" ", 2)[1]), None
                self._writer.write(block)
                await self._writer.drain()
        except OSError:
            pass
        finally:
            if not self.frozen:
                self._writer.close()


class _Cut(Exception):
    """The connection is to be cut."""


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lower = head.lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)", lower)
    if length:
        return await reader.readexactly(int(length[1]))
    if re.search(rb"\r\ntransfer-encoding: *chunked", lower) is None:
        return b""
    parts = []
    while True:
        size = await reader.readuntil(b"\r\n")
        parts += [size, await reader.readexactly(int(size.split(b";")[0], 16) + 2)]
        if int(size.split(b";")[0], 16) == 0:
            return b"".join(parts)


def _answer(status: int) -> bytes:
    reason = REASONS.get(status, "Unknown")
    body = json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": "a fault of the scenario",
            "reason": reason,
            "code": status,
        }
    ).encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n"
    if status == 429:
        head += "Retry-After: 1\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
