"""The HTTP client towards engines, behind few methods so that it can be replaced.

`fetch` asks for a whole answer; `stream` opens one and hands over its chunks as they come,
unparsed. Leaving `stream` early, or being cancelled in either, closes the connection, which is how an engine
learns that nobody waits for the rest.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from motley_runtime.gateway.connection import Connection, Patience
from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.options import Limits
from motley_runtime.gateway.pool import Pool, target_of

_HEALTH = "/health"  # of vLLM, SGLang and llama.cpp: 200 once requests are answered
_GLANCE_S = 2.0
_GLANCE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Call:
    """One POST of a JSON body to one replica."""

    url: str
    body: bytes
    request_id: str
    headers: bytes = b""  # further lines, each with its end


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """An answer that has begun: `first` has arrived, `rest` is still to come."""

    status: int
    content_type: str
    first: bytes
    rest: AsyncIterator[bytes]


class Upstream(Protocol):
    """What the cascade needs from an HTTP client."""

    async def fetch(self, call: Call) -> Answer:
        """The whole answer of a replica. Raises: UpstreamError."""
        ...

    def stream(self, call: Call) -> AbstractAsyncContextManager[OpenStream]:
        """An answer whose first bytes have arrived. Raises: UpstreamError."""
        ...

    async def is_well(self, url: str) -> bool:
        """Whether the replica at a base URL says that it is healthy."""
        ...


class HttpUpstream:
    """`Upstream` over connections of our own; made inside a running event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = Pool(limits.connect_s)

    async def close(self) -> None:
        """Closes every connection."""
        self._pool.close()

    async def fetch(self, call: Call) -> Answer:
        """The whole answer of a replica. Raises: UpstreamError."""
        limits, target = self._limits, target_of(call.url)
        connection = await self._pool.take(target)
        try:
            connection.send(_head(call), call.body, limits.answer_bytes, True)
            body = await connection.answered(limits.answer_s)
            return Answer(connection.status, connection.content_type, body)
        finally:
            self._pool.give_back(target, connection)

    async def is_well(self, url: str) -> bool:
        """Whether the replica at a base URL says that it is healthy."""
        target = target_of(url + _HEALTH)
        try:
            connection = await self._pool.take(target)
        except UpstreamError:
            return False
        try:
            head = b"GET %b HTTP/1.1\r\nhost: %b\r\n\r\n" % (target.path, target.authority)
            connection.send(head, b"", _GLANCE_BYTES, True)
            await connection.answered(_GLANCE_S)
            return connection.status == 200
        except UpstreamError:
            return False
        finally:
            self._pool.give_back(target, connection)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[OpenStream]:
        """An answer whose first bytes have arrived. Raises: UpstreamError."""
        limits, target = self._limits, target_of(call.url)
        latest_s = time.monotonic() + min(limits.first_byte_s, limits.answer_s)
        connection = await self._pool.take(target)
        try:
            connection.send(_head(call), call.body, limits.answer_bytes, False)
            first = await connection.answered(latest_s - time.monotonic())
            rest = _chunks(connection, limits.idle_s)
            yield OpenStream(connection.status, connection.content_type, first, rest)
        finally:
            self._pool.give_back(target, connection)


def _head(call: Call) -> bytes:
    target = target_of(call.url)
    return (
        b"POST %b HTTP/1.1\r\nhost: %b\r\naccept: */*\r\ncontent-type: application/json\r\n"
        b"x-request-id: %b\r\n%bcontent-length: %d\r\n\r\n"
    ) % (target.path, target.authority, call.request_id.encode(), call.headers, len(call.body))


async def _chunks(connection: Connection, idle_s: float) -> AsyncIterator[bytes]:
    patience = Patience(connection, idle_s)
    try:
        while True:
            patience.waits_since_s = time.monotonic()
            chunk = await connection.more()
            patience.waits_since_s = None
            if not chunk:
                return
            yield chunk
    finally:
        patience.end()
