"""Whose request is at work, who waits, and who is sent away.

Three limits, in this order. A client's rate is a token bucket; its concurrency a count; both are
refused with 429. The gateway's own limit on requests at work makes the rest wait: highest priority
first, and within a priority by start-time fair queueing, so that each client gets room in
proportion to its weight however much it asks for. Where the queue is full the last in that order
is shed, be it waiting or arriving.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from motley_runtime.gateway.clients import Client, part_of
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.options import Sharing

_Order = tuple[int, float, int]  # minus priority, start tag, arrival


class _Tenant:
    __slots__ = ("at_work", "finish_tag", "tokens", "tokens_at_s")

    def __init__(self) -> None:
        self.at_work = 0
        self.finish_tag = 0.0
        self.tokens = math.inf
        self.tokens_at_s = 0.0


class FairShare:
    """The gateway's door. One event loop, not thread-safe.

    A client's limits are shared by `gateways` processes, which know nothing of each other: each has
    an equal part, at least 1 request.
    """

    def __init__(
        self, sharing: Sharing, metrics: Metrics, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._sharing, self._metrics, self._now_s = sharing, metrics, now_s
        self._tenants: dict[str, _Tenant] = {}
        self._waiting: dict[_Order, asyncio.Future[None]] = {}
        self._first: list[_Order] = []
        self._last: list[_Order] = []
        self._arrivals = 0
        self._virtual = 0.0
        self.at_work = 0
        self.gateways = 1

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def charge(self, client: Client) -> None:
        """Takes a request off a client's rate. Raises: GatewayError 429."""
        rate = client.requests_per_minute
        if rate is None:
            return
        tenant, now_s = self._tenant(client), self._now_s()
        rate /= self.gateways
        burst = rate / 60.0 if client.burst is None else client.burst / self.gateways
        burst = max(1.0, burst)
        earned = (now_s - tenant.tokens_at_s) * rate / 60.0
        tenant.tokens = min(burst, tenant.tokens + earned)
        tenant.tokens_at_s = now_s
        if tenant.tokens < 1.0:
            pause_s = (1.0 - tenant.tokens) * 60.0 / rate
            self._refused("rate")
            text = f"the client's rate of {rate:g} requests a minute{self._here()} is used up"
            raise GatewayError(429, text, "rate_limit_exceeded", retry_after_s=math.ceil(pause_s))
        tenant.tokens -= 1.0

    @asynccontextmanager
    async def place(self, client: Client, priority: int, places: int = 1) -> AsyncIterator[None]:
        """A place at work, held while entered. Raises: GatewayError 429 or 503.

        A request of several branches holds as many places; its turn comes when one is free.
        """
        tenant = self._tenant(client)
        if not self._is_within(client, tenant.at_work, places):
            self._refused("concurrency")
            most = part_of(client.concurrency or 1, self.gateways)
            text = f"the client has {tenant.at_work} of {most} requests{self._here()} at work"
            text += f" and this one counts {places}" if places > 1 else " already"
            raise GatewayError(429, text, "concurrency_limit_exceeded", retry_after_s=1)
        tenant.at_work += places
        try:
            if self.at_work >= self._sharing.in_flight or self._waiting:
                await self._turn(tenant, client.weight / places, priority)
            else:
                self.at_work += 1
            self.at_work += places - 1
            try:
                yield
            finally:
                self.at_work -= places
                self._next()
        finally:
            tenant.at_work -= places

    def _is_within(self, client: Client, at_work: int, places: int) -> bool:
        """Whether a client's concurrency has so many places more.

        A request of several branches that its part at one gateway never has is let in alone.
        """
        most = client.concurrency
        if most is None or at_work + places <= part_of(most, self.gateways):
            return True
        return at_work == 0 and places <= most

    def _here(self) -> str:
        return f" (its part at one of {self.gateways} gateways)" if self.gateways > 1 else ""

    async def _turn(self, tenant: _Tenant, weight: float, priority: int) -> None:
        """Waits for a place, which is taken when this returns."""
        self._arrivals += 1
        start = max(self._virtual, tenant.finish_tag)
        order = (-priority, start, self._arrivals)
        if len(self._waiting) >= self._sharing.waiting:
            self._make_room(order)
        tenant.finish_tag = start + 1.0 / weight
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[order] = turn
        heapq.heappush(self._first, order)
        heapq.heappush(self._last, (-order[0], -order[1], -order[2]))
        self._metrics.waiting.set(len(self._waiting))
        self._next()
        try:
            async with asyncio.timeout(self._sharing.wait_s):
                await turn
        except TimeoutError as error:
            self._decline(turn)
            self._refused("timeout")
            raise _overloaded() from error
        except asyncio.CancelledError:
            self._decline(turn)
            raise
        finally:
            self._waiting.pop(order, None)
            self._metrics.waiting.set(len(self._waiting))

    def _decline(self, turn: asyncio.Future[None]) -> None:
        """Gives a place back that came in the same moment as the end of the wait."""
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.at_work -= 1
            self._next()

    def _next(self) -> None:
        """Gives free places to those whose turn it is."""
        while self.at_work < self._sharing.in_flight and self._first:
            order = heapq.heappop(self._first)
            turn = self._waiting.pop(order, None)
            if turn is None or turn.done():
                continue
            self._virtual = max(self._virtual, order[1])
            self.at_work += 1
            turn.set_result(None)
        if not self._waiting:
            self._first.clear()
            self._last.clear()

    def _make_room(self, newcomer: _Order) -> None:
        """Sheds who is last in order. Raises: GatewayError 503 where that is the newcomer."""
        while self._last:
            a, b, c = self._last[0]
            worst = (-a, -b, -c)
            turn = self._waiting.get(worst)
            if turn is None or turn.done():
                heapq.heappop(self._last)
                continue
            if worst <= newcomer:
                break
            heapq.heappop(self._last)
            self._refused("shed")
            self._waiting.pop(worst)
            turn.set_exception(_overloaded())
            return
        self._refused("shed")
        raise _overloaded()

    def _tenant(self, client: Client) -> _Tenant:
        known = self._tenants.get(client.name)
        if known is None:
            known = self._tenants[client.name] = _Tenant()
        return known

    def _refused(self, reason: str) -> None:
        self._metrics.refused.labels(reason).inc()


def _overloaded() -> GatewayError:
    return GatewayError(503, "the gateway is overloaded", "overloaded", retry_after_s=1)
