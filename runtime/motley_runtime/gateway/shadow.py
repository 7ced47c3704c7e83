"""A second look at some early answers, after they were sent: no client waits for it.

A share of what stages before the last return is labelled, at most so many a minute and two at a
time; while requests wait, or the gateway drains, none is. Labels go to the store, the metrics and the
alarm; prompt and answer are dropped with the task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motley_planner.dispatch import ShadowRule
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.comparing import key_of
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.estimators import estimator_of, passed_share
from motley_runtime.gateway.hard_failures import hard_failure
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.labels import Label, Labels, now_s
from motley_runtime.gateway.openai_api import CHAT
from motley_runtime.gateway.quality_metrics import QualityMetrics
from motley_runtime.gateway.side_calls import SideCall, ask_stage
from motley_runtime.gateway.verdicts import verified, verify_body
from motley_runtime.gateway.watching import Watch

log = logging.getLogger("motley.gateway")

_AT_ONCE = 2
_LATE_S = 3600.0  # behind every request in the order of urgency
_WHOLE = ("stream", "stream_options")


@dataclass(slots=True)
class _Seen:
    """What is to be labelled."""

    job: Job
    stage: str
    score: float
    answer: dict[str, Any]
    rule: ShadowRule


class Shadow:
    """Labels early answers of one gateway."""

    def __init__(
        self,
        caller: Caller,
        watch: Watch,
        labels: Labels,
        is_busy: Callable[[], bool],
        metrics: QualityMetrics,
    ) -> None:
        self._caller, self._watch, self._labels = caller, watch, labels
        self._is_busy, self._metrics = is_busy, metrics
        self.commands_dir: Path | None = None
        self.uniform: Callable[[], float] = random.random
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens, self._tokens_at_s = 1.0, time.monotonic()

    def returned(self, job: Job, stage: str, answer: dict[str, Any]) -> None:
        """Perhaps labels an answer that a stage before the last gave and the client has."""
        watch = job.dispatcher.table.watch
        rule = watch.shadow if watch is not None else None
        if rule is None or job.score is None or self.uniform() >= rule.share:
            return
        skipped = self._why_not(rule)
        if skipped is not None:
            self._metrics.shadow_skipped.labels(skipped).inc()
            return
        seen = _Seen(job, stage, job.score, answer, rule)
        task = asyncio.create_task(self._label(seen))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Gives up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _why_not(self, rule: ShadowRule) -> str | None:
        if self._is_busy():
            return "busy"
        if len(self._tasks) >= _AT_ONCE:
            return "concurrency"
        now = time.monotonic()
        earned = (now - self._tokens_at_s) * rule.per_minute / 60.0
        self._tokens = min(max(1.0, rule.per_minute / 60.0), self._tokens + earned)
        self._tokens_at_s = now
        if self._tokens < 1.0:
            return "rate"
        self._tokens -= 1.0
        return None

    async def _label(self, seen: _Seen) -> None:
        try:
            agrees = await self._agrees(seen)
        except (GatewayError, UpstreamError):
            agrees = None
        except Exception:
            log.exception("label failed", extra={"fields": {"stage": seen.stage}})
            agrees = None
        if agrees is None:
            self._metrics.shadow_skipped.labels("failed").inc()
            return
        plan = seen.job.dispatcher.table.plan_hash
        score = round(seen.score, 6)
        self._labels.add(Label(seen.stage, score, agrees, seen.rule.label, plan, now_s()))
        self._watch.labelled(seen.job, seen.stage, agrees)

    async def _agrees(self, seen: _Seen) -> bool | None:
        """Whether an answer is right as far as the rule can tell; None where it cannot."""
        job, rule, table = seen.job, seen.rule, seen.job.dispatcher.table
        if rule.label == "Validator":
            graders = estimator_of(table.estimator, self.commands_dir).graders
            return await passed_share(graders, seen.answer) >= 1.0 if graders else None
        last, call = table.stages[-1].name, _call(job)
        if rule.label == "Verdict":
            body = verify_body(job.request, seen.answer)
            verdict = await ask_stage(self._caller, call, last, CHAT, body)
            chance = None if verdict is None else verified(verdict)
            return None if chance is None else chance >= 0.5
        body = {key: value for key, value in job.request.body.items() if key not in _WHOLE}
        other = await ask_stage(self._caller, call, last, job.request.path, body)
        if other is None or hard_failure(job.request, other) is not None:
            return None
        wanted = key_of(other, rule.compare)
        return None if wanted is None else key_of(seen.answer, rule.compare) == wanted


def _call(job: Job) -> SideCall:
    return SideCall(
        request=job.request,
        request_id=f"{job.request_id[:120]}-shadow",
        dispatcher=job.dispatcher,
        class_name=job.class_name,
        trust_zones=job.trust_zones,
        start_by_s=asyncio.get_running_loop().time() + _LATE_S,
        prompt_key=job.prompt_key,
    )
