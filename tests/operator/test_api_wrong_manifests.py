"""The table of wrong manifests, as `motley validate` judges them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from motley_operator.api.documents import validate_documents
from motley_operator.cli.validate import known_names

ROOT = Path(__file__).parents[2]
TABLE = yaml.safe_load((ROOT / "tests/manifests/wrong.yaml").read_text(encoding="utf-8"))
CALIBRATION = ROOT / "examples/41-support-calibration.yaml"
ROWS = TABLE["rows"]


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
    assert validate_documents(text_of({"base": base}), known_names()) == ()


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_a_wrong_manifest_is_named_with_field_sentence_and_layer(row: dict[str, Any]) -> None:
    findings = validate_documents(text_of(row), known_names())
    assert len(findings) == 1, [str(f) for f in findings]
    (found,) = findings
    assert (found.field, found.layer) == (row["field"], row["layer"])
    assert row["says"] in found.message
    assert found.reason == row.get("reason", "InvalidSpec")
    assert found.line > 0


def test_the_table_is_large_enough_and_its_names_are_unique() -> None:
    layers = Counter(row["layer"] for row in ROWS)
    assert len(ROWS) >= 60
    assert layers["schema"] + layers["cel"] >= 40
    assert len({row["name"] for row in ROWS}) == len(ROWS)
