"""Make before break for edits: an outdated replica goes on until its successor is ready.

Theory of operation. A plan keeps a replica by its name, and a pod's spec is never edited: so after an
edit of what pods are built from, a kept replica would have to stop before the new pod can have its
name. Where there is room for one more, the plan is carried out with a *successor* instead: equal
in all but its name and perhaps its node. What it replaces is then no longer planned, and stands by
until the successor is ready (changes/rollout.py). One at a time in each stage. Nothing is remembered: a
successor is known as a live replica of the stage and column, built as the spec says now, that the
plan does not have. Where there is no room, or a budget would never allow both, `changes` replaces in
place as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from motley_operator import lifecycle
from motley_operator.changes.budgets import can_overlap
from motley_operator.domain.budgets import Amount, Budgets
from motley_operator.domain.facts import ClusterFacts, PodFacts, Room
from motley_operator.domain.names import (
    COLUMN,
    INPUTS_HASH,
    PLAN_HASH,
    REPLICA,
    SERVE,
    STAGE,
    key_of,
    unit_id,
)
from motley_operator.domain.standing import running_name
from motley_operator.domain.translation import Translation, ids_by_key
from motley_operator.errors import about
from motley_operator.manifests.stages import stages_of
from motley_operator.translate.budgets import amount_of, live_pods
from motley_operator.translate.restoring import counted
from motley_operator.translate.room import fits, minus, room_left
from motley_operator.translate.running import pods_by_key
from motley_planner.domain.plan import Plan, PlannedReplica, Slice
from motley_planner.domain.quotas import Quota


def succeeded(plan: Plan, translation: Translation, facts: ClusterFacts) -> Plan:
    """The plan with successors in the place of outdated replicas, where that can be."""
    pods, running = pods_by_key(facts), ids_by_key(translation.snapshot.running)
    taken = _taken(plan, translation, facts)
    slices = []
    for part in plan.slices:
        passed_over = part.key in translation.standing or part.key in translation.frozen
        if not passed_over and part.replicas and part.key in translation.parsed:
            mine = _Alive(pods.get(part.key, ()), running.get(part.key, frozenset()))
            with about(part.key):
                part = _One(part, translation, facts, mine, taken).succeeded()
        slices.append(part)
    return replace(plan, slices=tuple(slices))


def _taken(plan: Plan, translation: Translation, facts: ClusterFacts) -> dict[str, Amount]:
    """What each resource takes of budgets: as planned, or as it runs where no plan touches it."""
    budgets, taken = translation.budgets, dict[str, Amount]()
    if not budgets.limits:
        return taken
    for part in plan.slices:
        if not part.blocked:
            amounts = (_amount(replica, budgets) for replica in part.replicas)
            taken[part.key] = sum(amounts, Amount())
    unplanned: dict[str, Amount] = {}
    for pod in live_pods(facts):
        key = key_of(pod.labels, pod.namespace)
        if key not in taken:
            unplanned[key] = unplanned.get(key, Amount()) + amount_of(pod, budgets)
    return taken | unplanned


def _amount(replica: PlannedReplica, budgets: Budgets) -> Amount:
    ranks = enumerate(replica.nodes)
    return sum(
        (budgets.amount(n, replica.gpus_on(rank), replica.gpu_on(rank)) for rank, n in ranks),
        Amount(),
    )


@dataclass(frozen=True, slots=True)
class _Alive:
    """One resource's pods, and the ids of its units that run."""

    pods: Sequence[PodFacts]
    units: frozenset[str]


@dataclass(frozen=True, slots=True)
class _One:
    """One resource's slice and what runs of it."""

    part: Slice
    translation: Translation
    facts: ClusterFacts
    alive: _Alive
    taken: Mapping[str, Amount]  # of budgets, by resource

    def succeeded(self) -> Slice:
        """The slice with the successors that there are, and at most one new one in each stage."""
        wanted = {s.name: s.inputs_hash for s in stages_of(self.translation.parsed[self.part.key])}
        replicas = list(self.part.replicas)
        ready = lifecycle.ready_replicas(self.alive.pods)
        for stage in dict.fromkeys(r.stage for r in replicas if r.role == SERVE):
            mine = [i for i, r in enumerate(replicas) if r.stage == stage and r.role == SERVE]
            old = [i for i in mine if self._is_outdated(replicas[i], wanted[stage])]
            gone = [i for i in mine if not self._of(running_name(replicas[i]))]
            for heir in self._heirs(stage, wanted[stage]):
                for i in (*old, *(gone if self._is_of_this_plan(heir) else ())):
                    if replicas[i].column == heir.labels[COLUMN] and len(replicas[i].nodes) == 1:
                        replicas[i] = self._with(replicas[i], heir)
                        old, gone = [n for n in old if n != i], [n for n in gone if n != i]
                        break
            if old and all(ready.get(running_name(replicas[i]), False) for i in mine):
                made = self._successor(replicas[old[0]], replicas)
                replicas[old[0]] = made or replicas[old[0]]
        return replace(self.part, replicas=tuple(replicas))

    def _of(self, name: str) -> list[PodFacts]:
        return [pod for pod in self.alive.pods if pod.labels.get(REPLICA) == name]

    def _is_outdated(self, replica: PlannedReplica, wanted: str) -> bool:
        pods = self._of(running_name(replica))
        return bool(pods) and any(pod.annotations.get(INPUTS_HASH) != wanted for pod in pods)

    def _is_of_this_plan(self, heir: PodFacts) -> bool:
        """Whether it was made for this plan, and not for one that has moved on since."""
        return heir.annotations.get(PLAN_HASH) == self.part.hash

    def _heirs(self, stage: str, wanted: str) -> Iterator[PodFacts]:
        """Pods of live replicas that the plan does not have and that are built as is wanted."""
        planned = {running_name(replica) for replica in self.part.replicas}
        broken = self.translation.suspicions.broken
        for pod in sorted(self.alive.pods, key=lambda each: each.name):
            name = pod.labels.get(REPLICA, "")
            alive = unit_id(self.part.key, name) in self.alive.units and pod.uid not in broken
            built = pod.annotations.get(INPUTS_HASH) == wanted
            if alive and built and pod.labels.get(STAGE) == stage and name not in planned:
                yield pod

    def _with(self, replica: PlannedReplica, heir: PodFacts) -> PlannedReplica:
        name = heir.labels[REPLICA]
        return replace(
            replica, name=name, kept=unit_id(self.part.key, name), nodes=(heir.node or "",)
        )

    def _successor(
        self, old: PlannedReplica, planned: Sequence[PlannedReplica]
    ) -> PlannedReplica | None:
        """A new replica like the old one where there is room for both; None if there is not."""
        key, suspicions = self.part.key, self.translation.suspicions
        failing = suspicions.failing(key, self.facts.now)
        if len(old.nodes) != 1 or {(old.stage, old.column), (old.stage, "")} & failing:
            return None
        (pod,) = self._of(running_name(old))
        node = self._node(old, pod, planned)
        if node is None:
            return None
        taken = {unit_id(key, p.labels.get(REPLICA, "")) for p in self.alive.pods}
        taken |= self.translation.snapshot.reserved
        taken |= {unit_id(key, running_name(replica)) for replica in planned}
        stem, ordinal = f"{old.stage}-{old.column}", 0
        while unit_id(key, f"{stem}-{ordinal}") in taken:
            ordinal += 1
        return replace(old, name=f"{stem}-{ordinal}", ordinal=ordinal, kept=None, nodes=(node,))

    def _node(
        self, old: PlannedReplica, pod: PodFacts, planned: Sequence[PlannedReplica]
    ) -> str | None:
        """A node of the old one's class with room for the successor: its own if that has."""
        snapshot, key = self.translation.snapshot, self.part.key
        classes = {node.name: node.node_class for node in snapshot.nodes if not node.cordoned}
        wanted = classes.get(old.nodes[0])
        if wanted is None or self._over_quota(old) or self._over_budget(old):
            return None
        free = self._free(planned)
        order = sorted(classes, key=lambda name: (name != old.nodes[0], name))
        return next(
            (
                name
                for name in order
                if classes[name] == wanted
                and key not in wanted.avoided_by
                and fits(pod.requests, free[name])
            ),
            None,
        )

    def _over_quota(self, old: PlannedReplica) -> bool:
        """Whether a quota leaves no room for one more of them."""
        return any(self._exceeds(quota, old) for quota in self.translation.snapshot.quotas)

    def _over_budget(self, old: PlannedReplica) -> bool:
        """Whether a budget leaves no room for one more of them beside all that is planned."""
        budgets = self.translation.budgets
        return not can_overlap(budgets, self.part.key, _amount(old, budgets), self.taken)

    def _exceeds(self, quota: Quota, old: PlannedReplica) -> bool:
        gpus = self.translation.catalog.gpus
        uses = {(use.key, use.stage, use.vendor): use for use in quota.uses}
        more = uses.get((self.part.key, old.stage, gpus[old.gpu].vendor))
        if more is None:
            return False
        held = sum(
            use.of(unit.gpus_on(rank))
            for unit in self.translation.snapshot.running
            if unit.gpu in gpus and (use := uses.get((unit.key, unit.stage, gpus[unit.gpu].vendor)))
            for rank in range(len(unit.nodes))
        )
        needed = sum(more.of(old.gpus_on(rank)) for rank in range(len(old.nodes)))
        return needed > 0 and held + needed > quota.at_most

    def _free(self, planned: Sequence[PlannedReplica]) -> Mapping[str, Room]:
        """Room now, less what planned replicas of this resource will take that are not there yet."""
        free = dict(room_left(self.facts))
        for replica in planned:
            if not self._of(running_name(replica)):
                for rank, node in enumerate(replica.nodes):
                    need = counted(replica.gpus_on(rank), self.translation.snapshot.pod_need)
                    free[node] = minus(free[node], need) if node in free else Room()
        return free
