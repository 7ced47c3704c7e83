"""Prefill and decode on replicas of their own: pods, what gateways are told, and changes of plan."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator import manifests, translate
from motley_operator.adoption import adopted
from motley_operator.changes import changes
from motley_operator.changes.routing import with_standing_by
from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.domain.facts import PodFacts, Room
from motley_operator.manifests.routing import _flows
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_operator.translate.restoring import unit_of
from motley_operator.translate.running import read_unit
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import Replica, RoutingTable, parse_routing
from motley_planner.domain.plan import PlannedFlow, PlannedReplica
from motley_planner.planning import plan as planned

CATALOG = load_catalog()
SETTINGS = Settings(gateway_image="example.org/motley:test")
KEY = "ServingPool/team-a/chat"
H100 = "NVIDIA-H100-80GB-HBM3"


def world(engine: str = "vllm", **spec: Any) -> World:
    """Two zones with an H100 node each, and a pool whose phases are to be apart."""
    made = World().add_node(
        gpu_node("h0", H100, 8, zone="az-1"), gpu_node("h1", H100, 8, zone="az-2")
    )
    made.add(pool(**({"disaggregation": "Always", "engine": {"name": engine}} | spec)))
    return made


def phase(kind: str, node: str, ordinal: int = 0, **changed: Any) -> PlannedReplica:
    fields = {"phase": kind, "nodes": (node,), "column": f"{kind[:4]}0000", "ordinal": ordinal}
    return replica(**(fields | changed))


def flow(source: str, target: str, rate: float) -> PlannedFlow:
    return PlannedFlow("main", "all", source, target, 1.0, rate, rate * 1e9)


def objects(made: World, replicas: list[PlannedReplica], *flows: PlannedFlow) -> list[Any]:
    facts = made.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    assert not translation.rejected
    part = replace(slice_of(KEY, replicas, digest="0123456789ab"), flows=flows)
    return list(manifests.build(plan_of(part), translation, facts, CATALOG, SETTINGS))


def pods_of(found: list[Any]) -> dict[str, Any]:
    return {
        json.loads(each["metadata"]["annotations"]["motley.dev/unit"])["phase"]: each
        for each in found
        if each["kind"] == "Pod"
    }


def routing_in(found: list[Any]) -> dict[str, Any]:
    (text,) = (
        each["data"]["routing.json"]
        for each in found
        if each["kind"] == "ConfigMap" and "routing.json" in each["data"]
    )
    made: dict[str, Any] = json.loads(text)
    return made


def table_of(found: list[Any]) -> RoutingTable:
    return parse_routing(routing_in(found))


PAIR = [phase("prefill", "h0"), phase("decode", "h1")]


def container(pod: Any) -> Any:
    return pod["spec"]["containers"][0]


def test_vllm_replicas_of_a_phase_get_the_nixl_connector_and_say_where_they_are() -> None:
    for pod in pods_of(objects(world(), PAIR, flow("az-1", "az-2", 1.0))).values():
        args = container(pod)["args"]
        config = json.loads(args[args.index("--kv-transfer-config") + 1])
        assert config == {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
        env = {e["name"]: e.get("value") for e in container(pod)["env"]}
        assert env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "$(POD_IP)"
        assert env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5600"
        # Kubernetes expands what was named before.
        names = list(env)
        assert names.index("POD_IP") < names.index("VLLM_NIXL_SIDE_CHANNEL_HOST")


def test_sglang_replicas_get_their_mode_and_only_prefill_a_bootstrap_port() -> None:
    pods = pods_of(objects(world("sglang"), [replace(r, engine="sglang") for r in PAIR]))
    for kind, pod in pods.items():
        args = container(pod)["args"]
        assert args[args.index("--disaggregation-mode") + 1] == kind
        assert ("--disaggregation-bootstrap-port" in args) == (kind == "prefill")
    table = table_of(objects(world("sglang"), [replace(r, engine="sglang") for r in PAIR]))
    handoff = table.stages[0].handoff
    assert handoff is not None and (handoff.protocol, handoff.bootstrap_port) == ("bootstrap", 8998)


def test_a_colocated_replica_is_launched_and_routed_as_ever() -> None:
    found = objects(world(), [replica(nodes=("h0",))])
    (pod,) = (each for each in found if each["kind"] == "Pod")
    assert "--kv-transfer-config" not in container(pod)["args"]
    assert "phase" not in json.loads(pod["metadata"]["annotations"]["motley.dev/unit"])
    (stage,) = routing_in(found)["stages"]
    assert set(stage) == {"name", "model", "replicas"} and "group" not in stage["replicas"][0]


def test_routing_holds_the_phases_in_their_zones_and_the_plans_flows() -> None:
    both = replica(nodes=("h0",), ordinal=1)
    (stage,) = table_of(objects(world(), [*PAIR, both], flow("az-1", "az-2", 0.75))).stages
    assert [(r.group, r.name) for r in stage.prefill] == [("az-1", "chat-main-pref0000-0")]
    assert [r.group for r in stage.decode] == ["az-2"]
    assert [r.name for r in stage.replicas] == ["chat-main-0a1b2c3d-1"]
    (found,) = stage.flows
    assert (found.source, found.target, found.requests_per_second) == ("az-1", "az-2", 0.75)
    assert stage.handoff is not None and stage.handoff.protocol == "nixl"


@pytest.mark.parametrize("flows", [(), (flow("az-9", "az-2", 1.0),)])
def test_flows_that_a_plan_lacks_are_made_of_its_rates(flows: tuple[PlannedFlow, ...]) -> None:
    replicas = [
        phase("prefill", "h0", rates={"all": 3.0}),
        phase("prefill", "h1", 1, rates={"all": 1.0}),
        phase("decode", "h0", rates={"all": 2.0}),
        phase("decode", "h1", 1, rates={"all": 2.0}),
    ]
    (stage,) = table_of(objects(world(), replicas, *flows)).stages
    found = {(f.source, f.target): f.requests_per_second for f in stage.flows}
    one, two = "az-1", "az-2"
    assert found == {(one, one): 1.5, (one, two): 1.5, (two, one): 0.5, (two, two): 0.5}


def test_caches_of_another_width_are_a_group_of_their_own() -> None:
    narrow = [replace(r, kv_scale=0.25, ordinal=1, name=f"{r.name[:-1]}1") for r in PAIR]
    wide = flow("az-1", "az-2", 1.0)
    found = objects(world(), [*PAIR, *narrow], wide, replace(wide, kv_scale=0.25))
    (stage,) = table_of(found).stages
    ends = {(f.source, f.target) for f in stage.flows}
    assert ends == {("az-1", "az-2"), ("az-1/0.25", "az-2/0.25")}


def turn(made: World) -> tuple[Any, Any]:
    facts = made.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    plan = planned(translation.snapshot, translation.catalog, use_worker=False)
    wanted = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    actions = changes(wanted, facts, plan)
    made.apply(actions)
    made.settle()
    return plan, actions


RAG: dict[str, Any] = {
    "model": {"id": "meta-llama/Llama-3.1-70B-Instruct", "precision": "fp8"},
    "workload": {
        "requestsPerSecond": "2",
        "classes": [{"name": "rag", "promptTokens": 6000, "outputTokens": 300}],
    },
    "slo": {"ttft": {"p95": "2s"}, "tpot": {"p95": "30ms"}},
}


def test_a_plan_with_phases_apart_is_created_recognized_and_left_alone() -> None:
    made = world(**RAG)
    plan, actions = turn(made)
    (part,) = plan.slices
    assert {r.phase for r in part.replicas} == {"prefill", "decode"} and not part.refusals
    assert sum(isinstance(a, CreatePod) for a in actions) == len(part.replicas)
    again, actions = turn(made)
    assert {r.kept for r in again.slices[0].replicas} == {f"{KEY}/{r.name}" for r in part.replicas}
    assert [r.phase for r in again.slices[0].replicas] == [r.phase for r in part.replicas]
    assert not [a for a in actions if isinstance(a, CreatePod | DeletePod)]


def test_phases_are_colocated_where_nobody_asks_for_the_other() -> None:
    plan, _ = turn(world(**RAG, disaggregation="Auto"))
    assert {r.phase for r in plan.slices[0].replicas} == {"both"}


def test_a_description_of_no_phase_is_no_replica() -> None:
    good = '{"gpu": "L4", "tensor_parallel": 1, "operating_batch": 1, "model": "m", '
    good += '"precision": "bf16", "role": "serve", "stage": "main"'
    for more in ('"phase": "x"', '"phase": 1', '"kv_scale": 0', '"kv_scale": "a"'):
        assert read_unit({"motley.dev/unit": f"{good}, {more}}}"}) is None
    found = read_unit({"motley.dev/unit": f'{good}, "phase": "decode", "kv_scale": 0.25}}'})
    assert found is not None and (found["phase"], found["kv_scale"]) == ("decode", 0.25)
    old = read_unit({"motley.dev/unit": f"{good}}}"})
    assert old is not None and (old["phase"], old["kv_scale"]) == ("both", 1.0)


def pods_standing_by(found: list[Any]) -> list[PodFacts]:
    """The engine pods of some objects, as facts."""
    return [
        PodFacts(
            namespace="team-a",
            name=each["metadata"]["name"],
            uid=each["metadata"]["name"],
            labels=each["metadata"]["labels"],
            annotations=each["metadata"]["annotations"],
            node="h0",
            bound=True,
            phase="Running",
            reason="",
            ready=True,
            deleting=False,
            requests=Room(0, 0, 0, 0),
            created_at=0.0,
            owner_uid=None,
        )
        for each in found
        if each["kind"] == "Pod"
    ]


@pytest.mark.parametrize("back", [False, True])
def test_what_stands_by_goes_on_in_pairs_while_a_plan_changes(back: bool) -> None:
    apart = objects(world(), PAIR, flow("az-1", "az-2", 1.0))
    whole = objects(world(), [replica(nodes=("h0",))])
    old, new = (apart, whole) if back else (whole, apart)
    (live,) = (o for o in old if o["metadata"]["name"] == "chat-routing" and "data" in o)
    (wanted,) = (o for o in new if o["metadata"]["name"] == "chat-routing" and "data" in o)
    made = with_standing_by(wanted, live, pods_standing_by(old))
    (stage,) = parse_routing(json.loads(made["data"]["routing.json"])).stages
    assert [len(stage.replicas), len(stage.prefill), len(stage.decode)] == [1, 1, 1]
    assert [(f.source, f.target) for f in stage.flows] == [("az-1", "az-2")]
    assert stage.handoff is not None


rates = st.lists(st.floats(0.01, 50.0), min_size=1, max_size=3)


@settings(deadline=None)
@given(rates, rates)
def test_flows_made_of_rates_keep_every_groups_sum(out: list[float], into: list[float]) -> None:
    scale = sum(out) / sum(into)

    def some(given: list[float]) -> list[Replica]:
        return [
            Replica(str(i), "http://x", {"all": rate}, {"all": 99.0}, group=f"z{i}")
            for i, rate in enumerate(given)
        ]

    found = _flows(slice_of(KEY), "main", some(out), some([rate * scale for rate in into]))
    for i, rate in enumerate(out):
        total = sum(f.requests_per_second for f in found if f.source == f"z{i}")
        assert total == pytest.approx(rate, rel=1e-4)
    for i, rate in enumerate(into):
        total = sum(f.requests_per_second for f in found if f.target == f"z{i}")
        assert total == pytest.approx(rate * scale, rel=1e-4)


def test_routing_that_goes_on_takes_its_flows_along() -> None:
    made = world()
    running = [replace(r, kept=f"{KEY}/{r.name}") for r in PAIR]
    facts = made.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    units = tuple(replace(unit_of(KEY, r), id=f"{KEY}/{r.name}") for r in PAIR)
    snapshot = replace(translation.snapshot, running=units)
    translation = replace(translation, snapshot=snapshot)
    old = plan_of(replace(slice_of(KEY, running, digest="old"), flows=(flow("az-1", "az-2", 1.0),)))
    other = [replace(r, rates={"all": 0.5}) for r in running]
    new = plan_of(replace(slice_of(KEY, other, digest="new"), flows=(flow("az-1", "az-2", 0.5),)))
    (part,) = adopted(new, old, frozenset(), translation, facts).slices
    assert (part.hash, part.flows, part.replicas) == ("old", old.slices[0].flows, tuple(running))
