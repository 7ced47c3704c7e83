"""What one call of a stage with pairs has tried, where it goes next, and the places it holds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from motley_planner.dispatch import Stage, Ticket, Way
from motley_runtime.gateway.credits import Credits
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.handshakes import is_pairable
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.tries import CallContext, exhausted, outside


class NoneLeft(Exception):
    """A way without a replica that was not tried."""


class LegError(UpstreamError):
    """A failure, with the place of the leg whose it is."""

    def __init__(self, error: UpstreamError, ticket: Ticket) -> None:
        super().__init__(error.kind, str(error))
        self.ticket = ticket


class PairTries:
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
            raise NoneLeft
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
            if isinstance(error, LegError) and error.ticket is not ticket:
                raise
            outcome = error.kind
            self._failed(ticket, error)
            raise LegError(error, ticket) from error
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
