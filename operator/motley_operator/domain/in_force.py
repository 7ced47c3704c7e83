"""The plan in force, what it was made from, and when it is asked for again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from motley_operator.domain.patience import TRIES, Asked, wants_time
from motley_operator.domain.translation import Translation
from motley_planner.domain.demand import Demand
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class InForce:
    """The plan in force and what it was made from."""

    plan: Plan
    inputs_hash: str
    frozen: frozenset[str]
    holding: frozenset[str]  # units whose room the plan could not count on
    nodes: frozenset[str]  # on which something may start, or may again once they are ready
    prices: frozenset[float]
    demands: Mapping[str, Demand]
    waiting: frozenset[str] = frozenset()  # of the nodes, those that were not ready
    marks: str = ""  # of what stands in Preview and Disabled
    asked: Asked | None = None  # None: it is not asked for again
    proposing: Asked | None = None  # how proposals that were cut short were; None: none was
    save_at: float | None = None  # Unix time from which money is looked at again

    @property
    def again_at(self) -> float | None:
        """Unix time from which anything is asked for again; None where all is good enough."""
        due = [at for at in (self.plan_again_at, self.proposals_again_at) if at is not None]
        return min(due, default=None)

    @property
    def plan_again_at(self) -> float | None:
        """The same of the plan."""
        asked = self.asked
        return asked.due_at if asked is not None and wants_time(self.plan, asked) else None

    @property
    def proposals_again_at(self) -> float | None:
        """The same of proposals."""
        how = self.proposing
        return how.due_at if how is not None and how.tries < TRIES else None

    def put_off(self, now: float) -> InForce:
        """The same, where asking again gave way to something: not counted, and due after a rest."""
        asked, how = self.asked, self.proposing
        if asked is not None and asked.due_at <= now:
            asked = replace(asked, at=now)
        if how is not None and how.due_at <= now:
            how = replace(how, at=now)
        return replace(self, asked=asked, proposing=how)

    @staticmethod
    def of(plan: Plan, translation: Translation, asked: Asked | None = None) -> InForce:
        """A plan that was just made."""
        snapshot, waiting = translation.snapshot, translation.waiting
        nodes = (n.name for n in snapshot.nodes if not n.cordoned or n.name in waiting)
        return InForce(
            plan=plan,
            inputs_hash=translation.inputs_hash,
            frozen=snapshot.frozen,
            holding=translation.holding,
            nodes=frozenset(nodes),
            waiting=waiting,
            prices=prices_of(snapshot),
            demands={demand.key: demand for demand in snapshot.demands},
            marks=translation.marks,
            asked=asked,
        )


def prices_of(snapshot: Snapshot, without: frozenset[str] = frozenset()) -> frozenset[float]:
    """USD per GPU and hour on the nodes that are there."""
    nodes = (node for node in snapshot.nodes if not node.coming and node.name not in without)
    return frozenset(node.node_class.price_usd_per_gpu_hour for node in nodes)
