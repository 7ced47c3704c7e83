"""Random weeks of fleets that buy nodes: whatever comes, claims hold and everything gets calm."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.domain.claims import CLAIM
from motley_operator.domain.facts import Room, Taint
from motley_operator.testing.operated import Operated, load
from motley_operator.testing.samples import gpu_node, pool
from motley_operator.testing.scheduling import schedule

LABELS = {"karpenter.sh/nodepool": "gpu"}
SHAPE = {
    "name": "p5",
    "gpuProduct": "NVIDIA-H100-80GB-HBM3",
    "gpus": 4,
    "cpu": "64",
    "memory": "512Gi",
    "dollarsPerHour": "12",
    "maxNodes": 3,
    "delay": "5m",
    "labels": LABELS,
    "provision": "Pods",
}
MOST_CYCLES = 12


class Week(Operated):
    """A fleet with two pools, an autoscaler with moods, and a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__(nodes=1)
        self.random, self.came, self.stopped = Random(seed), 0, 0
        self.world.fleet = {
            "apiVersion": "motley.dev/v1alpha1",
            "kind": "Fleet",
            "metadata": {"name": "default", "uid": "fleet", "generation": 1},
            "spec": {"shapes": [SHAPE]},
        }
        self.keys = [self.world.add(pool(name, workload=load(20))) for name in ("chat", "other")]

    def calm(self, pace_s: float = 5.0) -> int:
        """Cycles until two in a row do nothing; how many pods were made or deleted."""
        writes = quiet = 0
        for _ in range(MOST_CYCLES):
            decision = self.cycle()
            self.world.settle()
            schedule(self.world)
            self.world.now += pace_s
            self.check()
            writes += sum(isinstance(a, CreatePod | DeletePod) for a in decision.actions)
            quiet = 0 if decision.actions or decision.statuses else quiet + 1
            if quiet == 2:
                return writes
        raise AssertionError(f"never calm: {decision.actions} {decision.statuses}")

    def check(self) -> None:
        """One node a claim, one claim a node, and no more nodes than may be."""
        at: dict[str, set[str]] = {}
        for pod in self.world.engine_pods():
            if CLAIM in pod.labels and not pod.deleting:
                at.setdefault(pod.labels[CLAIM], set()).add(pod.node or "")
        nodes = [nodes - {""} for nodes in at.values()]
        assert all(len(each) <= 1 for each in nodes), at
        placed = [name for each in nodes for name in each]
        assert len(placed) == len(set(placed)), at
        bought = len(self.staying())
        empty = [name for name in self.staying() if name not in self.busy()]
        waiting = sum(not each for each in nodes)
        assert max(bought, bought + waiting - len(empty)) <= SHAPE["maxNodes"], (at, bought)

    def staying(self) -> list[str]:
        """Bought nodes of which nobody has announced that they go."""
        bought = [n for n in self.world.nodes.values() if n.name.startswith("new")]
        return sorted(node.name for node in bought if not node.taints)

    def busy(self) -> set[str]:
        return {p.node or "" for p in self.world.engine_pods() if not p.terminal}

    def event(self) -> str:
        """Something happens; its name."""
        happened: Any = self.random.choice(
            [self.edit_rate, self.edit_rate, self.comes, self.comes, self.late, self.foreign,
             self.lost, self.told, self.idle_goes, self.restart, self.later]
        )  # fmt: skip
        happened()
        return str(happened.__name__)

    def edit_rate(self) -> None:
        self.edit(
            self.random.choice(self.keys), workload=load(self.random.choice([0, 20, 60, 130]))
        )

    def comes(self) -> None:
        waits = any(p.node is None for p in self.world.engine_pods())
        if waits and len(self.staying()) < SHAPE["maxNodes"]:  # what a NodePool's limits are for
            self.came += 1
            self.world.add_node(gpu_node(f"new-{self.came}", gpus=4, labels=LABELS))

    def late(self) -> None:
        self.world.now += 500.0

    def later(self) -> None:
        self.world.now += 7300.0

    def foreign(self) -> None:
        theirs = [key for key, pod in self.world.pods.items() if pod.namespace == "other"]
        if theirs:
            del self.world.pods[theirs[0]]
        elif free := [n for n in sorted(self.world.nodes) if n not in self.busy()]:
            self.world.foreign_pod("thief", free[0], Room(gpus=1, pods=1))

    def lost(self) -> None:
        if bought := [n for n in sorted(self.world.nodes) if n.startswith("new")]:
            self.world.lose_node(self.random.choice(bought))

    def told(self) -> None:
        """A node is about to be replaced, as by Karpenter."""
        if staying := self.staying():
            name = self.random.choice(staying)
            notice = (Taint("karpenter.sh/disrupted", "", "NoSchedule"),)
            self.world.nodes[name] = replace(self.world.nodes[name], taints=notice)

    def idle_goes(self) -> None:
        """What an autoscaler does to empty nodes."""
        for name in [n for n in self.world.nodes if n.startswith("new") and n not in self.busy()]:
            self.world.lose_node(name)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_claims_hold_and_the_fleet_gets_calm(seed: int) -> None:
    week = Week(seed)
    week.calm()
    for _ in range(14):
        happened = week.event()
        week.calm()
        week.calm(pace_s=0.0)  # a pause may have ended with the last step
        assert week.calm(pace_s=0.0) == 0, happened
    week.restart()
    assert week.calm(pace_s=0.0) == 0
