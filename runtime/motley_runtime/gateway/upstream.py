"""The HTTP client towards engines, behind two methods so that it can be replaced.

`fetch` asks for a whole answer; `stream` opens one and hands over its chunks as they come,
unparsed. Leaving `stream` early, or being cancelled in either, closes the connection, which is how an engine
learns that nobody waits for the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.options import Limits

# Engines on uvicorn close idle connections after 5 s; ours go first, so that none is reused
# at the moment its server drops it.
_KEEPALIVE_S = 3.0


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


class AiohttpUpstream:
    """`Upstream` over one pooled aiohttp session."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
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
        timeout = aiohttp.ClientTimeout(total=limits.answer_s, sock_connect=limits.connect_s)
        try:
            async with self._post(call, timeout) as response:
                parts, size = [], 0
                async for chunk in response.content.iter_any():
                    size += len(chunk)
                    if size > limits.answer_bytes:
                        raise UpstreamError("too_large", "the answer exceeds the size limit")
                    parts.append(chunk)
                return Answer(response.status, _content_type(response), b"".join(parts))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error) from error

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[OpenStream]:
        """An answer whose first bytes have arrived. Raises: UpstreamError."""
        limits = self._limits
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s)
        try:
            async with asyncio.timeout(limits.answer_s):
                response = await self._post(call, timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _translated(error) from error
        async with response:
            chunks = self._chunks(response)
            first = await anext(chunks, b"")
            yield OpenStream(response.status, _content_type(response), first, chunks)

    def _post(
        self, call: Call, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client._RequestContextManager:
        headers = {"content-type": "application/json", "x-request-id": call.request_id}
        return self._session.post(
            call.url, data=call.body, headers=headers, timeout=timeout, allow_redirects=False
        )

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        patience = self._limits.answer_s
        while True:
            try:
                async with asyncio.timeout(patience):
                    chunk = await response.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _translated(error) from error
            if not chunk:
                return
            patience = self._limits.idle_s
            yield chunk


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
