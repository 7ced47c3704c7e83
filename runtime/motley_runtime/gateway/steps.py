"""Workflows at the gateway: headers in, the order of urgency out.

`x-motley-workflow-id` joins calls to a workflow of their client, `x-motley-step` and
`x-motley-workflow-class` say what a call does, and `x-motley-deadline-ms` what is left of the whole
workflow's time. The call's part of it becomes its own deadline. A call without these headers is a
workflow of one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from motley_planner.dispatch.urgency import latest_start_s
from motley_planner.dispatch.workflows import StepCall, Workflows
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.metrics import Metrics

_CHARACTERS = 128
_USUAL_S = 60.0  # a deadline for order's sake where nobody states one: first come, first served


class Steps:
    """What one gateway knows of workflows."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.book = Workflows(slo_s=_USUAL_S, on_end=self._workflow_ended)

    def arrived(self, job: Job, headers: Mapping[bytes, bytes]) -> None:
        """Gives a job its place in the order, and of a workflow's deadline its part."""
        now_s = asyncio.get_running_loop().time()
        name = _text(headers.get(b"x-motley-workflow-id"))
        if not name:
            due_s = job.deadline_s if job.deadline_s is not None else now_s + _USUAL_S
            job.start_by_s = due_s
            return
        stated = job.deadline_s if b"x-motley-deadline-ms" in headers else None
        job.step = StepCall(
            workflow=f"{job.client.name}/{name}",
            step=_text(headers.get(b"x-motley-step")) or job.class_name,
            kind=_text(headers.get(b"x-motley-workflow-class")),
            deadline_s=stated,
        )
        due_s = self.book.due_s(job.step, now_s)
        job.start_by_s = latest_start_s(due_s, self.book.seconds(job.step))
        if stated is not None:
            job.deadline_s = due_s
        job.due_s = due_s

    def ended(self, job: Job, seconds: float, is_answered: bool) -> None:
        """Learns from a call's end, and counts whether its step was in time."""
        if job.step is None:
            return
        now_s = asyncio.get_running_loop().time()
        if is_answered:
            self.book.answered(job.step, seconds, now_s)
        outcome = "failed" if not is_answered else "in_time" if now_s <= job.due_s else "late"
        self._metrics.steps.labels(outcome).inc()
        if outcome == "late":
            cause = _cause(job, now_s - job.due_s)
            self._metrics.late_steps.labels(cause).inc()

    def _workflow_ended(self, seconds: float, in_time: bool | None) -> None:
        outcome = {None: "no_deadline", True: "in_time", False: "late"}[in_time]
        self._metrics.workflow_s.labels(outcome).observe(seconds)


def _cause(job: Job, late_s: float) -> str:
    """Why a call was late; the wait for a turn goes first, for more room would have been enough."""
    if late_s <= job.queued_s:
        return "queue"
    return "escalation" if len(job.visits) > 1 else "execution"


def _text(given: bytes | None) -> str:
    return given.decode("latin-1")[:_CHARACTERS] if given else ""
