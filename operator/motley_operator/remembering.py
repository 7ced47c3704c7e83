"""The plan in force, remembered from cycle to cycle, and anew where a policy says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from motley_operator import policies, previewing
from motley_operator.adoption import adopted
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.in_force import InForce
from motley_operator.domain.patience import Asked, how_asked, is_better
from motley_operator.domain.standing import Held
from motley_operator.domain.translation import Translation
from motley_operator.unreported import built_as_asked
from motley_planner.calling_off import unless
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import CalledOff, SolverError
from motley_planner.planning import forget_others

PATIENCE = 1.75  # x the time limit, for a plan that no loss waits for
MOST_PATIENCE = 7.0  # x the time limit, for one more try at a plan that was cut short
Planner = Callable[[Snapshot, Catalog], Plan]


def _most_s(translation: Translation) -> float:
    """Seconds that one more try may take."""
    return MOST_PATIENCE * translation.snapshot.time_limit_s


class RememberingPlanner:
    """Plans where a policy says so; most wake-ups change pods' readiness and nothing planned."""

    def __init__(self, planner: Planner, planned_before: Callable[[], str] = lambda: "") -> None:
        """`planned_before` gives the `planned_inputs` of whoever planned before this process."""
        self._planner, self._planned_before = planner, planned_before
        self._last: tuple[Snapshot, Catalog, Plan] | None = None
        self._force: InForce | None = None
        self.held = Held()  # what is remembered and proposed beside the plan in force
        self.solves = 0
        self.why = ""  # the reason of the last verdict

    def keep(
        self,
        translation: Translation,
        facts: ClusterFacts,
        snapshot: Snapshot,
        is_news: Callable[[InForce], bool] = lambda force: False,
    ) -> Plan:
        """The plan in force, or a new one of the snapshot where `policies` say so.

        Raises: CalledOff where one more try at a plan that was cut short gave way to what `is_news`; the
        plan stays in force, and the try is not counted. PlannerError.
        """
        force = self._force
        if force is not None and not self.held.may_be_bettered(facts.now):
            force = replace(force, proposing=None)
        verdict = policies.verdict(force, translation, facts)
        self.why = str(verdict.reason)
        if force is not None and verdict.reason == policies.Reason.CUT_SHORT:
            try:
                with unless(partial(is_news, force)):
                    force = self._sought_again(force, translation, facts, snapshot)
            except CalledOff:
                self._force = force.put_off(facts.now)
                raise
        elif force is None or verdict.replan:
            force = self._planned_anew(force, translation, facts, snapshot, verdict.reason)
        self._force = force
        return force.plan

    def _planned_anew(
        self,
        force: InForce | None,
        translation: Translation,
        facts: ClusterFacts,
        snapshot: Snapshot,
        reason: policies.Reason,
    ) -> InForce:
        """What is in force after something happened."""
        steady = policies.is_steady(force, translation) and reason != policies.Reason.NEXT_STEP
        edited = policies.edited(force, translation, built_as_asked(translation, facts))
        # What an earlier edit was not given the time for is sought once this is carried out.
        owed = policies.owed(force, translation) - edited
        # After a restart, what runs as its status says gets nothing new until something happens.
        still = frozenset[str]()
        if force is None:
            same = self._planned_before() == translation.inputs_hash
            still = policies.carried_out(translation, same)
        asked = replace(snapshot, steady=steady, edited=edited, still=still)
        asked = replace(asked, moved_lately=sum(translation.moved_lately.values()))
        if not steady and snapshot.running:  # nobody is left without service meanwhile
            asked = replace(asked, time_limit_s=PATIENCE * snapshot.time_limit_s)
        plan = self._made(asked, force, translation, facts)
        forget_others(translation.parsed.keys())
        self._hold(plan, translation, facts)
        how = how_asked(asked, facts.now, _most_s(translation))
        how = replace(how, edited=edited - asked.frozen, owed=owed)  # of what stands: proposals
        save_at = force.save_at if force is not None and steady else None
        if force is None and asked.moved_lately:  # a restart may have come between two steps
            save_at = facts.now + translation.window_s
        return self._in_force(plan, translation, facts, (how, save_at))

    def _in_force(
        self,
        plan: Plan,
        translation: Translation,
        facts: ClusterFacts,
        again: tuple[Asked | None, float | None],
    ) -> InForce:
        """A plan that was just made, with its proposals, how it is sought again, and money looked at."""
        asked, save_at = again
        if plan.more_to_save:
            save_at = facts.now + translation.window_s
        force = replace(InForce.of(plan, translation, asked), save_at=save_at)
        if not self.held.may_be_bettered(facts.now):
            return force
        how = how_asked(translation.snapshot, facts.now, _most_s(translation))
        return replace(force, proposing=how)

    def _made(
        self,
        asked: Snapshot,
        force: InForce | None,
        translation: Translation,
        facts: ClusterFacts,
    ) -> Plan:
        """The plan of a snapshot, with the routing and the records that go on."""
        plan = self(asked, translation.catalog)
        before = force.plan if force is not None else None
        plan = adopted(plan, before, asked.edited, translation, facts)
        return previewing.stood(plan, translation)

    def _hold(self, plan: Plan, translation: Translation, facts: ClusterFacts) -> None:
        """Note what is remembered and proposed beside the plan."""
        self.held = Held(
            previewing.records(plan, translation, facts),
            previewing.proposals(plan, translation, facts, self._solve),
        )

    def _sought_again(
        self,
        force: InForce,
        translation: Translation,
        facts: ClusterFacts,
        snapshot: Snapshot,
    ) -> InForce:
        """What is in force after one more try at whichever is due: the plan, else its proposals."""
        due_at = force.plan_again_at
        if due_at is not None and due_at <= facts.now:
            return self._tried_again(force, translation, facts, snapshot)
        assert force.proposing is not None
        how = force.proposing.again(facts.now)
        longer = replace(translation.snapshot, time_limit_s=how.limit_s)
        found = previewing.proposals(
            force.plan,
            replace(translation, snapshot=longer),
            facts,
            self._solve,
            self.held.proposals,
        )
        self.held = replace(self.held, proposals=found)
        return replace(force, proposing=how if self.held.may_be_bettered(facts.now) else None)

    def _tried_again(
        self,
        force: InForce,
        translation: Translation,
        facts: ClusterFacts,
        snapshot: Snapshot,
    ) -> InForce:
        """What is in force after one more try, in more time, at what the time limit cut short."""
        assert force.asked is not None
        how = force.asked.again(facts.now)
        asked = replace(
            snapshot,
            steady=how.steady,
            edited=how.edited,
            still=how.still,
            moved_lately=sum(translation.moved_lately.values()),
            time_limit_s=how.limit_s,
        )
        try:
            plan = self._made(asked, force, translation, facts)
        except SolverError:
            return replace(force, asked=how)
        more = how if plan.cut_short else None
        if not is_better(plan, force.plan, how):
            return replace(force, asked=more)
        self._hold(plan, translation, facts)
        return self._in_force(plan, translation, facts, (more, force.save_at))

    @property
    def again_at(self) -> float | None:
        """Unix time from which a plan that was cut short is sought again; None for never."""
        return self._force.again_at if self._force is not None else None

    @property
    def save_at(self) -> float | None:
        """Unix time from which money is looked at again, for not all may move at once; None for never."""
        return self._force.save_at if self._force is not None else None

    def planned_inputs(self) -> str:
        """Hash of the inputs of the plan in force; empty where there is none."""
        force = self._force
        return force.inputs_hash if force and force.plan.status != "no_solution" else ""

    def twin(self) -> RememberingPlanner:
        """One that remembers nothing yet, and of which nothing stays here."""
        return RememberingPlanner(self._planner, self._planned_before)

    def forget(self) -> None:
        """As after a restart: the next plan is made from what runs."""
        self._last = self._force = None
        self.held = Held()

    def __call__(self, snapshot: Snapshot, catalog: Catalog) -> Plan:
        """The plan of the snapshot; equal snapshots and measurements have equal plans."""
        if self._last is None or self._last[:2] != (snapshot, catalog):
            self._last = (snapshot, catalog, self._solve(snapshot, catalog))
        return self._last[2]

    def _solve(self, snapshot: Snapshot, catalog: Catalog) -> Plan:
        self.solves += 1
        return self._planner(snapshot, catalog)
