"""Requests held while no replica answers: a pool that was scaled to zero is woken by them.

The routing table's `hold` says that its resource may have no replica and how many requests may wait
for one. The first that is held tells the operator, and again every few seconds while any is: it may
have been away. Replicas of the table in force are asked for their health; as soon as each stage that
has replicas has one that answers, all held requests go. Who leaves gives its place back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from motley_planner.dispatch import Dispatcher, Hold, Replica, RoutingTable, Stage
from motley_runtime.gateway.clients import Client, part_of
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.metrics import Metrics

log = logging.getLogger("motley.gateway")

Tell = Callable[[RoutingTable], Awaitable[None]]
IsWell = Callable[[str], Awaitable[bool]]

_TELL_S = 15.0  # the operator is told again, should it have been away
_TELL_ANEW_S = 1.0  # after a word that did not reach it
_LOOK_S = 0.2  # between two looks at replicas that start
_LOOKED_AT = 32  # replicas of a stage and phase; one that answers is enough
_USUAL_S = 30.0  # assumed of the first wake, for Retry-After
_LONGEST_RETRY_S = 60


class Waking:
    """The requests that wait for a replica, and the look-out for one. One event loop."""

    def __init__(self, live: LiveRouting, metrics: Metrics, is_well: IsWell | None = None) -> None:
        self._live, self._metrics = live, metrics
        self.is_well = is_well  # whether a replica at a URL answers
        self.tell: Tell | None = None  # None: nobody to tell; whoever plans reads the metrics
        self._held: dict[asyncio.Future[None], str] = {}
        self._by_client: Counter[str] = Counter()
        self._look_out: asyncio.Task[None] | None = None
        self._began_s, self._usual_s = 0.0, _USUAL_S
        self._is_ending = False

    @property
    def held(self) -> int:
        """Requests that wait for a replica."""
        return len(self._held)

    def wants(self, dispatcher: Dispatcher) -> bool:
        """Whether a request would find no replica: none is planned, or they are being waited for."""
        if dispatcher.table.hold is None:
            return False
        return bool(self._held) or not has_replicas(dispatcher.table)

    async def hold(self, job: Job) -> None:
        """Waits for a replica; the job goes on with the table then in force.

        Raises: GatewayError 429 or 503 where it may not wait, or not any longer.
        """
        hold, loop = job.dispatcher.table.hold, asyncio.get_running_loop()
        assert hold is not None
        if job.held_until_s is None:
            latest_s = loop.time() + hold.seconds
            job.held_until_s = min(latest_s, job.deadline_s or math.inf)
        self._admit(hold, job.client)
        place: asyncio.Future[None] = loop.create_future()
        self._held[place] = job.client.name
        self._by_client[job.client.name] += 1
        self._metrics.held.set(len(self._held))
        self._watch()
        try:
            async with asyncio.timeout_at(job.held_until_s):
                await place
        except TimeoutError as error:
            raise self._sent_away("hold_timeout", "no replica came in time") from error
        finally:
            self._held.pop(place, None)
            self._by_client[job.client.name] -= 1
            if not self._by_client[job.client.name]:
                del self._by_client[job.client.name]
            self._metrics.held.set(len(self._held))
        assert self._live.current is not None
        job.move(self._live.current)

    def send_away(self) -> None:
        """Refuses whoever waits and comes: this gateway ends, and another one may hold them."""
        self._is_ending = True
        for place in self._held:
            if not place.done():
                place.set_exception(_asleep("the gateway ends", 1))

    async def close(self) -> None:
        """Ends the look-out."""
        if self._look_out is not None:
            self._look_out.cancel()
            await asyncio.gather(self._look_out, return_exceptions=True)

    def _admit(self, hold: Hold, client: Client) -> None:
        if self._is_ending:
            raise _asleep("the gateway ends", 1)
        most, current = client.concurrency, self._live.current
        if most is not None and current is not None:
            most = part_of(most, current.table.gateways)
        if most is not None and self._by_client[client.name] >= most:
            self._metrics.refused.labels("concurrency").inc()
            text = f"the client has {most} requests waiting already"
            raise GatewayError(429, text, "concurrency_limit_exceeded", retry_after_s=1)
        if len(self._held) >= hold.requests:
            raise self._sent_away("hold", "as many requests wait for a replica as may")

    def _sent_away(self, reason: str, text: str) -> GatewayError:
        self._metrics.refused.labels(reason).inc()
        left_s = self._usual_s - (asyncio.get_running_loop().time() - self._began_s)
        return _asleep(text, min(_LONGEST_RETRY_S, max(1, math.ceil(left_s))))

    def _watch(self) -> None:
        if self._look_out is None or self._look_out.done():
            self._began_s = asyncio.get_running_loop().time()
            self._look_out = asyncio.create_task(self._until_awake(), name="wait for a replica")
            self._look_out.add_done_callback(_report)

    async def _until_awake(self) -> None:
        """Tells and looks until a replica answers or nobody waits any longer."""
        loop = asyncio.get_running_loop()
        telling = asyncio.create_task(self._keep_telling(), name="tell that requests wait")
        try:
            while self._held:
                if await self._is_awake():
                    self._usual_s = loop.time() - self._began_s
                    fields = {"held": len(self._held), "seconds": round(self._usual_s, 3)}
                    log.info("a replica answers", extra={"fields": fields})
                    self._release()
                    return
                await asyncio.sleep(_LOOK_S)
        finally:
            telling.cancel()

    async def _keep_telling(self) -> None:
        while self.tell is not None:
            current, pause_s = self._live.current, _TELL_S
            if current is not None:
                try:
                    await self.tell(current.table)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    pause_s, fields = _TELL_ANEW_S, {"reason": f"{type(error).__name__}: {error}"}
                    log.warning("the operator was not told", extra={"fields": fields})
            await asyncio.sleep(pause_s)

    async def _is_awake(self) -> bool:
        """Whether each stage that has replicas has some that answer, and one stage has."""
        current = self._live.current
        if current is None or self.is_well is None:
            return False
        stages = [stage for stage in current.table.stages if stage.every_replica]
        if not stages:
            return False
        return all(await asyncio.gather(*map(self._serves, stages)))

    async def _serves(self, stage: Stage) -> bool:
        """Whether a replica of both phases answers, or one of each."""
        phases = (stage.replicas, stage.prefill, stage.decode)
        both, prefill, decode = await asyncio.gather(*map(self._one_answers, phases))
        return both or (prefill and decode)

    async def _one_answers(self, replicas: Sequence[Replica]) -> bool:
        assert self.is_well is not None
        asked = [self.is_well(each.url) for each in replicas[:_LOOKED_AT]]
        return any(await asyncio.gather(*asked))

    def _release(self) -> None:
        for place in self._held:
            if not place.done():
                place.set_result(None)
        self._held.clear()


def has_replicas(table: RoutingTable) -> bool:
    """Whether any replica is planned."""
    return any(stage.every_replica for stage in table.stages)


def _asleep(text: str, retry_after_s: int) -> GatewayError:
    return GatewayError(503, f"nothing is running yet: {text}", "waking", None, retry_after_s)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("nobody looks out for replicas", exc_info=task.exception())
