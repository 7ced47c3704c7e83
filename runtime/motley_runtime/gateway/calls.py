"""One stage's call: choose a replica, ask it, and ask another one if it fails.

A call is repeated only while nothing of its answer has reached the client. Statuses that say
"this replica cannot" (401, 403, 404, 429 and 5xx) count as failures, and so do answers that cannot
be what was asked for; other refusals are about the request and are passed on as they are.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from motley_planner.dispatch import Dispatcher, Stage, Ticket
from motley_runtime.gateway.deadlines import Latencies
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.prefixes import PromptKey
from motley_runtime.gateway.upstream import Answer, Call, OpenStream, Upstream

_BUSY = (429, 503)
_EVENT_STREAM = "text/event-stream"
_SPACE = b" \t\r\n"


class CallContext(Protocol):
    """What a call needs to know of its request."""

    @property
    def request(self) -> ParsedRequest: ...
    @property
    def request_id(self) -> str: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def class_name(self) -> str: ...
    @property
    def trust_zones(self) -> frozenset[str] | None: ...
    @property
    def prompt_key(self) -> PromptKey | None: ...


class Caller:
    """Calls stages by way of the dispatcher, and learns how long they take."""

    def __init__(self, upstream: Upstream, metrics: Metrics, attempts: int) -> None:
        self._upstream, self._metrics, self._attempts = upstream, metrics, attempts
        self.latencies = Latencies()

    async def fetch(self, job: CallContext, stage: Stage, body: bytes) -> Answer:
        """The whole answer of one replica of a stage. Raises: GatewayError 502, 503 or 504."""
        tries = _Tries(job, stage, self._metrics)
        for _ in range(self._attempts):
            ticket = tries.next()
            if ticket is None:
                break
            began_s = time.monotonic()
            try:
                answer = await self._upstream.fetch(_call(job, ticket, body))
                _check(answer.status)
                _check_whole(answer)
            except UpstreamError as error:
                tries.failed(ticket, error)
                continue
            except BaseException:
                job.dispatcher.cancel(ticket)
                raise
            self._done(job, stage, ticket, began_s)
            return answer
        raise tries.exhausted()

    @asynccontextmanager
    async def stream(
        self, job: CallContext, stage: Stage, body: bytes
    ) -> AsyncIterator[OpenStream]:
        """An answer that has begun; a failure after that is the caller's to report.

        Raises: GatewayError 502, 503 or 504 where no replica began to answer.
        """
        tries = _Tries(job, stage, self._metrics)
        for _ in range(self._attempts):
            ticket = tries.next()
            if ticket is None:
                break
            began_s = time.monotonic()
            async with AsyncExitStack() as stack:
                try:
                    call = _call(job, ticket, body)
                    opened = await stack.enter_async_context(self._upstream.stream(call))
                    _check(opened.status)
                    _check_begun(opened)
                except UpstreamError as error:
                    tries.failed(ticket, error)
                    continue
                except BaseException:
                    job.dispatcher.cancel(ticket)
                    raise
                job.dispatcher.answered(ticket)
                try:
                    yield opened
                except UpstreamError as error:
                    tries.failed(ticket, error)
                    raise
                except BaseException:
                    job.dispatcher.cancel(ticket)
                    raise
                self._done(job, stage, ticket, began_s)
                return
        raise tries.exhausted()

    def _done(self, job: CallContext, stage: Stage, ticket: Ticket, began_s: float) -> None:
        job.dispatcher.finish(ticket)
        self.latencies.observe(stage.name, job.class_name, time.monotonic() - began_s)


class _Tries:
    """The replicas one call has tried."""

    def __init__(self, job: CallContext, stage: Stage, metrics: Metrics) -> None:
        self._job, self._stage, self._metrics = job, stage, metrics
        self._barred = _outside(stage, job.trust_zones)
        self._tried: set[str] = set(self._barred)
        self._last: UpstreamError | None = None

    def next(self) -> Ticket | None:
        """A replica not tried yet; the same again where a lone one only dropped the connection."""
        ticket = self._choose()
        if ticket is None and self._last is not None and self._last.kind == "disconnected":
            self._tried = set(self._barred)
            ticket = self._choose()
        if ticket is not None and self._last is not None:
            self._metrics.retries.labels(self._stage.name).inc()
        return ticket

    def _choose(self) -> Ticket | None:
        job, now = self._job, time.monotonic()
        return job.dispatcher.choose(
            self._stage.name, job.class_name, now, self._tried, job.prompt_key
        )

    def failed(self, ticket: Ticket, error: UpstreamError) -> None:
        """Notes that a replica did not answer and leaves it out for a while."""
        self._tried.add(ticket.replica.name)
        self._last = error
        self._job.dispatcher.fail(ticket, time.monotonic())
        self._metrics.upstream_failures.labels(self._stage.name, error.kind).inc()

    def exhausted(self) -> GatewayError:
        """The error of a call that no replica answered."""
        name = self._stage.name
        if self._last is None:
            where = " in the client's trust zones" if self._barred else ""
            message = f"no replica of stage {name!r}{where} serves class {self._job.class_name!r}"
            return GatewayError(503, message, "no_replica", retry_after_s=5)
        if self._last.kind == "busy":
            message = f"every replica of stage {name!r} is busy"
            return GatewayError(503, message, "overloaded", retry_after_s=1)
        if self._last.kind == "timeout":
            message = f"no replica of stage {name!r} answered in time"
            return GatewayError(504, message, "upstream_timeout")
        message = f"no replica of stage {name!r} answered: {self._last.kind}"
        return GatewayError(502, message, "upstream_failed")


def _outside(stage: Stage, zones: frozenset[str] | None) -> frozenset[str]:
    """Replicas that a request may not reach: a zone that is not known is not trusted."""
    if zones is None:
        return frozenset()
    return frozenset(r.name for r in stage.replicas if r.trust_zone not in zones)


def _call(job: CallContext, ticket: Ticket, body: bytes) -> Call:
    return Call(ticket.replica.url + job.request.path, body, job.request_id)


def _check(status: int) -> None:
    if status in _BUSY:
        raise UpstreamError("busy", f"HTTP {status}")
    if status >= 500 or status in (401, 403, 404) or status < 200 or 300 <= status < 400:
        raise UpstreamError("status", f"HTTP {status}")


def _check_whole(answer: Answer) -> None:
    """Refuses what cannot be a JSON object, by its ends: large answers are not parsed for it."""
    if answer.status == 200:
        body = answer.body.strip(_SPACE)
        if not (body.startswith(b"{") and body.endswith(b"}")):
            raise UpstreamError("garbage", "the answer is not a JSON object")


def _check_begun(opened: OpenStream) -> None:
    if opened.status == 200:
        if not opened.first:
            raise UpstreamError("disconnected", "the stream ended before it began")
        if not opened.content_type.lower().startswith(_EVENT_STREAM):
            raise UpstreamError("garbage", "the answer is not an event stream")
        if opened.first.lstrip(_SPACE)[:1] not in (b"d", b"e", b"i", b"r", b":", b""):
            raise UpstreamError("garbage", "the stream does not begin with an event")
