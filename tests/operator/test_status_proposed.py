"""What a status tells of a waiting plan: what moves, starts and stops, the price, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from motley_operator import status, translate
from motley_operator.api import ResourceStatus
from motley_operator.api.reading import parse
from motley_operator.api.status import PlanStatus
from motley_operator.domain.actions import PatchStatus
from motley_operator.domain.standing import Held, Proposal, Record, Standing, sealed
from motley_operator.settings import Settings
from motley_operator.status.proposed import Preview, approval, planned, proposed_status
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import PlannedReplica, Promise, Refusal

KEY = "ServingPool/team-a/chat"
SHOWN = PlanStatus(hash="h", status="optimal")


def record(*replicas: PlannedReplica) -> Record:
    return sealed(Record(slice_of(KEY, replicas), {"a": 1}, "2026-11-21T12:00:00Z"))


def preview(
    now: tuple[PlannedReplica, ...], then: tuple[PlannedReplica, ...], **changes: Any
) -> Preview:
    part = slice_of(KEY, now)
    standing = Standing("Preview", record(*now), part if now else None)
    proposal = Proposal(record(*then) if then else None)
    return Preview(replace(standing, **changes), proposal, tuple(KEY.split("/")))  # type: ignore[arg-type]


HERE, THERE = replica(), replica(ordinal=1, nodes=("h1",))
LARGE = replica(column="ffffffff", tensor_parallel=4, nodes=("h2",), price_usd_per_hour=10.0)


@pytest.mark.parametrize(
    ("now", "then", "changes"),
    [
        ((), (HERE,), ["start 1 x main replica of Qwen/Qwen3-8B (1xH100-SXM5-80GB) on h0"]),
        (
            (HERE,),
            (THERE,),
            ["move main replica of Qwen/Qwen3-8B (1xH100-SXM5-80GB) from h0 to h1"],
        ),
        (
            (HERE, THERE),
            (THERE, LARGE),
            [
                "start 1 x main replica of Qwen/Qwen3-8B (4xH100-SXM5-80GB) on h2",
                "stop 1 x main replica of Qwen/Qwen3-8B (1xH100-SXM5-80GB) on h0",
            ],
        ),
        ((HERE,), (HERE,), ["no replica starts or stops"]),
    ],
    ids=["a start", "a move", "another configuration", "nothing"],
)
def test_the_changes_are_told_in_words(
    now: tuple[PlannedReplica, ...], then: tuple[PlannedReplica, ...], changes: list[str]
) -> None:
    told = proposed_status(preview(now, then), SHOWN)
    assert list(told.changes) == changes
    before, after = {r.name for r in now}, {r.name for r in then}
    assert (told.starts, told.stops) == (len(after - before), len(before - after))
    assert told.keeps == len(before & after)


def test_prices_before_and_after_and_the_reason_are_told() -> None:
    told = proposed_status(preview((HERE,), (LARGE,), edited=True), SHOWN)
    assert told.dollars_per_hour_before == "2.5"
    assert "the spec was edited" in told.reason
    assert "2.50 $/h now, 10 $/h then" in told.reason


def test_the_condition_planned_says_what_is_kept_what_lacks_and_how_to_go_on() -> None:
    lacks = Refusal("Held", "spec", "1 of 2 requests/s cannot be served", "")
    part = slice_of(KEY, (HERE,), (lacks,))
    waiting = preview((HERE,), (LARGE,))
    said = planned(waiting, part)
    assert (said.status, said.reason) == ("False", "AwaitingApproval")
    assert lacks.message in said.message and waiting.command() in said.message
    off = planned(preview((HERE,), (), mode="Disabled", edited=True), part)
    assert (off.status, off.reason) == ("False", "ReplanDisabled")
    assert lacks.message in off.message and "edited spec is not acted on" in off.message


def test_a_refused_approval_stays_refused_until_another_one_is_written() -> None:
    stale = preview((HERE,), (LARGE,), request="old", verdict="Stale", refusal="it is gone")
    said = approval(stale, ResourceStatus())
    assert (said.status, said.reason) == ("False", "StaleApproval")
    row = {
        "type": said.type,
        "status": said.status,
        "reason": said.reason,
        "message": said.message,
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    old = ResourceStatus.model_validate({"conditions": [row], "lastHandledApproval": "old"})
    again = preview((HERE,), (LARGE,), request="old")
    assert approval(again, old) == said
    assert approval(preview((HERE,), (LARGE,)), old).reason == "AwaitingApproval"


def test_the_largest_status_with_a_proposal_stays_below_32_kib_and_fits_its_schema() -> None:
    world = World().add_node(gpu_node("h0"))
    key = world.add(pool(replan={"mode": "Preview"}))
    replicas = [
        replica(ordinal=i, column=f"{i:08x}", nodes=("h" * 60,), model="m" * 160)
        for i in range(200)
    ]
    promises = tuple(Promise(f"tpot_s main class{i}", 0.1, 0.05, 0.2) for i in range(200))
    refusals = [Refusal("InsufficientGPUs", f"spec.f{i}", "x" * 500, "y" * 500) for i in range(40)]
    part = replace(slice_of(key, replicas, refusals), promises=promises)
    others = [replace(r, name=f"n-{r.name}") for r in replicas]
    waiting = sealed(
        Record(replace(slice_of(key, others), promises=promises), {}, "2026-11-21T12:00:00Z")
    )
    facts = world.facts()
    translation = translate.translate(facts, load_catalog(), Settings())
    made = status.statuses(
        plan_of(part), translation, facts, Held({key: waiting}, {key: Proposal(waiting)})
    )
    (patch,) = (a for a in made if isinstance(a, PatchStatus))
    assert len(json.dumps(patch.status)) < 32 * 1024
    document = {**world.documents[key], "status": patch.status}
    read = json.loads(json.dumps(parse(document).document()["status"]))
    assert read["proposedPlan"]["hash"] == waiting.hash
