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
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from motley_planner.dispatch import Stage, Ticket, Way
from motley_runtime.gateway.answers import check_begun, check_status, check_whole
from motley_runtime.gateway.credits import Credits
from motley_runtime.gateway.deadlines import Latencies
from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.handshakes import (
    nixl_decode,
    nixl_prefill,
    with_bootstrap,
)
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.options import Limits
from motley_runtime.gateway.pair_tries import LegError, NoneLeft, PairTries
from motley_runtime.gateway.tries import CallContext, call_of
from motley_runtime.gateway.upstream import Answer, Call, OpenStream, Upstream

_T = TypeVar("_T")

_GRACE_S = 1.0  # for the decode leg to refuse what the prefill leg has refused


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
        tries, failures = PairTries(job, stage, self._metrics, self._credits), 0
        for way in tries.ways(self._limits.attempts):
            began_s = time.monotonic()
            try:
                async with self._answering(tries, way, body) as leg:
                    if leg.beside is None:
                        await leg.prompt.aclose()  # nothing tells when it is fetched
                    answer = await leg.begun(self._upstream.fetch(leg.call))
                    check_status(answer.status, tries.job.adapter)
                    check_whole(answer)
            except NoneLeft:
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
        tries, failures = PairTries(job, stage, self._metrics, self._credits), 0
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
            except NoneLeft:
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
    async def _answering(self, tries: PairTries, way: Way, body: bytes) -> AsyncIterator[_Leg]:
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
        self, tries: PairTries, hop: str, asked: dict[str, Any], prompt: AsyncExitStack
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
        """SGLang's prefill leg: its answer is of no use, its failure is. Raises: LegError."""
        try:
            answer = await self._in_time(call)
            check_status(answer.status)
            if answer.status != 200:
                await asyncio.sleep(_GRACE_S)
                raise UpstreamError("refused", f"HTTP {answer.status}")
        except UpstreamError as error:
            raise LegError(error, ticket) from error
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
