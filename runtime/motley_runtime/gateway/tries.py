"""Which replicas one call has tried, and what it says when none of them has answered."""

from __future__ import annotations

import time
from typing import Protocol

from motley_planner.dispatch import Dispatcher, Stage, Ticket
from motley_runtime.gateway.errors import GatewayError, NothingThere, UpstreamError
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.prefixes import PromptKey
from motley_runtime.gateway.tracing import Trace
from motley_runtime.gateway.upstream import Call


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
    def start_by_s(self) -> float: ...
    @property
    def priority(self) -> int: ...
    @property
    def adapter(self) -> str: ...
    @property
    def trace(self) -> Trace: ...
    @property
    def prompt_key(self) -> PromptKey | None: ...


class Tries:
    """The replicas one call has tried; `only` names the one that it may use."""

    def __init__(
        self, job: CallContext, stage: Stage, metrics: Metrics, only: str | None = None
    ) -> None:
        self._job, self._stage, self._metrics = job, stage, metrics
        self._barred = outside(stage, job.trust_zones)
        if only is not None:
            self._barred |= {r.name for r in stage.every_replica if r.name != only}
        self.replica: str | None = None  # the one asked last
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
        self.replica = ticket.replica.name if ticket is not None else None
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
        if error.kind == "adapter":
            self._job.dispatcher.cancel(ticket)  # it is well, for others
        else:
            self._job.dispatcher.fail(ticket, time.monotonic())
        self._metrics.upstream_failures.labels(self._stage.name, error.kind).inc()

    def exhausted(self) -> GatewayError:
        """The error of a call that no replica answered."""
        return exhausted(self._job, self._stage, self._last, bool(self._barred))


def exhausted(
    job: CallContext, stage: Stage, last: UpstreamError | None, is_barred: bool
) -> GatewayError:
    """The error of a call that no replica answered; `last` is how the last one failed."""
    name = stage.name
    if last is None:
        where = " in the client's trust zones" if is_barred else ""
        message = f"no replica of stage {name!r}{where} serves class {job.class_name!r}"
        return GatewayError(503, message, "no_replica", retry_after_s=5)
    if last.kind == "busy":
        message = f"every replica of stage {name!r} is busy"
        return GatewayError(503, message, "overloaded", retry_after_s=1)
    if last.kind == "adapter":
        message = f"no replica of stage {name!r} has loaded the adapter yet"
        return GatewayError(503, message, "adapter_not_loaded", retry_after_s=5)
    if last.kind == "timeout":
        message = f"no replica of stage {name!r} answered in time"
        return GatewayError(504, message, "upstream_timeout")
    message = f"no replica of stage {name!r} answered: {last.kind}"
    if last.kind == "connect":
        return NothingThere(502, message, "upstream_failed")
    return GatewayError(502, message, "upstream_failed")


def outside(stage: Stage, zones: frozenset[str] | None) -> frozenset[str]:
    """Replicas that a request may not reach: a zone that is not known is not trusted."""
    if zones is None:
        return frozenset()
    return frozenset(r.name for r in stage.every_replica if r.trust_zone not in zones)


def call_of(job: CallContext, ticket: Ticket, body: bytes) -> Call:
    """The POST of a request to the replica of a ticket."""
    url = ticket.replica.url + job.request.path
    return Call(url, body, job.request_id, job.trace.headers())
