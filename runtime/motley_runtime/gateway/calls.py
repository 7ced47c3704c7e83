"""One stage's call: choose a replica, ask it, and ask another one if it fails.

A call is repeated only while nothing of its answer has reached the client; `answers.py` says what
counts as one. Stages whose phases are apart are called by `pairs.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from motley_planner.dispatch import Stage, Ticket
from motley_runtime.gateway.answers import check_begun, check_status, check_whole
from motley_runtime.gateway.credits import Credits
from motley_runtime.gateway.deadlines import Latencies
from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.options import Limits
from motley_runtime.gateway.pairs import PairCaller
from motley_runtime.gateway.tries import CallContext, Tries, call_of
from motley_runtime.gateway.upstream import Answer, OpenStream, Upstream


class Caller:
    """Calls stages by way of the dispatcher, and learns how long they take."""

    def __init__(
        self, upstream: Upstream, metrics: Metrics, limits: Limits, credits: Credits
    ) -> None:
        self._upstream, self._metrics, self._attempts = upstream, metrics, limits.attempts
        self.latencies = Latencies()
        self._credits = credits
        self._pairs = PairCaller(upstream, metrics, limits, (self.latencies, credits))

    async def fetch(self, job: CallContext, stage: Stage, body: bytes) -> Answer:
        """The whole answer of one replica of a stage. Raises: GatewayError 502, 503 or 504."""
        with job.trace.span("motley.stage", stage=stage.name):
            if stage.flows:
                return await self._pairs.fetch(job, stage, body)
            return await self._fetched(job, stage, body)

    async def _fetched(self, job: CallContext, stage: Stage, body: bytes) -> Answer:
        tries = Tries(job, stage, self._metrics)
        for _ in range(self._attempts):
            ticket = tries.next()
            if ticket is None:
                break
            began_s = time.monotonic()
            try:
                with job.trace.span("motley.call", replica=ticket.replica.name):
                    async with self._credits.held(ticket.replica, job):
                        answer = await self._upstream.fetch(call_of(job, ticket, body))
                    check_status(answer.status, job.adapter)
                    check_whole(answer)
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
        self, job: CallContext, stage: Stage, body: bytes, tries: Tries | None = None
    ) -> AsyncIterator[OpenStream]:
        """An answer that has begun; a failure after that is the caller's to report.

        `tries` knows where to ask, and afterwards where it was; not where phases are apart.
        Raises: GatewayError 502, 503 or 504 where no replica began to answer.
        """
        way = (
            self._pairs.stream(job, stage, body)
            if stage.flows
            else self._streamed(job, stage, body, tries)
        )
        with job.trace.span("motley.stage", stage=stage.name):
            async with way as opened:
                yield opened

    @asynccontextmanager
    async def _streamed(
        self, job: CallContext, stage: Stage, body: bytes, tries: Tries | None
    ) -> AsyncIterator[OpenStream]:
        tries = tries or Tries(job, stage, self._metrics)
        for _ in range(self._attempts):
            ticket = tries.next()
            if ticket is None:
                break
            began_s = time.monotonic()
            async with AsyncExitStack() as stack:
                span = stack.enter_context(
                    job.trace.span("motley.call", replica=ticket.replica.name)
                )
                try:
                    call = call_of(job, ticket, body)
                    await stack.enter_async_context(self._credits.held(ticket.replica, job))
                    opened = await stack.enter_async_context(self._upstream.stream(call))
                    check_status(opened.status, job.adapter)
                    check_begun(opened)
                except UpstreamError as error:
                    tries.failed(ticket, error)
                    span.failed(error.kind)
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
