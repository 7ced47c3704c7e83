"""Branches from a spec to the routing file and into the plan."""

from __future__ import annotations

import json
from typing import Any

import pytest

from motley_operator import manifests, translate
from motley_operator.api import parse
from motley_operator.api.semantics import semantic_findings
from motley_operator.manifests.stages import stages_of
from motley_operator.settings import Settings
from motley_operator.testing import World, cascade, gpu_node, pool
from motley_operator.testing.operated import Operated
from motley_planner.catalog import load_catalog
from motley_planner.costs.order_statistics import branch_tokens
from motley_planner.dispatch import (
    BranchRule,
    Confidence,
    Extraction,
    Pruning,
    Reward,
    parse_routing,
)
from motley_planner.planning import plan

CATALOG, SETTINGS = load_catalog(), Settings()
EIGHT = {"samples": 8, "stopAfter": 4}


def rule_in(spec: dict[str, Any]) -> BranchRule | None:
    return stages_of(parse(pool(branches=spec)))[0].branches


def test_a_spec_says_the_rule_that_the_gateway_runs() -> None:
    assert rule_in({"samples": 5}) == BranchRule(5, 3)
    reward = {"url": "http://prm:8000/", "model": "prm", "path": "/v1/score", "scale": "Logit"}
    reward["trustZone"] = "eu"
    full = {
        **EIGHT,
        "prune": {"below": "40%", "everyTokens": 200},
        "score": {"type": "Reward", "reward": reward},
        "choose": "Vote",
        "extract": {"type": "Regex", "pattern": "=(.)"},
    }
    judge = Reward("http://prm:8000", "prm", "/v1/score", "Logit", "eu")
    votes = Extraction("Regex", "=(.)")
    assert rule_in(full) == BranchRule(8, 4, Pruning(0.4, 4, 200), judge, "Vote", votes)
    confident = {"type": "Confidence", "confidence": {"over": "Lowest", "tokens": 64}}
    found = rule_in({**EIGHT, "score": confident, "prune": {"below": "30%", "most": 2}})
    assert found == BranchRule(8, 4, Pruning(0.3, 2, 400), Confidence("Lowest", 64))


def test_the_routing_file_carries_the_rule_and_pods_do_not_depend_on_it() -> None:
    stages = cascade()["spec"]["stages"]
    branched = cascade(stages=[{**stages[0], "branches": EIGHT}, stages[1]])
    with_rule, without = stages_of(parse(branched)), stages_of(parse(cascade()))
    assert [s.branches for s in with_rule] == [BranchRule(8, 4), None]
    assert [s.inputs_hash for s in with_rule] == [s.inputs_hash for s in without]
    world = World().add_node(gpu_node("h0"))
    world.add(pool(branches=EIGHT))
    table = parse_routing(json.loads(_routing(world)))
    assert table.stages[0].branches == BranchRule(8, 4)


def test_the_routing_file_says_how_many_gateways_share_the_limits_of_clients() -> None:
    for replicas in (1, 3):
        world = World().add_node(gpu_node("h0"))
        world.add(pool(gateway={"replicas": replicas}))
        assert parse_routing(json.loads(_routing(world))).gateways == replicas


def _routing(world: World) -> str:
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    planned = plan(translation.snapshot, CATALOG, use_worker=False)
    objects = manifests.build(planned, translation, facts, CATALOG, SETTINGS)
    routing = next(o for o in objects if o["metadata"]["name"] == "chat-routing")
    return str(routing["data"]["routing.json"])


@pytest.mark.parametrize("spread", ["0%", "50%", "100%"])
def test_a_replica_serves_as_many_fewer_requests_as_they_make_tokens(spread: str) -> None:
    def capacity(**spec: Any) -> float:
        world = World().add_node(gpu_node("h0"))
        world.add(pool(**spec))
        stages = parse_routing(json.loads(_routing(world))).stages
        return stages[0].replicas[0].capacity["all"]

    work = branch_tokens(8, 4, float(spread[:-1]) / 100)
    branched = capacity(branches={**EIGHT, "lengthVariation": spread})
    assert branched * work == pytest.approx(capacity(), rel=1e-4)


def test_branches_keep_a_stage_on_replicas_of_both_phases() -> None:
    world = World().add_node(gpu_node("h0"))
    world.add(pool(branches=EIGHT, disaggregation="Auto"))
    (service,) = translate.translate(world.facts(), CATALOG, SETTINGS).snapshot.services
    (stage,) = service.stages
    assert stage.disaggregation == "never"
    assert stage.sequences_per_request == pytest.approx(branch_tokens(8, 4, 0.5))


@pytest.mark.parametrize(
    ("zone", "placement", "refused"),
    [
        (None, {"trustZones": ["eu"]}, "is in no trust zone"),
        ("us", {"trustZones": ["eu", "on-prem"]}, "keeps these in eu, on-prem"),
        ("us", {"nodeSelector": {"motley.dev/trust-zone": "eu"}}, "placement.nodeSelector keeps"),
        ("us", {"trustZones": ["eu", "us"], "nodeSelector": {"motley.dev/trust-zone": "eu"}}, "us"),
        ("eu", {"trustZones": ["eu", "on-prem"]}, ""),
        ("eu", {"nodeSelector": {"motley.dev/trust-zone": "eu"}}, ""),
        ("us", {"zones": ["az-1"]}, ""),
        (None, {}, ""),
    ],
)
def test_a_reward_pool_outside_of_the_engines_trust_zones_is_refused(
    zone: str | None, placement: dict[str, Any], refused: str
) -> None:
    """It is sent what they are sent, or, by gateways with these zones, nothing at all."""
    reward = {"url": "http://prm:8000", "model": "prm"} | ({"trustZone": zone} if zone else {})
    judged = {**EIGHT, "score": {"type": "Reward", "reward": reward}}
    stages = cascade()["spec"]["stages"]
    stage = {**stages[0], "branches": judged, "placement": placement}
    for document, at in (
        (pool(branches=judged, placement=placement), "spec"),
        (cascade(stages=[stage, stages[1]]), "spec.stages[0]"),
    ):
        found = [f for f in semantic_findings(parse(document)) if "reward" in f.field]
        assert [f.field for f in found] == [f"{at}.branches.score.reward.trustZone"] * bool(refused)
        assert all(refused in f.message and f.reason == "PlacementContradiction" for f in found)
    plain = pool(branches=EIGHT, placement=placement)
    assert not [f for f in semantic_findings(parse(plain)) if "trust zone" in f.message]


def test_a_pool_that_is_refused_for_it_is_told_and_goes_on() -> None:
    operated = Operated(1)
    key = operated.world.add(pool())
    operated.run()
    before = operated.uids(key)
    reward = {"url": "http://prm:8000", "model": "prm", "trustZone": "us"}
    judged = {**EIGHT, "score": {"type": "Reward", "reward": reward}}
    operated.edit(key, branches=judged, placement={"trustZones": ["eu"]})
    operated.run()
    assert operated.condition(key, "Accepted") == ("False", "PlacementContradiction")
    told = operated.message(key, "Accepted")
    assert told.startswith("spec.branches.score.reward.trustZone: the reward pool is in us")
    assert operated.uids(key) == before
