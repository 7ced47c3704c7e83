"""A proxy in front of the API server that makes it slow, unwilling or absent on demand.

Plain HTTP on 127.0.0.1, with a kubeconfig of its own; upstream it speaks TLS. Clients of the
Kubernetes API do not pipeline, so while a request is read no answer is under way: a connection is
one upstream connection whose answers are copied as they come, and a fault answers in between.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

REASONS = {410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


@dataclass(slots=True)
class Fault:
    """What to do to requests whose path (with its query) matches.

    First waits `delay_s`, then cuts the connection (`reset`), answers `status`, or passes on.
    `times` counts down; None means until it is removed.
    """

    path: str
    methods: tuple[str, ...] = ()
    delay_s: float = 0.0
    status: int | None = None
    reset: bool = False
    times: int | None = None
    hits: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is one of those, counting it if so."""
        if self.times is not None and self.hits >= self.times:
            return False
        if self.methods and method not in self.methods:
            return False
        if re.search(self.path, path) is None:
            return False
        self.hits += 1
        return True


class FaultProxy:
    """Runs in a thread of its own between `start` and `stop`."""

    def __init__(self, upstream_port: int, authority: Path) -> None:
        self._upstream_port = upstream_port
        self._trust = ssl.create_default_context(cafile=str(authority))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], str] = {}
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
        hit = [task for task, last in self._open.items() if re.search(path, last)]
        for task in hit:
            task.cancel()
        await asyncio.gather(*hit, return_exceptions=True)
        return len(hit)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._open[task] = ""
        task.add_done_callback(lambda done: self._open.pop(done, None))
        await asyncio.gather(task, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pump: asyncio.Task[None] | None = None
        up_writer: asyncio.StreamWriter | None = None
        try:
            up_reader, up_writer = await asyncio.open_connection(
                "127.0.0.1", self._upstream_port, ssl=self._trust
            )
            pump = asyncio.ensure_future(_copy(up_reader, writer))
            while head := await _head(reader):
                method, path, *_ = head.decode("latin-1").split(" ", 2)
                if task := asyncio.current_task():
                    self._open[task] = path
                body = await _body(head, reader)
                if not await self._fault(method, path, writer):
                    up_writer.write(head + body)
                    await up_writer.drain()
        except (OSError, asyncio.IncompleteReadError, _Cut):
            pass
        finally:
            if pump is not None:
                pump.cancel()
            for one in (writer, up_writer):
                if one is not None:
                    one.transport.abort()

    async def _fault(self, method: str, path: str, writer: asyncio.StreamWriter) -> bool:
        """Applies the first fault that takes the request; whether it was answered here."""
        fault = next((one for one in self.faults if one.takes(method, path)), None)
        if fault is None:
            return False
        await asyncio.sleep(fault.delay_s)
        if fault.reset:
            raise _Cut
        if fault.status is None:
            return False
        writer.write(_answer(fault.status))
        await writer.drain()
        return True


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


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


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
