"""Calls of a stage whose phases may be apart: a prefill leg and a decode leg, or another way.

The dispatcher draws the way in the plan's proportions. If a leg fails before the first byte, the
request goes on, in this order: to a colocated replica; with vLLM to a decode replica that reads the
prompt itself; to another pair. Each leg holds its own place on its own replica, and it is the leg
that failed which counts against its replica. Leaving early closes both legs' connections.

A prefill replica keeps the prompt's cache until it has been handed over, and so long the request holds
its credit for it: with SGLang until the prefill leg has its answer, which comes after the transfer;
with vLLM until the decode leg's first bytes, and of whole answers, which do not show them, until the
decode replica has room for the request and it is sent there. Credits are taken prefill first, so none
waits for one whose holder waits for it.

A body that no handshake is made for (several choices, several prompts, embeddings) takes a way
without one; where the engines have none it is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from motley_planner.dispatch import Stage, Ticket, Way
from motley_runtime.gateway.answers import check_begun, check_status, check_whole
from motley_runtime.gateway.credits import Credits
from motley_runtime.gateway.deadlines import Latencies
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.handshakes import (
    is_pairable,
    nixl_decode,
    nixl_prefill,
    with_bootstrap,
)
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.options import Limits
from motley_runtime.gateway.tries import CallContext, call_of, exhausted, outside
from motley_runtime.gateway.upstream import Answer, Call, OpenStream, Upstream

_T = TypeVar("_T")

_GRACE_S = 1.0  # for the decode leg to refuse what the prefill leg has refused


class _NoneLeft(Exception):
    """A way without a replica that was not tried."""


class _LegError(UpstreamError):
    """A failure, with the place of the leg whose it is."""

    def __init__(self, error: UpstreamError, ticket: Ticket) -> None:
        super().__init__(error.kind, str(error))
        self.ticket = ticket


@dataclass(slots=True)
class _Leg:
    """The call that answers the client, the prefill under way beside it, the credit of the prompt."""

    call: Call
    ticket: Ticket
    beside: asyncio.Task[None] | None = None
    prompt: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def begun(self, beginning: Awaitable[_T]) -> _T:
        """What the call begins with. Raises: UpstreamError of whichever leg fails first."""
        if self.beside is None:
            return await beginning
        task = asyncio.ensure_future(beginning)
        try:
            await asyncio.wait({task, self.beside}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.beside.result()
            return await task
        finally:
            if not task.done():
                _end(task)


class _Tries:
    """What one call has tried of a stage, and where it goes next."""

    def __init__(self, job: CallContext, stage: Stage, metrics: Metrics, credits: Credits) -> None:
        self.job, self.stage, self._metrics, self._credits = job, stage, metrics, credits
        self._barred = outside(stage, job.trust_zones)
        self._tried = set(self._barred)
        self._last: UpstreamError | None = None

    def ways(self, attempts: int) -> Iterator[Way]:
        """The drawn way, then those it may be replaced by. Raises: GatewayError where none may be."""
        job, stage = self.job, self.stage
        is_paired = is_pairable(job.request)
        every = job.dispatcher.ways(stage.name, job.class_name)
        pairs = [way for way in every if way.prefill is not None]
        found = [Way(stage.name)] * attempts
        if is_paired:
            drawn = job.dispatcher.draw_way(stage.name, job.class_name, time.monotonic())
            if drawn is not None:
                found.insert(0, drawn)
                pairs.sort(key=lambda way: way.hop != drawn.hop)
        if stage.handoff is not None and stage.handoff.protocol == "nixl":
            found += [Way(hop) for hop in dict.fromkeys(way.hop for way in pairs)]
        elif not is_paired and all(way.prefill is not None for way in every):
            text = "the replicas have their phases apart and answer one prompt with one choice"
            raise GatewayError(400, text, "unsupported_by_plan")
        if is_paired:
            found += pairs * attempts
        yield from found
        if self._last is not None and self._last.kind == "disconnected":
            self._tried = set(self._barred)  # a lone replica may have dropped an idle connection
            yield from found

    @asynccontextmanager
    async def held(
        self, hop: str, leg: str, prompt: AsyncExitStack | None = None
    ) -> AsyncIterator[Ticket]:
        """A place on a replica of a hop, with its end told to the dispatcher and the metrics.

        `prompt`: keeps the credit of a leg that only prefills, whose cache outlives it.
        """
        job, now = self.job, time.monotonic()
        key = job.prompt_key if leg != "decode" else None
        ticket = job.dispatcher.choose(hop, job.class_name, now, self._tried, key)
        if ticket is None:
            raise _NoneLeft
        if self._last is not None and leg != "decode":
            self._metrics.retries.labels(self.stage.name).inc()
        outcome = "cancelled"
        try:
            with job.trace.span(f"motley.{leg}", replica=ticket.replica.name):
                credit = self._credits.held(ticket.replica, job, is_prompt_only=leg == "prefill")
                async with AsyncExitStack() as own:
                    await (prompt or own).enter_async_context(credit)
                    yield ticket
            job.dispatcher.finish(ticket)
            outcome = "answered"
            self._metrics.leg_s.labels(leg).observe(time.monotonic() - now)
        except UpstreamError as error:
            if isinstance(error, _LegError) and error.ticket is not ticket:
                raise
            outcome = error.kind
            self._failed(ticket, error)
            raise _LegError(error, ticket) from error
        finally:
            job.dispatcher.cancel(ticket)
            self._metrics.legs.labels(self.stage.name, leg, outcome).inc()

    def _failed(self, ticket: Ticket, error: UpstreamError) -> None:
        self._tried.add(ticket.replica.name)
        self._last = error
        if error.kind == "adapter":
            self.job.dispatcher.cancel(ticket)
        else:
            self.job.dispatcher.fail(ticket, time.monotonic())
        self._metrics.upstream_failures.labels(self.stage.name, error.kind).inc()

    def exhausted(self) -> GatewayError:
        """The error of a call that no way has answered."""
        return exhausted(self.job, self.stage, self._last, bool(self._barred))


class PairCaller:
    """Calls stages with flows; the same two methods as `Caller`."""

    def __init__(
        self,
        upstream: Upstream,
        metrics: Metrics,
        limits: Limits,
        shared: tuple[Latencies, Credits],
    ) -> None:
        self._upstream, self._metrics, self._limits = upstream, metrics, limits
        self._latencies, self._credits = shared

    async def fetch(self, job: CallContext, stage: Stage, body: bytes) -> Answer:
        """The whole answer of a stage. Raises: GatewayError 400, 502, 503 or 504."""
        tries, failures = _Tries(job, stage, self._metrics, self._credits), 0
        for way in tries.ways(self._limits.attempts):
            began_s = time.monotonic()
            try:
                async with self._answering(tries, way, body) as leg:
                    if leg.beside is None:
                        await leg.prompt.aclose()  # nothing tells when it is fetched
                    answer = await leg.begun(self._upstream.fetch(leg.call))
                    check_status(answer.status, tries.job.adapter)
                    check_whole(answer)
            except _NoneLeft:
                continue
            except UpstreamError:
                failures += 1
                if failures == self._limits.attempts:
                    break
                continue
            self._observe(job, stage, began_s)
            return answer
        raise tries.exhausted()

    @asynccontextmanager
    async def stream(
        self, job: CallContext, stage: Stage, body: bytes
    ) -> AsyncIterator[OpenStream]:
        """An answer that has begun. Raises: GatewayError; UpstreamError once it has."""
        tries, failures = _Tries(job, stage, self._metrics, self._credits), 0
        for way in tries.ways(self._limits.attempts):
            began_s, is_begun = time.monotonic(), False
            try:
                async with self._answering(tries, way, body) as leg, AsyncExitStack() as stack:
                    opening = stack.enter_async_context(self._upstream.stream(leg.call))
                    opened = await leg.begun(opening)
                    check_status(opened.status, job.adapter)
                    check_begun(opened)
                    is_begun = True
                    await leg.prompt.aclose()
                    job.dispatcher.answered(leg.ticket)
                    yield opened
            except _NoneLeft:
                continue
            except UpstreamError:
                failures += 1
                if is_begun:
                    raise
                if failures == self._limits.attempts:
                    break
                continue
            self._observe(job, stage, began_s)
            return
        raise tries.exhausted()

    def _observe(self, job: CallContext, stage: Stage, began_s: float) -> None:
        self._latencies.observe(stage.name, job.class_name, time.monotonic() - began_s)

    @asynccontextmanager
    async def _answering(self, tries: _Tries, way: Way, body: bytes) -> AsyncIterator[_Leg]:
        """The leg that answers, its prefill done or under way."""
        job, handoff = tries.job, tries.stage.handoff
        if way.prefill is None:
            leg = "whole" if way.hop == tries.stage.name else "alone"
            async with tries.held(way.hop, leg) as ticket:
                yield _Leg(call_of(job, ticket, body), ticket)
            return
        assert handoff is not None, "flows without a handoff were not parsed"
        asked = orjson.loads(body)
        if handoff.protocol == "nixl":
            async with AsyncExitStack() as prompt:
                asked, is_fetched = await self._prefilled(tries, way.prefill, asked, prompt)
                if not is_fetched:
                    await prompt.aclose()
                async with tries.held(way.hop, "decode" if is_fetched else "alone") as ticket:
                    call = call_of(job, ticket, orjson.dumps(asked))
                    yield _Leg(call, ticket, prompt=prompt)
            return
        async with (
            AsyncExitStack() as prompt,
            tries.held(way.prefill, "prefill", prompt) as first,
            tries.held(way.hop, "decode") as ticket,
        ):
            asked = with_bootstrap(asked, first.replica.url, handoff.bootstrap_port)
            raw = orjson.dumps(asked)
            drained = self._drained(job, call_of(job, first, raw), first, prompt)
            task = asyncio.create_task(drained)
            try:
                yield _Leg(call_of(job, ticket, raw), ticket, task, prompt)
            finally:
                _end(task)

    async def _prefilled(
        self, tries: _Tries, hop: str, asked: dict[str, Any], prompt: AsyncExitStack
    ) -> tuple[dict[str, Any], bool]:
        """vLLM's decode body, once a prefill replica has read the prompt. Raises: UpstreamError."""
        async with tries.held(hop, "prefill", prompt) as ticket:
            call = call_of(tries.job, ticket, orjson.dumps(nixl_prefill(asked)))
            answer = await self._in_time(call)
            check_status(answer.status, tries.job.adapter)
            return nixl_decode(asked, answer)

    async def _drained(
        self, job: CallContext, call: Call, ticket: Ticket, prompt: AsyncExitStack
    ) -> None:
        """SGLang's prefill leg: its answer is of no use, its failure is. Raises: _LegError."""
        try:
            answer = await self._in_time(call)
            check_status(answer.status)
            if answer.status != 200:
                await asyncio.sleep(_GRACE_S)
                raise UpstreamError("refused", f"HTTP {answer.status}")
        except UpstreamError as error:
            raise _LegError(error, ticket) from error
        await prompt.aclose()
        job.dispatcher.finish(ticket)  # its replica has nothing more to do, however long the answer

    async def _in_time(self, call: Call) -> Answer:
        try:
            async with asyncio.timeout(self._limits.prefill_s):
                return await self._upstream.fetch(call)
        except TimeoutError as error:
            raise UpstreamError("timeout", "the prefill leg took too long") from error


def _end(task: asyncio.Future[Any]) -> None:
    """Cancels what nobody waits for any longer; how it ends has been told, or is too late to matter.

    It is not awaited: after a whole answer a client may close its connection, which would cancel
    the wait and count the answer as not taken.
    """
    task.cancel()
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
