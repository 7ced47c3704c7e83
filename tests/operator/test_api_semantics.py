"""Semantic checks: any spec that a person can write is judged, and names are judged alike."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator import translate
from motley_operator.api import parse
from motley_operator.api.documents import validate_documents
from motley_operator.api.ignored import IGNORED
from motley_operator.api.semantics import semantic_findings
from motley_operator.settings import Settings
from motley_operator.testing import CALIBRATION, World, cascade, gpu_node, pool
from motley_planner.catalog import load_catalog

WORDS = st.sampled_from(
    (
        "spec", "metadata", "labels", "containers", "securityContext", "capabilities", "add",
        "resources", "limits", "requests", "ports", "hostPort", "volumes", "hostPath", "name",
        "nvidia.com/gpu", "motley.dev/role", "tolerations", "hostUsers", "affinity",
        "seccompProfile", "seLinuxOptions", "sysctls", "projected", "lifecycle", "preStop", "httpGet", "host",
    )
)  # fmt: skip
NUMBERS = st.sampled_from(
    (
        "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
        "intermediate_size", "text_config", "num_experts", "head_dim", "quantization_config",
        "sliding_window", "sliding_window_pattern", "layer_types", "max_position_embeddings",
    )
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers(-3, 9000) | st.floats() | st.text(max_size=6)


def trees(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Objects of these keys, as deep as people nest them."""
    inner = st.recursive(
        LEAVES,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=4),
        max_leaves=12,
    )
    return st.dictionaries(keys, inner, max_size=8)


@settings(max_examples=80, deadline=None)
@given(template=trees(WORDS), architecture=trees(NUMBERS))
def test_any_template_and_architecture_is_judged_and_never_raises(
    template: dict[str, Any], architecture: dict[str, Any]
) -> None:
    model = {"id": "acme/own", "architecture": architecture}
    for found in semantic_findings(parse(pool(podTemplate=template, model=model))):
        assert found.layer == "semantic" and ": " in found.message
        assert found.field.startswith("spec.")


def test_a_name_that_another_kind_needs_is_told_in_the_same_words_on_both_sides() -> None:
    table = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "table", "namespace": "team-a"},
        "data": {"table.csv": CALIBRATION},
    }
    objects = [cascade("support"), pool("support-small"), table]
    (said,) = validate_documents(yaml.safe_dump_all(objects))
    world = World().add_node(gpu_node("h0"))
    world.config_maps["team-a", "table"] = table["data"]
    world.add(cascade("support"))
    key = world.add(pool("support-small"))
    rejected = translate.translate(world.facts(), load_catalog(), Settings()).rejected
    assert [(r.reason, r.field, r.message) for r in rejected[key]] == [
        ("NameTaken", said.field, said.message)
    ]


@pytest.mark.parametrize("kind", IGNORED, ids=lambda kind: kind.__name__)
def test_each_field_that_changes_nothing_yet_is_a_field(kind: Any) -> None:
    for path in IGNORED[kind]:
        model = kind.model_fields["spec"].annotation
        for step in path.split("."):
            fields = {f.alias or n: f for n, f in model.model_fields.items()}
            assert step.removesuffix("[]") in fields, path
            annotation = fields[step.removesuffix("[]")].annotation
            inner = [annotation, *getattr(annotation, "__args__", ())]
            model = next((a for a in inner if hasattr(a, "model_fields")), None)
