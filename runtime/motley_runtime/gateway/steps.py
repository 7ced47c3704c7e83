"""Workflows at the gateway: headers in, the order of urgency out, and who is let in at all.

`x-motley-workflow-id` joins calls to a workflow of their client, `x-motley-step` and
`x-motley-workflow-class` say what a call does, and `x-motley-deadline-ms` what is left of the whole
workflow's time. The call's part of it becomes its own deadline. A call without these headers is a
workflow of one step.

Where the table says so, a workflow's first call is refused when it cannot be in time. Which call is the
first, `x-motley-workflow-call` says; without it the first one that is seen, where one gateway sees all.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from motley_planner.dispatch.admission import Gate
from motley_planner.dispatch.urgency import latest_start_s
from motley_planner.dispatch.workflows import Ended, StepCall, Workflows
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.metrics import Metrics

_CHARACTERS = 128
_USUAL_S = 60.0  # a deadline for order's sake where nobody states one: first come, first served
_BEGINS, _ENDS = ("first", "only"), ("last", "only")
_CALLS = ("first", "later", "last", "only")


class Steps:
    """What one gateway knows of workflows."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.book = Workflows(slo_s=_USUAL_S, on_end=self._workflow_ended)
        self.gate = Gate()
        metrics.workflows_at_work.set_function(lambda: self.book.at_work)

    def arrived(self, job: Job, headers: Mapping[bytes, bytes]) -> None:
        """Gives a job its place in the order, and of a workflow's deadline its part.

        Raises: GatewayError 429 for a workflow that is not let in; 400 for a header.
        """
        now_s = asyncio.get_running_loop().time()
        name = _text(headers.get(b"x-motley-workflow-id"))
        if not name:
            due_s = job.deadline_s if job.deadline_s is not None else now_s + _USUAL_S
            job.start_by_s = due_s
            return
        stated = job.deadline_s if b"x-motley-deadline-ms" in headers else None
        said = _said(headers.get(b"x-motley-workflow-call"))
        call = StepCall(
            workflow=f"{job.client.name}/{name}",
            step=_text(headers.get(b"x-motley-step")) or job.class_name,
            kind=_text(headers.get(b"x-motley-workflow-class")),
            deadline_s=stated,
            priority=job.priority,
            is_last=said in _ENDS,
        )
        table = job.dispatcher.table
        self.book.gateways = table.gateways
        self.book.forget(now_s)
        if table.workflows.admission == "deadline" and not self.book.is_known(call.workflow):
            self._admit(call, said, now_s)
        job.step = call
        due_s = self.book.due_s(call, now_s)
        job.start_by_s = latest_start_s(due_s, self.book.seconds(call))
        if stated is not None:
            job.deadline_s = due_s
        job.due_s = due_s

    def _admit(self, call: StepCall, said: str, now_s: float) -> None:
        """Lets a workflow in that is not known here, or raises 429.

        It is judged only where this is its first call for sure, it has a deadline, and enough of its
        kind have ended.
        """
        book, gate = self.book, self.gate
        is_first = said in _BEGINS
        if not said:
            is_first = book.is_sure(now_s) and book.gateways == 1
        if not is_first or call.deadline_s is None:
            self._metrics.workflows.labels("unjudged").inc()
            return
        pause_s = gate.stands(call.workflow, now_s)
        if pause_s is None:
            was_judged = gate.is_judged(call.kind)
            under_way, slo_s = book.under_way(call.priority), call.deadline_s - now_s
            pause_s = gate.refuses(call.workflow, call.kind, under_way, slo_s, now_s)
            decision = "refused" if pause_s is not None else "admitted"
            self._metrics.workflows.labels(decision if was_judged else "unjudged").inc()
        if pause_s is None:
            return
        self._metrics.refused.labels("workflow").inc()
        text = "the workflow cannot be done by its deadline: too much is under way"
        raise GatewayError(
            429, text, "workflow_not_admitted", retry_after_s=max(1, math.ceil(pause_s))
        )

    def ended(self, job: Job, seconds: float, is_answered: bool) -> None:
        """Learns from a call's end, and counts whether its step was in time."""
        if job.step is None:
            return
        now_s = asyncio.get_running_loop().time()
        if is_answered:
            self.book.answered(job.step, seconds, now_s)
        self.book.left(job.step, now_s, is_answered)
        outcome = "failed" if not is_answered else "in_time" if now_s <= job.due_s else "late"
        self._metrics.steps.labels(outcome).inc()
        if outcome == "late":
            cause = _cause(job, now_s - job.due_s)
            self._metrics.late_steps.labels(cause).inc()

    def _workflow_ended(self, end: Ended) -> None:
        self.gate.ended(end)
        if end.seconds is not None:
            outcome = {None: "no_deadline", True: "in_time", False: "late"}[end.in_time]
            self._metrics.workflow_s.labels(outcome).observe(end.seconds)


def _cause(job: Job, late_s: float) -> str:
    """Why a call was late; the wait for a turn goes first, for more room would have been enough."""
    if late_s <= job.queued_s:
        return "queue"
    return "escalation" if len(job.visits) > 1 else "execution"


def _said(given: bytes | None) -> str:
    """What a call says it is in its workflow; empty where it says nothing. Raises: GatewayError 400."""
    if given is None:
        return ""
    said = given.decode("latin-1")
    if said not in _CALLS:
        text = f"x-motley-workflow-call must be one of {', '.join(_CALLS)}"
        raise GatewayError(400, text, "invalid_header", "x-motley-workflow-call")
    return said


def _text(given: bytes | None) -> str:
    return given.decode("latin-1")[:_CHARACTERS] if given else ""
