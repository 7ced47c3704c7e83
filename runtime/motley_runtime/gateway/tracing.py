"""Traces: what a client's trace context becomes on the way to the engines.

`traceparent` and `tracestate` (W3C Trace Context) are always passed on, so that engines that trace
join the client's trace. Spans of the gateway's own are recorded only with an endpoint to send them
to and the extra `motley[otel]`; without, every call here does nothing. No span holds anything of a
prompt or an answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE = re.compile(rb"[ -~]{1,512}")
RawHeaders = Mapping[bytes, bytes]


class Span:
    """A part of a request that takes time; `with` ends it, and says how."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def failed(self, kind: str) -> None:
        """Says that it failed, where no exception leaves it."""


_NOTHING = Span()


class Trace:
    """One request's trace; this one records nothing and passes on what the client sent."""

    __slots__ = ("_passed_on",)

    def __init__(self, passed_on: bytes = b"") -> None:
        self._passed_on = passed_on

    def headers(self) -> bytes:
        """Header lines for a call to an engine."""
        return self._passed_on

    def span(self, name: str, **attributes: str) -> Span:
        """A part of the request that begins now."""
        return _NOTHING

    def waited(self, name: str, since_ns: int) -> None:
        """A part of the request that is over, since a Unix time in nanoseconds."""

    def end(self, fields: Mapping[str, Any]) -> None:
        """The request is over; `fields` are those of its log line."""


NO_TRACE = Trace()


class Tracing:
    """Makes a trace for each request; this one only passes on."""

    def begin(self, headers: RawHeaders, name: str) -> Trace:
        """The trace of a request with these headers."""
        passed_on = context_lines(headers)
        return Trace(passed_on) if passed_on else NO_TRACE

    def close(self) -> None:
        """Sends what is left; may block for a while."""


def context_of(headers: RawHeaders) -> tuple[bytes, bytes]:
    """A client's `traceparent` and `tracestate`; empty where they are not as the standard has them."""
    parent = headers.get(b"traceparent", b"")
    if not parent or not _TRACEPARENT.fullmatch(parent[:55]):
        return b"", b""
    if len(parent) > 55 and (parent[:2] == b"00" or parent[55:56] != b"-"):
        return b"", b""
    state = headers.get(b"tracestate", b"")
    return parent[:55], state if _TRACESTATE.fullmatch(state) else b""


def context_lines(headers: RawHeaders) -> bytes:
    """A client's trace context as header lines of a call."""
    parent, state = context_of(headers)
    if not parent:
        return b""
    lines = b"traceparent: %b\r\n" % parent
    return lines + b"tracestate: %b\r\n" % state if state else lines


def now_ns() -> int:
    """Unix time in nanoseconds, as spans count it."""
    return time.time_ns()
