"""Preview and Disabled: what runs stays, and what is lost comes back, with the real planner."""

from __future__ import annotations

import pytest

from motley_operator.decision import decide
from motley_operator.domain.facts import PodFacts
from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import (
    CATALOG,
    DISABLED,
    PREVIEW,
    SETTINGS,
    Operated,
    approved_pool,
    load,
)


@pytest.fixture
def operated() -> Operated:
    return Operated()


def test_an_edit_to_another_model_leaves_the_old_one_running(operated: Operated) -> None:
    key = approved_pool(operated)
    before = operated.uids(key)
    operated.edit(key, model={"id": "Qwen/Qwen3-1.7B"})
    operated.run()
    assert operated.uids(key) == before
    waiting = operated.proposed(key)
    assert (waiting["starts"] > 0, waiting["keeps"]) == (True, 0)
    operated.approve(key, waiting["hash"])
    operated.run()
    assert operated.uids(key).isdisjoint(before)
    assert {g["model"] for g in operated.status(key)["plan"]["groups"]} == {"Qwen/Qwen3-1.7B"}


def test_a_lost_node_costs_a_previewed_pool_nothing_but_its_place(operated: Operated) -> None:
    key = approved_pool(operated, workload=load(60))
    before = {pod.uid: pod for pod in operated.world.engine_pods(key)}
    lost = operated.nodes(key)[0]
    operated.world.add_node(gpu_node("spare-0", gpus=2), gpu_node("spare-1", gpus=2))
    operated.run()
    operated.world.lose_node(lost)
    operated.run()
    after = {pod.uid: pod for pod in operated.world.engine_pods(key)}
    assert len(after) == len(before)
    assert {u for u, p in before.items() if p.node != lost} <= after.keys()
    assert _columns(before) == _columns(after)
    assert operated.condition(key, "Approved") == ("True", "Approved")


def _columns(pods: dict[str, PodFacts]) -> list[str]:
    return sorted(pod.labels["motley.dev/column"] for pod in pods.values())


@pytest.mark.parametrize("mode", ["Preview", "Disabled"])
def test_what_cannot_be_restored_is_said_and_restored_once_there_is_room(mode: str) -> None:
    operated = Operated(nodes=2)
    operated.world.add_node(gpu_node("h0", gpus=1), gpu_node("h1", gpus=1))
    key = operated.world.add(pool(replan={"mode": mode}, parallelism={"maxTensor": 1}))
    operated.edit(key, workload=load(30))
    operated.run()
    if mode == "Preview":
        operated.approve(key, operated.proposed(key)["hash"])
        operated.run()
    assert operated.nodes(key) == ["h0", "h1"]
    operated.world.lose_node("h0")
    operated.run()
    assert operated.nodes(key) == ["h1"]
    assert "1 of 2 replicas of the plan are lost" in operated.message(key, "Planned")
    operated.restart()
    operated.run()
    operated.world.add_node(gpu_node("h9", gpus=1))
    operated.run()
    assert operated.nodes(key) == ["h1", "h9"]


@pytest.mark.parametrize("how", ["failed", "deleted", "vanished"])
@pytest.mark.parametrize("mode", ["Preview", "Disabled"])
def test_a_lost_pod_is_replaced_where_it_was(operated: Operated, mode: str, how: str) -> None:
    if mode == "Preview":
        key = approved_pool(operated, workload=load(60))
    else:
        key = operated.world.add(pool(replan=DISABLED, workload=load(60)))
        operated.run()
    before, nodes = operated.uids(key), operated.nodes(key)
    victim = operated.world.engine_pods(key)[0]
    at = {"motley.dev/replica": victim.labels["motley.dev/replica"]}
    if how == "failed":
        operated.world.change_pods(where=at, phase="Failed", ready=False)
    elif how == "deleted":
        operated.world.change_pods(where=at, deleting=True, ready=False)
    else:
        del operated.world.pods[(victim.namespace, victim.name)]
    operated.run()
    assert operated.nodes(key) == nodes
    assert before - operated.uids(key) == {victim.uid}


def test_a_disabled_pool_neither_grows_nor_shrinks_and_says_what_it_lacks(
    operated: Operated,
) -> None:
    key = operated.world.add(pool(replan=DISABLED, workload=load(2)))
    operated.run()
    before = operated.uids(key)
    assert operated.condition(key, "Planned") == ("True", "ReplanDisabled")
    operated.edit(key, workload=load(60))
    operated.world.add_node(gpu_node("more", gpus=2))
    operated.run()
    assert operated.uids(key) == before
    assert operated.condition(key, "Planned") == ("False", "ReplanDisabled")
    assert "requests/s cannot be served" in operated.message(key, "Planned")
    assert "proposedPlan" not in operated.status(key)
    operated.edit(key, workload=load(1), replan=DISABLED)
    operated.run()
    assert operated.uids(key) == before
    operated.edit(key, workload=load(60), replan={"mode": "Auto"})
    operated.run()
    assert len(operated.uids(key)) > len(before)
    assert not any(name.endswith("-plan") for _, _, name in operated.world.owned)


def test_others_are_planned_as_ever_around_what_holds_still() -> None:
    operated = Operated(nodes=6)
    key = approved_pool(operated)
    held = operated.uids(key)
    other = operated.world.add(pool("other", workload=load(60)))
    operated.run()
    assert operated.condition(other, "Planned") == ("True", "Planned")
    lost = next(node for node in operated.nodes(other) if node not in operated.nodes(key))
    operated.world.lose_node(lost)
    operated.run()
    assert operated.condition(other, "Planned") == ("True", "Planned")
    assert lost not in operated.nodes(other)
    operated.edit(other, workload=load(2))
    operated.run()
    assert operated.uids(key) == held


def test_at_rest_and_while_pods_start_nothing_is_solved(operated: Operated) -> None:
    key = approved_pool(operated)
    operated.edit(key, workload=load(60))
    operated.run()
    solves = operated.planner.solves
    for _ in range(3):
        operated.world.change_pods(where={"motley.dev/role": "serve"}, ready=False)
        operated.cycle()
        operated.world.settle()
        operated.cycle()
    assert operated.planner.solves == solves


def test_a_restart_changes_nothing_and_proposes_the_same(operated: Operated) -> None:
    key = approved_pool(operated)
    operated.edit(key, workload=load(60))
    operated.run()
    document = operated.world.documents[key]
    pods = dict(operated.world.pods)
    for _ in range(2):
        operated.restart()
        operated.world.now += 3600
        decision = operated.cycle()
        assert (decision.statuses, decision.actions) == ((), ())
    assert operated.world.documents[key] == document
    assert operated.world.pods == pods


def test_preview_turned_on_holds_what_runs_and_turned_off_lets_go(operated: Operated) -> None:
    key = operated.world.add(pool(workload=load(30)))
    operated.run()
    before, plan = operated.uids(key), operated.status(key)["plan"]
    operated.edit(key, replan=PREVIEW)
    operated.run()
    assert (operated.uids(key), operated.status(key)["plan"]) == (before, plan)
    assert operated.condition(key, "Approved") == ("True", "NothingProposed")
    operated.edit(key, workload=load(60))
    operated.run()
    assert operated.proposed(key) and operated.uids(key) == before
    operated.edit(key, replan={"mode": "Auto"})
    operated.run()
    assert before < operated.uids(key)
    assert "proposedPlan" not in operated.status(key)
    assert all(c["type"] != "Approved" for c in operated.status(key)["conditions"])


def test_an_impossible_edit_in_preview_leaves_everything_running(operated: Operated) -> None:
    key = approved_pool(operated)
    before = operated.uids(key)
    operated.edit(key, slo={"tpot": {"p95": "1ms"}})
    operated.run()
    assert operated.uids(key) == before
    assert operated.condition(key, "Planned") == ("False", "LatencyUnreachable")
    assert operated.condition(key, "Ready") == ("True", "Serving")


def test_a_recorded_spec_that_makes_no_sense_any_more_leaves_what_runs_alone(
    operated: Operated,
) -> None:
    operated.world.priority_classes = {"gold": 10}
    key = approved_pool(operated, priorityClassName="gold")
    other = operated.world.add(pool("other"))
    operated.run()
    before = operated.uids(key)
    spec = operated.world.documents[key]["spec"]
    del spec["priorityClassName"]
    operated.edit(key)
    operated.world.priority_classes = {}
    operated.run()
    assert operated.uids(key) == before
    assert "makes no sense any more" in operated.message(key, "Planned")
    operated.edit(other, workload=load(30))
    operated.run()
    assert operated.condition(other, "Planned") == ("True", "Planned")
    operated.approve(key, operated.proposed(key)["hash"])
    operated.run()
    assert operated.condition(key, "Planned")[0] == "True"
    assert operated.uids(key).isdisjoint(before)


@pytest.mark.parametrize("written", [1, 2, 3, 9])
def test_a_disabled_pool_whose_first_plan_was_cut_short_is_finished(
    operated: Operated, written: int
) -> None:
    key = operated.world.add(pool(replan=DISABLED, workload=load(60)))
    decision = decide(operated.world.facts(), CATALOG, SETTINGS, operated.planner)
    operated.world.apply((*decision.statuses, *decision.actions)[:written])
    operated.restart()
    operated.run()
    planned = sum(group["count"] for group in operated.status(key)["plan"]["groups"])
    assert len(operated.uids(key)) == planned > 1
    assert operated.condition(key, "Planned") == ("True", "ReplanDisabled")
