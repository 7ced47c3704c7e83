"""Preview: what is proposed, approved and refused, with the real planner."""

from __future__ import annotations

from typing import Any

import pytest

from motley_operator.decision import decide
from motley_operator.domain.actions import ApplyObject
from motley_operator.domain.facts import Room
from motley_operator.testing import CALIBRATION, cascade, gpu_node, job, pool
from motley_operator.testing.operated import (
    CATALOG,
    PREVIEW,
    SETTINGS,
    Operated,
    approved_pool,
    load,
)


@pytest.fixture
def operated() -> Operated:
    return Operated()


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
    kind, _, name = key.split("/")
    command = (
        f"kubectl annotate --overwrite {kind.lower()}.motley.dev {name} -n team-a"
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
