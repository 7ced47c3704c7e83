"""One stage's call: choose a replica, ask it, and ask another one if it fails.

A call is repeated only while nothing of its answer has reached the client. Statuses that say
"this replica cannot" (401, 403, 404, 429 and 5xx) count as failures; other refusals are about the request
and are passed on as they are.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from motley_planner.dispatch import Dispatcher, Stage, Ticket
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.upstream import Answer, Call, OpenStream, Upstream

_BUSY = (429, 503)


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


class Caller:
    """Calls stages by way of the dispatcher."""

    def __init__(self, upstream: Upstream, metrics: Metrics, attempts: int) -> None:
        self._upstream, self._metrics, self._attempts = upstream, metrics, attempts

    async def fetch(self, job: CallContext, stage: Stage, body: bytes) -> Answer:
        """The whole answer of one replica of a stage. Raises: GatewayError 502 or 503."""
        tries = _Tries(job, stage, self._metrics)
        for _ in range(self._attempts):
            ticket = tries.next()
            if ticket is None:
                break
            try:
                answer = await self._upstream.fetch(_call(job, ticket, body))
                _check(answer.status)
            except UpstreamError as error:
                tries.failed(ticket, error)
                continue
            except BaseException:
                job.dispatcher.cancel(ticket)
                raise
            job.dispatcher.finish(ticket)
            return answer
        raise tries.exhausted()

    @asynccontextmanager
    async def stream(
        self, job: CallContext, stage: Stage, body: bytes
    ) -> AsyncIterator[OpenStream]:
        """An answer that has begun; a failure after that is the caller's to report.

        Raises: GatewayError 502 or 503 where no replica began to answer.
        """
        tries = _Tries(job, stage, self._metrics)
        for _ in range(self._attempts):
            ticket = tries.next()
            if ticket is None:
                break
            async with AsyncExitStack() as stack:
                try:
                    call = _call(job, ticket, body)
                    opened = await stack.enter_async_context(self._upstream.stream(call))
                    _check(opened.status)
                except UpstreamError as error:
                    tries.failed(ticket, error)
                    continue
                except BaseException:
                    job.dispatcher.cancel(ticket)
                    raise
                try:
                    yield opened
                except UpstreamError as error:
                    tries.failed(ticket, error)
                    raise
                except BaseException:
                    job.dispatcher.cancel(ticket)
                    raise
                job.dispatcher.finish(ticket)
                return
        raise tries.exhausted()


class _Tries:
    """The replicas one call has tried."""

    def __init__(self, job: CallContext, stage: Stage, metrics: Metrics) -> None:
        self._job, self._stage, self._metrics = job, stage, metrics
        self._tried: set[str] = set()
        self._last: UpstreamError | None = None

    def next(self) -> Ticket | None:
        """A replica not tried yet; the same again where a lone one only dropped the connection."""
        ticket = self._choose()
        if ticket is None and self._last is not None and self._last.kind == "disconnected":
            self._tried.clear()
            ticket = self._choose()
        if ticket is not None and self._last is not None:
            self._metrics.retries.labels(self._stage.name).inc()
        return ticket

    def _choose(self) -> Ticket | None:
        job = self._job
        now = time.monotonic()
        return job.dispatcher.choose(self._stage.name, job.class_name, now, self._tried)

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
            message = f"no replica of stage {name!r} serves class {self._job.class_name!r}"
            return GatewayError(503, message, "no_replica", retry_after_s=5)
        if self._last.kind == "busy":
            message = f"every replica of stage {name!r} is busy"
            return GatewayError(503, message, "overloaded", retry_after_s=1)
        if self._last.kind == "timeout":
            message = f"no replica of stage {name!r} answered in time"
            return GatewayError(504, message, "upstream_timeout")
        message = f"no replica of stage {name!r} answered: {self._last.kind}"
        return GatewayError(502, message, "upstream_failed")


def _call(job: CallContext, ticket: Ticket, body: bytes) -> Call:
    return Call(ticket.replica.url + job.request.path, body, job.request_id)


def _check(status: int) -> None:
    if status in _BUSY:
        raise UpstreamError("busy", f"HTTP {status}")
    if status >= 500 or status in (401, 403, 404):
        raise UpstreamError("status", f"HTTP {status}")
