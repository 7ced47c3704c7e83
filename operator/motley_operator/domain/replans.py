"""What a new plan changes of one resource, and at which tier: the cheapest that it needs.

T0  routing only: no pod is touched, and it costs nothing
T1  nothing that runs is stopped: pods are added, in place of lost ones or beside what runs, or replicas
    change their role, which loads no weights and costs nothing
T2  survivors are stopped: moved, rebuilt, or no longer needed

Each costs what its starts and stops do: GPU time that loads weights, and work that is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from motley_planner.domain.plan import Plan, Slice

# Reasons of a change that replaces what was lost; `causes` of Suspicions but for what is only about to go.
LOSSES = frozenset(("CannotStart", "Crashed", "NodeLost", "Rejected", "ReplicaLost"))


class Tier(StrEnum):
    """How deep a change goes."""

    ROUTING = "T0"
    REPAIR = "T1"
    MOVE = "T2"


@dataclass(frozen=True, slots=True)
class Shown:
    """The plan that a status shows: the hash of its slice, and how many replicas it has."""

    hash: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Replan:
    """A changed slice of the plan, in short."""

    tier: Tier
    reason: str
    started: int
    stopped: int
    kept: int
    cost_usd: float = 0.0  # once, predicted
    flipped: int = 0  # of those that are kept: they prefill where they decoded, or the other way

    @property
    def counts(self) -> str:
        """What happens to replicas, in words."""
        flips = f", {self.flipped} change role" if self.flipped else ""
        return f"{self.started} replicas start, {self.stopped} stop, {self.kept} stay{flips}"

    @property
    def cost(self) -> str:
        """What it costs, in words."""
        if not self.started and not self.stopped:
            return "at no cost"
        return f"at {self.cost_usd:.2f} $ of GPU time once (predicted)"


def replan_of(part: Slice, plan: Plan, cause: str) -> Replan:
    """The change that a slice is; `cause` says why replicas of it are lost, if they are."""
    moves = [move for move in plan.moves if move.key == part.key]
    started = sum(move.action == "start" for move in moves)
    stopped = sum(move.action == "stop" for move in moves)
    flipped = sum(move.action == "flip" for move in moves)
    kept = sum(replica.kept is not None for replica in part.replicas)
    reasons = Counter(move.reason for move in moves)
    reason = reasons.most_common(1)[0][0] if reasons else "Rebalanced"
    if cause and not stopped:
        reason = cause
    adds = started or flipped or cause
    tier = Tier.MOVE if stopped else Tier.REPAIR if adds else Tier.ROUTING
    cost_usd = sum(move.cost_usd for move in moves)
    return Replan(tier, reason, started, stopped, kept, cost_usd, flipped)


def is_replan(part: Slice, plan: Plan, shown: Shown | None) -> bool:
    """Whether a slice changes the plan that its status shows: without a replica before and after, it does not."""
    if shown is not None and shown.hash == part.hash:
        return False
    had = shown is not None and shown.replicas > 0
    return had or bool(part.replicas) or any(move.key == part.key for move in plan.moves)


def replans(
    plan: Plan, before: Mapping[str, Shown], causes: Mapping[str, str]
) -> tuple[Replan, ...]:
    """The changes that a plan is, beside the plans that statuses show, by key."""
    return tuple(
        replan_of(part, plan, causes.get(part.key, ""))
        for part in plan.slices
        if is_replan(part, plan, before.get(part.key))
    )
