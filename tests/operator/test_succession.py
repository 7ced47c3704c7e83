"""Edits of what pods are built from: the old ones serve until their successors are ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from motley_operator.domain.facts import PodFacts, Taint
from motley_operator.domain.names import IMAGE
from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import PREVIEW, Operated, load

NEW = {"name": "vllm", "image": "example.test/engine:2"}
DEADLINE_S = 600.0


class Edited(Operated):
    """Counts the ready pods at every step."""

    def __init__(self, nodes: int, gpus: int = 1) -> None:
        super().__init__(0)
        self.world.add_node(*(gpu_node(f"h{i}", gpus=gpus) for i in range(nodes)))
        self.fewest = 1_000
        self.starts: set[str] = set()

    def lasts(self, key: str, seconds: float, step_s: float = 10.0) -> None:
        """Time passes; a cycle each step."""
        end = self.world.now + seconds
        while self.world.now < end:
            self.cycle()
            ready = [p for p in self.world.engine_pods(key) if p.ready and not p.deleting]
            self.fewest = min(self.fewest, len(ready))
            self.starts |= self.uids(key)
            self.world.settle()
            self.world.now += step_s

    def images(self, key: str) -> set[str]:
        return {p.annotations[IMAGE] for p in self.world.engine_pods(key)}


def running(edited: Edited, rate: float) -> str:
    """A pool of as many replicas as the rate needs; from here on ready ones are counted."""
    key = edited.world.add(pool(workload=load(rate), parallelism={"maxTensor": 1}))
    edited.run()
    edited.fewest = 1_000
    return key


def broken(pod: PodFacts) -> Mapping[str, Any]:
    if pod.annotations.get(IMAGE) != NEW["image"]:
        return {}
    return {"ready": False, "reason": "CrashLoopBackOff"}


@pytest.mark.parametrize(("nodes", "gpus"), [(2, 1), (1, 2)], ids=["another node", "its own node"])
def test_a_single_replica_is_edited_without_a_gap(nodes: int, gpus: int) -> None:
    edited = Edited(nodes, gpus)
    key = running(edited, 2)
    before = edited.uids(key)
    assert len(before) == 1
    edited.edit(key, engine=NEW)
    edited.lasts(key, 120)
    assert edited.fewest == 1
    assert edited.images(key) == {NEW["image"]}
    assert len(edited.uids(key)) == 1
    assert len(edited.starts) == 2


def test_several_are_edited_one_after_the_other_and_none_is_missed() -> None:
    edited = Edited(4)
    key = running(edited, 60)
    count = len(edited.uids(key))
    assert 2 <= count < 4
    edited.edit(key, engine=NEW)
    edited.lasts(key, 300)
    assert edited.fewest >= count
    assert edited.images(key) == {NEW["image"]}
    assert len(edited.uids(key)) == count
    assert len(edited.starts) == 2 * count


def test_without_room_for_one_more_they_are_replaced_in_place() -> None:
    edited = Edited(1)
    key = running(edited, 2)
    edited.edit(key, engine=NEW)
    edited.lasts(key, 120)
    assert edited.images(key) == {NEW["image"]}
    assert edited.nodes(key) == ["h0"]


def test_an_edit_to_another_configuration_on_nodes_without_room_stops_one_in_four_at_a_time() -> (
    None
):
    edited = Edited(4, gpus=2)
    key = edited.world.add(pool(workload=load(100), parallelism={"maxTensor": 2}))
    edited.run()
    before = edited.world.engine_pods(key)
    edited.fewest = 1_000
    edited.edit(key, slo={"tpot": {"p95": "9ms"}})
    edited.lasts(key, 150)
    after = edited.world.engine_pods(key)
    columns = [{p.labels["motley.dev/column"] for p in pods} for pods in (before, after)]
    assert len(before) >= 4 and columns[0].isdisjoint(columns[1])
    assert edited.fewest >= min(len(before), len(after)) - 1
    assert edited.uids(key).isdisjoint({p.uid for p in before})


def test_an_edit_that_never_gets_ready_leaves_every_old_replica_serving() -> None:
    edited = Edited(4)
    key = running(edited, 60)
    before = edited.uids(key)
    edited.world.fate = broken
    edited.edit(key, engine=NEW)
    edited.lasts(key, 6 * DEADLINE_S, step_s=30.0)
    assert before <= edited.uids(key)
    assert edited.fewest == len(before)
    assert edited.condition(key, "Ready") == ("True", "Serving")
    assert len(edited.starts - before) <= 3
    edited.world.fate = lambda pod: {}
    edited.edit(key, engine={**NEW, "image": "example.test/engine:3"})
    edited.lasts(key, 300)
    assert edited.images(key) == {"example.test/engine:3"}
    assert len(edited.uids(key)) == len(before)


def test_a_restart_in_the_middle_finds_the_successor() -> None:
    edited = Edited(4)
    key = running(edited, 60)
    count = len(edited.uids(key))
    edited.edit(key, engine=NEW)
    for _ in range(12):
        edited.lasts(key, 10)
        edited.restart()
    edited.lasts(key, 200)
    assert edited.fewest >= count
    assert edited.images(key) == {NEW["image"]}
    assert len(edited.uids(key)) == count


def test_an_edit_of_what_no_pod_is_built_from_makes_no_successor() -> None:
    edited = Edited(3)
    key = running(edited, 2)
    before = edited.uids(key)
    edited.edit(key, replan={"headroom": "11%"})
    edited.lasts(key, 60)
    assert edited.uids(key) == before == edited.starts


def test_an_approved_edit_in_preview_is_carried_out_in_place() -> None:
    edited = Edited(2)
    key = edited.world.add(pool(replan=PREVIEW))
    edited.run()
    edited.approve(key, str(edited.proposed(key)["hash"]))
    edited.run()
    edited.edit(key, engine=NEW)
    edited.run()
    edited.approve(key, str(edited.proposed(key)["hash"]))
    edited.run()
    assert edited.images(key) == {NEW["image"]}
    assert len(edited.uids(key)) == 1


def test_a_move_within_one_configuration_is_no_succession() -> None:
    edited = Edited(1, gpus=2)
    key = running(edited, 2)
    (old,) = edited.world.engine_pods(key)
    half = {"motley.dev/price-usd-per-hour": "1"}
    edited.world.add_node(gpu_node("cheap", gpus=2, labels=half))
    edited.lasts(key, 60)
    (new,) = edited.world.engine_pods(key)
    assert (old.node, new.node) == ("h0", "cheap")
    assert new.labels["motley.dev/column"] == old.labels["motley.dev/column"]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 40))]
)
def test_whatever_is_announced_edited_or_fails_to_start_something_serves(seed: int) -> None:
    """Nodes get notices and lose them, some start nothing, images change; no node is lost."""
    random, edited = Random(seed), Edited(4, gpus=3)
    key = running(edited, 2)
    ready: set[str] = set(edited.uids(key))
    bad: set[str] = set()

    def fate(pod: PodFacts) -> Mapping[str, Any]:
        stuck = pod.uid not in ready and pod.node in bad
        return {"ready": False, "reason": "CrashLoopBackOff"} if stuck else {}

    edited.world.fate = fate
    events = 30
    for number in range(events):
        name = f"h{random.randrange(4)}"
        node = edited.world.nodes[name]
        happens = random.choice(("notice", "all clear", "breaks", "mended", "edit", "restart"))
        if happens == "notice":
            edited.world.add_node(replace(node, taints=(Taint("karpenter.sh/disrupted", "", ""),)))
        elif happens == "all clear":
            edited.world.add_node(replace(node, taints=()))
        elif happens == "breaks":
            bad.add(name)
        elif happens == "mended":
            bad.discard(name)
        elif happens == "edit":
            edited.edit(key, engine={**NEW, "image": f"example.test/engine:{number}"})
        else:
            edited.restart()
        for _ in range(random.randrange(1, 40)):
            edited.lasts(key, 30, step_s=30.0)
            ready |= {p.uid for p in edited.world.engine_pods(key) if p.ready}
    assert edited.fewest >= 1
    assert len(edited.starts) <= 3 * events
