"""The crds/ folder and the schemas that the API server reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from motley_operator.api.crd import crd_files, crds

ROOT = Path(__file__).parents[2]
FILES = crds()
FORBIDDEN = {"$ref", "$defs", "const", "oneOf", "allOf", "title", "prefixItems", "examples"}


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below one, with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def schema_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = FILES[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def test_the_folder_equals_what_the_models_generate() -> None:
    there = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "crds").glob("*.yaml")}
    assert there == crd_files(), "run `motley crds --write crds`"


@pytest.mark.parametrize("name", FILES)
def test_every_node_is_structural_and_bounded(name: str) -> None:
    for path, node in nodes(schema_of(name)):
        assert not FORBIDDEN & node.keys(), path
        assert node.get("additionalProperties") is not False, path
        assert ("properties" in node) + ("additionalProperties" in node) <= 1, path
        if "anyOf" in node:
            assert node["x-kubernetes-int-or-string"], path
        if node.get("type") == "array":
            assert "maxItems" in node, path
            assert "x-kubernetes-list-type" in node, path
        if node.get("type") == "string" and path not in (".apiVersion", ".kind"):
            assert "maxLength" in node or "enum" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


@pytest.mark.parametrize("name", FILES)
def test_a_default_below_a_part_is_reached_when_the_part_is_left_out(name: str) -> None:
    for path, node in nodes(schema_of(name)["properties"]["spec"], ".spec"):
        for field, child in node.get("properties", {}).items():
            has_defaults = any("default" in c for c in child.get("properties", {}).values())
            needs_nothing = not child.get("required") and field not in ("spec", "status")
            if has_defaults and needs_nothing:
                assert "default" in child, f"{path}.{field}"


@pytest.mark.parametrize("name", FILES)
def test_map_keys_are_required_or_have_a_default(name: str) -> None:
    for path, node in nodes(schema_of(name)):
        for key in node.get("x-kubernetes-list-map-keys", ()):
            item = node["items"]
            has_default = "default" in item["properties"][key]
            assert key in item.get("required", ()) or has_default, path


@pytest.mark.parametrize("name", FILES)
def test_every_field_of_a_spec_is_described(name: str) -> None:
    for path, node in nodes(schema_of(name)["properties"]["spec"], ".spec"):
        if not path.endswith("[]"):
            assert node.get("description"), path


def test_a_definition_fits_into_the_annotation_of_a_client_side_apply() -> None:
    for name, text in crd_files().items():
        assert len(text.encode()) < 256 * 1024, name


def test_kinds_have_short_names_a_category_and_a_status() -> None:
    names = {d["spec"]["names"]["kind"]: d["spec"] for d in FILES.values()}
    assert {k: s["names"]["shortNames"] for k, s in names.items()} == {
        "ServingPool": ["sp"],
        "ModelCascade": ["mc"],
        "RLJob": ["rlj"],
        "Fleet": ["fl"],
    }
    assert all(s["names"]["categories"] == ["motley"] for s in names.values())
    assert all(s["versions"][0]["subresources"] == {"status": {}} for s in names.values())
