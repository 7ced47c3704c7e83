from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from motley_operator import changes, manifests, policies, translate
from motley_operator.domain.facts import NodeFacts, Room
from motley_operator.domain.in_force import InForce
from motley_operator.domain.translation import Translation
from motley_operator.policies import Reason, Verdict
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog

CATALOG = load_catalog()
SETTINGS = Settings()


class Running:
    """A world in which a plan of two replicas was carried out."""

    def __init__(self) -> None:
        self.world = World().add_node(gpu_node("h0"), gpu_node("h1"))
        self.key = self.world.add(pool())
        self.plan = plan_of(slice_of(self.key, [replica(), replica(ordinal=1, nodes=("h1",))]))
        self.force = InForce.of(self.plan, self.translation())
        facts = self.world.facts()
        desired = manifests.build(self.plan, self.translation(), facts, CATALOG, SETTINGS)
        self.world.apply(changes.changes(desired, facts, self.plan))

    def translation(self) -> Translation:
        return translate.translate(self.world.facts(), CATALOG, SETTINGS)

    def verdict(self) -> Verdict:
        return policies.verdict(self.force, self.translation(), self.world.facts())


def with_cores(name: str, cores: int) -> NodeFacts:
    """A node of eight GPUs with so many cores to give."""
    node = gpu_node(name)
    return replace(node, allocatable=replace(node.allocatable, cpu_milli=1000 * cores))


@pytest.fixture
def running() -> Running:
    return Running()


def test_the_first_plan_needs_no_reason(running: Running) -> None:
    first = policies.verdict(None, running.translation(), running.world.facts())
    assert first == Verdict(True, Reason.FIRST_PLAN)


def test_a_plan_is_held_while_its_pods_start_and_after(running: Running) -> None:
    assert running.verdict() == Verdict(False, Reason.UNCHANGED)
    running.world.settle()
    assert running.verdict() == Verdict(False, Reason.UNCHANGED)


def test_a_plan_is_held_while_what_it_stops_is_ending(running: Running) -> None:
    running.world.settle()
    running.force = replace(running.force, plan=plan_of(slice_of(running.key, [replica()])))
    running.world.change_pods(where={"motley.dev/replica": "main-0a1b2c3d-1"}, deleting=True)
    assert not running.verdict().replan
    running.world.end_pods()
    assert not running.verdict().replan


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (lambda r: r.world.lose_node("h1"), Reason.INPUTS_CHANGED),
        (lambda r: r.world.add_node(gpu_node("h2")), Reason.INPUTS_CHANGED),
        (lambda r: r.world.add_node(gpu_node("h1", unschedulable=True)), Reason.INPUTS_CHANGED),
        (
            lambda r: r.world.add_node(gpu_node("h1", ready=False, not_ready_since=0.0)),
            Reason.INPUTS_CHANGED,
        ),
        (
            lambda r: r.world.add_node(gpu_node("h1", taints=[("down", "", "NoSchedule")])),
            Reason.INPUTS_CHANGED,
        ),
        (
            lambda r: r.world.add_node(gpu_node("h1", labels={"motley.dev/trust-zone": "inner"})),
            Reason.INPUTS_CHANGED,
        ),
        (lambda r: r.world.add_node(gpu_node("h1", zone="az-2")), Reason.INPUTS_CHANGED),
        (lambda r: r.world.add_node(gpu_node("h1", gpus=7)), Reason.INPUTS_CHANGED),
        (lambda r: r.world.add_node(with_cores("h1", 4)), Reason.INPUTS_CHANGED),
        (lambda r: r.world.foreign_pod("x", "h0", Room(gpus=1)), Reason.INPUTS_CHANGED),
        (lambda r: r.world.add(pool(replan={"headroom": "30%"})), Reason.INPUTS_CHANGED),
        (lambda r: r.world.add(pool("another")), Reason.INPUTS_CHANGED),
        (
            lambda r: r.world.change_pods(where={"motley.dev/rank": "0"}, phase="Failed"),
            Reason.REPLICA_LOST,
        ),
        (
            lambda r: r.world.change_pods(where={"motley.dev/rank": "0"}, deleting=True),
            Reason.REPLICA_LOST,
        ),
    ],
    ids=[
        "a node is gone",
        "a node came",
        "a node is cordoned",
        "a node is lost",
        "a node is tainted",
        "a node gets another trust zone",
        "a node says another zone",
        "a node has a GPU less to give",
        "a node has cores for fewer of its GPUs",
        "a foreign pod took a GPU",
        "an edit",
        "a new resource",
        "a replica failed",
        "somebody deletes a replica",
    ],
)
def test_a_new_plan_is_made_when(running: Running, event: Any, reason: Reason) -> None:
    running.world.settle()
    event(running)
    assert running.verdict() == Verdict(True, reason)


@pytest.mark.parametrize(
    "changed",
    [
        gpu_node("h1"),
        gpu_node("h1", labels={"example.com/rack": "7"}),
        with_cores("h1", 127),
    ],
    ids=["equal facts", "a label that nobody asks for", "cores for all of its GPUs"],
)
def test_what_no_plan_reads_of_a_node_makes_none(running: Running, changed: NodeFacts) -> None:
    running.world.settle()
    running.world.add_node(changed)
    assert running.verdict() == Verdict(False, Reason.UNCHANGED)


def test_a_foreign_pod_without_gpus_changes_nothing(running: Running) -> None:
    running.world.foreign_pod("log-agent", "h0", Room(cpu_milli=100, memory_bytes=2**20))
    assert not running.verdict().replan


def test_a_replica_that_vanished_is_made_again_by_the_plan_in_force(running: Running) -> None:
    running.world.settle()
    del running.world.pods[("team-a", "chat-main-0a1b2c3d-0")]
    assert not running.verdict().replan


def test_a_pause_ends_the_plan_in_force(running: Running) -> None:
    document = running.world.documents[running.key]
    document["metadata"]["annotations"] = {"motley.dev/paused": "true"}
    assert running.verdict().replan


def test_the_end_of_pods_on_a_lost_node_is_no_second_plan(running: Running) -> None:
    running.world.settle()
    del running.world.nodes["h1"]
    running.force = InForce.of(running.plan, running.translation())
    running.world.pods = {at: p for at, p in running.world.pods.items() if p.node != "h1"}
    case = policies.Case(running.force, running.translation(), running.world.facts())
    assert policies.room_freed(case) is None


def test_the_end_of_pods_of_a_rejected_resource_is_worth_a_plan(running: Running) -> None:
    running.world.settle()
    document = running.world.documents[running.key]
    document["spec"]["model"]["id"] = "nobody/knows-this"
    running.force = InForce.of(running.plan, running.translation())
    running.world.pods.clear()
    case = policies.Case(running.force, running.translation(), running.world.facts())
    assert policies.room_freed(case) == Reason.ROOM_FREED


def test_room_that_becomes_free_is_worth_a_plan(running: Running) -> None:
    running.force = replace(running.force, holding=frozenset({"ServingPool/team-a/old/main-0-0"}))
    assert running.verdict() == Verdict(True, Reason.ROOM_FREED)


@pytest.mark.parametrize(
    ("promised", "is_carried_out"),
    [
        ([{"count": 2}], True),
        ([{"count": 1, "zone": "az-1"}, {"count": 1, "zone": "az-2"}], True),
        ([{"count": 1}, {"count": 1, "tensorParallel": 2}], False),
        ([{"count": 2, "gpu": "L4"}], False),
        ([{"count": 2, "phase": "decode"}], False),
        ([{"count": 3}], False),
    ],
    ids=[
        "as many",
        "as many in two groups",
        "one of them with two GPUs",
        "on another GPU",
        "in another phase",
        "one more",
    ],
)
def test_after_a_restart_that_is_carried_out_which_runs_as_promised(
    running: Running, promised: list[dict[str, Any]], is_carried_out: bool
) -> None:
    """As many replicas of another sort are an edit or a move that was cut off half-way."""
    running.world.settle()
    same = {
        "column": "0a1b2c3d",
        "model": "Qwen/Qwen3-8B",
        "gpu": "H100-SXM5-80GB",
        "gpuProduct": "NVIDIA-H100-80GB-HBM3",
        "tensorParallel": 1,
    }
    document = running.world.documents[running.key]
    document["status"] = {
        "observedGeneration": document["metadata"]["generation"],
        "plan": {"hash": "0123456789ab", "groups": [same | group for group in promised]},
    }
    translation = running.translation()
    asked = frozenset() if is_carried_out else frozenset({running.key})
    assert policies.edited(None, translation) == asked
    assert policies.carried_out(translation, same=True) == frozenset({running.key}) - asked
