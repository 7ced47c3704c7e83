"""Fitted scores from the ConfigMap of the calibration table to the gateway's routing."""

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
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import parse_routing
from motley_planner.domain.plan import PolicyChoice

LINE = {"kind": "isotonic", "features": ["mean"], "points": [[0.1, 0.2], [0.9, 0.8]]}
FITTED = {
    "version": 1,
    "type": "LogProb",
    "table_sha256": hashlib.sha256(CALIBRATION.encode()).hexdigest(),
    "calibrators": {"small": LINE},
}


def world_with(estimator: str) -> tuple[World, str]:
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    data = {"table.csv": CALIBRATION, "estimator.json": estimator}
    world.config_maps["team-a", "table"] = data
    return world, world.add(cascade("support"))


def test_the_gateway_gets_the_scores_that_the_table_was_made_with() -> None:
    world, key = world_with(json.dumps(FITTED))
    facts, catalog, settings = world.facts(), load_catalog(), Settings()
    translation = translate.translate(facts, catalog, settings)
    assert translation.rejected == {}
    policies = [PolicyChoice("p", 1.0, {"small": 0.5})]
    part = slice_of(key, [replica("small"), replica("large")], policies=policies)
    made = manifests.build(plan_of(part), translation, facts, catalog, settings)
    (routing,) = [each for each in made if each["metadata"]["name"] == "support-routing"]
    table = parse_routing(json.loads(routing["data"]["routing.json"]))
    assert table.calibrators["small"].points == ((0.1, 0.2), (0.9, 0.8))


WRONG: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ("{}", "version 1"),
    (json.dumps({**FITTED, "table_sha256": "other"}), "another table"),
    (json.dumps({**FITTED, "calibrators": {"tiny": LINE}}), "name stages"),
    (json.dumps({**FITTED, "calibrators": {"small": {"kind": "magic"}}}), "kind must be"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said for _, said in WRONG])
def test_scores_that_do_not_belong_to_the_table_are_refused(text: str, said: str) -> None:
    world, key = world_with(text)
    rejected = translate.translate(world.facts(), load_catalog(), Settings()).rejected
    (found,) = rejected[key]
    assert found.reason == "CalibrationInvalid" and said in found.message
