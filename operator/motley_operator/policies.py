"""When to plan anew and when to hold still: an ordered chain of small rules; a reason is a value.

A plan in force is held while nothing has changed but what it asked for itself: its own pods
starting, becoming ready, ending. Planning in the middle of that would see the room of ending pods
as lost and move things that are about to fit. To add a rule, write a function and give it a place
in RULES; the first that says replan ends the chain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from motley_operator.api import ModelCascade, RLJob, ServingPool
from motley_operator.domain.claims import is_coming
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.in_force import InForce, prices_of
from motley_operator.domain.names import MANAGED_BY, OURS, REPLICA, UNIT, key_of, unit_id
from motley_operator.domain.translation import Translation
from motley_planner.domain.demand import RunningUnit, ServingDemand


class Reason(StrEnum):
    """Why a plan is made or kept."""

    FIRST_PLAN = "FirstPlan"
    NO_SOLUTION_YET = "NoSolutionYet"
    INPUTS_CHANGED = "InputsChanged"
    FROZEN_CHANGED = "FrozenChanged"
    STANDING_CHANGED = "StandingChanged"
    REPLICA_LOST = "ReplicaLost"
    ROOM_FREED = "RoomFreed"
    NODE_CAME = "NodeCame"
    NODE_READY = "NodeReady"
    NEXT_STEP = "NextStep"
    CUT_SHORT = "CutShort"
    UNCHANGED = "Unchanged"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to plan, and why."""

    replan: bool
    reason: Reason


@dataclass(frozen=True, slots=True)
class Case:
    """What the rules look at."""

    force: InForce
    translation: Translation
    facts: ClusterFacts


Rule = Callable[[Case], Reason | None]
Sort = tuple[str, str, int, int, str]  # stage, GPU, tensor parallelism, fragments, phase


def verdict(force: InForce | None, translation: Translation, facts: ClusterFacts) -> Verdict:
    """Plan or hold; a restarted operator has no plan in force and plans from what runs."""
    if force is None:
        return Verdict(True, Reason.FIRST_PLAN)
    case = Case(force, translation, facts)
    for rule in RULES:
        reason = rule(case)
        if reason is not None:
            return Verdict(True, reason)
    return Verdict(False, Reason.UNCHANGED)


def is_steady(force: InForce | None, translation: Translation) -> bool:
    """True where only service may move what was not edited: after a restart, a loss, an edit.

    Money is looked at when nodes join that nobody waited for, a resource goes, or the Fleet is
    edited, and nothing is lost.
    """
    if force is None:
        return True
    now = InForce.of(force.plan, translation)
    came = _awaited(force, translation)
    gained = now.nodes - force.nodes - came or force.demands.keys() - now.demands.keys()
    dearer = prices_of(translation.snapshot, came) - force.prices or force.prices - now.prices
    return bool(force.nodes - now.nodes) or not (gained or dearer)


def _awaited(force: InForce, translation: Translation) -> frozenset[str]:
    """Nodes that came because replicas of the plan in force waited for them."""
    runs = {unit.id: unit.nodes for unit in translation.snapshot.running}
    return frozenset(
        there
        for part in force.plan.slices
        for replica in part.replicas
        if (at := runs.get(replica.kept or unit_id(part.key, replica.name)))
        for planned, there in zip(replica.nodes, at, strict=True)
        if is_coming(planned)
    )


def edited(
    force: InForce | None, translation: Translation, as_built: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Resources that ask for something else than the plan in force was made for.

    Not those of which only more is measured: what they lack is added beside what runs. Nor those of
    which less seems to be asked because what was measured went with their status.

    After a restart: those whose status speaks of an older spec, or promises other replicas than
    run, because the operator was stopped in the middle of its writes. Those that have no status are
    as they were, if what runs is `as_built`: built as they ask.
    """
    demands = {demand.key: demand for demand in translation.snapshot.demands}
    if force is not None:
        asks_other = (k for k, demand in demands.items() if force.demands.get(k) != demand)
        return frozenset(
            k for k in asks_other if not _only_measured(k, force, translation, as_built)
        )
    return frozenset(k for k in demands.keys() - as_built if not _is_carried_out(k, translation))


def owed(force: InForce | None, translation: Translation) -> frozenset[str]:
    """Resources whose edit got less time than it needed, and was to get more.

    Not those that nothing ran of before: they have no old replicas to get rid of.
    """
    if force is None or force.asked is None or force.plan_again_at is None:
        return frozenset()
    keys = {demand.key for demand in translation.snapshot.demands}
    asked = force.asked
    return (asked.edited & asked.ran | asked.owed) & keys


def _only_measured(
    key: str, force: InForce, translation: Translation, as_built: frozenset[str]
) -> bool:
    """True where another rate is measured and nobody edited anything, and no replica is to stop.

    More is asked, so that replicas are added; or the measured rate is lost with the status.
    """
    old = force.demands.get(key)
    new = next(d for d in translation.snapshot.demands if d.key == key)
    if key not in translation.demands or not isinstance(old, ServingDemand):
        return False
    if not isinstance(new, ServingDemand):
        return False
    if new.requests_per_second <= old.requests_per_second and key not in as_built:
        return False
    return replace(old, requests_per_second=new.requests_per_second) == new


def carried_out(translation: Translation, same: bool) -> frozenset[str]:
    """Resources of which that runs which their status promises for their spec.

    Those that lack something only where the inputs are the `same` as when that was planned: what
    was short then is short now. Otherwise room may have come while nobody looked.
    """
    keys = [demand.key for demand in translation.snapshot.demands]
    carried = frozenset(k for k in keys if _is_carried_out(k, translation))
    return carried if same else frozenset(k for k in carried if _lacks_nothing(k, translation))


def _lacks_nothing(key: str, translation: Translation) -> bool:
    model = translation.parsed[key]
    assert isinstance(model, ServingPool | ModelCascade | RLJob)
    planned = model.status.condition("Planned")
    return planned is not None and planned.status == "True"


def _is_carried_out(key: str, translation: Translation) -> bool:
    model = translation.parsed[key]
    assert isinstance(model, ServingPool | ModelCascade | RLJob)
    status, planned = model.status, Counter[Sort]()
    for group in status.plan.groups if status.plan is not None else ():
        sort = (group.stage, group.gpu, group.tensor_parallel, group.pipeline, group.phase)
        planned[sort] += group.count
    runs = Counter(_sort(unit) for unit in translation.snapshot.running if unit.key == key)
    return status.observed_generation == model.metadata.generation and planned == runs


def _sort(unit: RunningUnit) -> Sort:
    """Which replicas of a status a running one may be; equal numbers of others are half a move."""
    phase = unit.phase if unit.role == "serve" else unit.role
    return unit.stage, unit.gpu, unit.tensor_parallel, max(1, len(unit.pipeline)), phase


def no_solution_yet(case: Case) -> Reason | None:
    """The solver ran out of time: try again."""
    return Reason.NO_SOLUTION_YET if case.force.plan.status == "no_solution" else None


def inputs_changed(case: Case) -> Reason | None:
    """Nodes, foreign pods, resources or the Fleet are others than then."""
    changed = case.force.inputs_hash != case.translation.inputs_hash
    return Reason.INPUTS_CHANGED if changed else None


def frozen_changed(case: Case) -> Reason | None:
    """A resource was paused or let go."""
    changed = case.force.frozen != case.translation.snapshot.frozen
    return Reason.FROZEN_CHANGED if changed else None


def standing_changed(case: Case) -> Reason | None:
    """What holds still was approved, edited or repaired, or its proposal cannot be had any more."""
    changed = case.force.marks != case.translation.marks
    return Reason.STANDING_CHANGED if changed else None


def replica_lost(case: Case) -> Reason | None:
    """A replica of the plan failed, cannot start, or is being deleted by somebody.

    One that is gone altogether is no loss: the plan in force creates it again where it was.
    """
    planned = {unit_id(p.key, r.name) for p in case.force.plan.slices for r in p.replicas}
    planned |= {r.kept for p in case.force.plan.slices for r in p.replicas if r.kept}
    for pod in case.facts.pods:
        if pod.labels.get(MANAGED_BY) != OURS or UNIT not in pod.annotations:
            continue
        name = unit_id(key_of(pod.labels, pod.namespace), pod.labels.get(REPLICA, ""))
        broken = pod.uid in case.translation.suspicions.broken
        if name in planned and (pod.deleting or pod.phase == "Failed" or broken):
            return Reason.REPLICA_LOST
    return None


def room_freed(case: Case) -> Reason | None:
    """Pods that were in the way when the plan was made are gone: their room can be used now.

    That of pods that were ending was planned already, so their end is no news.
    """
    gone = case.force.holding - case.translation.snapshot.reserved
    return Reason.ROOM_FREED if gone else None


def node_came(case: Case) -> Reason | None:
    """A replica that waited for a node is on one that the plan in force did not know."""
    runs = {unit.id: unit.nodes for unit in case.translation.snapshot.running}
    for part in case.force.plan.slices:
        for replica in part.replicas:
            unit = replica.kept or unit_id(part.key, replica.name)
            if runs.get(unit, replica.nodes) != replica.nodes:
                return Reason.NODE_CAME
    return None


def node_ready(case: Case) -> Reason | None:
    """A node that was not ready when the plan was made is: something may start there again.

    One that is not ready for a moment changes nothing: what runs there is planned as running.
    """
    return Reason.NODE_READY if case.force.waiting - case.translation.waiting else None


def next_step(case: Case) -> Reason | None:
    """More could be saved than one cooldown may move; the next one has begun, and the last step is done."""
    save_at = case.force.save_at
    if save_at is None or case.facts.now < save_at or case.translation.waiting:
        return None
    return Reason.NEXT_STEP if _planned(case) == _runs(case) else None


def cut_short(case: Case) -> Reason | None:
    """The plan or a proposal could be better, all is there, and nothing has happened for a while.

    Nor is anything about to: a node that is not ready is waited for, or counts as lost, first.
    """
    again_at = case.force.again_at
    if again_at is None or case.facts.now < again_at or case.translation.waiting:
        return None
    return Reason.CUT_SHORT if _planned(case) <= _runs(case) else None


def _planned(case: Case) -> set[str]:
    """Ids of the replicas of the plan in force."""
    parts = case.force.plan.slices
    return {r.kept or unit_id(part.key, r.name) for part in parts for r in part.replicas}


def _runs(case: Case) -> set[str]:
    return {unit.id for unit in case.translation.snapshot.running}


RULES: tuple[Rule, ...] = (
    no_solution_yet,
    inputs_changed,
    frozen_changed,
    standing_changed,
    replica_lost,
    room_freed,
    node_came,
    node_ready,
    next_step,
    cut_short,
)
