"""Connections to engines that are kept for the next request, by address."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from motley_runtime.gateway.connection import Connection
from motley_runtime.gateway.errors import UpstreamError

# Engines on uvicorn close idle connections after 5 s; ours go first, so that none is reused
# at the moment its server drops it.
_KEEPALIVE_S = 3.0


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, as it is written into a request and as it is connected to."""

    host: str
    port: int
    is_tls: bool
    authority: bytes  # as the Host header has it
    path: bytes

    @property
    def address(self) -> tuple[str, int, bool]:
        """What connections are kept by."""
        return self.host, self.port, self.is_tls


@lru_cache(maxsize=65_536)
def target_of(url: str) -> Target:
    """The parts of an http(s) URL."""
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authority = parts.netloc.rpartition("@")[2]
    return Target(
        host,
        port,
        is_tls,
        authority.encode("idna" if not authority.isascii() else "ascii"),
        path.encode(),
    )


class Pool:
    """Idle connections, the youngest first; as many in use as are asked for."""

    def __init__(self, connect_s: float) -> None:
        self._connect_s = connect_s
        self._idle: dict[tuple[str, int, bool], deque[Connection]] = {}
        self._loop = asyncio.get_running_loop()
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None
        self._used: set[Connection] = set()

    async def take(self, target: Target) -> Connection:
        """A connection for one exchange. Raises: UpstreamError."""
        idle = self._idle.get(target.address)
        while idle:
            connection = idle.pop()
            if connection.is_open and not connection.is_lost():
                self._used.add(connection)
                return connection
        connection = await self._connect(target)
        self._used.add(connection)
        return connection

    def give_back(self, target: Target, connection: Connection) -> None:
        """Ends an exchange and keeps its connection where that can serve another."""
        self._used.discard(connection)
        if not connection.end():
            return
        connection.idle_since_s = self._loop.time()
        idle = self._idle.get(target.address)
        if idle is None:
            idle = self._idle[target.address] = deque()
        idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_KEEPALIVE_S, self._let_go)

    def close(self) -> None:
        """Closes every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in (*self._used, *(c for idle in self._idle.values() for c in idle)):
            connection.fail("disconnected", "the gateway ends")
        self._idle.clear()

    async def _connect(self, target: Target) -> Connection:
        context = None
        if target.is_tls:
            context = self._tls = self._tls or ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await self._loop.create_connection(
                    Connection, target.host, target.port, ssl=context
                )
        except TimeoutError as error:
            raise UpstreamError("timeout", "no connection in time") from error
        except OSError as error:
            raise UpstreamError("connect", f"{type(error).__name__}: {error}") from error
        return connection

    def _let_go(self) -> None:
        """Closes what has been idle for long, and looks again while anything is kept."""
        self._sweep = None
        latest_s, left = self._loop.time() - _KEEPALIVE_S, False
        for address, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since_s <= latest_s or not idle[0].is_open):
                idle.popleft().abort()
            if not idle:
                del self._idle[address]
            left = left or bool(idle)
        if left:
            self._sweep = self._loop.call_later(_KEEPALIVE_S / 3, self._let_go)
