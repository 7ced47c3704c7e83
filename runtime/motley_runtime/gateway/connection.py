"""One HTTP/1.1 connection to an engine: a request out, its answer in pieces, then the next request.

A general client costs as much as the rest of a request here. This one knows what engines are asked:
a POST of JSON or a look at their health, no redirects, cookies or compressed answers.
A connection has one exchange at a time. What goes wrong is an UpstreamError, and ends it.

Source of the idea: the alternatives measured beside each other for proxies, where a hand-written
protocol on uvloop and httptools carried four times as many requests a core as a general client.
"""

from __future__ import annotations

import asyncio
import time

import httptools

from motley_runtime.gateway.errors import UpstreamError

_HEAD_BYTES = 64 * 2**10  # of an answer's status line and headers
_HIGH_WATER_BYTES = 2**18  # of a stream that nobody has read yet
_LOOK_S = 1.0


class Connection(asyncio.Protocol):
    """A connection that is kept. Not for two exchanges at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = True
        self.idle_since_s = 0.0
        self._error: UpstreamError | None = None
        self._is_paused = False
        self._begin(0, False)

    def _begin(self, most_bytes: int, is_whole: bool) -> None:
        self.status, self.content_type = 0, "application/json"
        self.is_complete = False
        self._parts: list[bytes] = []
        self._size, self._head_bytes = 0, 0
        self._most_bytes, self._is_whole = most_bytes, is_whole
        self._is_framed = False
        self._in_exchange = most_bytes > 0

    # What a caller does.

    def send(self, request: bytes, body: bytes, most_bytes: int, is_whole: bool) -> None:
        """Sends a request. `is_whole`: its answer is waited for as a whole, of so many bytes."""
        assert self._transport is not None
        self._begin(most_bytes, is_whole)
        self._transport.write(request + body)

    async def answered(self, within_s: float) -> bytes:
        """The whole answer's body, or the first bytes of a stream. Raises: UpstreamError."""
        if not self._is_there():
            self._timer = self._loop.call_later(within_s, self._too_late)
            try:
                await self._wait()
            finally:
                self._stop_timer()
        return self._take()

    async def more(self) -> bytes:
        """The next bytes of a stream; none at its end. Raises: UpstreamError."""
        if not self._is_there():
            await self._wait()
        return self._take()

    def end(self) -> bool:
        """Ends an exchange; True where the connection can serve another one."""
        self._stop_timer()
        self._waiter = None
        is_kept = self.is_open and self.is_complete and self._error is None and not self._parts
        self._in_exchange = False
        if not is_kept:
            self.abort()
        return is_kept

    def abort(self) -> None:
        """Closes the connection at once: an engine learns that nobody waits."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def is_lost(self) -> bool:
        """Whether the transport is closing without having said so."""
        return self._transport is None or self._transport.is_closing()

    # Waiting.

    def _is_there(self) -> bool:
        if self.is_complete or self._error is not None:
            return True
        return bool(self._parts) and not self._is_whole

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        parts = self._parts
        if self._error is not None and (self._is_whole or not parts):
            raise self._error
        if not parts:
            return b""
        self._parts, self._size = [], 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fail(self, kind: str, detail: str) -> None:
        """Ends the exchange with an error and the connection with it."""
        if self._in_exchange and not self.is_complete and self._error is None:
            self._error = UpstreamError(kind, detail)
        self.abort()
        self._wake()

    def _too_late(self) -> None:
        self.fail("timeout", "no answer in time")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        if not self._in_exchange or self.is_complete:
            self.abort()  # nothing was asked: what this is an answer to nobody knows
            return
        if not self.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail("garbage", str(error))
        except httptools.HttpParserUpgrade:
            self.fail("garbage", "the replica changes protocols")
        else:
            if not self.status and self._head_bytes > _HEAD_BYTES:
                self.fail("garbage", "the head of the answer has no end")

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        is_end = self.status and not self._is_framed and exc is None
        self.is_open = False
        if self._in_exchange and not self.is_complete:
            if is_end and self._error is None:
                self.is_complete = True  # a body without a length ends with its connection
            else:
                self.fail("disconnected", str(exc or "the connection is gone"))
        self._wake()

    # What the parser says.

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools'."""
        name = name.lower()
        if name == b"content-type":
            self.content_type = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._is_framed = True

    def on_headers_complete(self) -> None:
        """httptools'."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status

    def on_body(self, body: bytes) -> None:
        """httptools'."""
        self._parts.append(body)
        self._size += len(body)
        if self._is_whole:
            if self._size > self._most_bytes:
                self.fail("too_large", "the answer exceeds the size limit")
            return
        if self._size > _HIGH_WATER_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        """httptools'."""
        if not self.status:
            self._is_framed = False  # an interim answer (1xx): the one that counts is to come
            return
        self.is_complete = True
        if not self._parser.should_keep_alive():
            self.is_open = False
        self._wake()


class Patience:
    """Ends a stream that is silent for too long.

    One timer for many chunks: a timer a chunk would cost more than relaying it, so the reader only
    notes since when it waits and the timer, when it goes off, looks at it. While a slow client is
    waited for, `waits_since_s` is None.
    """

    __slots__ = ("_connection", "_idle_s", "_loop", "_timer", "waits_since_s")

    def __init__(self, connection: Connection, idle_s: float) -> None:
        self._connection, self._idle_s = connection, idle_s
        self._loop = asyncio.get_running_loop()
        self.waits_since_s: float | None = None
        self._timer = self._loop.call_later(min(idle_s, _LOOK_S), self._look)

    def end(self) -> None:
        """Stops watching."""
        self._timer.cancel()

    def _look(self) -> None:
        since_s = self.waits_since_s
        silent_s = 0.0 if since_s is None else time.monotonic() - since_s
        if silent_s >= self._idle_s:
            self._connection.fail("timeout", "the stream is silent")
        else:
            left_s = self._idle_s - silent_s
            self._timer = self._loop.call_later(min(left_s, _LOOK_S), self._look)
