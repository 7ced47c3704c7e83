"""uvicorn's HTTP protocol with three bounds it lacks: a head's size, its time, and a reader's.

A body that is framed wrongly, and a client that closes its side before it has an answer, get a 400
as long as nothing of an answer was sent; uvicorn closes such connections without a word.
httptools collects a head of any length for as long as its sender likes; a client that trickles
header bytes would hold memory and a connection for ever. One that stops reading its answer would
hold a replica's place as well.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from motley_runtime.gateway.corked import CorkedTransport
from motley_runtime.gateway.errors import error_body
from motley_runtime.gateway.exchange import CLIENT, ClientWatch
from motley_runtime.gateway.options import Limits


def bounded_protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """A protocol class that closes connections whose request head is too large or too slow."""

    class BoundedProtocol(HttpToolsProtocol):
        _watch: ClientWatch
        _in_head = False
        _head_bytes = 0
        _head_timer: asyncio.TimerHandle | None = None
        _reader_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            corked = CorkedTransport(transport, self.loop)  # type: ignore[arg-type]
            super().connection_made(corked)  # type: ignore[arg-type]
            self._watch = ClientWatch()
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_waiting()
            super().connection_lost(exc)
            self._watch.lost()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stop_waiting()
            self._reader_timer = self.loop.call_later(limits.client_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._stop_waiting()
            super().resume_writing()

        def _stop_waiting(self) -> None:
            if self._reader_timer is not None:
                self._reader_timer.cancel()
                self._reader_timer = None

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._in_head or self.transport.is_closing():
                return
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._start_timer()
            if self._head_bytes > limits.head_bytes:
                self._refuse(431, "Request Header Fields Too Large")

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_timer()
            super().on_headers_complete()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._head_bytes = True, 0
            self.scope[CLIENT] = self._watch  # type: ignore[literal-required]

        def on_response_complete(self) -> None:
            self.transport.flush()  # type: ignore[attr-defined]
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            if self._is_unanswered() and self.cycle.more_body:
                self._tell(400, "Bad Request", "the body's framing is broken", "bad_body")
            else:
                self._refuse(400, "Bad Request", msg)

        def eof_received(self) -> None:
            if self._is_unanswered():
                text = "the connection was closed for writing before the answer: keep it open"
                self._tell(400, "Bad Request", text, "half_closed")
            elif self._in_head:
                self._refuse(400, "Bad Request", "the head has no end")

        def _is_unanswered(self) -> bool:
            """Whether one request is at work, and nothing of its answer was sent."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete or cycle.response_started:
                return False
            return not self.pipeline

        def _start_timer(self) -> None:
            self._head_timer = self.loop.call_later(limits.head_s, self._too_slow)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                self._refuse(408, "Request Timeout")

        def _refuse(self, status: int, reason: str, message: str | None = None) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self.transport.close()  # an answer is under way: nothing can be written into it
                return
            self._tell(status, reason, message or reason.capitalize(), "bad_head")

        def _tell(self, status: int, reason: str, message: str, code: str) -> None:
            """Sends an error and closes; a request at work learns that its client is gone."""
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            body = error_body(status, message, code)
            head = (
                f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            self.transport.close()

    return BoundedProtocol
