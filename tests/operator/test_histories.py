"""A day in the life of the examples on the demo's nodes: what each event may change, and no more.

Facts, decisions and actions are the operator's own, with the real planner and its solver process;
the world they change is the fake of motley_operator.testing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from motley_operator.cli.documents import Sources, facts_of, read_files
from motley_operator.decision import decide
from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing.world import World
from motley_planner.catalog import load_catalog
from motley_planner.planning import plan

ROOT = Path(__file__).parents[2]
CASCADE = "ModelCascade/team-a/support"
CATALOG = load_catalog()
MOST_CYCLES = 15


@dataclass
class Fleet:
    """The world and the operator in it; `pods` are those of replicas, by name, and their nodes."""

    world: World
    planner: RememberingPlanner = field(default_factory=lambda: RememberingPlanner(plan))

    @classmethod
    def of_the_demo(cls) -> Fleet:
        """Examples and nodes of the demo, before the first cycle."""
        objects = read_files([str(ROOT / "examples")])
        nodes = read_files([str(ROOT / "e2e/cluster/nodes/demo.yaml")])
        facts = facts_of(Sources(objects, nodes))
        world = World(nodes={node.name: node for node in facts.nodes})
        world.fleet = copy.deepcopy(facts.fleet)
        assert world.fleet is not None
        world.fleet["metadata"].setdefault("uid", "fleet")
        world.priority_classes = dict(facts.priority_classes)
        world.config_maps = dict(facts.config_maps)
        for resource in facts.resources:
            world.add(resource.document)
        return cls(world)

    def settle(self) -> int:
        """Cycles until one does nothing and no plan is to be sought again.

        Returns: how many pods were created or deleted on the way.
        """
        writes = 0
        for _ in range(MOST_CYCLES):
            self.world.now = max(self.world.now + 3.0, self.planner.again_at or 0.0)
            made = decide(self.world.facts(), CATALOG, Settings(), self.planner)
            actions = (*made.actions, *made.statuses)
            writes += sum(isinstance(action, CreatePod | DeletePod) for action in actions)
            self.world.apply(actions)
            self.world.settle()
            if not actions and self.planner.again_at is None:
                return writes
        raise AssertionError(f"{MOST_CYCLES} cycles and still not calm")

    @property
    def pods(self) -> dict[str, str]:
        """UID -> node of every pod on one of the demo's nodes."""
        return {p.uid: p.node or "" for p in self.world.pods.values() if p.node in self.world.nodes}

    def of(self, key: str) -> set[str]:
        """UIDs of a resource's pods."""
        name = key.rpartition("/")[2]
        return {p.uid for p in self.world.pods.values() if p.name.startswith(f"{name}-")}

    @property
    def serves_all(self) -> bool:
        """Whether every resource is planned in full."""
        conditions = [
            {c["type"]: c["status"] for c in document["status"]["conditions"]}
            for document in self.world.documents.values()
        ]
        return all(found["Planned"] == "True" for found in conditions)

    def edit_rate(self, rate: str) -> None:
        """Somebody asks for another rate of the cascade."""
        document = copy.deepcopy(self.world.documents[CASCADE])
        document["spec"]["workload"]["requestsPerSecond"] = rate
        self.world.add(document)

    def lose(self, name: str) -> set[str]:
        """A node is gone with its pods, whose UIDs are given."""
        gone = {uid for uid, node in self.pods.items() if node == name}
        del self.world.nodes[name]
        self.world.pods = {at: p for at, p in self.world.pods.items() if p.uid not in gone}
        return gone


@pytest.fixture(scope="module")
def settled() -> Fleet:
    """The examples, planned and running, with an operator that has been running all along."""
    fleet = Fleet.of_the_demo()
    assert fleet.settle() > 10
    mine = Fleet(fleet.world)
    mine.settle()
    return mine


@pytest.fixture
def fleet(settled: Fleet) -> Fleet:
    """A copy of it, and of all that its operator remembers."""
    return copy.deepcopy(settled)


def busy_nodes(fleet: Fleet) -> list[str]:
    """Nodes with replicas, those without a trainer."""
    trainers = {p.node for p in fleet.world.pods.values() if "trainer" in p.name}
    return sorted({node for node in fleet.pods.values() if node not in trainers})


def test_a_calm_day_changes_nothing(fleet: Fleet) -> None:
    before = fleet.pods
    for _ in range(8):
        fleet.world.now += 3 * 3600.0
        assert fleet.settle() == 0
    assert fleet.pods == before


def test_a_restart_changes_nothing(fleet: Fleet) -> None:
    before = fleet.pods
    for _ in range(3):
        fleet.planner = RememberingPlanner(plan, fleet.planner.planned_inputs)
        assert fleet.settle() == 0
        assert fleet.pods == before


def test_a_restart_changes_nothing_where_something_is_short(fleet: Fleet) -> None:
    for name in busy_nodes(fleet):  # how many nodes can be spared depends on the first plan
        fleet.lose(name)
        fleet.settle()
        if not fleet.serves_all:
            break
    assert not fleet.serves_all
    before = fleet.pods
    for _ in range(2):
        fleet.planner = RememberingPlanner(plan, fleet.planner.planned_inputs)
        assert fleet.settle() == 0
        assert fleet.pods == before


def test_a_restart_whose_inputs_nobody_noted_keeps_every_pod(fleet: Fleet) -> None:
    before = fleet.pods
    fleet.planner = RememberingPlanner(plan)
    fleet.settle()
    assert before.items() <= fleet.pods.items()


def most_stopped(survivors: Sized) -> float:
    """Survivors that a re-plan may stop after a loss, for clearly more service: two, or one in twenty."""
    return max(2, 0.05 * len(survivors))


def test_every_node_may_be_lost_and_hardly_another_pod_moves(fleet: Fleet) -> None:
    for name in busy_nodes(fleet):
        mine = copy.deepcopy(fleet)
        before = mine.pods
        gone = mine.lose(name)
        mine.settle()
        left = {uid: node for uid, node in before.items() if uid not in gone}
        kept = left.items() & mine.pods.items()
        assert len(left) - len(kept) <= most_stopped(left), name


def test_a_higher_rate_is_served_and_a_lower_one_gives_back(fleet: Fleet) -> None:
    before = fleet.of(CASCADE)
    others = set(fleet.pods) - before
    fleet.edit_rate("60")
    fleet.settle()
    planned = {c["type"]: c for c in fleet.world.documents[CASCADE]["status"]["conditions"]}
    assert planned["Planned"]["status"] == "True", planned
    assert others <= set(fleet.pods)
    more = len(fleet.of(CASCADE))
    fleet.edit_rate("20")
    fleet.settle()
    assert others <= set(fleet.pods)
    assert len(fleet.of(CASCADE)) < more


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_loss_that_leaves_enough_moves_little_whatever_went_before(
    fleet: Fleet, seed: int
) -> None:
    random, nodes = Random(seed), dict(fleet.world.nodes)
    events: list[Callable[[], object]] = [
        lambda: fleet.edit_rate(str(random.choice((20, 30, 40, 46, 48, 60)))),
        lambda: fleet.world.nodes.update(nodes),
        lambda: fleet.world.nodes.update(
            {
                name: replace(node, unschedulable=random.random() < 0.2)
                for name, node in fleet.world.nodes.items()
            }
        ),
    ]
    for _ in range(12):
        if random.random() < 0.4 and len(fleet.world.nodes) > 9:
            before = fleet.pods
            gone = fleet.lose(random.choice(busy_nodes(fleet)))
            fleet.settle()
            left = set(before) - gone
            if fleet.serves_all:
                assert len(left - set(fleet.pods)) <= most_stopped(left)
        else:
            random.choice(events)()
            fleet.settle()
        assert fleet.settle() == 0
