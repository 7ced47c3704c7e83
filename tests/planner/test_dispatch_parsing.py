"""Routing documents: round trip, and a sentence for each mistake."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import (
    RequestClass,
    RoutingError,
    classify,
    parse_routing,
    routing_document,
)
from motley_planner.errors import PlannerError

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "plan_hash": "3f2a",
    "resource": {"kind": "ModelCascade", "namespace": "team-a", "name": "support"},
    "served_model_names": ["support"],
    "classes": [
        {"name": "all", "prompt_tokens": 900, "output_tokens": 220},
        {"name": "long", "prompt_tokens": 9000, "output_tokens": 220},
    ],
    "stages": [
        {
            "name": stage,
            "model": f"Qwen/{stage}",
            "replicas": [
                {
                    "name": f"support-{stage}-1a2b3c-0",
                    "url": "http://support.team-a.svc:8000",
                    "rates": {"all": 3.2},
                    "capacity": {"all": 4.0},
                }
            ],
        }
        for stage in ("small", "large")
    ],
    "policies": [
        {"id": "p17", "share": 0.7, "thresholds": {"small": 0.62}},
        {"id": "p18", "share": 0.3, "thresholds": {"small": 0.55}},
    ],
    "estimator": {"type": "LogProb"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The document with one field set, or taken out where the value is `...`."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split("/")
    target: Any = document
    for key in parents:
        target = target[int(key) if key.isdigit() else key]
    key = int(last) if last.isdigit() else last
    if value is ...:
        del target[key]
    else:
        target[key] = value
    return document


def test_the_documented_example_is_read_and_written_back_unchanged() -> None:
    table = parse_routing(DOCUMENT)
    assert table.is_cascade
    assert table.stages[0].replicas[0].rates == {"all": 3.2}
    assert table.policies[1].thresholds == {"small": 0.55}
    assert json.loads(json.dumps(routing_document(table))) == DOCUMENT
    assert parse_routing(routing_document(table)) == table


def test_the_number_of_gateways_is_read_and_written_back() -> None:
    assert parse_routing(DOCUMENT).gateways == 1
    document = changed("gateways", 3)
    assert parse_routing(document).gateways == 3
    assert routing_document(parse_routing(document)) == document


def test_unknown_fields_are_left_for_newer_gateways() -> None:
    assert parse_routing({**DOCUMENT, "later": 1}) == parse_routing(DOCUMENT)


def test_shares_off_by_a_solvers_rounding_are_normalised() -> None:
    table = parse_routing(changed("policies/0/share", 0.7004))
    assert sum(policy.share for policy in table.policies) == pytest.approx(1.0, abs=1e-12)


def test_a_capacity_of_zero_means_not_admissible() -> None:
    document = changed("stages/0/replicas/0/capacity", {"all": 4.0, "long": 0})
    assert parse_routing(document).stages[0].replicas[0].capacity == {"all": 4.0}


REPLICA = "stages/0/replicas/0"
MISTAKES: list[tuple[str, Any, str]] = [
    ("version", 2, "version"),
    ("plan_hash", ..., "plan_hash"),
    ("plan_hash", "a\r\nx-evil: 1", "plan_hash"),
    ("resource", "support", "resource"),
    ("resource/kind", "", "resource.kind"),
    ("served_model_names", [], "served_model_names"),
    ("served_model_names", [1], "served_model_names[0]"),
    ("classes", [], "classes"),
    ("classes/1/name", "all", "classes"),
    ("classes/0/prompt_tokens", -1, "classes[0].prompt_tokens"),
    ("classes/0/output_tokens", "many", "classes[0].output_tokens"),
    ("stages", [], "stages"),
    ("stages/1/name", "small", "stages"),
    ("stages/0/name", "a,b", "stages[0].name"),
    ("stages/0/model", ..., "stages[0].model"),
    ("stages/0/replicas", {}, "stages[0].replicas"),
    (f"{REPLICA}/name", None, "stages[0].replicas[0].name"),
    (f"{REPLICA}/url", "support:8000", "stages[0].replicas[0].url"),
    (f"{REPLICA}/url", "ftp://x/", "stages[0].replicas[0].url"),
    (f"{REPLICA}/rates", {"other": 1}, "stages[0].replicas[0].rates.other"),
    (f"{REPLICA}/rates", {"long": 1}, "stages[0].replicas[0].rates.long"),
    (f"{REPLICA}/rates", {"all": float("nan")}, "stages[0].replicas[0].rates.all"),
    (f"{REPLICA}/capacity", {"all": True}, "stages[0].replicas[0].capacity.all"),
    ("policies", [], "policies"),
    ("policies/1/id", "p17", "policies"),
    ("policies/0/share", 0.9, "policies"),
    ("policies/0/share", float("inf"), "policies[0].share"),
    ("policies/0/thresholds", {}, "policies[0].thresholds"),
    ("gateways", 0, "gateways"),
    ("gateways", 1.5, "gateways"),
    ("gateways", True, "gateways"),
    ("policies/0/thresholds/huge", 0.5, "policies[0].thresholds.huge"),
    ("estimator/type", "Judge", "estimator.type"),
]


@pytest.mark.parametrize(("path", "value", "field"), MISTAKES)
def test_a_mistake_is_named_by_its_field(path: str, value: Any, field: str) -> None:
    with pytest.raises(RoutingError) as caught:
        parse_routing(changed(path, value))
    assert caught.value.field == field
    assert isinstance(caught.value, PlannerError)
    assert str(caught.value).startswith(f"{field}: ")


def test_two_replicas_of_a_name_in_a_stage_are_refused() -> None:
    twice = DOCUMENT["stages"][0]["replicas"] * 2
    with pytest.raises(RoutingError, match="appears twice"):
        parse_routing(changed("stages/0/replicas", twice))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from([path for path, _, _ in MISTAKES]), value=json_values)
def test_any_json_is_read_or_refused_with_a_routing_error(path: str, value: Any) -> None:
    try:
        parse_routing(changed(path, value))
    except RoutingError as error:
        assert error.field and error.rule


def test_the_class_of_nearest_prompt_length_in_log_space_is_taken() -> None:
    classes = [RequestClass(name, n, 100) for name, n in (("s", 100), ("m", 1000), ("l", 10000))]
    # The border between 100 and 1,000 lies at their geometric mean, 316.
    lengths = {0: "s", 100: "s", 310: "s", 325: "m", 3000: "m", 3300: "l", 10**6: "l"}
    assert {n: classify(classes, n).name for n in lengths} == lengths


def test_classes_of_equal_prompt_length_are_told_apart_by_the_output_limit() -> None:
    classes = [RequestClass("short", 500, 20), RequestClass("long", 500, 2000)]
    assert classify(classes, 500, 16).name == "short"
    assert classify(classes, 500, 4096).name == "long"
    assert classify(classes, 500).name == "short"
