"""Requests under way, and what is written down of each visit to a stage."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from motley_planner.dispatch import Policy, Ticket

NOT_YET = -1.0


class Job:
    """One request, and the visit it is on. Tokens are floats so that queues can be simulated too."""

    __slots__ = (
        "answered_s",
        "arrival_s",
        "class_index",
        "class_name",
        "context",
        "first_s",
        "hop",
        "is_let_in",
        "joined_at",
        "luck",
        "output",
        "policy",
        "prefilled",
        "prefix",
        "prompt",
        "remaining",
        "run",
        "server",
        "stage",
        "started_s",
        "ticket",
        "under_way",
    )

    def __init__(
        self, arrival_s: float, class_index: int, class_name: str, prompt: float, output: float
    ) -> None:
        self.arrival_s, self.class_index, self.class_name = arrival_s, class_index, class_name
        self.prompt, self.output = prompt, output
        self.policy: Policy | None = None
        self.luck = 0.0  # uniform on [0, 1): which row of an outcome table, or a coin's side
        self.prefix: int | None = None
        self.stage = 0
        self.answered_s = NOT_YET
        self.is_let_in = True
        self.under_way = 0  # others, when it was let in
        self.begin_visit(arrival_s)

    def begin_visit(self, now_s: float) -> None:
        """Starts a stage's answer from its prompt."""
        self.started_s = now_s
        self.first_s = NOT_YET
        self.hop = 0
        self.prefilled = False
        self.context = self.prompt
        self.remaining = self.output
        self.run = 0
        self.joined_at = 0
        self.server: object | None = None  # who works at it
        self.ticket: Ticket | None = None


@dataclass(slots=True)
class Visits:
    """Finished visits to stages, column by column; seconds."""

    stage: array[int] = field(default_factory=lambda: array("h"))
    class_index: array[int] = field(default_factory=lambda: array("h"))
    arrival_s: array[float] = field(default_factory=lambda: array("d"))
    ttft_s: array[float] = field(default_factory=lambda: array("d"))
    tpot_s: array[float] = field(default_factory=lambda: array("d"))  # NaN for one-token answers

    def add(self, job: Job, now_s: float) -> None:
        """Notes the visit that a job has just ended."""
        self.stage.append(job.stage)
        self.class_index.append(job.class_index)
        self.arrival_s.append(job.arrival_s)
        self.ttft_s.append(job.first_s - job.started_s)
        tokens = job.output - 1.0
        self.tpot_s.append((now_s - job.first_s) / tokens if tokens > 0 else float("nan"))
