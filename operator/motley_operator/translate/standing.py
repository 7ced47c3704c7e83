"""Resources that hold still: what of their plan runs, what is restored, and what was approved.

Theory of operation. In the applied problem a resource in Preview or Disabled is a set of replicas
that run already: those that do, and those of its recorded plan that can be started where there is
free room. The planner plans everything else around them. An approval makes the proposed record the
recorded one, and everything that follows is restoring it. What is remembered is in the resource's
status and its ConfigMap `<name>-plan`, so a restart in between changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from motley_operator.api import ModelCascade, Resource, RLJob, ServingPool, read
from motley_operator.domain.facts import ClusterFacts, ResourceFacts
from motley_operator.domain.names import (
    APPROVE,
    PAUSED,
    unit_id,
)
from motley_operator.domain.standing import (
    Record,
    Standing,
    recorded_spec,
    sealed,
)
from motley_operator.translate.records import records
from motley_operator.translate.restoring import Places, restored, unit_of
from motley_operator.translate.running import Running
from motley_planner.domain.demand import Demand, RunningUnit
from motley_planner.domain.plan import PlannedReplica, Slice

PREVIEW, DISABLED = "Preview", "Disabled"
ROLLED_BACK = "RolledBack"


@dataclass(frozen=True, slots=True)
class Limits:
    """What all replicas of the fleet together may use; None = no limit."""

    usd_per_hour: float | None
    gpus: int | None


@dataclass(slots=True)
class Stand:
    """What stands of each resource, and the units that the planner takes for running."""

    standing: dict[str, Standing] = field(default_factory=dict)
    units: tuple[RunningUnit, ...] = ()
    going: frozenset[str] = frozenset()  # ids of units that the plan which stands no longer has

    @property
    def marks(self) -> str:
        """Changes with what stands and with what a proposal would start from."""
        told = [
            (
                key,
                s.mode,
                s.edited,
                s.broken,
                s.unknown,
                bool(s.outdated),
                s.record and s.record.hash,
                _placed(s.part),
            )
            for key, s in sorted(self.standing.items())
        ]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _placed(part: Slice | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((r.name, r.nodes) for r in part.replicas) if part is not None else ()


def stand(
    facts: ClusterFacts,
    asking: Mapping[str, tuple[Resource, Demand, str]],  # model, demand, mode
    running: Running,
    places: Places,
    limits: Limits,
) -> Stand:
    """What stands of every resource in `asking` that holds still."""
    made = Stand()
    resources = {resource.key: resource for resource in facts.resources}
    held = [k for k, (_, _, mode) in asking.items() if mode in (PREVIEW, DISABLED)]
    held = [k for k in held if resources[k].annotations.get(PAUSED) != "true"]
    held.sort(key=lambda key: (-asking[key][1].priority, key))
    others = {unit.id: unit for unit in running.units}
    going: set[str] = set()
    for key in held:
        one = _One(resources[key], asking[key], running, facts)
        found, surplus = one.stand(places, _spent(others.values(), places), limits)
        made.standing[key] = found
        going |= {unit.id for unit in surplus}
        for replica in found.part.replicas if found.part is not None else ():
            unit = unit_of(key, replica)
            others.setdefault(unit.id, unit)
    made.units = tuple(others[name] for name in sorted(others) if name not in going)
    made.going = frozenset(going)
    return made


def _spent(units: Iterable[RunningUnit], places: Places) -> tuple[float, int]:
    """USD/h and GPUs of these units."""
    price, gpus = 0.0, 0
    for unit in units:
        for rank, node in enumerate(unit.nodes):
            gpus += unit.gpus_on(rank)
            price += unit.gpus_on(rank) * places.prices.get(node, 0.0)
    return price, gpus


@dataclass(frozen=True, slots=True)
class _One:
    """One resource that holds still."""

    resource: ResourceFacts
    asking: tuple[Resource, Demand, str]
    running: Running
    facts: ClusterFacts

    @property
    def _key(self) -> str:
        return self.resource.key

    def stand(
        self, places: Places, spent: tuple[float, int], limits: Limits
    ) -> tuple[Standing, list[RunningUnit]]:
        """What stands, and the units that it no longer has."""
        kept = records(self.resource, self._status(), self.facts)
        standing, proposed = kept.standing, kept.proposed
        outdated = ""
        if proposed is not None:
            outdated = self._why_not(proposed, standing, places.copy(), spent, limits)
        unknown = kept.unknown and any(self._mine())
        found = replace(
            self._judged(standing, proposed, outdated),
            accepted=kept.accepted,
            changed=kept.changed,
            unknown=unknown,
            spec_hash=kept.spec_hash if unknown else "",
            edited=unknown,
        )
        if found.verdict == "Approved" and proposed is not None and proposed.hash == found.request:
            standing = proposed.after(self._last_good(standing))
            found = replace(found, proposed=None, outdated="", changed=False, unknown=False)
        if standing is None:
            return found, []
        before = standing.before
        if before is not None and (why := self._failed(standing, before, places.copy())):
            found, standing = replace(found, verdict=ROLLED_BACK, refusal=why), before
        elif before is not None and not self._left_of(before, standing):
            standing = standing.after(None)  # it is carried out
        return self._with(found, standing, places)

    def _last_good(self, standing: Record | None) -> Record | None:
        """What stands, or what it has taken the place of as long as it is not carried out."""
        if standing is None or standing.before is None:
            return standing
        return standing.before if self._left_of(standing.before, standing) else standing

    def _left_of(self, before: Record, standing: Record) -> list[RunningUnit]:
        """What still runs of the plan before and is not in the one that stands."""
        kept = {unit_id(self._key, r.name) for r in standing.part.replicas}
        old = {unit_id(self._key, r.name) for r in before.part.replicas} - kept
        return [unit for unit in self._mine() if unit.id in old]

    def _failed(self, standing: Record, before: Record, places: Places) -> str:
        """Why what took the place of another plan is given up; empty as long as it may work.

        That is so where nothing of what is new in a stage runs, something of it may not be started now
        because it failed, and some of what it replaces is still there.
        """
        left = {unit.stage for unit in self._left_of(before, standing)}
        old = {r.name for r in before.part.replicas}
        new = [r for r in standing.part.replicas if r.name not in old and r.stage in left]
        alive = {unit.id for unit in self._mine()}
        left -= {r.stage for r in new if unit_id(self._key, r.name) in alive}
        kept = {unit_id(self._key, r.name) for r in standing.part.replicas}
        places.give_back(unit for unit in self._mine() if unit.id not in kept)
        _, lost = restored(self._key, standing.part, alive, places, self.asking[1])
        for replica in new:
            if replica.stage in left and replica.name in lost and places.failed(self._key, replica):
                return f"replica {replica.name} could not be started on {', '.join(replica.nodes)}"
        return ""

    def _with(
        self, found: Standing, standing: Record, places: Places
    ) -> tuple[Standing, list[RunningUnit]]:
        """The record as far as it runs or can be restored, and the units that it does not have."""
        names = {unit_id(self._key, r.name) for r in standing.part.replicas}
        surplus = [u for u in self._mine() if u.id not in names]
        places.give_back(surplus)
        alive = {u.id for u in self._mine()} & names
        replicas, lost = restored(self._key, standing.part, alive, places, self.asking[1])
        runs = {unit.id: unit.nodes for unit in self._mine()}  # nodes may have come since
        replicas = tuple(
            replace(r, nodes=runs.get(unit_id(self._key, r.name), r.nodes)) for r in replicas
        )
        going = self._not_serving_on(surplus, [r for r in replicas if r.name in lost], places)
        changed = tuple((r.name, r.nodes) for r in replicas) != _placed(standing.part)
        if changed:
            standing = sealed(replace(standing, part=replace(standing.part, replicas=replicas)))
        there = tuple(
            replace(r, kept=name if (name := unit_id(self._key, r.name)) in alive else None)
            for r in replicas
            if r.name not in lost
        )
        stands = replace(
            found,
            record=standing,
            part=replace(standing.part, replicas=there),
            source=self._source(standing),
            edited=standing.spec != recorded_spec(self.resource.document),
            lost=lost,
            repaired=changed,
            serving_on=len(surplus) - len(going),
            stops=tuple(going),
        )
        return stands, going

    def _not_serving_on(
        self, surplus: list[RunningUnit], lost: list[PlannedReplica], places: Places
    ) -> list[RunningUnit]:
        """Those that go: where replicas of a stage are lost, others of it stay if nothing has their room."""
        stages = {replica.stage for replica in lost}
        return [u for u in surplus if u.stage not in stages or not places.keep(u)]

    def _mine(self) -> Iterator[RunningUnit]:
        return (unit for unit in self.running.units if unit.key == self._key)

    def _status(self) -> Any:
        model = self.asking[0]
        assert isinstance(model, ServingPool | ModelCascade | RLJob)
        return model.status

    def _judged(self, standing: Record | None, proposed: Record | None, outdated: str) -> Standing:
        """What waits, and what becomes of the hash that was named, if it was not looked at before."""
        status, mode = self._status(), self.asking[2]
        request = self.resource.annotations.get(APPROVE, "")[:64] if mode == PREVIEW else ""
        waits = None if outdated else proposed
        found = Standing(mode, proposed=waits, outdated=outdated, request=request)
        if not request or request == status.last_handled_approval:
            return found
        if standing is not None and request == standing.hash:
            return replace(found, verdict="Approved")
        told = status.proposed_plan.hash if status.proposed_plan is not None else ""
        if proposed is None and told == request:
            return found  # its record is being written, or a new proposal made
        if proposed is None or request != proposed.hash or told != request:
            return replace(found, verdict="Stale", refusal="no proposal has this hash now")
        if outdated:
            return replace(found, verdict="Stale", refusal=outdated)
        return replace(found, verdict="Approved")

    def _why_not(
        self,
        proposed: Record,
        standing: Record | None,
        places: Places,
        spent: tuple[float, int],
        limits: Limits,
    ) -> str:
        """Why a proposal cannot be carried out as it was proposed; empty if it can."""
        if proposed.spec != recorded_spec(self.resource.document):
            return "the spec was edited after it was proposed"
        stood = {r.name for r in standing.part.replicas} if standing is not None else set()
        alive = {unit.id: unit for unit in self._mine()}
        names = {unit_id(self._key, r.name) for r in proposed.part.replicas}
        places.give_back(unit for name, unit in alive.items() if name not in names)
        added = []
        for replica in proposed.part.replicas:
            if unit_id(self._key, replica.name) in alive:
                continue
            if replica.name in stood:
                return f"replica {replica.name}, which it keeps, is gone"
            if not places.exactly(self._key, replica):
                return f"there is no room for replica {replica.name} on {', '.join(replica.nodes)}"
            added.append(unit_of(self._key, replica))
        price, gpus = _spent(added, places)
        less = _spent((u for name, u in alive.items() if name not in names), places)
        most_usd, most_gpus = limits.usd_per_hour, limits.gpus
        if most_usd is not None and price > 0 and spent[0] + price - less[0] > most_usd + 1e-6:
            return "the fleet's budget is spent otherwise"
        if most_gpus is not None and gpus and spent[1] + gpus - less[1] > most_gpus:
            return "the fleet's GPUs are used otherwise"
        return ""

    def _source(self, record: Record) -> object | None:
        """The resource with the recorded spec and today's status."""
        document = {**self.resource.document, "spec": dict(record.spec)}
        return read(document)[0]
