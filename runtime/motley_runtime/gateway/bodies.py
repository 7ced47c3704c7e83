"""The body that a stage's engines are asked with: the client's, as those engines want it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_planner.dispatch import Stage
from motley_runtime.gateway.job import Job


def body_for(job: Job, stage: Stage) -> dict[str, Any]:
    """The client's body with the stage's model, or its adapter, and the request's priority."""
    model = stage.adapters.get(job.adapter, stage.model) if job.adapter else stage.model
    body = {**job.request.body, "model": model}
    return with_priority(body, stage, job.priority) if job.request.is_scored else body


def with_priority(body: Mapping[str, Any], stage: Stage, priority: int) -> dict[str, Any]:
    """A body with `priority`, for engines that order by it: others refuse it, or any but 0.

    There a client's own value is replaced, for it would let everybody go first.
    """
    if not stage.priority:
        return dict(body)
    return {**body, "priority": -priority if stage.priority == "lowFirst" else priority}
