"""Calls to stages beside a request's own answer: samples, verdicts, labels, canaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from motley_planner.dispatch import Dispatcher, Stage
from motley_runtime.gateway.bodies import with_priority
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.prefixes import PromptKey
from motley_runtime.gateway.relay import decoded
from motley_runtime.gateway.tracing import NO_TRACE, Trace
from motley_runtime.gateway.tries import CallContext

LEAST_PRIORITY = -1000  # of calls that no client waits for


@dataclass(frozen=True, slots=True)
class SideCall:
    """What such a call says of itself on its way to a replica."""

    request: ParsedRequest
    request_id: str
    dispatcher: Dispatcher
    class_name: str
    trust_zones: frozenset[str] | None = None
    start_by_s: float = 0.0
    prompt_key: PromptKey | None = None
    priority: int = LEAST_PRIORITY
    adapter: str = ""
    trace: Trace = NO_TRACE


async def ask_stage(
    caller: Caller, job: CallContext, stage: str, path: str, body: dict[str, Any]
) -> dict[str, Any] | None:
    """A stage's decoded answer to a body; None where it has no choices. Raises: GatewayError."""
    target = stage_named(job.dispatcher, stage)
    raw = orjson.dumps(with_priority({**body, "model": target.model}, target, job.priority))
    context = job if path == job.request.path else beside(job, path, body)
    return decoded(await caller.fetch(context, target, raw))


def beside(job: CallContext, path: str, body: dict[str, Any]) -> SideCall:
    """A call for the same client and class with another body."""
    return SideCall(
        request=ParsedRequest(path, body, False, False, None),
        request_id=job.request_id,
        dispatcher=job.dispatcher,
        class_name=job.class_name,
        trust_zones=job.trust_zones,
        start_by_s=job.start_by_s,
        prompt_key=job.prompt_key,
        priority=job.priority,
        trace=job.trace,
    )


def stage_named(dispatcher: Dispatcher, name: str) -> Stage:
    """A stage of a dispatcher's table by its name."""
    for stage in dispatcher.table.stages:
        if stage.name == name:
            return stage
    raise LookupError(f"no stage {name!r}")
