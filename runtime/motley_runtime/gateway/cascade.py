"""Runs one request through the stages of its plan.

Stages are tried in order. A stage before the last is asked for its whole answer with
log-probabilities; the answer is returned if its score reaches the policy's threshold for that
stage and discarded otherwise. A stage that cannot answer at all is passed over: quality only
goes up. A threshold above 1 cannot be reached, so such a stage is not called. The last stage's
answer is relayed as it comes, byte for byte, and is never scored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from motley_planner.dispatch import Dispatcher, Policy, Stage, accepts
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.errors import GatewayError, UpstreamError, error_body
from motley_runtime.gateway.exchange import Reply
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import (
    ParsedRequest,
    UsageRewriter,
    add_usage,
    as_events,
    usage_of,
)
from motley_runtime.gateway.scoring import score, strip_logprobs, wants_logprobs, with_logprobs
from motley_runtime.gateway.upstream import Answer, OpenStream

_MAX_SCORE = 1.0  # of the LogProb estimator
_EVENT_STREAM = b"text/event-stream; charset=utf-8"


@dataclass(slots=True)
class Job:
    """One request on its way through the stages, and what became of it."""

    request: ParsedRequest
    request_id: str
    dispatcher: Dispatcher
    class_name: str
    policy: Policy | None
    stage: str = ""
    score: float | None = None
    visits: list[str] = field(default_factory=list)
    spent: Mapping[str, Any] = field(default_factory=dict)
    first_bytes_s: float | None = None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that tell a client how its answer came about."""
        found = [
            (b"x-motley-stage", self.stage.encode()),
            (b"x-motley-path", ",".join(self.visits).encode()),
        ]
        if self.score is not None:
            found.append((b"x-motley-score", f"{self.score:.4f}".encode()))
        return found


class Cascade:
    """The executor shared by all requests."""

    def __init__(self, caller: Caller, metrics: Metrics) -> None:
        self._caller, self._metrics = caller, metrics

    async def run(self, job: Job, reply: Reply) -> None:
        """Answers one request. Raises: GatewayError where nothing has been sent yet."""
        *earlier, last = job.dispatcher.table.stages
        for stage in earlier:
            threshold = job.policy.thresholds[stage.name] if job.policy else 0.0
            if threshold <= _MAX_SCORE and await self._answered(job, stage, threshold, reply):
                return
        job.stage = last.name
        job.visits.append(last.name)
        body = orjson.dumps({**job.request.body, "model": last.model})
        if job.request.is_stream:
            await self._relay(job, last, body, reply)
        else:
            await self._return(job, await self._caller.fetch(job, last, body), reply)

    async def _answered(self, job: Job, stage: Stage, threshold: float, reply: Reply) -> bool:
        """Whether a stage before the last has answered well enough, and if so its answer is sent."""
        body = with_logprobs({**job.request.body, "model": stage.model}, job.request.is_chat)
        try:
            raw = await self._caller.fetch(job, stage, orjson.dumps(body))
            answer = _decoded(raw)
        except GatewayError:
            answer = None
        if answer is None:
            job.visits.append(f"{stage.name}:failed")
            self._metrics.escalations.labels(stage.name, "failure").inc()
            return False
        job.score = score(answer)
        shown = "unscored" if job.score is None else f"{job.score:.4f}"
        job.visits.append(f"{stage.name}:{shown}")
        usage = usage_of(answer)
        if not accepts(job.score, threshold):
            self._metrics.escalations.labels(stage.name, "score").inc()
            wasted = usage.get("completion_tokens")
            if isinstance(wasted, int) and wasted > 0:
                self._metrics.discarded_tokens.labels(stage.name).inc(wasted)
            job.spent = add_usage(job.spent, usage)
            return False
        job.stage = stage.name
        answer["usage"] = add_usage(usage, job.spent)
        if not wants_logprobs(job.request.body):
            strip_logprobs(answer)
        await self._send(job, answer, reply)
        return True

    async def _send(self, job: Job, answer: dict[str, Any], reply: Reply) -> None:
        if not job.request.is_stream:
            await reply.whole(200, b"application/json", orjson.dumps(answer), job.headers())
            return
        await reply.start(200, _EVENT_STREAM, job.headers())
        job.first_bytes_s = time.monotonic()
        await reply.send(b"".join(as_events(answer, job.request)))
        await reply.end()

    async def _return(self, job: Job, raw: Answer, reply: Reply) -> None:
        content_type, body = raw.content_type.encode(), raw.body
        if job.spent and raw.status == 200:
            answer = _decoded(raw)
            if answer is not None:
                answer["usage"] = add_usage(usage_of(answer), job.spent)
                body = orjson.dumps(answer)
        await reply.whole(raw.status, content_type, body, job.headers())

    async def _relay(self, job: Job, stage: Stage, body: bytes, reply: Reply) -> None:
        async with self._caller.stream(job, stage, body) as opened:
            await reply.start(opened.status, opened.content_type.encode(), job.headers())
            job.first_bytes_s = time.monotonic()
            try:
                if job.spent and job.request.include_usage:
                    await _relay_with_usage(job, opened, reply)
                else:
                    await reply.send(opened.first)
                    async for chunk in opened.rest:
                        await reply.send(chunk)
            except UpstreamError as error:
                # The status is long sent; OpenAI's clients raise on an error event, and the
                # missing [DONE] tells everyone else.
                message = f"the replica stopped in mid-answer ({error.kind})"
                broken = error_body(502, message, "upstream_failed")
                await reply.send(b"\n\ndata: " + broken + b"\n\n")
                await reply.end()
                raise
            await reply.end()


async def _relay_with_usage(job: Job, opened: OpenStream, reply: Reply) -> None:
    rewriter = UsageRewriter(job.spent)
    await reply.send(rewriter.feed(opened.first))
    async for chunk in opened.rest:
        await reply.send(rewriter.feed(chunk))
    await reply.send(rewriter.rest())


def _decoded(raw: Answer) -> dict[str, Any] | None:
    if raw.status != 200:
        return None
    try:
        answer = orjson.loads(raw.body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        return None
    return answer if all(isinstance(choice, dict) for choice in answer["choices"]) else None
