"""From `spec.quality` to the gateways: estimator, watch, relief, and the load that they cost."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from motley_operator import manifests, translate
from motley_operator.settings import Settings
from motley_operator.testing import (
    CALIBRATION,
    World,
    cascade,
    gpu_node,
    plan_of,
    replica,
    slice_of,
)
from motley_planner.candidates.policies import policies_from_table
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import EstimatorRule, parse_routing
from motley_planner.domain.demand import ServingDemand
from motley_planner.domain.plan import PolicyChoice

TABLE = {"configMapKeyRef": {"name": "table", "key": "table.csv"}}
VOTES = {"type": "SelfConsistency", "selfConsistency": {"samples": 4, "temperature": "0.5"}}


def built(quality: dict[str, Any], policies: list[PolicyChoice] | None = None) -> Any:
    """The manifests by kind and name of a cascade with such a quality, and its demand."""
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    world.config_maps["team-a", "table"] = {"table.csv": CALIBRATION}
    key = world.add(cascade("support", quality={"floor": "50%", "calibration": TABLE, **quality}))
    facts, catalog, settings = world.facts(), load_catalog(), Settings()
    translation = translate.translate(facts, catalog, settings)
    assert translation.rejected == {}
    chosen = policies or [PolicyChoice("p", 1.0, {"small": 0.5})]
    part = slice_of(key, [replica("small"), replica("large")], policies=chosen)
    made = manifests.build(plan_of(part), translation, facts, catalog, settings)
    (demand,) = translation.snapshot.demands
    assert isinstance(demand, ServingDemand)
    return {(each["kind"], each["metadata"]["name"]): each for each in made}, demand


def routing_of(made: Any) -> Any:
    return parse_routing(json.loads(made["ConfigMap", "support-routing"]["data"]["routing.json"]))


def test_a_cascade_that_says_nothing_has_the_routing_of_before() -> None:
    made, demand = built({})
    document = json.loads(made["ConfigMap", "support-routing"]["data"]["routing.json"])
    assert document["estimator"] == {"type": "LogProb"}
    assert "watch" not in document and "relief" not in document
    assert all(set(policy) == {"id", "share", "thresholds"} for policy in document["policies"])
    assert demand.extra_calls == {}


def test_votes_go_to_the_gateway_and_into_the_load() -> None:
    made, demand = built({"estimator": VOTES})
    assert routing_of(made).estimator == EstimatorRule(
        "SelfConsistency", samples=4, temperature=0.5
    )
    assert demand.extra_calls == {"small": {"small": 3.0}}
    (policy, *_) = [p for p in demand.policies if p.visits["small"] > 0]
    assert demand.calls(policy)["small"] == 4 * policy.visits["small"]


def test_a_verdict_and_its_load_go_to_the_stage_that_gives_it() -> None:
    made, demand = built({"estimator": {"type": "SelfVerify", "selfVerify": {"stage": "large"}}})
    assert routing_of(made).estimator.verifier == "large"
    assert demand.extra_calls == {"small": {"large": 1.0}}


def test_checks_go_to_the_gateway_with_their_programs() -> None:
    checks = [
        {"type": "Regex", "pattern": "^a"},
        {"type": "JsonSchema", "schema": {"type": "object"}},
        {"type": "Command", "command": ["check.sh", "-v"], "timeLimit": "3s"},
    ]
    validator = {"checks": checks, "commands": {"name": "programs"}}
    made, demand = built({"estimator": {"type": "Validator", "validator": validator}})
    assert [json.loads(each) for each in routing_of(made).estimator.checks] == [
        {"type": "Regex", "pattern": "^a"},
        {"type": "JsonSchema", "schema": {"type": "object"}},
        {"type": "Command", "argv": ["check.sh", "-v"], "seconds": 3.0},
    ]
    assert demand.extra_calls == {}
    pod = made["Deployment", "support-gateway"]["spec"]["template"]["spec"]
    volume = {"name": "commands", "configMap": {"name": "programs", "defaultMode": 0o555}}
    assert volume in pod["volumes"]
    args = pod["containers"][0]["args"]
    assert args[args.index("--commands-dir") + 1] == "/etc/motley/commands"


def test_a_watch_has_the_tables_figures_and_shadow_labels_are_load() -> None:
    watch = {"shadow": {"share": "5%", "maxPerMinute": 9}, "canaries": {"perHour": 6}}
    made, demand = built({"watch": watch})
    found = routing_of(made).watch
    small = found.references["small"]
    rows = [line.split(",") for line in CALIBRATION.splitlines()[1:]]
    kept = [row for row in rows if float(row[1]) >= 0.5]
    assert small.quality == pytest.approx(sum(float(row[2]) for row in kept) / len(kept))
    assert (small.rows, small.accepted) == (len(rows), len(kept))
    assert (found.shadow.share, found.shadow.per_minute) == (0.05, 9.0)
    assert demand.extra_calls == {"small": {"large": 0.05}}
    args = made["Deployment", "support-gateway"]["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    assert args[args.index("--canaries-per-hour") + 1] == "6"


def test_relief_has_the_certified_policies_below_the_plans() -> None:
    offered = policies_from_table(CALIBRATION, ("small", "large"), 0.95)
    (dear,) = [p for p in offered if p.thresholds["small"] > 1.0]
    plan = [PolicyChoice(dear.id, 1.0, dear.thresholds)]
    made, _ = built({"underLoad": {"busy": "15s", "window": "5m"}}, plan)
    table = routing_of(made)
    assert (table.relief.floor, table.relief.busy_s, table.relief.window_s) == (0.5, 15.0, 300.0)
    assert table.policies[0].quality == pytest.approx(dear.quality)
    ids = {each.id for each in table.relief.policies}
    assert ids == {p.id for p in offered} - {dear.id}


def test_without_certificates_of_the_plans_policies_there_is_no_relief() -> None:
    made, _ = built({"underLoad": {"busy": "15s"}})
    assert routing_of(made).relief is None


def test_a_plan_that_outlives_its_table_is_served_on_and_not_watched() -> None:
    stale = [PolicyChoice("p", 1.0, {"other": 0.5, "small": 0.5})]
    with pytest.raises(Exception, match="other"):
        routing_of(built({"watch": {}}, stale)[0])  # the file names the stage; judging does not
    made, _ = built({"watch": {}}, stale)
    document = json.loads(made["ConfigMap", "support-routing"]["data"]["routing.json"])
    assert "watch" not in document


FITTED = {"version": 1, "type": "SelfConsistency", "samples": 3, "temperature": 0.5}


def test_scores_of_another_estimator_than_the_specs_are_refused() -> None:
    world = World().add_node(gpu_node("h0"))
    sha = hashlib.sha256(CALIBRATION.encode()).hexdigest()
    for rest, said in (
        ({"compare": "Text"}, "another estimator than spec.quality.estimator"),
        (
            {
                "samples": 4,
                "compare": "Text",
                "calibrators": {
                    "small": {
                        "kind": "isotonic",
                        "features": ["verified"],
                        "points": [[0.0, 0.1], [1.0, 0.9]],
                    }
                },
            },
            "features must be among agreement",
        ),
    ):
        document = {**FITTED, "calibrators": {}, "table_sha256": sha, **rest}
        data = {"table.csv": CALIBRATION, "estimator.json": json.dumps(document)}
        world.config_maps["team-a", "table"] = data
        quality = {"floor": "50%", "calibration": TABLE, "estimator": VOTES}
        key = world.add(cascade("support", quality=quality))
        (found,) = translate.translate(world.facts(), load_catalog(), Settings()).rejected[key]
        assert found.reason == "CalibrationInvalid" and said in found.message
