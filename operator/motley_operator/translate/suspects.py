"""Where pods failed: what statuses remember, what pods show now, and what is therefore avoided.

Theory of operation. A failure of a pod counts against a *place* (failures.py): its node (for this resource), its
configuration on that kind of node, or its whole stage. Each failure is counted once: only a pod made
after the last one counts again. From TRIES[...] failures on the place is suspect: nothing is started
there until the time is over, which doubles with each further failure. All is in the resource's
status. An edit or a request to plan anew lifts it; time without failures lets it be forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from motley_operator.api import FleetSpec, ModelCascade, Resource, RLJob, ServingPool
from motley_operator.api.suspects import SuspectRow
from motley_operator.domain.facts import ClusterFacts, ResourceFacts
from motley_operator.domain.names import COLUMN, PAUSED, REPLAN_REQUESTED
from motley_operator.domain.suspects import Place, Suspect, Suspicions
from motley_operator.settings import Settings
from motley_operator.translate.failures import (
    CANNOT_START,
    CRASHED,
    NODE_LOST,
    REJECTED,
    Failing,
    Failure,
    outrun,
)
from motley_operator.translate.nodes import Site
from motley_operator.translate.running import Running, pods_by_key
from motley_planner.domain.snapshot import Avoided

LONGEST_S = 6 * 3600.0
MEMORY_S = 3600.0  # without a failure; and twice as long as it was suspect
MOST_ROWS = 16
# Failures from which on a place is suspect. One that never starts has had its whole deadline.
TRIES: Mapping[str, int] = {CANNOT_START: 1, REJECTED: 3, CRASHED: 3, NODE_LOST: 2}


@dataclass(slots=True)
class _Found:
    """What is gathered over all resources."""

    known: dict[str, tuple[Suspect, ...]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    due: list[float] = field(default_factory=list)


def suspicions(
    facts: ClusterFacts, asking: Mapping[str, Resource], fleet: FleetSpec, settings: Settings
) -> Suspicions:
    """What failed of the resources in `asking`, by key."""
    found, pods = _Found(), pods_by_key(facts)
    nodes = {node.name: node for node in facts.nodes}
    beaten = outrun(facts, pods)
    for resource in facts.resources:
        model = asking.get(resource.key)
        if model is None:
            continue
        assert isinstance(model, ServingPool | ModelCascade | RLJob)
        lifted = _is_lifted(
            model, resource
        )  # what failed before is no failure of what is asked now
        remembered = () if lifted else _remembered(model, facts.now)
        known = {one.place: one for one in remembered}
        replan = model.spec.replan
        deadline_s = (replan.start_deadline or fleet.replan.start_deadline).seconds
        cooldown_s = (replan.cooldown or fleet.replan.cooldown).seconds
        one = Failing(pods.get(resource.key, []), nodes, facts.now, deadline_s, settings)
        if resource.annotations.get(PAUSED) != "true":
            for failure in one.failures():
                wait_s = cooldown_s if failure.kind == NODE_LOST else deadline_s
                if not lifted:
                    _count(failure, known, facts.now, wait_s)
                if failure.kind == CANNOT_START:
                    found.broken[failure.pod.uid] = failure.reason
                found.causes.setdefault(resource.key, failure.kind)
            for pod in beaten.get(resource.key, ()):
                found.broken.setdefault(pod.uid, pod.reason)
                found.causes.setdefault(resource.key, CANNOT_START)
            found.due += one.deadlines()
        if one.is_leaving:
            found.causes.setdefault(resource.key, "NodeLeaving")
        found.due += [float(each.until) for each in known.values() if each.in_force(facts.now)]
        newest = sorted(known.values(), key=lambda each: (-each.since, each.place.words))
        if newest:
            found.known[resource.key] = tuple(newest[:MOST_ROWS])
    return Suspicions(found.known, found.broken, found.causes, min(found.due, default=None))


def with_losses(
    suspected: Suspicions, asking: Mapping[str, Resource], running: Running
) -> Suspicions:
    """With a cause for each resource of which fewer replicas run than its status says are ready."""
    causes = dict(suspected.causes)
    runs = Counter(unit.key for unit in running.units)
    for key, model in asking.items():
        assert isinstance(model, ServingPool | ModelCascade | RLJob)
        groups = model.status.plan.groups if model.status.plan is not None else ()
        if runs[key] < sum(group.ready or 0 for group in groups):
            causes.setdefault(key, "ReplicaLost")
    return replace(suspected, causes=causes)


def avoided_columns(suspected: Suspicions, now: float) -> frozenset[Avoided]:
    """Configurations and stages of which nothing more may be started."""
    return frozenset(
        Avoided(key, at.stage, at.gpu or None, at.size, at.zone, at.capacity_type)
        for key in suspected.known
        for one in suspected.in_force(key, now)
        if not (at := one.place).node
    )


def avoiding(
    sites: Iterable[Site], suspected: Suspicions, running: Running, now: float
) -> tuple[Site, ...]:
    """The sites, told apart where resources start nothing more on them.

    Nodes of one gang stay alike, for a gang runs on nodes of one class.
    """
    by_node: dict[str, set[str]] = {}
    for key in suspected.known:
        for one in suspected.in_force(key, now):
            if one.place.node:
                by_node.setdefault(one.place.node, set()).add(key)
    for unit in running.units:
        if len(set(unit.nodes)) > 1 and not unit.pipeline:
            together = set().union(*(by_node.get(node, set()) for node in unit.nodes))
            by_node |= {node: together for node in unit.nodes if together}
    return tuple(
        replace(site, node_class=replace(site.node_class, avoided_by=frozenset(keys)))
        if (keys := by_node.get(site.facts.name))
        else site
        for site in sites
    )


def _count(failure: Failure, known: dict[Place, Suspect], now: float, wait_s: float) -> None:
    """Count a failure, unless its pod is older than the last one that was counted there."""
    if failure.place is None:
        return
    old = known.get(failure.place)
    if old is not None and failure.pod.created_at <= old.since:
        return
    count = old.failures + 1 if old is not None else 1
    beyond = count - TRIES[failure.kind]
    # The pod that takes the place of a rejected one is made in the very second it is counted. Of pods
    # that cannot start many have their deadline at about the same time, which is one failure; the API
    # server's clock makes pods and ours counts them, so the later one is the safe one.
    made = int(failure.pod.created_at)
    since = made if failure.kind in (REJECTED, CRASHED) else max(int(now), made)
    until = int(now + min(LONGEST_S, wait_s * 2.0 ** min(beyond, 20))) if beyond >= 0 else 0
    if old is not None:
        until = max(until, old.until)
    column = failure.pod.labels.get(COLUMN, "")
    known[failure.place] = Suspect(failure.place, failure.reason, count, since, until, column)


def _is_lifted(model: ServingPool | ModelCascade | RLJob, resource: ResourceFacts) -> bool:
    """Whether somebody has edited the resource, or asked for a new plan, since its status was written."""
    status = model.status
    requested = resource.annotations.get(REPLAN_REQUESTED, "")[:64]
    asked = bool(requested) and requested != status.last_handled_replan_at
    return asked or status.observed_generation != resource.generation


def _remembered(model: ServingPool | ModelCascade | RLJob, now: float) -> Iterable[Suspect]:
    """What the status says and nobody has forgotten yet."""
    found = (_read(row) for row in model.status.suspects)
    return [one for one in found if one is not None and now < _forgotten_at(one)]


def _forgotten_at(one: Suspect) -> float:
    held_s = max(0, one.until - one.since)
    return max(one.since, one.until) + MEMORY_S + 2.0 * held_s


def _read(row: SuspectRow) -> Suspect | None:
    """A row of a status; None where somebody wrote something else."""
    place = Place(row.stage, row.node, row.gpu, row.size, row.zone, row.capacity_type)
    try:
        since = int(datetime.fromisoformat(row.since).timestamp())
        until = int(datetime.fromisoformat(row.until).timestamp()) if row.until else 0
    except ValueError:
        return None
    return Suspect(place, row.reason, row.failures, since, until, row.column)
