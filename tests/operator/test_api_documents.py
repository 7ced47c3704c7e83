"""Reading whole files: lines, several mistakes at once, traps of YAML, statuses of any content."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator.api import InvalidDocument, ServingPool, parse
from motley_operator.api.documents import validate_documents
from motley_operator.api.reference import pages
from motley_operator.cli.schema import names, schema_of
from motley_planner.candidates.policies import policies_from_table

ROOT = Path(__file__).parents[2]

POOL = """\
apiVersion: motley.dev/v1alpha1
kind: ServingPool
metadata: {name: chat, namespace: a}
spec:
  model: {id: Qwen/Qwen3-8B}
  workload:
    requestsPerSecond: 3
    classes:
      - {name: chat, promptTokens: 10, outputTokens: 10}
"""


def pool(**patch: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(POOL)
    return document | patch


def test_every_mistake_is_found_at_once_each_with_its_line() -> None:
    text = POOL.replace("  model:", "  modle:").replace(
        "requestsPerSecond: 3", "requestsPerSecond: x"
    )
    text += "  slo: {ttft: {p50: 2s, p95: 1s}}\n"
    found = {(f.field, f.line) for f in validate_documents(text)}
    assert found == {
        ("spec.modle", 5),
        ("spec.model", 4),
        ("spec.workload.requestsPerSecond", 7),
        ("spec.slo.ttft.p50", 10),
    }


def test_a_second_document_counts_its_lines_from_the_start_of_the_file() -> None:
    text = (
        POOL
        + "---\n"
        + POOL.replace("chat, namespace", "other, namespace")
        + "  gateway: {port: 0}\n"
    )
    (found,) = validate_documents(text)
    assert (found.field, found.line, found.resource) == (
        "spec.gateway.port",
        20,
        "ServingPool a/other",
    )


def test_a_file_is_named_in_the_finding(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(POOL + "  gateway: {port: 0}\n")
    (found,) = validate_documents(tmp_path)
    assert str(found).startswith(
        f"{file}:10: ServingPool a/chat: spec.gateway.port: 0 is too small"
    )


def test_broken_yaml_is_a_finding_with_its_line() -> None:
    (found,) = validate_documents("a: b\nc: [1, 2\nd: e\n")
    assert (found.layer, found.line) == ("yaml", 3)


def test_a_key_written_twice_is_named() -> None:
    (found,) = validate_documents(POOL + "  objective: MinimizeCost\n  objective: MinimizeCost\n")
    assert (found.rule, found.line) == ("double key", 11)


def test_two_resources_of_one_name_in_a_namespace_are_named() -> None:
    (found,) = validate_documents(POOL + "---\n" + POOL)
    assert (found.reason, found.field, found.line) == ("NameTaken", "metadata.name", 13)
    assert "ServingPool a/chat (line 1)" in found.message


def test_a_file_with_a_fleet_is_judged_by_what_that_fleet_allows() -> None:
    disk = POOL + "  podTemplate: {spec: {hostNetwork: true}}\n"
    fleet = "apiVersion: motley.dev/v1alpha1\nkind: Fleet\nmetadata: {name: default}\nspec:\n"
    (found,) = validate_documents(disk)
    assert found.reason == "PodTemplateRefused"
    allowed = fleet + "  podTemplates: {allow: [HostNetwork]}\n"
    assert validate_documents(f"{disk}---\n{allowed}") == ()
    (wrong,) = validate_documents(fleet + "  podTemplates: {allow: [Everything]}\n")
    assert wrong.field == "spec.podTemplates.allow[0]"


def test_the_same_name_in_another_namespace_is_free() -> None:
    assert validate_documents(POOL + "---\n" + POOL.replace("namespace: a", "namespace: b")) == ()


def test_an_unknown_kind_of_the_group_is_named_with_the_nearest() -> None:
    (found,) = validate_documents(POOL.replace("ServingPool", "ServingPol"))
    assert "did you mean ServingPool?" in found.message


def test_another_version_is_named_with_the_served_one() -> None:
    (found,) = validate_documents(POOL.replace("v1alpha1", "v1"))
    assert "write motley.dev/v1alpha1" in found.message


def test_objects_of_other_groups_and_items_of_a_list_are_read() -> None:
    item = json.dumps(pool(spec={}))
    text = f"apiVersion: v1\nkind: List\nitems:\n- {{kind: Pod, apiVersion: v1}}\n- {item}\n"
    assert {f.field for f in validate_documents(text)} == {"spec.model", "spec.workload"}


def test_parse_raises_with_all_findings() -> None:
    with pytest.raises(InvalidDocument) as refusal:
        parse(pool(spec={"budget": {}}))
    assert {f.field for f in refusal.value.findings} == {
        "spec.model",
        "spec.workload",
        "spec.budget",
    }
    assert refusal.value.reason == "InvalidSpec"


@pytest.mark.parametrize(
    "status", [{"conditions": "gone"}, {"plan": 3}, "text", {"plan": {"x": 1}}]
)
def test_a_status_written_by_hand_never_stops_planning(status: object) -> None:
    assert parse(pool(status=status)) == parse(pool())


def test_a_null_field_reads_as_an_absent_one() -> None:
    document = pool()
    document["spec"] |= {"slo": None, "budget": None}
    assert parse(document) == parse(pool())


def test_a_resource_reads_back_from_what_it_writes() -> None:
    first = parse(pool())
    assert isinstance(first, ServingPool)
    assert parse(first.document()) == first


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "id", "p95", "name", "gpus", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from(
        sorted(
            f.alias or n
            for n, f in ServingPool.model_fields["spec"].annotation.model_fields.items()
        )
    ),  # type: ignore[union-attr]
    value=JSON,
)
def test_any_value_of_any_field_is_accepted_or_named(field: str, value: object) -> None:
    document = pool()
    document["spec"][field] = value
    try:
        assert parse(document).spec is not None  # type: ignore[attr-defined]
    except InvalidDocument as error:
        assert all(
            f.field.startswith(f"spec.{field}") or f.field == "spec.budget" for f in error.findings
        )


def test_the_example_table_is_what_its_generator_makes_and_reaches_its_floor() -> None:
    made = runpy.run_path(str(ROOT / "examples/make_calibration.py"))
    text = (ROOT / "examples/41-support-calibration.yaml").read_text(encoding="utf-8")
    assert text == made["make_config_map"]()
    policies = policies_from_table(made["make_table"](), ["small", "large"], 0.95)
    assert max(policy.quality for policy in policies) > 0.82


@pytest.mark.parametrize("name", names())
def test_a_printed_schema_is_a_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(name))


@pytest.mark.parametrize("file", ["40-servingpool", "42-modelcascade", "50-rljob", "30-fleet"])
def test_the_schema_of_a_resource_accepts_its_example(file: str) -> None:
    document = yaml.safe_load((ROOT / f"examples/{file}.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema_of(document["kind"].lower()))


def test_the_reference_pages_equal_what_the_models_generate() -> None:
    for name, text in pages().items():
        there = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
        assert there == text, "run `python -m motley_operator.api.reference docs/reference`"
