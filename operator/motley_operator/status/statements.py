"""What is true of a resource, as statements; pure functions of the plan and what is observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motley_operator.demand import Settled
from motley_operator.domain.facts import PodFacts
from motley_operator.domain.names import TRAINER
from motley_operator.domain.suspects import Suspect
from motley_operator.domain.verdicts import Refused
from motley_operator.lifecycle import Phase
from motley_operator.status.checkpoints import checkpointing
from motley_operator.status.conditions import Statement
from motley_operator.status.observed import Observed, missing, planned_by_stage
from motley_operator.status.proposed import AWAITING, Preview, planned
from motley_operator.status.queues import queued
from motley_operator.status.refused import POD_REFUSED, refused_for_good, refused_for_now
from motley_operator.status.suspects import retried, suspected
from motley_operator.status.weights import weights_ready
from motley_planner.domain.plan import Refusal, Slice

HELD: Mapping[str, str] = {
    "Paused": "motley.dev/paused is true: what runs goes on, nothing is changed; take it off to go on",
    "PreviewHolds": "replan.mode is Preview: what runs goes on, new plans wait for approval",
    "ReplanDisabled": "replan.mode is Disabled: the plan is kept, lost replicas are replaced",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One resource and everything its conditions depend on."""

    kind: str
    part: Slice | None  # None: in no plan
    observed: Observed
    rejected: tuple[Refusal, ...] = ()
    ignored: tuple[str, ...] = ()  # fields that change nothing yet
    held: str = ""  # a key of HELD
    phase: str = ""  # jobs
    solved: bool = True  # False: the solver had no solution in time
    measured: Settled | None = None  # where demand is asked to be measured
    preview: Preview | None = None  # in Preview or Disabled
    suspects: tuple[Suspect, ...] = ()  # in force
    saving: tuple[PodFacts, ...] = ()  # trainers that save before they end
    now: float = 0.0  # Unix seconds
    refused: Sequence[Refused] = ()  # stages whose pods the API server does not take
    tried: frozenset[str] = frozenset()  # stages of which it is asked for the first time

    @property
    def waits(self) -> bool:
        """Whether nothing runs before somebody approves a plan."""
        waiting = self.preview is not None and self.preview.record is not None
        return waiting and not (self.part is not None and self.part.replicas)


def statements(case: Case) -> tuple[Statement, ...]:
    """All conditions that hold now; abnormal ones are there only while they are true."""
    ready = _ready(case)
    found = [_accepted(case), _planned(case), ready, *_measured(case), *suspected(case.suspects)]
    found += [*weights_ready(case.observed.weights), *queued(case.observed.engines)]
    has_trainer = TRAINER in planned_by_stage(case.part)
    found += checkpointing(case.saving, case.phase, has_trainer, case.now)
    stalled = _stalled(case)
    if stalled is not None:
        found.append(stalled)
    elif (waiting := _reconciling(case, ready)) is not None:
        found.append(waiting)
    return (*found, *_job(case))


def explained(refusals: Sequence[Refusal]) -> str:
    """Refusals in sentences: field, what is wrong, what would lift it."""
    return "; ".join(
        f"{r.field}: {r.message}" + (f" (lift: {r.lift})" if r.lift else "") for r in refusals
    )


def accepted_words(ignored: Sequence[str]) -> str:
    """What an accepted spec is told: also what of it changes nothing yet."""
    words = "the spec makes sense"
    return f"{words}; not acted on yet: {', '.join(ignored)}" if ignored else words


def _accepted(case: Case) -> Statement:
    if case.rejected:
        return Statement("Accepted", "False", case.rejected[0].reason, explained(case.rejected))
    return Statement("Accepted", "True", "Accepted", accepted_words(case.ignored))


def _planned(case: Case) -> Statement:
    if case.rejected:
        return Statement("Planned", "False", "NotAccepted", "what runs goes on as it is")
    if case.phase in (Phase.SUSPENDED, Phase.COMPLETE, Phase.FAILED):
        return Statement("Planned", "False", case.phase, "the job needs no GPUs")
    if not case.solved or case.part is None:
        return Statement("Planned", "Unknown", "SolverTimeLimit", "no plan was found in time")
    if case.preview is not None:
        return planned(case.preview, case.part)
    refusals = case.part.refusals
    if refusals:
        return Statement("Planned", "False", refusals[0].reason, explained(refusals))
    if case.held:
        status = "True" if case.part.replicas else "False"
        return Statement("Planned", status, case.held, HELD[case.held])
    count = len(case.part.replicas)
    price = f"{case.part.price_usd_per_hour:.2f} $/h"
    lacks = f"; {explained(case.part.unpromised)}" if case.part.unpromised else ""
    return Statement("Planned", "True", "Planned", f"{count} replicas, {price}{lacks}")


def _measured(case: Case) -> tuple[Statement, ...]:
    """Whether the plan follows measured demand, and else what it is made for."""
    settled = case.measured
    if settled is None:
        return ()
    demand = settled.demand
    figures = (
        f"planned for {demand.requests_per_second} requests/s, measured at {demand.time}"
        if demand is not None
        else "planned for the spec's figures"
    )
    words = f"{settled.message}; {figures}"
    return (Statement("DemandMeasured", settled.status, settled.reason, words),)


def _ready(case: Case) -> Statement:
    if case.kind == "RLJob":
        return _job_ready(case)
    ready = case.observed.ready_by_stage()
    needed = _needed(case)
    if not needed:
        reason = case.rejected[0].reason if case.rejected else "NoReplicas"
        if case.part is not None and case.part.refusals:
            reason = case.part.refusals[0].reason
        if case.waits:
            return Statement("Ready", "False", AWAITING, "nothing runs before a plan is approved")
        return Statement("Ready", "False", reason, "no replica is planned or running")
    dead = [stage for stage in needed if ready.get(stage, (0, 0))[0] == 0]
    if dead:
        return Statement(
            "Ready", "False", _why_dead(case, dead), f"no replica is ready in {', '.join(dead)}"
        )
    if not case.observed.gateway_ready:
        return Statement("Ready", "False", "GatewayNotReady", "no gateway pod is ready")
    return Statement("Ready", "True", "Serving", "requests are answered")


def _why_dead(case: Case, stages: Sequence[str]) -> str:
    is_refused = any(one.stage in stages for one in case.refused)
    return POD_REFUSED if is_refused else "ReplicasNotReady"


def _needed(case: Case) -> tuple[str, ...]:
    """Stages that a request may visit: those the plan has replicas for, else those that run."""
    planned = planned_by_stage(case.part)
    return tuple(sorted(planned or case.observed.ready_by_stage()))


def _job_ready(case: Case) -> Statement:
    ready = case.observed.ready_by_stage()
    counts = ", ".join(f"{n} of {m} {stage}" for stage, (n, m) in sorted(ready.items()))
    if case.phase == Phase.COMPLETE:
        return Statement("Ready", "True", "Complete", "the trainer has finished")
    if case.phase == Phase.RUNNING:
        return Statement("Ready", "True", "Running", "trainer and rollout replicas are ready")
    if case.phase == Phase.RESTARTING:
        return Statement("Ready", "False", "TrainerRestarting", "a trainer pod failed")
    if case.phase in (Phase.SUSPENDED, Phase.FAILED):
        return Statement("Ready", "False", case.phase, "")
    if case.rejected:
        return Statement("Ready", "False", case.rejected[0].reason, "nothing is planned")
    if case.waits:
        return Statement("Ready", "False", AWAITING, "nothing runs before a plan is approved")
    if case.part is not None and case.part.refusals and not case.part.replicas:
        return Statement("Ready", "False", case.part.refusals[0].reason, "nothing is planned")
    dead = [stage for stage in planned_by_stage(case.part) if not ready.get(stage, (0, 0))[0]]
    return Statement("Ready", "False", _why_dead(case, dead), f"ready: {counts or 'none'}")


def _stalled(case: Case) -> Statement | None:
    """Nothing more will happen until somebody changes spec or cluster.

    Also where an older spec is still served: Ready stays true, but whoever waits for this spec
    (kstatus) must not read it as in force.
    """
    if case.rejected:
        return Statement("Stalled", "True", case.rejected[0].reason, explained(case.rejected))
    if case.phase == Phase.FAILED:
        return Statement("Stalled", "True", "Failed", "the job has failed")
    if (refused := refused_for_good(case.refused)) is not None:
        return refused
    refusals = case.part.refusals if case.part is not None and not case.part.replicas else ()
    if case.waits or case.suspects:
        return None
    if refusals:
        return Statement("Stalled", "True", refusals[0].reason, explained(refusals))
    return None


def _reconciling(case: Case, ready: Statement) -> Statement | None:
    if case.phase in (Phase.SUSPENDED, Phase.COMPLETE):
        leaving = [p for p in case.observed.engines if not p.terminal]
        if leaving:
            return Statement("Reconciling", "True", "Stopping", f"{len(leaving)} pods are ending")
        return None
    if not case.solved:
        return Statement("Reconciling", "True", "Planning", "no plan was found in time")
    if (refused := refused_for_now(case.refused, case.tried)) is not None:
        return refused
    waiting = missing(planned_by_stage(case.part), case.observed)
    if waiting:
        return Statement("Reconciling", "True", "Progressing", "; ".join(waiting))
    if case.suspects and case.part is not None and case.part.refusals:
        return retried(case.suspects)
    if ready.reason == "GatewayNotReady":
        return Statement("Reconciling", "True", "Progressing", ready.message)
    return None


def _job(case: Case) -> tuple[Statement, ...]:
    if case.phase == Phase.SUSPENDED:
        return (Statement("Suspended", "True", "Suspended", "spec.suspend is true"),)
    if case.phase == Phase.COMPLETE:
        return (Statement("Complete", "True", "TrainerSucceeded", "every trainer pod succeeded"),)
    if case.phase == Phase.FAILED:
        return (Statement("Failed", "True", "JobFailed", "backoffLimit or deadline exceeded"),)
    return ()
