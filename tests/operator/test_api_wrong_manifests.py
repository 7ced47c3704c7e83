"""The table of wrong manifests, as `motley validate` judges them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from motley_operator import status, translate
from motley_operator.api.documents import validate_documents
from motley_operator.domain.actions import PatchStatus
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, plan_of
from motley_planner.catalog import load_catalog

ROOT = Path(__file__).parents[2]
TABLE = yaml.safe_load((ROOT / "tests/manifests/wrong.yaml").read_text(encoding="utf-8"))
CALIBRATION = ROOT / "examples/41-support-calibration.yaml"
ROWS = TABLE["rows"]
SEMANTIC = [row for row in ROWS if row["layer"] == "semantic"]


def merged(base: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def text_of(row: dict[str, Any]) -> str:
    """The row's manifest and, beside it, the calibration table it refers to."""
    manifest = merged(TABLE["bases"][row["base"]], row.get("patch", {}))
    table = yaml.safe_load(CALIBRATION.read_text(encoding="utf-8"))
    table["metadata"]["namespace"] = "wrong"
    if "table" in row:
        table["data"]["table.csv"] = row["table"]
    return yaml.safe_dump_all([manifest, table], sort_keys=False)


@pytest.mark.parametrize("base", TABLE["bases"])
def test_a_base_of_the_table_is_valid(base: str) -> None:
    assert validate_documents(text_of({"base": base})) == ()


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_a_wrong_manifest_is_named_with_field_sentence_and_layer(row: dict[str, Any]) -> None:
    findings = validate_documents(text_of(row))
    assert len(findings) == 1, [str(f) for f in findings]
    (found,) = findings
    assert (found.field, found.layer) == (row["field"], row["layer"])
    assert row["says"] in found.message
    assert found.reason == row.get("reason", "InvalidSpec")
    assert found.line > 0


def conditions_of(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The conditions that the operator writes on the row's resource, by type."""
    resource, table = yaml.safe_load_all(text_of(row))
    world = World().add_node(gpu_node("h0"))
    world.config_maps["wrong", table["metadata"]["name"]] = table["data"]
    if resource["kind"] == "Fleet":
        resource["metadata"]["uid"] = "u"
        world.fleet = resource
    else:
        world.add(resource)
    facts = world.facts()
    translation = translate.translate(facts, load_catalog(), Settings())
    (patch,) = [
        action
        for action in status.statuses(plan_of(), translation, facts)
        if isinstance(action, PatchStatus) and action.kind == resource["kind"]
    ]
    return {condition["type"]: condition for condition in patch.status["conditions"]}


@pytest.mark.parametrize("base", TABLE["bases"])
def test_a_base_of_the_table_is_accepted_on_a_cluster(base: str) -> None:
    assert conditions_of({"base": base})["Accepted"]["status"] == "True"


@pytest.mark.parametrize("row", SEMANTIC, ids=[row["name"] for row in SEMANTIC])
def test_a_condition_says_the_sentence_and_field_of_validate(row: dict[str, Any]) -> None:
    (found,) = validate_documents(text_of(row))
    accepted = conditions_of(row)["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", found.reason)
    assert accepted["message"] == f"{found.field}: {found.message}"


def test_the_table_is_large_enough_and_its_names_are_unique() -> None:
    layers = Counter(row["layer"] for row in ROWS)
    assert len(ROWS) >= 60
    assert layers["schema"] + layers["cel"] >= 40
    assert len({row["name"] for row in ROWS}) == len(ROWS)
