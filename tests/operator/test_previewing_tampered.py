"""Records that somebody else writes, replaces or deletes: nothing is built from them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from motley_operator.decision import decide
from motley_operator.domain.actions import ApplyObject, CreatePod, DeletePod, PatchStatus
from motley_operator.domain.standing import read_record, sealed, written
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

PLACE = ("ConfigMap", "team-a", "chat-plan")
EVIL = "registry.example/evil:1"


@pytest.fixture
def operated() -> Operated:
    return Operated()


def held_pool(operated: Operated, how: str) -> str:
    """A pool that holds still, in each of the ways in which one comes to."""
    if how == "approved":
        return approved_pool(operated, workload=load(30))
    key = operated.world.add(pool(workload=load(30), **_mode(how)))
    operated.run()
    if how == "turned on":
        operated.edit(key, replan=PREVIEW)
        operated.run()
    assert operated.uids(key)
    return key


def _mode(how: str) -> dict[str, Any]:
    return {"replan": DISABLED} if how == "disabled" else {}


def rewrite(operated: Operated, change: Callable[[dict[str, Any]], object]) -> None:
    """Somebody who may write ConfigMaps changes the recorded spec, and seals it as the operator does."""
    live = operated.world.owned[PLACE]["data"]
    record = read_record(live["standing.json"])
    assert record is not None
    spec = copy.deepcopy(dict(record.spec))
    change(spec)
    live["standing.json"] = written(sealed(replace(record, spec=spec)))


def other_image(spec: dict[str, Any]) -> None:
    spec["engine"] = {**(spec.get("engine") or {}), "image": EVIL}


def privileged(spec: dict[str, Any]) -> None:
    spec["podTemplate"] = {"spec": {"hostPID": True, "serviceAccountName": "admin"}}


def cycles(operated: Operated, count: int = 8) -> tuple[list[CreatePod], list[DeletePod]]:
    """What is made and deleted meanwhile."""
    made: list[CreatePod] = []
    gone: list[DeletePod] = []
    for _ in range(count):
        actions = operated.cycle().actions
        made += [a for a in actions if isinstance(a, CreatePod)]
        gone += [a for a in actions if isinstance(a, DeletePod)]
        operated.world.settle()
        operated.world.now += 5.0
    return made, gone


def events(operated: Operated) -> list[str]:
    return [e.message for e in operated.world.events if e.reason == "RecordChanged"]


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("how", ["approved", "turned on", "disabled"])
@pytest.mark.parametrize("change", [other_image, privileged])
def test_a_recorded_spec_that_somebody_wrote_builds_no_pod(
    operated: Operated, change: Callable[[dict[str, Any]], object], how: str, restarts: bool
) -> None:
    key = held_pool(operated, how)
    before, recorded = operated.uids(key), operated.status(key)["record"]
    rewrite(operated, change)
    if restarts:
        operated.restart()
    assert cycles(operated) == ([], [])
    assert operated.uids(key) == before
    found = read_record(operated.world.owned[PLACE]["data"]["standing.json"])
    assert found is not None
    change(forged := copy.deepcopy(dict(found.spec)))
    assert found.spec != forged  # and it is recorded anew, of the spec as it is
    assert operated.status(key)["record"]["specHash"] == recorded["specHash"]
    assert any("recorded anew" in said for said in events(operated))


@pytest.mark.parametrize("how", ["approved", "turned on", "disabled"])
def test_a_pod_that_is_lost_afterwards_is_made_of_the_resource_and_not_of_the_forgery(
    operated: Operated, how: str
) -> None:
    key = held_pool(operated, how)
    rewrite(operated, other_image)
    cycles(operated)
    victim = operated.world.engine_pods(key)[0]
    del operated.world.pods[(victim.namespace, victim.name)]
    made, gone = cycles(operated)
    assert len(made) == 1
    assert not gone
    assert EVIL not in json.dumps(made[0].manifest)


@pytest.mark.parametrize("what", ["another spec", "deleted", "no record"])
@pytest.mark.parametrize("how", ["approved", "disabled"])
def test_a_lost_record_lets_no_edit_through_that_nobody_approved(
    operated: Operated, how: str, what: str
) -> None:
    key = held_pool(operated, how)
    replan = PREVIEW if how == "approved" else DISABLED
    operated.edit(key, engine={"name": "vllm", "extraArgs": ["--seed", "7"]}, replan=replan)
    operated.run()
    before = operated.uids(key)
    if what == "another spec":
        rewrite(operated, lambda spec: spec.update(engine={"name": "vllm", "extraArgs": ["-x"]}))
    elif what == "deleted":
        del operated.world.owned[PLACE]
    else:
        operated.world.owned[PLACE]["data"]["standing.json"] = "{}"
    operated.restart()
    assert cycles(operated) == ([], [])
    assert operated.uids(key) == before
    assert "the record of what runs is lost" in operated.message(key, "Planned")
    if how == "disabled":
        operated.edit(key, replan={"mode": "Auto"})
        operated.run()
    else:
        operated.approve(key, operated.proposed(key)["hash"])
        operated.run()
        assert operated.condition(key, "Approved") == ("True", "Approved")
    assert not before & operated.uids(key)
    assert operated.condition(key, "Planned")[0] == "True"


def test_a_record_that_waits_for_a_resource_to_be_held_is_not_believed(operated: Operated) -> None:
    key = operated.world.add(pool(workload=load(4)))
    operated.run()
    before = operated.uids(key)
    operated.edit(key, replan=PREVIEW)
    operated.run()
    rewrite(operated, other_image)
    forged = copy.deepcopy(operated.world.owned[PLACE])
    operated.edit(key, replan={"mode": "Auto"})
    operated.run()
    assert "record" not in operated.status(key)
    operated.world.owned[PLACE] = forged
    operated.edit(key, replan=PREVIEW)
    made, _ = cycles(operated)
    assert EVIL not in json.dumps([one.manifest for one in made])
    assert operated.uids(key) == before


def test_an_earlier_record_cannot_be_put_back(operated: Operated) -> None:
    key = approved_pool(operated, workload=load(30))
    earlier = operated.world.owned[PLACE]["data"]["standing.json"]
    operated.edit(key, engine={"name": "vllm", "extraArgs": ["--seed", "7"]}, replan=PREVIEW)
    operated.run()
    operated.approve(key, operated.proposed(key)["hash"])
    operated.run()
    before = operated.uids(key)
    operated.world.owned[PLACE]["data"]["standing.json"] = earlier
    operated.restart()
    assert cycles(operated) == ([], [])
    assert operated.uids(key) == before


@pytest.mark.parametrize("count", range(6))
def test_an_operator_that_dies_between_its_writes_knows_its_own_record(count: int) -> None:
    operated = Operated(nodes=2)
    operated.world.add_node(gpu_node("spare-0", gpus=2), gpu_node("spare-1", gpus=2))
    key = approved_pool(operated, workload=load(60))
    replicas = len(operated.uids(key))
    operated.world.lose_node(operated.nodes(key)[0])  # the record changes: another place
    decision = decide(operated.world.facts(), CATALOG, SETTINGS, operated.planner)
    assert [a for a in decision.statuses if isinstance(a, PatchStatus)]
    assert [a for a in decision.actions if isinstance(a, ApplyObject) and a.is_record]
    operated.world.apply((*decision.statuses, *decision.actions)[:count])
    operated.restart()
    operated.run()
    assert len(operated.uids(key)) == replicas
    assert not events(operated)
    assert operated.status(key)["record"].keys() == {"hash", "specHash"}


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_record_from_before_statuses_told_of_it_is_believed_if_the_plans_hash_seals_it(
    operated: Operated, is_sealed: bool
) -> None:
    key = approved_pool(operated, workload=load(30))
    before, told = operated.uids(key), operated.status(key)["record"]
    del operated.world.documents[key]["status"]["record"]
    if not is_sealed:
        rewrite(operated, other_image)
    operated.restart()
    assert cycles(operated) == ([], [])
    assert operated.uids(key) == before
    assert bool(events(operated)) != is_sealed
    if is_sealed:
        assert operated.status(key)["record"] == told
    else:
        assert operated.status(key)["record"]["hash"] == ""
    assert operated.condition(key, "Planned")[0] == ("True" if is_sealed else "False")
