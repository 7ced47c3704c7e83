"""A transport that puts what is written in one turn of the event loop into one system call.

uvicorn writes a response's head and body apart; each write that wakes a sleeping client costs as
much as the rest of the request.
"""

from __future__ import annotations

import asyncio
from typing import Any


class CorkedTransport:
    """Stands in for a transport; everything but writing and closing goes through unchanged."""

    __slots__ = ("_loop", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Writes at the end of this turn."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def close(self) -> None:
        """Writes what is left, then closes."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Writes now, where a response is whole: what its sender does next need not be waited for."""
        parts = self._parts
        if parts and not self._transport.is_closing():
            self._parts = []
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
