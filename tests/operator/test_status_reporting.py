from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from motley_operator import changes, manifests, status, translate
from motley_operator.api import KINDS, parse
from motley_operator.domain.actions import Action, EmitEvent, PatchStatus
from motley_operator.settings import Settings
from motley_operator.status.empties import without_empty_maps
from motley_operator.testing import (
    CALIBRATION,
    World,
    cascade,
    gpu_node,
    job,
    plan_of,
    pool,
    replica,
    slice_of,
)
from motley_planner.catalog import load_catalog
from motley_planner.domain.plan import Move, NodesToAdd, Plan, PolicyChoice, Promise, Refusal

CATALOG = load_catalog()
SETTINGS = Settings()
GANG = replica("trainer", engine="fsdp", tensor_parallel=4)


def cycle(world: World, plan: Plan) -> tuple[Action, ...]:
    """One cycle: report, act; the report."""
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    desired = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    reported = status.statuses(plan, translation, facts)
    world.apply(reported)
    world.apply(changes.changes(desired, facts, plan))
    return reported


def conditions(world: World, key: str) -> dict[str, tuple[str, str]]:
    found = world.documents[key]["status"]["conditions"]
    return {c["type"]: (c["status"], c["reason"]) for c in found}


def condition(world: World, key: str, kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = world.documents[key]["status"]["conditions"]
    return next(c for c in found if c["type"] == kind)


@pytest.fixture
def world() -> World:
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    world.config_maps[("team-a", "table")] = {"table.csv": CALIBRATION}
    return world


def test_a_pool_comes_up_and_says_so(world: World) -> None:
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica()]))
    cycle(world, plan)
    assert conditions(world, key) == {
        "Accepted": ("True", "Accepted"),
        "Planned": ("True", "Planned"),
        "Ready": ("False", "ReplicasNotReady"),
        "Reconciling": ("True", "Progressing"),
    }
    world.settle()
    cycle(world, plan)
    assert conditions(world, key) == {
        "Accepted": ("True", "Accepted"),
        "Planned": ("True", "Planned"),
        "Ready": ("True", "Serving"),
    }
    found = world.documents[key]["status"]
    assert found["address"]["url"] == "http://chat-gateway.team-a.svc:8000"
    assert found["observedGeneration"] == 1
    assert found["plan"]["gpus"] == "1xH100-SXM5-80GB"
    assert found["plan"]["dollarsPerHour"] == "2.5"
    assert (found["plan"]["groups"][0]["count"], found["plan"]["groups"][0]["ready"]) == (1, 1)


def test_the_second_report_writes_nothing_and_figures_of_the_solver_are_no_news(
    world: World,
) -> None:
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica()]))
    cycle(world, plan)
    world.settle()
    cycle(world, plan)
    world.now += 60
    noisy = replace(plan, gap=0.5, bound=2.0, objective=3.0, solve_seconds=9.0, status="feasible")
    promised = replace(noisy.slices[0], promises=(Promise("tpot_s main all", 0.01, 0.0, 1.0),))
    assert cycle(world, replace(noisy, slices=(promised,))) == ()


def test_a_transition_time_changes_only_when_the_status_flips(world: World) -> None:
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica(), replica(ordinal=1)]))
    cycle(world, plan)
    started = condition(world, key, "Ready")["lastTransitionTime"]
    world.now += 60
    world.settle()
    world.change_pods(where={"motley.dev/replica": "main-0a1b2c3d-1"}, ready=False)
    cycle(world, plan)
    ready = condition(world, key, "Ready")
    assert (ready["status"], ready["lastTransitionTime"] > started) == ("True", True)
    world.now += 60
    world.add(pool(replan={"cooldown": "1m"}))
    cycle(world, plan)
    again = condition(world, key, "Ready")
    assert again["lastTransitionTime"] == ready["lastTransitionTime"]
    assert again["observedGeneration"] == 2


@pytest.mark.parametrize(
    ("unready", "expected"),
    [
        ({}, ("True", "Serving")),
        ({"motley.dev/stage": "small"}, ("False", "ReplicasNotReady")),
        ({"motley.dev/stage": "large"}, ("False", "ReplicasNotReady")),
        ({"app.kubernetes.io/component": "gateway"}, ("False", "GatewayNotReady")),
    ],
    ids=["all ready", "no small", "no large", "no gateway"],
)
def test_a_cascade_is_ready_when_a_request_can_go_all_the_way(
    world: World, unready: dict[str, str], expected: tuple[str, str]
) -> None:
    key = world.add(cascade())
    policies = [PolicyChoice("t0.5", 1.0, {"small": 0.5})]
    plan = plan_of(
        slice_of(
            key, [replica("small"), replica("large", model="Qwen/Qwen3-32B")], policies=policies
        )
    )
    cycle(world, plan)
    world.settle()
    if unready:
        assert world.change_pods(where=unready, ready=False)
    cycle(world, plan)
    assert conditions(world, key)["Ready"] == expected
    assert world.documents[key]["status"]["plan"]["routing"]["policies"] == [
        {"id": "t0.5", "share": 1.0, "thresholds": {"small": 0.5}}
    ]


def test_a_rejected_resource_says_reason_field_and_way_out(world: World) -> None:
    key = world.add(pool(model={"id": "no/such-model"}))
    reported = cycle(world, plan_of())
    assert conditions(world, key) == {
        "Accepted": ("False", "UnknownModel"),
        "Planned": ("False", "NotAccepted"),
        "Ready": ("False", "UnknownModel"),
        "Stalled": ("True", "UnknownModel"),
    }
    message = condition(world, key, "Accepted")["message"]
    assert message.startswith("spec.model.id: the catalog does not know the model no/such-model: ")
    events = [(e.type, e.reason) for e in reported if isinstance(e, EmitEvent)]
    assert events == [("Warning", "UnknownModel"), ("Warning", "NotAccepted")]
    assert cycle(world, plan_of()) == ()


def test_a_spec_that_cannot_be_read_leaves_the_address_of_what_serves_on(world: World) -> None:
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica()]))
    cycle(world, plan)
    world.settle()
    cycle(world, plan)
    before = world.documents[key]["status"]["address"]
    world.add(pool(objective="Nonsense"))
    cycle(world, plan_of())
    assert conditions(world, key)["Accepted"][0] == "False"
    assert conditions(world, key)["Ready"] == ("True", "Serving")
    assert world.documents[key]["status"]["address"] == before


def test_an_edit_that_cannot_be_met_leaves_the_pool_ready_and_its_plan_shown(world: World) -> None:
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica()]))
    cycle(world, plan)
    world.settle()
    cycle(world, plan)
    before = world.documents[key]["status"]["plan"]
    world.add(pool(slo={"tpot": {"p95": "1ms"}}))
    refusal = Refusal("LatencyUnreachable", "spec.slo.tpot.p95", "too fast", "1ms -> 8ms")
    cycle(world, plan_of(replace(slice_of(key, [], [refusal]), blocked=True)))
    assert conditions(world, key) == {
        "Accepted": ("True", "Accepted"),
        "Planned": ("False", "LatencyUnreachable"),
        "Ready": ("True", "Serving"),
        "Stalled": ("True", "LatencyUnreachable"),
    }
    assert world.documents[key]["status"]["plan"] == before
    assert "1ms -> 8ms" in condition(world, key, "Planned")["message"]


def test_what_cannot_be_placed_at_all_is_stalled(world: World) -> None:
    key = world.add(pool())
    refusal = Refusal("InsufficientGPUs", "spec.workload.requestsPerSecond", "no room", "+1 node")
    cycle(world, plan_of(slice_of(key, [], [refusal])))
    assert conditions(world, key) == {
        "Accepted": ("True", "Accepted"),
        "Planned": ("False", "InsufficientGPUs"),
        "Ready": ("False", "InsufficientGPUs"),
        "Stalled": ("True", "InsufficientGPUs"),
    }
    assert world.documents[key]["status"]["plan"]["binding"] == [
        {"constraint": "spec.workload.requestsPerSecond", "relax": "+1 node"}
    ]


def test_a_change_of_plan_is_told_with_its_reason(world: World) -> None:
    key = world.add(pool())
    cycle(world, plan_of(slice_of(key, [replica()], digest="one")))
    moves = (Move(key, "main-0a1b2c3d-1", "start", ("h1",), "Grows"),)
    more = slice_of(
        key,
        [replica(kept=f"{key}/main-0a1b2c3d-0"), replica(ordinal=1, nodes=("h1",))],
        digest="two",
    )
    reported = cycle(world, replace(plan_of(more), moves=moves))
    last = world.documents[key]["status"]["lastReplan"]
    assert (last["reason"], last["started"], last["stopped"], last["kept"]) == ("Grows", 1, 0, 1)
    (told,) = (e for e in reported if isinstance(e, EmitEvent) and e.reason == "Replanned")
    assert "1 replicas start" in told.message
    world.now += 60
    cycle(world, replace(plan_of(more), moves=()))
    assert world.documents[key]["status"]["lastReplan"] == last


@pytest.mark.parametrize(
    ("annotations", "mode", "reason"),
    [({"motley.dev/paused": "true"}, "Auto", "Paused"), ({}, "Preview", "PreviewHolds")],
)
def test_a_resource_that_is_held_says_why(
    world: World, annotations: dict[str, str], mode: str, reason: str
) -> None:
    document = pool(replan={"mode": mode})
    document["metadata"]["annotations"] = annotations
    key = world.add(document)
    cycle(world, plan_of(slice_of(key, [])))
    assert conditions(world, key)["Planned"] == ("False", reason)


def test_a_job_lives_and_ends(world: World) -> None:
    key = world.add(job())
    rollouts = [replica("rollout", ordinal=i, engine="sglang") for i in range(2)]
    plan = plan_of(slice_of(key, [GANG, *rollouts]))
    cycle(world, plan)
    assert conditions(world, key)["Ready"] == ("False", "ReplicasNotReady")
    world.settle()
    cycle(world, plan)
    assert conditions(world, key)["Ready"] == ("True", "Running")
    assert world.documents[key]["status"]["startTime"]
    world.change_pods(where={"motley.dev/role": "trainer"}, phase="Failed")
    cycle(world, plan)
    assert conditions(world, key)["Ready"] == ("False", "TrainerRestarting")
    assert world.documents[key]["status"]["failures"] == 1
    world.settle()
    cycle(world, plan)
    (trainer,) = (p for p in world.engine_pods(key) if p.labels["motley.dev/role"] == "trainer")
    assert trainer.annotations["motley.dev/attempt"] == "1"
    world.settle()
    world.change_pods(where={"motley.dev/role": "trainer"}, phase="Succeeded", ready=False)
    cycle(world, plan_of())
    assert conditions(world, key)["Complete"] == ("True", "TrainerSucceeded")
    assert conditions(world, key)["Ready"] == ("True", "Complete")
    done = world.documents[key]["status"]
    assert done["completionTime"] and done["startTime"]
    for _ in range(2):
        world.settle()
        cycle(world, plan_of())
    assert world.engine_pods(key) == []
    assert conditions(world, key)["Complete"] == ("True", "TrainerSucceeded")
    assert cycle(world, plan_of()) == ()


def test_a_suspended_job_stops_and_goes_on(world: World) -> None:
    key = world.add(job())
    plan = plan_of(slice_of(key, [GANG]))
    cycle(world, plan)
    world.settle()
    world.add(job(suspend=True))
    cycle(world, plan_of())
    assert conditions(world, key)["Suspended"] == ("True", "Suspended")
    world.settle()
    cycle(world, plan_of())
    assert world.engine_pods(key) == []
    world.add(job())
    cycle(world, plan)
    assert "Suspended" not in conditions(world, key)
    assert len(world.engine_pods(key)) == 1


def test_the_fleet_shows_inventory_prices_and_what_it_does_not_know(world: World) -> None:
    world.add_node(gpu_node("x", "Frobnicator-9000"))
    world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "f", "generation": 3},
        "spec": {"prices": {"gpus": [{"gpu": "H100-SXM5-80GB", "dollarsPerHour": 2}]}},
    }
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica(tensor_parallel=2)]))
    cycle(world, plan)
    cycle(world, plan)
    found = world.fleet["status"]
    (row,) = found["inventory"]
    assert (row["nodes"], row["gpus"], row["gpusUsed"], row["dollarsPerHour"]) == (2, 16, 2, "16")
    assert found["gpus"] == "16xH100-SXM5-80GB"
    assert found["unknownGpus"] == [{"product": "Frobnicator-9000", "nodes": 1}]
    assert found["dollarsPerHourByNamespace"] == {"team-a": "2.5"}
    assert (found["objective"], found["bound"], found["gap"]) == (1.0, 1.0, 0.0)
    patches = [a for a in cycle(world, replace(plan, gap=0.2)) if isinstance(a, PatchStatus)]
    assert [p.kind for p in patches] == []


def test_a_fleet_of_another_class_is_told_of_by_the_other_operator(world: World) -> None:
    metadata = {"name": "default", "uid": "f", "generation": 3}
    world.fleet = {"apiVersion": "motley.dev/v1alpha1", "kind": "Fleet", "metadata": metadata}
    key = world.add(pool())
    plan = plan_of(slice_of(key, [replica()]))
    told = {}
    for is_ours in (True, False):
        facts = replace(world.facts(), tells_fleet=is_ours)
        translation = translate.translate(facts, CATALOG, SETTINGS)
        reported = status.statuses(plan, translation, facts)
        told[is_ours] = {a.kind for a in reported if isinstance(a, PatchStatus)}
    assert told == {True: {"ServingPool", "Fleet"}, False: {"ServingPool"}}


def test_an_empty_map_is_left_out_of_a_status(world: World) -> None:
    """Server-side apply makes it null if it had entries, and null is refused."""
    world.fleet = {"metadata": {"name": "default", "uid": "f", "generation": 1}, "spec": {}}
    key = world.add(pool())
    cycle(world, plan_of(slice_of(key, [replica(tensor_parallel=2)])))
    assert world.fleet["status"]["dollarsPerHourByNamespace"] == {"team-a": "2.5"}
    del world.documents[key]
    cycle(world, plan_of())
    assert "dollarsPerHourByNamespace" not in world.fleet["status"]
    assert cycle(world, plan_of()) == ()

    status = {"a": {}, "b": [], "c": {"d": [{}, {"e": {}, "f": 1}], "g": {"h": {}}}, "i": 0}
    assert without_empty_maps(status) == {"b": [], "c": {"d": [{}, {"f": 1}]}, "i": 0}


def test_the_largest_status_stays_below_32_kib_and_fits_its_schema(world: World) -> None:
    key = world.add(pool())
    replicas = [
        replica(ordinal=i, column=f"{i:08x}", nodes=("h" * 60,), model="m" * 160)
        for i in range(200)
    ]
    promises = tuple(Promise(f"tpot_s main class{i}", 0.1, 0.05, 0.2) for i in range(200))
    refusals = [Refusal("InsufficientGPUs", f"spec.f{i}", "x" * 500, "y" * 500) for i in range(40)]
    part = replace(slice_of(key, replicas, refusals), promises=promises)
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    (patch,) = (
        a for a in status.statuses(plan_of(part), translation, facts) if isinstance(a, PatchStatus)
    )
    assert len(json.dumps(patch.status)) < 32 * 1024
    document = {**world.documents[key], "status": patch.status}
    assert json.loads(json.dumps(parse(document).document()["status"]))["plan"]["hash"] == part.hash
    assert "ServingPool" in KINDS


def test_a_status_written_by_hand_is_written_anew(world: World) -> None:
    key = world.add(pool())
    world.documents[key]["status"] = {"conditions": "nonsense", "plan": 7}
    cycle(world, plan_of(slice_of(key, [replica()])))
    assert conditions(world, key)["Accepted"] == ("True", "Accepted")


def test_an_image_is_frozen_until_a_person_edits_the_engine(world: World) -> None:
    def image_of(name: str) -> str:
        return world.pods[("team-a", f"chat-{name}")].annotations["motley.dev/image"]

    key = world.add(pool())
    for _ in range(2):
        cycle(world, plan_of(slice_of(key, [replica()])))
    (row,) = world.documents[key]["status"]["inputs"]
    assert (row["stage"], row["image"]) == ("main", image_of("main-0a1b2c3d-0"))
    row["image"] = "vllm/vllm-openai:v0.1.0"  # as an older catalog had it
    world.settle()
    plan = plan_of(slice_of(key, [replica(), replica(ordinal=1, nodes=("h1",))]))
    cycle(world, plan)
    assert image_of("main-0a1b2c3d-1") == "vllm/vllm-openai:v0.1.0"
    world.settle()
    assert world.documents[key]["status"]["inputs"] == [row]
    world.add(pool(engine={"name": "vllm", "extraArgs": ["--enforce-eager"]}))
    for _ in range(4):
        cycle(world, plan)
        world.settle()
    catalog = CATALOG.engines["vllm"].launch
    assert catalog is not None
    assert {image_of(f"main-0a1b2c3d-{i}") for i in range(2)} == {catalog.images["nvidia"]}
    assert world.documents[key]["status"]["inputs"][0]["image"] == catalog.images["nvidia"]


SHAPE = {
    "name": "l4x4",
    "gpuProduct": "NVIDIA-L4",
    "gpus": 4,
    "cpu": "64",
    "memory": "256Gi",
    "dollarsPerHour": "2.8",
    "maxNodes": 5,
}


def test_an_accepted_resource_is_told_which_of_its_fields_change_nothing_yet(world: World) -> None:
    plain = world.add(pool("plain", parallelism={"maxTensor": 4}, replan={"cooldown": "5m"}))
    full = world.add(job("full", replan={"headroom": "20%"}))
    world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "f"},
        "spec": {"shapes": [SHAPE | {"labels": {"pool": "l4"}}]},
    }
    cycle(world, plan_of())
    assert condition(world, plain, "Accepted")["message"] == "the spec makes sense"
    assert condition(world, full, "Accepted")["message"] == (
        "the spec makes sense; not acted on yet: spec.replan.headroom"
    )
    (accepted, *_) = world.fleet["status"]["conditions"]
    assert accepted["message"] == "the spec makes sense"
    assert cycle(world, plan_of()) == ()


def test_the_fleet_says_which_nodes_would_serve_the_rest(world: World) -> None:
    world.fleet = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "f"},
        "spec": {"shapes": [SHAPE]},
    }
    add = NodesToAdd("l4x4", "L4", 2, 5.6, 0.1, {"ServingPool/team-a/chat": 3.0})
    cycle(world, replace(plan_of(), nodes_to_add=(add,)))
    assert world.fleet["status"]["nodesToAdd"] == [
        {"shape": "l4x4", "gpu": "L4", "count": 2, "dollarsPerHour": "5.6", "delaySeconds": 360}
    ]
    cycle(world, plan_of())
    assert not world.fleet["status"].get("nodesToAdd")
