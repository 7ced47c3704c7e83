"""Nodes that are bought: asked for by pods, waited for, come or never come; the planner is real."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from motley_operator.api.documents import validate_documents
from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.domain.claims import CLAIM
from motley_operator.domain.facts import PodFacts, Room, Taint
from motley_operator.testing.operated import Operated, load
from motley_operator.testing.samples import gpu_node, pool
from motley_operator.testing.scheduling import schedule

ROOT = Path(__file__).parents[2]
LABELS = {"karpenter.sh/nodepool": "gpu"}
H100 = "NVIDIA-H100-80GB-HBM3"
DELAY_S, MARGIN_S, PAUSE_S = 300.0, 150.0, 600.0
RATE = 24  # requests/s, a little less than one H100 serves
OWNED = {"gpu": H100, "dollarsPerHour": "1"}


def fleet(**changes: Any) -> dict[str, Any]:
    """A Fleet of one shape that may be bought; `changes` are of the shape."""
    shape = {
        "name": "p5",
        "gpuProduct": H100,
        "gpus": 4,
        "cpu": "64",
        "memory": "512Gi",
        "dollarsPerHour": "12",
        "maxNodes": 3,
        "delay": "5m",
        "labels": LABELS,
        "provision": "Pods",
        **changes,
    }
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": {"shapes": [shape], "prices": {"gpus": [OWNED]}},
    }


class Autoscaled(Operated):
    """A world with two owned GPUs, a shape to buy, and a scheduler for pods without a pin."""

    def __init__(self, **shape: Any) -> None:
        super().__init__(nodes=1)
        self.world.fleet = fleet(**shape)
        self.writes: Counter[str] = Counter()

    def step(self) -> int:
        """One cycle and what follows; how many pods it made or deleted."""
        decision = self.cycle()
        self.world.settle()
        schedule(self.world)
        self.world.now += 5.0
        kinds = [type(a).__name__ for a in decision.actions if isinstance(a, CreatePod | DeletePod)]
        self.writes.update(kinds)
        return len(kinds)

    def steps(self, count: int = 4) -> int:
        """Several; how many pods they made or deleted."""
        return sum(self.step() for _ in range(count))

    def node_comes(self, name: str = "new-1", **changes: Any) -> None:
        """The autoscaler's node joins."""
        self.world.add_node(gpu_node(name, gpus=4, labels=LABELS, **changes))

    def told(self, name: str) -> None:
        """Karpenter's notice that a node is about to go."""
        old, notice = self.world.nodes[name], Taint("karpenter.sh/disrupted", "", "NoSchedule")
        self.world.nodes[name] = replace(old, taints=(*old.taints, notice))

    @property
    def waiting(self) -> list[PodFacts]:
        """Engine pods without a node."""
        return [pod for pod in self.world.engine_pods() if pod.node is None]

    def fleet_condition(self) -> tuple[str, str]:
        """(status, reason) of Provisioned."""
        assert self.world.fleet is not None
        rows = self.world.fleet["status"]["conditions"]
        row = next(c for c in rows if c["type"] == "Provisioned")
        return row["status"], row["reason"]

    def fleet_status(self, field: str) -> Any:
        """A field of the Fleet's status."""
        assert self.world.fleet is not None
        return self.world.fleet["status"].get(field)


def short_of(gpus: int, **shape: Any) -> tuple[Autoscaled, str]:
    """A fleet whose two owned GPUs leave a pool short of so many, and the pool's key."""
    made = Autoscaled(**shape)
    key = made.world.add(pool(workload=load(RATE * (2 + gpus))))
    made.steps()
    assert len(made.waiting) == gpus
    return made, key


def test_demand_beyond_the_fleet_makes_pods_that_ask_for_nodes_and_are_pinned_to_none() -> None:
    made, key = short_of(3)
    assert [pod.labels[CLAIM] for pod in made.waiting] == ["p5-0"] * 3
    spec = made.world.specs[("team-a", made.waiting[0].name)]
    assert spec["nodeSelector"] == LABELS and "matchFields" not in str(spec["affinity"])
    assert made.condition(key, "Planned")[0] == "True"
    waits = made.message(key, "Reconciling")
    assert waits == "main: 2 of 5 replicas ready, 3 waiting for nodes"
    assert made.fleet_condition() == ("False", "WaitingForNodes")
    assert made.fleet_status("nodesComing") == [
        {"shape": "p5", "gpu": "H100-SXM5-80GB", "count": 1, "dollarsPerHour": "12"}
    ]
    assert not made.fleet_status("nodesToAdd")


def test_the_fleet_of_the_guide_is_valid_and_stands_in_the_guide_as_it_is() -> None:
    guide = ROOT / "docs/guides/provisioning.yaml"
    assert validate_documents([guide]) == ()
    (shape,) = yaml.safe_load(guide.read_text())["spec"]["shapes"]
    shown = guide.with_suffix(".md").read_text().partition("shapes:\n")[2].partition("\n\n")[0]
    assert yaml.safe_load(shown) == [shape]


def test_without_provision_nothing_is_made_and_the_nodes_are_only_named() -> None:
    made = Autoscaled(provision="None")
    made.world.add(pool(workload=load(5 * RATE)))
    made.steps()
    assert not made.waiting
    assert [row["count"] for row in made.fleet_status("nodesToAdd")] == [1]


def test_waiting_is_calm_and_a_restart_in_it_changes_nothing() -> None:
    made, _ = short_of(3)
    uids, solves = {p.uid for p in made.world.engine_pods()}, made.planner.solves
    assert made.steps(8) == 0 and made.planner.solves == solves
    made.restart()
    assert made.steps(8) == 0
    assert {p.uid for p in made.world.engine_pods()} == uids


def test_the_node_comes_its_pods_are_bound_and_nothing_else_moves() -> None:
    made, key = short_of(3)
    uids = {p.uid for p in made.world.engine_pods()}
    made.node_comes()
    assert made.steps(6) == 0
    assert {p.uid for p in made.world.engine_pods()} == uids
    assert made.nodes(key) == ["h0", "h0", "new-1", "new-1", "new-1"]
    assert made.fleet_condition() == ("True", "NothingAwaited")
    assert made.condition(key, "Ready")[0] == "True"
    made.restart()
    assert made.steps() == 0


def test_a_pod_lost_from_a_node_that_came_is_made_anew_pinned_to_it() -> None:
    made, key = short_of(3)
    made.node_comes()
    made.steps()
    victim = next(p for p in made.world.engine_pods(key) if p.node == "new-1")
    del made.world.pods[(victim.namespace, victim.name)]
    made.steps()
    assert made.nodes(key) == ["h0", "h0", "new-1", "new-1", "new-1"]
    spec = made.world.specs[("team-a", victim.name)]
    assert "nodeSelector" not in spec and "matchFields" in str(spec["affinity"])


def test_a_node_of_the_shape_that_opted_out_is_none_that_pods_wait_for() -> None:
    made, key = short_of(3)
    out = {**LABELS, "motley.dev/exclude": "true"}
    made.world.add_node(gpu_node("aside", gpus=4, labels=out))
    made.steps(6)
    assert len(made.waiting) == 3
    made.node_comes()
    made.steps(6)
    assert made.nodes(key) == ["h0", "h0", "new-1", "new-1", "new-1"]


def test_a_young_node_without_product_label_is_taken_for_what_its_shape_says() -> None:
    made, key = short_of(3)
    node = gpu_node("new-1", gpus=4, labels=LABELS)
    labels = {k: v for k, v in node.labels.items() if k != "nvidia.com/gpu.product"}
    made.world.add_node(replace(node, labels=labels, gpu_label=None))
    assert made.steps() == 0
    assert made.nodes(key).count("new-1") == 3


def test_several_nodes_are_filled_as_planned_whichever_comes_first() -> None:
    made, key = short_of(7)
    claims = Counter(pod.labels[CLAIM] for pod in made.waiting)
    assert sorted(claims.values()) == [3, 4]
    made.node_comes("new-b")
    made.steps()
    made.node_comes("new-a")
    assert made.steps(6) == 0
    on = Counter(
        (p.node, p.labels[CLAIM]) for p in made.world.engine_pods(key) if CLAIM in p.labels
    )
    assert sorted(on.values()) == [3, 4] and len({node for node, _ in on}) == 2


def test_a_node_that_never_comes_is_given_up_once_and_the_plan_is_made_without_it() -> None:
    made, key = short_of(3)
    made.world.now += DELAY_S + MARGIN_S - 40.0
    assert made.steps(2) == 0  # not before the margin is over
    made.world.now += 40.0
    assert made.steps() == 3 and not made.waiting
    assert made.fleet_condition() == ("False", "NoNodeCame")
    assert [row["failures"] for row in made.fleet_status("suspectShapes")] == [1]
    assert made.condition(key, "Planned")[0] == "False"
    made.restart()
    assert made.steps() == 0  # what is suspect is remembered
    assert made.nodes(key) == ["h0", "h0"]


def test_a_suspect_shape_is_tried_again_after_a_while_that_doubles() -> None:
    made, _ = short_of(3)
    for failures in (1, 2):
        made.world.now += DELAY_S + MARGIN_S
        made.steps()
        (row,) = made.fleet_status("suspectShapes")
        assert row["failures"] == failures and not made.waiting
        made.world.now += PAUSE_S * 2 ** (failures - 1) - 120.0
        assert made.steps(2) == 0
        made.world.now += 120.0
        made.steps()
        assert len(made.waiting) == 3
    made.node_comes()
    made.steps(6)
    assert not made.waiting and not made.fleet_status("suspectShapes")


def test_a_pool_that_grows_while_it_waits_shares_the_node_that_is_coming() -> None:
    made, _ = short_of(3)
    other = made.world.add(pool("other", workload=load(20)))
    made.steps()
    (pod,) = [p for p in made.waiting if p.name.startswith("other")]
    assert pod.labels[CLAIM] == "p5-0"
    made.node_comes()
    assert made.steps(6) == 0
    assert made.nodes(other) == ["new-1"]


def test_more_than_the_greatest_number_of_nodes_is_never_asked_for() -> None:
    made = Autoscaled(maxNodes=1)
    key = made.world.add(pool(workload=load(RATE * 10)))
    made.steps()
    assert {pod.labels[CLAIM] for pod in made.waiting} == {"p5-0"}
    made.node_comes()
    assert made.steps(8) == 0
    assert not made.waiting and made.nodes(key).count("new-1") == 4


def test_a_node_that_is_replaced_is_none_of_the_greatest_number() -> None:
    made, key = short_of(3, maxNodes=1)
    made.node_comes()
    made.steps()
    before = made.uids(key)
    made.told("new-1")
    made.writes.clear()
    made.steps()
    assert len(made.waiting) == 3
    assert made.uids(key) >= before  # what runs there goes on until another is ready
    made.node_comes("new-2")
    made.steps(8)
    assert sorted(made.nodes(key)) == ["h0"] * 2 + ["new-2"] * 3
    assert made.writes == {"CreatePod": 3, "DeletePod": 3}
    del made.world.nodes["new-1"]  # the autoscaler's part
    assert made.steps() == 0


def test_no_pod_waits_for_the_room_on_a_node_that_is_about_to_go() -> None:
    made, key = short_of(3)
    made.node_comes()
    made.steps()
    made.edit(key, workload=load(20))
    made.steps(8)
    assert made.nodes(key) == ["h0"]
    made.told("new-1")  # it is empty, and so taken back
    made.edit(key, workload=load(5 * RATE))
    made.writes.clear()
    made.steps()
    assert len(made.waiting) == 3
    made.edit(key, workload=load(6 * RATE))
    made.steps()
    assert len(made.waiting) == 4
    assert made.writes == {"CreatePod": 5}
    assert {pod.labels[CLAIM] for pod in made.waiting} == {"p5-0"}
    del made.world.nodes["new-1"]
    assert made.steps() == 0


def test_an_owned_node_that_gets_free_takes_the_place_at_most_once() -> None:
    made = Autoscaled()
    made.world.add_node(gpu_node("h1", gpus=4))
    made.world.foreign_pod("tenant", "h1", Room(gpus=4, pods=1))
    key = made.world.add(pool(workload=load(RATE * 5)))
    made.steps()
    assert len(made.waiting) == 3
    del made.world.pods[("other", "tenant")]
    assert made.steps(8) in (0, 6)  # kept waiting, or all three moved to the free GPUs
    before = made.uids(key)
    made.node_comes()
    assert made.steps(8) == 0 and made.uids(key) == before


def test_what_is_no_longer_asked_for_leaves_the_node_empty() -> None:
    made, key = short_of(3)
    made.node_comes()
    made.steps()
    made.edit(key, workload=load(20))
    made.steps(8)
    assert made.nodes(key) == ["h0"]
    assert made.steps() == 0


@pytest.mark.parametrize(("first", "then", "left"), [(16, 10, 8), (14, 9, 7), (14, 6, 4)])
def test_a_pool_that_needs_less_gives_a_whole_node_back_where_it_can(
    first: int, then: int, left: int
) -> None:
    made = Autoscaled(gpus=8, cpu="190", memory="1480Gi")
    key = made.world.add(pool(workload=load(RATE * first)))
    made.steps()
    for name in ("new-1", "new-2"):
        made.world.add_node(gpu_node(name, gpus=8, labels=LABELS))
    made.steps(6)
    assert len(set(made.nodes(key))) == 3
    uids = made.uids(key)
    made.edit(key, workload=load(RATE * then))
    made.steps(8)
    assert made.uids(key) < uids
    assert sorted(Counter(made.nodes(key)).values()) == sorted([2, left])


def test_demand_that_goes_while_its_node_is_awaited_takes_the_waiting_pods_along() -> None:
    made, key = short_of(3)
    made.edit(key, workload=load(20))
    made.steps(8)
    assert not made.waiting and made.nodes(key) == ["h0"]
    assert not made.fleet_status("nodesComing") and not made.fleet_status("suspectShapes")


def test_bought_nodes_are_emptied_before_others_that_are_alike() -> None:
    zone = gpu_node("any").labels["topology.kubernetes.io/zone"]
    made, key = short_of(4, zone=zone, dollarsPerHour="4")
    made.node_comes()
    made.steps(6)
    assert sorted(made.nodes(key)) == ["h0"] * 2 + ["new-1"] * 4
    made.edit(key, workload=load(RATE * 2))
    made.steps(8)
    assert made.nodes(key) == ["h0", "h0"]


def test_what_serves_stays_and_what_waits_goes_where_both_are_alike() -> None:
    zone = gpu_node("any").labels["topology.kubernetes.io/zone"]
    made, key = short_of(3, zone=zone, dollarsPerHour="4")
    serving = {pod.uid for pod in made.world.engine_pods(key) if pod.node}
    made.edit(key, workload=load(RATE * 2))
    made.steps(6)
    assert made.uids(key) == serving and not made.waiting


def test_a_shape_that_gets_dearer_keeps_what_waits_and_what_came() -> None:
    made, key = short_of(3)
    uids = made.uids(key)
    made.world.fleet = {**fleet(dollarsPerHour="16"), "status": (made.world.fleet or {})["status"]}
    assert made.steps() == 0
    made.node_comes()
    assert made.steps(6) == 0 and made.uids(key) == uids


def test_a_shape_that_is_taken_out_of_the_fleet_takes_its_waiting_pods_along() -> None:
    made, key = short_of(3)
    assert made.world.fleet is not None
    made.world.fleet["spec"] = {**made.world.fleet["spec"], "shapes": []}
    made.steps(6)
    assert not made.waiting and made.nodes(key) == ["h0", "h0"]


def test_a_resource_in_preview_is_bought_nothing_for() -> None:
    made = Autoscaled()
    made.world.add(pool(workload=load(5 * RATE), replan={"mode": "Preview"}))
    made.steps()
    assert not made.world.engine_pods()
    assert made.fleet_condition() == ("True", "NothingAwaited")


def test_one_that_is_put_in_preview_while_it_waits_keeps_its_pods_when_the_node_comes() -> None:
    made, key = short_of(3)
    made.edit(key, replan={"mode": "Preview"})
    assert made.steps() == 0
    made.node_comes()
    assert made.steps(6) == 0
    assert made.nodes(key) == ["h0", "h0", "new-1", "new-1", "new-1"]


def test_tainted_nodes_of_a_shape_are_used_by_what_tolerates_the_shapes_taints() -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    made, key = short_of(3, tolerations=[taint])
    made.node_comes(taints=[("dedicated", "gpu", "NoSchedule")])
    assert made.steps(6) == 0
    assert made.nodes(key).count("new-1") == 3


@pytest.mark.parametrize("gone", [True, False])
def test_a_node_of_which_foreign_pods_took_a_part_costs_no_shape_its_name(gone: bool) -> None:
    made, key = short_of(3)
    made.node_comes()
    made.world.foreign_pod("thief", "new-1", Room(gpus=2, pods=1))
    made.steps()
    assert len(made.waiting) == 1
    if gone:
        del made.world.pods[("other", "thief")]
        assert made.steps() == 0 and not made.waiting
        return
    made.world.now += DELAY_S + MARGIN_S
    made.steps(6)
    assert not made.fleet_status("suspectShapes")
    assert made.nodes(key).count("new-1") == 2


def test_labels_that_lead_to_another_gpu_make_the_shape_suspect_and_no_endless_loop() -> None:
    made, key = short_of(3)
    made.node_comes(product="NVIDIA-L40S")
    made.steps(6)
    assert made.fleet_condition() == ("False", "NoNodeCame")
    assert made.steps(8) == 0
    assert not any(CLAIM in pod.labels for pod in made.world.engine_pods(key))


def test_a_pool_without_demand_gives_back_every_node_and_gets_one_with_the_next_request() -> None:
    made, key = short_of(3)
    made.node_comes()
    made.steps()
    made.edit(key, workload=load(0))
    made.steps()
    assert made.nodes(key) == []
    del made.world.nodes["new-1"]  # the autoscaler's part
    made.edit(key, workload=load(5 * RATE))
    made.steps()
    assert len(made.waiting) == 3


@pytest.mark.parametrize("zone", [{"zone": "az-1"}, {}])
def test_a_replica_over_two_nodes_waits_for_two_of_one_zone_and_its_pods_come_to_lie_apart(
    zone: dict[str, str],
) -> None:
    made = Autoscaled(gpus=1, cpu="16", memory="128Gi", maxNodes=4, **zone)
    made.world.nodes.clear()
    model = {"id": "meta-llama/Llama-3.3-70B-Instruct", "precision": "bf16"}
    key = made.world.add(
        pool(model=model, parallelism={"maxTensor": 1, "maxPipeline": 4}, workload=load(1))
    )
    made.steps()
    if not zone:  # nobody knows in which zones its nodes would come
        assert not made.waiting
        return
    assert sorted(pod.labels[CLAIM] for pod in made.waiting) == ["p5-0", "p5-1"]
    for name in ("new-1", "new-2"):
        made.world.add_node(gpu_node(name, gpus=2, labels=LABELS))
        made.steps(2)
    assert made.steps() == 0
    assert made.nodes(key) == ["new-1", "new-2"]
