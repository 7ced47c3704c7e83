"""One cycle's judgement, from facts to actions, without a clock, a cluster or a memory.

    facts -> translate -> plan -> manifests -> changes
                               -> status

Equal facts give equal decisions; where the cluster is already as planned there are no actions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from motley_operator import changes, manifests, policies, status, translate
from motley_operator.api import ModelCascade, RLJob, ServingPool
from motley_operator.domain.actions import Action, Manifest, PatchStatus
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.in_force import InForce
from motley_operator.domain.replans import Replan, Shown, replans
from motley_operator.domain.standing import Held
from motley_operator.domain.translation import Translation
from motley_operator.errors import ResourceFailed
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.succession import succeeded
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan, internal_error
from motley_planner.domain.snapshot import Snapshot

_PLANNED = ServingPool | ModelCascade | RLJob

logger = logging.getLogger(__name__)

Judge = Callable[[ClusterFacts], bool]
Outdates = Callable[[Judge], bool]  # what a judge says of later facts, once there are any


@dataclass(frozen=True, slots=True)
class Decision:
    """What is wanted, and what to do for it now."""

    translation: Translation
    plan: Plan
    desired: tuple[Manifest, ...]
    actions: tuple[Action, ...]
    statuses: tuple[Action, ...]  # and events; only where they differ from what resources have
    replans: tuple[Replan, ...] = ()  # what changed of resources' plans


def decide(
    facts: ClusterFacts,
    catalog: Catalog,
    settings: Settings,
    planner: RememberingPlanner,
    outdates: Outdates = lambda judge: False,
) -> Decision:
    """What to do about these facts.

    Raises: PlannerError where no plan could be made; CalledOff where one more try at a plan that was
    cut short gives way to facts that wait for something else.
    """

    def read(facts: ClusterFacts) -> tuple[Translation, ClusterFacts]:
        facts = translate.with_claims(facts)
        return translate.translate(facts, catalog, settings), facts

    translation, facts = read(facts)
    asked = _with_time(translation.snapshot, settings)

    def is_news(force: InForce) -> bool:
        again = policies.Reason.CUT_SHORT
        return outdates(lambda later: policies.verdict(force, *read(later)).reason != again)

    plan, held = planner.keep(translation, facts, asked, is_news), planner.held
    while True:
        try:
            return _carried_out(plan, translation, facts, settings, held)
        except ResourceFailed as failed:
            if failed.key in translation.set_aside:
                raise
            logger.exception("%s is set aside; it keeps what it runs", failed.key)
            plan, translation, held = _set_aside(failed, plan, translation, held)


def _carried_out(
    plan: Plan, translation: Translation, facts: ClusterFacts, settings: Settings, held: Held
) -> Decision:
    """What to do for a plan, and what to say of it.

    Raises: ResourceFailed.
    """
    desired = (
        *manifests.plan_config_maps(held, facts),
        *manifests.build(
            succeeded(plan, translation, facts), translation, facts, translation.catalog, settings
        ),
    )
    lost = frozenset(key for key, standing in translation.standing.items() if standing.lost)
    trouble = changes.Trouble(
        translation.suspicions,
        lost,
        lost=_lost_stages(translation),
        budgets=translation.budgets,
        lost_nodes=translation.lost_nodes,
    )
    actions = changes.changes(desired, facts, plan, trouble)
    pods = status.Pods(changes.refused(desired, facts), changes.tried(actions, facts))
    statuses = status.statuses(plan, translation, facts, held, pods)
    told = frozenset((a.kind, a.namespace, a.name) for a in statuses if isinstance(a, PatchStatus))
    news = [part for part in plan.slices if tuple(part.key.split("/", 2)) in told]
    shown = _shown(translation)
    made = replans(replace(plan, slices=tuple(news)), shown, translation.suspicions.causes)
    return Decision(translation, plan, desired, actions, statuses, made)


def _lost_stages(translation: Translation) -> frozenset[tuple[str, str]]:
    """Stages of which replicas of the plan that stands have no place now."""
    return frozenset(
        (key, replica.stage)
        for key, standing in translation.standing.items()
        if standing.record is not None
        for replica in standing.record.part.replicas
        if replica.name in standing.lost
    )


def _set_aside(
    failed: ResourceFailed, plan: Plan, translation: Translation, held: Held
) -> tuple[Plan, Translation, Held]:
    """The same without a resource on which carrying it out failed: it keeps what it runs and says so.

    The plan of all others stands as it is, and the next cycle tries again.
    """
    key = failed.key
    refusal = internal_error(failed.error)
    without = Held(
        {k: record for k, record in held.records.items() if k != key},
        {k: proposal for k, proposal in held.proposals.items() if k != key},
    )
    return (
        replace(plan, slices=tuple(part for part in plan.slices if part.key != key)),
        replace(
            translation,
            rejected={**translation.rejected, key: (refusal,)},
            set_aside=translation.set_aside | {key},
        ),
        without,
    )


def _shown(translation: Translation) -> dict[str, Shown]:
    """The plans that statuses show, by resource key."""
    models = {k: m for k, m in translation.parsed.items() if isinstance(m, _PLANNED)}
    plans = {k: m.status.plan for k, m in models.items() if m.status.plan is not None}
    return {k: Shown(plan.hash, plan.replicas) for k, plan in plans.items()}


def _with_time(snapshot: Snapshot, settings: Settings) -> Snapshot:
    """A first plan gets more time: later ones are paid for by moving what it has started."""
    if snapshot.running:
        return snapshot
    return replace(snapshot, time_limit_s=max(snapshot.time_limit_s, settings.first_time_limit_s))
