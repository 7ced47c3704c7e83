"""One request on its way through the stages, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from motley_planner.dispatch import BranchRule, Dispatcher, Policy
from motley_planner.dispatch.workflows import StepCall
from motley_runtime.gateway.clients import ANYBODY, Client
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.prefixes import PromptKey
from motley_runtime.gateway.tracing import NO_TRACE, Trace


@dataclass(slots=True)
class Job:
    """A request, what was decided about it on arrival, and what the stages made of it.

    `deadline_s` is on the event loop's clock. `best` is the answer of the latest stage that gave
    one below its threshold, `spent` the usage of all answers so far, `discarded` their tokens.
    `branches` are rules by stage where the request asks for some, `branched` how many were started,
    completed and pruned.
    `step` is the call's place in a workflow, done by `due_s`; `start_by_s` orders those that wait.
    `adapter` is the LoRA adapter that the client named as its model. `held_until_s` is how long it may wait for a replica, once it has had to.
    `queued_s` is how long it waited for its turn.
    """

    request: ParsedRequest
    request_id: str
    dispatcher: Dispatcher
    class_name: str
    policy: Policy | None
    client: Client = ANYBODY
    priority: int = 0
    trust_zones: frozenset[str] | None = None
    prompt_key: PromptKey | None = None
    deadline_s: float | None = None
    is_optimistic: bool = False
    adapter: str = ""
    trace: Trace = NO_TRACE
    stage: str = ""
    score: float | None = None
    visits: list[str] = field(default_factory=list)
    spent: Mapping[str, Any] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    best_stage: str = ""
    discarded: list[tuple[str, int]] = field(default_factory=list)
    first_bytes_s: float | None = None
    branches: Mapping[str, BranchRule] | None = None
    branched: tuple[int, int, int] | None = None
    step: StepCall | None = None
    due_s: float = 0.0
    start_by_s: float = 0.0
    held_until_s: float | None = None
    queued_s: float = 0.0

    def move(self, dispatcher: Dispatcher) -> None:
        """Goes on with another table, as if nothing had been tried."""
        names = [each.name for each in dispatcher.table.classes]
        self.dispatcher, self.policy, self.stage = dispatcher, None, ""
        self.class_name = self.class_name if self.class_name in names else names[0]
        self.score, self.best, self.best_stage = None, None, ""
        self.visits.clear()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that tell a client how its answer came about."""
        found = [
            (b"x-motley-stage", self.stage.encode()),
            (b"x-motley-path", ",".join(self.visits).encode()),
        ]
        if self.score is not None:
            found.append((b"x-motley-score", f"{self.score:.4f}".encode()))
        if self.branched is not None:
            found.append((b"x-motley-branches", "/".join(map(str, self.branched)).encode()))
        return found
