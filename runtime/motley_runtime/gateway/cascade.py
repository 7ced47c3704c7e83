"""Runs one request through the stages of its plan.

Stages are tried in order. A stage before the last is asked for its whole answer with
log-probabilities; the answer is returned if its score reaches the policy's threshold for that
stage and nothing is plainly wrong with it, and discarded otherwise. A stage that cannot answer at
all is passed over: quality only goes up. A threshold above 1 cannot be reached, so such a stage is
not called. The last stage's answer is relayed as it comes, byte for byte, and is never scored.

With a deadline a request goes on to the next stage only if that is expected to answer in time;
else the best answer so far is returned. Without one it is not: the floor is a promise.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from motley_planner.dispatch import BranchRule, Stage, accepts
from motley_runtime.gateway.answers import GARBLED, garbled
from motley_runtime.gateway.bodies import body_for
from motley_runtime.gateway.branch_requests import rule_of
from motley_runtime.gateway.branches import Branches
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.estimators import Ask, Estimate, Estimator, estimator_of
from motley_runtime.gateway.exchange import Reply
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import add_usage, usage_of
from motley_runtime.gateway.optimistic import OptimisticStream, with_stream_logprobs
from motley_runtime.gateway.relay import (
    completion_tokens,
    finish_stream,
    relay_stream,
    send_last,
    send_raw,
    send_written,
    written,
)
from motley_runtime.gateway.scoring import MAX_SCORE, score_by
from motley_runtime.gateway.shadow import Shadow
from motley_runtime.gateway.side_calls import ask_stage
from motley_runtime.gateway.upstream import Answer
from motley_runtime.gateway.watching import Watch

_EVENT_STREAM = b"text/event-stream; charset=utf-8"


class _Escalated(Exception):
    """A stream that is given up before anything of it was sent."""


class Cascade:
    """The executor shared by all requests."""

    def __init__(
        self,
        caller: Caller,
        metrics: Metrics,
        branches: Branches,
        optimistic_tokens: int = 32,
        commands_dir: Path | None = None,
    ) -> None:
        self._caller, self._metrics, self._branches = caller, metrics, branches
        self._optimistic_tokens, self._commands_dir = optimistic_tokens, commands_dir
        self._estimator: Estimator | None = None  # the last one used: a rule's hash costs more
        self.watch: Watch | None = None
        self.shadow: Shadow | None = None

    async def run(self, job: Job, reply: Reply) -> None:
        """Answers one request. Raises: GatewayError where nothing has been sent yet."""
        try:
            await self._through_stages(job, reply)
        finally:
            for stage, tokens in job.discarded:
                self._metrics.discarded_tokens.labels(stage).inc(tokens)

    async def _through_stages(self, job: Job, reply: Reply) -> None:
        *earlier, last = job.dispatcher.table.stages
        for stage in earlier if job.request.is_scored else ():
            threshold = job.policy.thresholds[stage.name] if job.policy else 0.0
            if threshold > MAX_SCORE:
                continue
            if not self._is_time_for(job, stage):
                await self._return_best(job, reply)
                return
            if await self._answered(job, stage, threshold, reply):
                return
        if not self._is_time_for(job, last):
            await self._return_best(job, reply)
            return
        if job.deadline_s is None or job.best is None:
            await self._last(job, last, reply)
            return
        try:
            async with asyncio.timeout_at(job.deadline_s) as limit:
                await self._last(job, last, reply, limit)
        except TimeoutError:
            job.visits[-1] = f"{last.name}:late"
            await self._return_best(job, reply)

    async def _last(
        self, job: Job, last: Stage, reply: Reply, limit: asyncio.Timeout | None = None
    ) -> None:
        """Asks the last stage; `limit` ends where its answer begins."""
        job.stage = last.name
        job.visits.append(last.name)
        rule = rule_of(job, last)
        if rule is not None:
            await self._branched(job, last, rule, reply, limit)
            return
        body = orjson.dumps(body_for(job, last))
        if job.request.is_stream:
            async with self._caller.stream(job, last, body) as opened:
                if limit is not None:
                    limit.reschedule(None)
                await relay_stream(job, opened, reply)
        else:
            answer = await self._caller.fetch(job, last, body)
            if limit is not None:
                limit.reschedule(None)
            await send_raw(job, answer, reply)

    async def _branched(
        self, job: Job, last: Stage, rule: BranchRule, reply: Reply, limit: asyncio.Timeout | None
    ) -> None:
        answer = await self._branches.answer(job, last, rule)
        if limit is not None:
            limit.reschedule(None)
        if isinstance(answer, Answer):
            await send_raw(job, answer, reply)
            return
        job.spent = add_usage(job.spent, usage_of(answer))
        await send_last(job, answer, reply)

    def _is_time_for(self, job: Job, stage: Stage) -> bool:
        """Whether a stage may be asked; always, where there is nothing to return instead."""
        if job.deadline_s is None or job.best is None:
            return True
        left_s = job.deadline_s - asyncio.get_running_loop().time()
        return self._caller.latencies.allows(stage.name, job.class_name, left_s)

    async def _return_best(self, job: Job, reply: Reply) -> None:
        assert job.best is not None
        job.stage = job.best_stage
        job.visits.append("deadline")
        job.discarded = [each for each in job.discarded if each[0] != job.best_stage]
        self._metrics.early_returns.labels(job.stage).inc()
        await send_last(job, job.best, reply)

    async def _answered(self, job: Job, stage: Stage, threshold: float, reply: Reply) -> bool:
        """Whether a stage before the last has answered well enough, and if so its answer is sent."""
        try:
            if job.request.is_stream and _is_optimistic(job) and rule_of(job, stage) is None:
                return await self._streamed(job, stage, threshold, reply)
            answer = await self._asked(job, stage)
            if answer is not None:
                return await self._judged(job, stage, threshold, answer, reply)
        except _Escalated:
            return False
        except GatewayError:
            pass
        except UpstreamError:
            if reply.is_started:
                raise
        except TimeoutError:
            job.visits.append(f"{stage.name}:late")
            await self._return_best(job, reply)
            return True
        self._escalate(job, stage, "failed", "failure")
        return False

    async def _asked(self, job: Job, stage: Stage) -> Estimate | None:
        """A stage's answer. Raises: TimeoutError at the deadline, where another one is at hand."""
        table = job.dispatcher.table
        estimator = self._estimator
        if estimator is None or estimator.rule is not table.estimator:
            estimator = estimator_of(table.estimator, self._commands_dir)
            if estimator.rule is table.estimator:
                self._estimator = estimator
        fitted = table.calibrators.get(stage.name)
        judging = estimator.judged(
            job.request,
            stage.name,
            self._asking(job, stage),
            fitted.features if fitted is not None else (),
        )
        limit_s = None if job.best is None else job.deadline_s
        try:
            async with asyncio.timeout_at(limit_s):
                return await judging
        except GARBLED as error:
            raise self._garbled(stage, error) from error

    def _asking(self, job: Job, stage: Stage) -> Ask:
        """How an estimator asks: the stage's own answer may branch, samples and verdicts do not."""
        plain = partial(ask_stage, self._caller, job)
        rule = rule_of(job, stage)
        if rule is None or job.dispatcher.table.estimator.type == "SelfConsistency":
            return plain
        is_first = True

        async def ask(name: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal is_first
            if not is_first:
                return await plain(name, path, body)
            is_first = False
            found = await self._branches.answer(job, stage, rule, _logprobs(job, stage))
            return None if isinstance(found, Answer) else found

        return ask

    async def _judged(
        self, job: Job, stage: Stage, threshold: float, found: Estimate, reply: Reply
    ) -> bool:
        answer, wrong = found.answer, found.wrong
        try:
            job.spent = add_usage(job.spent, found.spent)
            score = None if wrong else score_by(job.dispatcher.table, stage.name, found.features)
        except GARBLED as error:
            raise self._garbled(stage, error) from error
        for called, tokens in found.extra:
            self._metrics.quality.estimator_calls.labels(called).inc()
            self._metrics.quality.estimator_tokens.labels(called).inc(tokens)
        if wrong is None:
            job.score = score
        if self.watch is not None and job.dispatcher.table.watch is not None:
            self.watch.scored(job, stage.name, None if wrong else job.score)
        if wrong is None and accepts(job.score, threshold):
            body = written(job, answer, stage.name)
            job.stage = stage.name
            job.visits.append(f"{stage.name}:{job.score:.4f}")
            await send_written(job, body, reply)
            if self.shadow is not None and job.dispatcher.table.watch is not None:
                self.shadow.returned(job, stage.name, answer)
            return True
        if wrong is None:
            shown = "unscored" if job.score is None else f"{job.score:.4f}"
            job.best, job.best_stage = answer, stage.name
            self._escalate(job, stage, shown, "score")
        else:
            self._escalate(job, stage, wrong, wrong)
        job.discarded.append((stage.name, completion_tokens(found.spent)))
        return False

    async def _streamed(self, job: Job, stage: Stage, threshold: float, reply: Reply) -> bool:
        body = with_stream_logprobs(body_for(job, stage), job.request.is_chat)
        async with AsyncExitStack() as stack:
            opening = self._caller.stream(job, stage, orjson.dumps(body))
            opened = await stack.enter_async_context(opening)
            stream = OptimisticStream(job.request, opened, job.spent)
            if opened.status != 200:
                self._escalate(job, stage, "failed", "failure")
                raise _Escalated
            held = await stream.hold(self._optimistic_tokens)
            table = job.dispatcher.table
            job.score = None if held is None else score_by(table, stage.name, stream.features())
            if not accepts(job.score, threshold):
                shown = "unscored" if job.score is None else f"{job.score:.4f}"
                self._escalate(job, stage, shown, "score")
                job.spent = add_usage(job.spent, {"completion_tokens": stream.tokens})
                job.discarded.append((stage.name, stream.tokens))
                raise _Escalated
            job.stage = stage.name
            job.visits.append(f"{stage.name}:{job.score:.4f}")
            await reply.start(200, _EVENT_STREAM, job.headers())
            job.first_bytes_s = time.monotonic()
            await finish_stream(stream.pieces(), reply)
        return True

    def _garbled(self, stage: Stage, error: Exception) -> UpstreamError:
        self._metrics.upstream_failures.labels(stage.name, "garbage").inc()
        return garbled(error, stage.name)

    def _escalate(self, job: Job, stage: Stage, shown: str, reason: str) -> None:
        job.visits.append(f"{stage.name}:{shown}")
        self._metrics.escalations.labels(stage.name, reason).inc()


def _is_optimistic(job: Job) -> bool:
    """Whether a beginning may be sent before the answer is whole: only tokens can be scored then."""
    return job.is_optimistic and job.dispatcher.table.estimator.type == "LogProb"


def _logprobs(job: Job, stage: Stage) -> int:
    """How many candidates of each token a stage's score is made from."""
    fitted = job.dispatcher.table.calibrators.get(stage.name)
    return 2 if fitted is not None and "margin" in fitted.features else 1
