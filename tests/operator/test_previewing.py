"""Preview and Disabled, from facts to pods and back, with the real planner."""

from __future__ import annotations

from typing import Any

import pytest

from motley_operator.decision import decide
from motley_operator.domain.actions import ApplyObject
from motley_operator.domain.facts import PodFacts, Room
from motley_operator.testing import CALIBRATION, cascade, gpu_node, job, pool
from motley_operator.testing.operated import CATALOG, SETTINGS, Operated

PREVIEW, DISABLED = {"mode": "Preview"}, {"mode": "Disabled"}


def load(rate: float) -> dict[str, Any]:
    return {
        "requestsPerSecond": rate,
        "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200}],
    }


@pytest.fixture
def operated() -> Operated:
    return Operated()


def approved_pool(operated: Operated, **spec: Any) -> str:
    """A pool in Preview whose first plan was approved and carried out."""
    key = operated.world.add(pool(replan=PREVIEW, **spec))
    operated.run()
    operated.approve(key, operated.proposed(key)["hash"])
    operated.run()
    assert operated.uids(key)
    return key


@pytest.mark.parametrize("make", [pool, cascade, job], ids=["pool", "cascade", "job"])
def test_nothing_of_a_new_resource_runs_before_its_first_plan_is_approved(
    operated: Operated, make: Any
) -> None:
    operated.world.config_maps["team-a", "table"] = {"table.csv": CALIBRATION}
    key = operated.world.add(make(replan=PREVIEW))
    operated.run()
    assert operated.world.pods == {}
    assert {kind for kind, _, _ in operated.world.owned} == {"ConfigMap"}
    assert "plan" not in operated.status(key)
    waiting = operated.proposed(key)
    assert waiting["starts"] > 0 and waiting["stops"] == waiting["keeps"] == 0
    assert operated.condition(key, "Planned") == ("False", "AwaitingApproval")
    assert operated.condition(key, "Ready") == ("False", "AwaitingApproval")
    kind = key.partition("/")[0].lower()
    name = key.rpartition("/")[2]
    command = (
        f"kubectl annotate --overwrite {kind}.motley.dev {name} -n team-a"
        f" motley.dev/approve={waiting['hash']}"
    )
    assert command in operated.message(key, "Planned")
    assert command in operated.message(key, "Approved")
    operated.approve(key, waiting["hash"])
    operated.run()
    assert operated.status(key)["plan"]["hash"] == waiting["hash"]
    assert operated.condition(key, "Approved") == ("True", "Approved")
    assert {p.node for p in operated.world.engine_pods(key)} <= set(operated.world.nodes)
    replicas = {p.labels["motley.dev/replica"] for p in operated.world.engine_pods(key)}
    assert len(replicas) == waiting["starts"]


@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "restarted in between"])
def test_an_approval_applies_exactly_the_proposed_plan(operated: Operated, restarts: bool) -> None:
    key = operated.world.add(pool(replan=PREVIEW, workload=load(30)))
    operated.run()
    waiting = operated.proposed(key)
    record = operated.planner.held.proposals[key].record
    assert record is not None
    if restarts:
        operated.restart()
    operated.approve(key, waiting["hash"])
    operated.run()
    live = {(p.labels["motley.dev/replica"], p.node) for p in operated.world.engine_pods(key)}
    assert live == {(r.name, r.nodes[0]) for r in record.part.replicas}
    status = operated.status(key)
    assert status["plan"]["hash"] == waiting["hash"] == status["lastHandledApproval"]
    assert status["plan"]["dollarsPerHour"] == waiting["dollarsPerHour"]
    assert "proposedPlan" not in status
    assert operated.condition(key, "Approved") == ("True", "Approved")
    assert operated.condition(key, "Ready") == ("True", "Serving")
    assert status["lastReplan"]["reason"] == "Approved"


def test_an_operator_that_dies_between_its_writes_finishes_the_approved_plan(
    operated: Operated,
) -> None:
    for written in range(8):
        operated = Operated()
        key = operated.world.add(pool(replan=PREVIEW, workload=load(60)))
        operated.run()
        waiting = operated.proposed(key)
        operated.approve(key, waiting["hash"])
        decision = decide(operated.world.facts(), CATALOG, SETTINGS, operated.planner)
        operated.world.apply((*decision.statuses, *decision.actions)[:written])
        operated.restart()
        operated.run()
        assert operated.status(key)["plan"]["hash"] == waiting["hash"]
        assert operated.condition(key, "Approved") == ("True", "Approved")
        assert len(operated.uids(key)) == waiting["starts"]


def test_an_edit_changes_no_pod_before_it_is_approved(operated: Operated) -> None:
    key = approved_pool(operated)
    before, plan = operated.uids(key), operated.status(key)["plan"]
    operated.edit(key, workload=load(60), engine={"extraArgs": ["--enable-prefix-caching"]})
    operated.run()
    assert operated.uids(key) == before
    assert operated.status(key)["plan"] == plan
    waiting = operated.proposed(key)
    assert waiting["starts"] > 0
    assert float(waiting["dollarsPerHour"]) > float(waiting["dollarsPerHourBefore"])
    assert operated.condition(key, "Planned") == ("False", "AwaitingApproval")
    operated.approve(key, waiting["hash"])
    operated.run()
    assert operated.status(key)["plan"]["hash"] == waiting["hash"]
    assert len(operated.uids(key)) == waiting["starts"] + waiting["keeps"]
    assert operated.uids(key).isdisjoint(before)  # the arguments were edited: rolled one by one
    assert operated.condition(key, "Planned")[0] == "True"


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


def test_an_approval_of_another_hash_is_refused_until_the_right_one_is_named(
    operated: Operated,
) -> None:
    key = operated.world.add(pool(replan=PREVIEW))
    operated.run()
    operated.approve(key, "0123456789abcdef0123")
    operated.run()
    assert operated.condition(key, "Approved") == ("False", "StaleApproval")
    waiting = operated.proposed(key)["hash"]
    assert f"approve={waiting}" in operated.message(key, "Approved")
    assert operated.world.engine_pods() == []
    operated.restart()
    operated.run()
    assert operated.condition(key, "Approved") == ("False", "StaleApproval")
    operated.approve(key, waiting)
    operated.run()
    assert operated.condition(key, "Approved") == ("True", "Approved")
    assert operated.uids(key)


def test_an_approval_that_the_facts_have_overtaken_is_refused_and_a_new_plan_proposed(
    operated: Operated,
) -> None:
    key = operated.world.add(pool(replan=PREVIEW))
    operated.run()
    old = operated.planner.held.proposals[key].record
    assert old is not None
    for node in {node for r in old.part.replicas for node in r.nodes}:
        operated.world.foreign_pod(f"x-{node}", node, Room(gpus=2))
    operated.approve(key, old.hash)
    operated.run()
    assert operated.condition(key, "Approved") == ("False", "StaleApproval")
    assert "no room" in operated.message(key, "Approved")
    assert operated.world.engine_pods() == []
    fresh = operated.proposed(key)
    assert fresh["hash"] != old.hash
    operated.run()  # the refused approval stays refused
    assert operated.world.engine_pods() == []
    operated.approve(key, fresh["hash"])
    operated.run()
    assert operated.status(key)["plan"]["hash"] == fresh["hash"]


def test_an_approval_that_comes_with_an_edit_is_refused(operated: Operated) -> None:
    key = operated.world.add(pool(replan=PREVIEW))
    operated.run()
    old = operated.proposed(key)["hash"]
    operated.approve(key, old)
    operated.edit(key, workload=load(60))
    operated.run()
    assert operated.condition(key, "Approved") == ("False", "StaleApproval")
    assert "edited after it was proposed" in operated.message(key, "Approved")
    assert operated.world.engine_pods() == []
    assert operated.proposed(key)["hash"] != old


def test_an_approval_is_used_once_and_is_no_licence_for_later_plans(operated: Operated) -> None:
    key = approved_pool(operated, workload=load(2))
    small = operated.status(key)["lastHandledApproval"]
    operated.edit(key, workload=load(60))
    operated.run()
    before = operated.uids(key)
    assert operated.proposed(key)["hash"] != small
    large = operated.proposed(key)["hash"]
    operated.approve(key, large)
    operated.run()
    assert operated.uids(key) != before
    grown = operated.uids(key)
    operated.edit(key, workload=load(2))  # what was approved first is proposed again
    operated.run()
    assert operated.proposed(key)["hash"] not in (small, large)
    operated.approve(key, small)
    operated.run()
    assert operated.condition(key, "Approved") == ("False", "StaleApproval")
    assert operated.uids(key) == grown


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


def test_other_tenants_changes_make_no_approval_stale(operated: Operated) -> None:
    key = operated.world.add(pool(replan=PREVIEW))
    operated.run()
    waiting = operated.proposed(key)
    operated.world.add_node(gpu_node("other-node", "NVIDIA-A100-SXM4-80GB", gpus=1))
    other = operated.world.add(pool("other", placement={"gpuProducts": ["NVIDIA-A100-SXM4-80GB"]}))
    operated.run()
    operated.restart()
    operated.run()
    assert operated.uids(other)
    assert operated.proposed(key) == waiting
    operated.approve(key, waiting["hash"])
    operated.run()
    assert operated.status(key)["plan"]["hash"] == waiting["hash"]


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


def test_a_proposal_that_somebody_wrote_into_cannot_be_approved(operated: Operated) -> None:
    key = operated.world.add(pool(replan=PREVIEW))
    operated.run()
    digest = operated.proposed(key)["hash"]
    live = operated.world.owned[("ConfigMap", "team-a", "chat-plan")]
    text = live["data"]["proposed.json"]
    live["data"]["proposed.json"] = text.replace('"h0"', '"h1"')
    assert live["data"]["proposed.json"] != text
    operated.restart()
    operated.approve(key, digest)
    operated.run()
    assert operated.condition(key, "Approved") == ("False", "StaleApproval")
    assert operated.world.engine_pods() == []


def test_the_operator_writes_neither_spec_nor_annotation(operated: Operated) -> None:
    key = operated.world.add(pool(replan=PREVIEW))
    operated.run()
    operated.approve(key, operated.proposed(key)["hash"])
    kept = {k: operated.world.documents[key][k] for k in ("metadata", "spec")}
    for _ in range(6):
        decision = operated.cycle()
        operated.world.settle()
        for action in (*decision.statuses, *decision.actions):
            if isinstance(action, ApplyObject):
                assert action.manifest["kind"] not in ("ServingPool", "ModelCascade", "RLJob")
    assert {k: operated.world.documents[key][k] for k in ("metadata", "spec")} == kept


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


def test_a_fleet_can_make_preview_the_default(operated: Operated) -> None:
    operated.world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": {"replan": {"mode": "Preview"}},
    }
    key = operated.world.add(pool())
    operated.run()
    assert operated.proposed(key) and operated.world.engine_pods() == []


def test_a_plan_that_cannot_be_is_not_proposed_and_the_reason_is_told(operated: Operated) -> None:
    key = operated.world.add(pool(replan=PREVIEW, slo={"tpot": {"p95": "1ms"}}))
    operated.run()
    assert "proposedPlan" not in operated.status(key)
    assert operated.condition(key, "Planned") == ("False", "LatencyUnreachable")
    assert operated.condition(key, "Approved") == ("False", "NothingProposed")


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


@pytest.mark.parametrize(
    ("fleet", "why"),
    [
        ({}, "no room"),
        ({"budget": {"dollarsPerHour": 8}}, "budget is spent"),
        ({"budget": {"gpus": 1}}, "GPUs are used"),
    ],
    ids=["room", "money", "GPUs"],
)
def test_of_two_approvals_that_want_the_same_the_second_is_refused(
    fleet: dict[str, Any], why: str
) -> None:
    operated = Operated(nodes=0)
    operated.world.add_node(gpu_node("h0", gpus=2 if fleet else 1))
    operated.world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": fleet,
    }
    keys = [operated.world.add(pool(name, replan=PREVIEW)) for name in ("first", "second")]
    operated.run()
    for key in keys:
        operated.approve(key, operated.proposed(key)["hash"])
    operated.run()
    first, second = keys
    assert operated.condition(first, "Approved") == ("True", "Approved")
    assert operated.condition(second, "Approved") == ("False", "StaleApproval")
    assert why in operated.message(second, "Approved")
    assert (len(operated.uids(first)), len(operated.uids(second))) == (1, 0)
    assert operated.condition(second, "Planned")[0] == "False"


def test_a_deleted_record_is_written_anew_and_can_still_be_approved(operated: Operated) -> None:
    key = operated.world.add(pool(replan=PREVIEW))
    operated.run()
    waiting = operated.proposed(key)["hash"]
    del operated.world.owned[("ConfigMap", "team-a", "chat-plan")]
    operated.approve(key, waiting)
    operated.run()
    assert operated.status(key)["plan"]["hash"] == waiting
    assert operated.condition(key, "Approved") == ("True", "Approved")


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
