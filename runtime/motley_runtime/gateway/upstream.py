"""The HTTP client towards engines, behind few methods so that it can be replaced.

`fetch` asks for a whole answer; `stream` opens one and hands over its chunks as they come,
unparsed. Leaving `stream` early, or being cancelled in either, closes the connection, which is how an engine
learns that nobody waits for the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import aiohttp
from yarl import URL

from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.options import Limits

# Engines on uvicorn close idle connections after 5 s; ours go first, so that none is reused
# at the moment its server drops it.
_KEEPALIVE_S = 3.0
_LOOK_S = 1.0
_HEALTH = "/health"  # of vLLM, SGLang and llama.cpp: 200 once requests are answered
_GLANCE = aiohttp.ClientTimeout(total=2.0)


@dataclass(frozen=True, slots=True)
class Call:
    """One POST of a JSON body to one replica."""

    url: str
    body: bytes
    request_id: str


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


class AiohttpUpstream:
    """`Upstream` over one pooled aiohttp session."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        connect_s = limits.connect_s
        self._whole = aiohttp.ClientTimeout(total=limits.answer_s, sock_connect=connect_s)
        self._begun = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
        )

    async def close(self) -> None:
        """Closes every pooled connection."""
        await self._session.close()

    async def fetch(self, call: Call) -> Answer:
        """The whole answer of a replica. Raises: UpstreamError."""
        limits = self._limits
        try:
            async with self._post(call, self._whole) as response:
                parts, size = [], 0
                async for chunk in response.content.iter_any():
                    size += len(chunk)
                    if size > limits.answer_bytes:
                        raise UpstreamError("too_large", "the answer exceeds the size limit")
                    parts.append(chunk)
                return Answer(response.status, _content_type(response), b"".join(parts))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error) from error

    async def is_well(self, url: str) -> bool:
        """Whether the replica at a base URL says that it is healthy."""
        try:
            async with self._session.get(url + _HEALTH, timeout=_GLANCE) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[OpenStream]:
        """An answer whose first bytes have arrived. Raises: UpstreamError."""
        limits = self._limits
        latest_s = asyncio.get_running_loop().time() + min(limits.first_byte_s, limits.answer_s)
        response: aiohttp.ClientResponse | None = None
        try:
            try:
                async with asyncio.timeout_at(latest_s):
                    response = await self._post(call, self._begun)
                    first = await response.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _translated(error) from error
            rest = self._chunks(response)
            yield OpenStream(response.status, _content_type(response), first, rest)
        finally:
            if response is not None:
                response.close() if not response.content.at_eof() else response.release()

    def _post(
        self, call: Call, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client._RequestContextManager:
        headers = {"content-type": "application/json", "x-request-id": call.request_id}
        return self._session.post(
            _parsed(call.url),
            data=call.body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        content = response.content
        patience = _Patience(response, self._limits.idle_s)
        try:
            while True:
                patience.waits_since_s = time.monotonic()
                chunk = await content.readany()
                patience.waits_since_s = None
                if not chunk:
                    return
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error) from error
        finally:
            patience.end()


class _Patience:
    """Ends a stream that is silent for too long, or whose connection is gone.

    One timer for many chunks: a timer a chunk would cost more than relaying it, so the reader only
    notes since when it waits and the timer, when it goes off, looks at it. While a slow client is
    waited for, `waits_since_s` is None. A connection that aiohttp 3.14
    closes because of garbage between chunks tells nobody; it is found here, within two looks.
    """

    __slots__ = ("_idle_s", "_is_lost", "_loop", "_response", "_timer", "waits_since_s")

    def __init__(self, response: aiohttp.ClientResponse, idle_s: float) -> None:
        self._response, self._idle_s, self._is_lost = response, idle_s, False
        self._loop = asyncio.get_running_loop()
        self.waits_since_s: float | None = None
        self._timer = self._loop.call_later(min(idle_s, _LOOK_S), self._look)

    def end(self) -> None:
        """Stops watching."""
        self._timer.cancel()

    def _look(self) -> None:
        since_s = self.waits_since_s
        silent_s = 0.0 if since_s is None else time.monotonic() - since_s
        connection = self._response.connection
        is_lost = silent_s >= _LOOK_S and connection is not None and connection.transport is None
        if silent_s >= self._idle_s:
            self._response.content.set_exception(TimeoutError("the stream is silent"))
        elif is_lost and self._is_lost:
            gone = aiohttp.ClientPayloadError("the connection is gone")
            self._response.content.set_exception(gone)
        else:
            self._is_lost = is_lost
            left_s = self._idle_s - silent_s
            self._timer = self._loop.call_later(min(left_s, _LOOK_S), self._look)


@lru_cache(maxsize=65_536)
def _parsed(url: str) -> URL:
    return URL(url, encoded=True)


def _content_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("content-type", "application/json")


def _translated(error: Exception) -> UpstreamError:
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, TimeoutError):
        return UpstreamError("timeout", detail)
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamError("connect", detail)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | OSError):
        return UpstreamError("disconnected", detail)
    return UpstreamError("garbage", detail)
