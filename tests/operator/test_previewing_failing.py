"""Preview and Disabled: an approved plan whose pods cannot start gives way to the one before it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.operator.test_suspects import (
    CHEAP,
    DEADLINE_S,
    Fate,
    Watched,
    crashing,
    unpullable,
    unschedulable,
)

from motley_operator.decision import decide
from motley_operator.domain.names import PROPOSED_KEY, STANDING_KEY
from motley_operator.domain.standing import read_record, written
from motley_operator.testing import gpu_node, pool
from motley_operator.testing.operated import CATALOG, PREVIEW, SETTINGS, load

SLOW = {"tpot": {"p95": "50ms"}}


def moving(fate: Fate, serves: str = "dear") -> tuple[Watched, str, str]:
    """A pool in Preview that runs, and of which a plan on a cheaper node was approved: world, key, hash."""
    watched = Watched(gpu_node(serves, gpus=2))
    key = watched.world.add(pool(replan=PREVIEW))
    watched.run()
    watched.approve(key, watched.proposed(key)["hash"])
    watched.run()
    assert watched.serving(key) == [serves]
    watched.world.add_node(gpu_node("cheap", product=CHEAP, gpus=2))
    watched.on("cheap", fate=fate)
    watched.lasts(60)
    digest = watched.proposed(key)["hash"]
    watched.approve(key, digest)
    return watched, key, digest


@pytest.mark.parametrize("fate", [unschedulable, crashing, unpullable])
def test_the_plan_before_is_back_in_force_and_what_serves_never_stops(fate: Fate) -> None:
    watched, key, digest = moving(fate)
    before, plan = watched.uids(key), watched.status(key)["plan"]["hash"]
    watched.lasts(60)
    assert watched.status(key)["plan"]["hash"] == digest
    for _ in range(40):
        watched.lasts(30)
        assert watched.serving(key) == ["dear"]
    assert watched.uids(key) == before
    assert watched.deleted == [("cheap", "CannotStart")]
    assert watched.status(key)["plan"]["hash"] == plan
    assert watched.condition(key, "Approved") == ("False", "RolledBack")
    assert "could not be started on cheap" in watched.message(key, "Approved")
    assert watched.condition(key, "Ready") == ("True", "Serving")
    assert watched.status(key)["lastHandledApproval"] == digest
    assert [e.type for e in watched.world.events if e.reason == "RolledBack"] == ["Warning"]
    assert watched.rows(key)


def test_what_failed_is_proposed_anew_once_it_may_be_tried_and_can_be_approved() -> None:
    watched, key, digest = moving(unschedulable)
    watched.lasts(DEADLINE_S + 60)
    assert watched.condition(key, "Approved") == ("False", "RolledBack")
    assert not watched.proposed(key)
    watched.world.fate = lambda pod: {}
    watched.lasts(DEADLINE_S + 60)
    again = watched.proposed(key)["hash"]
    assert again != digest
    watched.approve(key, again)
    watched.lasts(120)
    assert watched.serving(key) == ["cheap"]
    assert watched.condition(key, "Approved")[0] == "True"


@pytest.mark.parametrize("every_s", [30.0, 300.0])
def test_an_operator_that_is_restarted_goes_back_as_well(every_s: float) -> None:
    watched, key, _ = moving(unschedulable)
    before = watched.uids(key)
    for _ in range(round(2 * DEADLINE_S / every_s)):
        watched.lasts(every_s)
        watched.restart()
        assert watched.serving(key) == ["dear"]
    assert watched.uids(key) == before
    assert watched.condition(key, "Approved") == ("False", "RolledBack")


def test_one_that_dies_between_its_status_and_its_record_knows_the_plan_before() -> None:
    watched, key, digest = moving(unschedulable)
    before = watched.uids(key)
    decision = decide(watched.world.facts(), CATALOG, SETTINGS, watched.planner)
    watched.world.apply(decision.statuses)
    watched.restart()
    assert watched.status(key)["plan"]["hash"] == digest
    for _ in range(30):
        watched.lasts(30)
        assert watched.serving(key) == ["dear"]
    assert watched.uids(key) == before
    assert watched.condition(key, "Approved") == ("False", "RolledBack")


def test_on_full_nodes_what_made_way_comes_back() -> None:
    watched = Watched(*(gpu_node(f"h{i}", gpus=2) for i in range(4)))
    key = watched.world.add(
        pool(replan=PREVIEW, workload=load(150), parallelism={"maxTensor": 2}, slo=SLOW)
    )
    watched.run()
    watched.approve(key, watched.proposed(key)["hash"])
    watched.run()
    nodes, old = watched.nodes(key), watched.world.engine_pods(key)
    columns = {pod.labels["motley.dev/column"] for pod in old}
    watched.world.fate = lambda pod: (
        {} if pod.labels.get("motley.dev/column") in columns else crashing(pod)
    )
    watched.edit(key, slo={"tpot": {"p95": "9ms"}})
    watched.lasts(60)
    watched.approve(key, watched.proposed(key)["hash"])
    fewest = len(old)
    for _ in range(60):
        watched.lasts(30)
        fewest = min(fewest, len(watched.serving(key)))
    assert len(watched.created) == 2  # a new one, and the old one that had made way
    assert len(old) >= 4 and fewest >= len(old) - len(old) // 4
    assert watched.serving(key) == nodes
    assert watched.condition(key, "Approved") == ("False", "RolledBack")


def test_a_pool_that_is_disabled_meanwhile_goes_back_as_well() -> None:
    watched, key, digest = moving(unschedulable)
    before = watched.uids(key)
    watched.lasts(60)
    watched.edit(key, replan={"mode": "Disabled"})
    for _ in range(40):
        watched.lasts(30)
        assert watched.serving(key) == ["dear"]
    assert watched.uids(key) == before
    assert watched.status(key)["plan"]["hash"] != digest
    assert watched.condition(key, "Planned") == ("True", "ReplanDisabled")
    assert [e.type for e in watched.world.events if e.reason == "RolledBack"] == ["Warning"]


def lost_with_its_node(watched: Watched) -> None:
    watched.world.lose_node("cheap")


def crowded_out(watched: Watched) -> None:
    """The pod is gone, and its node takes nothing new."""
    watched.world.add_node(gpu_node("cheap", product=CHEAP, gpus=2, unschedulable=True))
    watched.world.pods = {at: p for at, p in watched.world.pods.items() if p.node != "cheap"}


@pytest.mark.parametrize("happens", [lost_with_its_node, crowded_out])
def test_what_is_lost_before_it_was_ready_leaves_the_old_ones_and_says_so(
    happens: Callable[[Watched], None],
) -> None:
    """Nothing failed: the approved plan stands, and goes on when there is room."""
    watched, key, digest = moving(unschedulable)
    before = watched.uids(key)
    watched.lasts(60)
    happens(watched)
    for _ in range(40):
        watched.lasts(30)
        assert watched.serving(key) == ["dear"]
    assert watched.uids(key) == before
    assert watched.status(key)["plan"]["hash"] == digest
    assert "1 of the plan before it serve on" in watched.message(key, "Planned")
    text = watched.world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
    assert [one["name"] for one in json.loads(text)["stages"][0]["replicas"]] == [
        pod.name for pod in watched.world.engine_pods(key)
    ]
    watched.world.fate = lambda pod: {}
    watched.world.add_node(gpu_node("cheap-2", product=CHEAP, gpus=2))
    watched.lasts(120)
    assert watched.serving(key) == ["cheap-2"]


def test_a_plan_that_is_carried_out_is_not_kept_with_the_one_before() -> None:
    watched, key, _ = moving(lambda pod: {})
    place = ("ConfigMap", "team-a", "chat-plan")
    watched.cycle()
    while_moving = read_record(watched.world.owned[place]["data"][STANDING_KEY])
    assert while_moving is not None and while_moving.before is not None
    watched.lasts(120)
    assert watched.serving(key) == ["cheap"]
    then = read_record(watched.world.owned[place]["data"][STANDING_KEY])
    assert then is not None and then.before is None


def test_a_plan_that_somebody_writes_beside_a_proposal_is_never_gone_back_to() -> None:
    """Its hash does not cover what comes before it; nor is it read there."""
    watched, key, digest = moving(unschedulable)
    data = watched.world.owned[("ConfigMap", "team-a", "chat-plan")]["data"]
    proposal, standing = read_record(data[PROPOSED_KEY]), read_record(data[STANDING_KEY])
    assert proposal is not None and standing is not None and proposal.hash == digest
    theirs = {**standing.spec, "engine": {"name": "vllm", "image": "theirs.test/engine:1"}}
    forged = type(standing)(standing.part, theirs, standing.made_at)
    data[PROPOSED_KEY] = written(proposal.after(forged))
    watched.lasts(2 * DEADLINE_S)
    assert watched.serving(key) == ["dear"]
    images = [c["image"] for s in watched.world.specs.values() for c in s["containers"]]
    assert not any("theirs" in image for image in images)
