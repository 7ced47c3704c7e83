"""An operator in a world of plain values: facts, the real planner, actions, and time that passes."""

from __future__ import annotations

from typing import Any

from motley_operator.decision import Decision, decide
from motley_operator.refusals import Refusals
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing.samples import gpu_node, pool
from motley_operator.testing.world import World
from motley_planner import planning
from motley_planner.catalog import load_catalog
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot

CATALOG = load_catalog()
SETTINGS = Settings(time_limit_s=1.0, first_time_limit_s=1.0)
PREVIEW, DISABLED = {"mode": "Preview"}, {"mode": "Disabled"}


def solve(snapshot: Snapshot, catalog: Catalog) -> Plan:
    """The planner, without a process of its own."""
    return planning.plan(snapshot, catalog, use_worker=False)


class Operated:
    """A world with an operator in it; the planner is the real one, the time is the world's."""

    def __init__(self, nodes: int = 3) -> None:
        self.world = World()
        for i in range(nodes):
            self.world.add_node(gpu_node(f"h{i}", gpus=2))
        self.planner, self.refusals = RememberingPlanner(solve), Refusals()
        self.settings = SETTINGS

    def restart(self) -> None:
        """Another process with no memory."""
        self.planner, self.refusals = RememberingPlanner(solve), Refusals()

    def cycle(self) -> Decision:
        """Facts, decision, and its actions on the world.

        Raises: CalledOff where something happened in the middle that a longer search gives way to.
        """
        facts = self.refusals.told(self.world.facts())
        decision = decide(
            facts, CATALOG, self.settings, self.planner, lambda judge: judge(self.world.facts())
        )
        self.world.apply(decision.statuses)
        self.refusals.learn(self.world.apply(decision.actions), self.world.now)
        return decision

    def run(self) -> None:
        """Cycles until two in a row do nothing, and no plan is to be sought again."""
        calm = 0
        for _ in range(20):
            decision = self.cycle()
            self.world.settle()
            self.world.now += 5.0
            busy = decision.statuses or decision.actions or self.planner.again_at is not None
            calm = 0 if busy else calm + 1
            if calm == 2:
                return
        raise AssertionError(f"never calm: {decision.statuses} {decision.actions}")

    def status(self, key: str) -> dict[str, Any]:
        """A resource's status."""
        found: dict[str, Any] = self.world.documents[key].get("status") or {}
        return found

    def condition(self, key: str, kind: str) -> tuple[str, str]:
        """(status, reason) of a condition."""
        row = next(c for c in self.status(key)["conditions"] if c["type"] == kind)
        return row["status"], row["reason"]

    def message(self, key: str, kind: str) -> str:
        """What a condition says."""
        rows = self.status(key)["conditions"]
        return str(next(c for c in rows if c["type"] == kind)["message"])

    def approve(self, key: str, digest: str) -> None:
        """Somebody writes motley.dev/approve."""
        metadata = self.world.documents[key]["metadata"]
        metadata["annotations"] = {**metadata.get("annotations", {}), "motley.dev/approve": digest}

    def proposed(self, key: str) -> dict[str, Any]:
        """status.proposedPlan; empty if there is none."""
        found: dict[str, Any] = self.status(key).get("proposedPlan") or {}
        return found

    def uids(self, key: str) -> set[str]:
        """UIDs of a resource's engine pods."""
        return {pod.uid for pod in self.world.engine_pods(key)}

    def nodes(self, key: str) -> list[str]:
        """Their nodes, sorted."""
        return sorted(pod.node or "" for pod in self.world.engine_pods(key))

    def edit(self, key: str, **spec: Any) -> None:
        """An edit of the spec; annotations stay."""
        old = self.world.documents[key]
        document = {**old, "metadata": dict(old["metadata"]), "spec": {**old["spec"], **spec}}
        self.world.add(document)


def load(rate: float) -> dict[str, Any]:
    """A workload of one class at a rate in requests/s."""
    return {
        "requestsPerSecond": rate,
        "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
    }


def approved_pool(operated: Operated, **spec: Any) -> str:
    """Key of a pool in Preview whose first plan was approved and carried out."""
    key = operated.world.add(pool(replan=PREVIEW, **spec))
    operated.run()
    operated.approve(key, str(operated.proposed(key)["hash"]))
    operated.run()
    assert operated.uids(key)
    return key
