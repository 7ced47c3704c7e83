"""Files become facts: what is read, what is passed over, and which sentence a mistake gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from motley_operator.cli.documents import (
    Sources,
    expand,
    facts_of,
    read_documents,
    read_files,
    without_unread,
)
from motley_operator.cli.output import InputError

NODE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n0", "labels": {"nvidia.com/gpu.product": "NVIDIA-L40S"}},
    "status": {
        "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "4"},
        "images": [{"names": ["a", "b"], "sizeBytes": 3}],
        "nodeInfo": {"kernelVersion": "6"},
    },
}
POOL: dict[str, Any] = {
    "apiVersion": "motley.dev/v1alpha1",
    "kind": "ServingPool",
    "metadata": {"name": "chat"},
    "spec": {},
}


def sources(*objects: dict[str, Any], nodes: tuple[dict[str, Any], ...] = (NODE,)) -> Sources:
    """Objects as if read from one file each."""
    found = [(f"{number}.yaml", item) for number, item in enumerate(objects)]
    return Sources(found, [("nodes.yaml", node) for node in nodes])


def kubectl_list(*items: dict[str, Any]) -> str:
    """The items as `kubectl get -o yaml` prints them."""
    listed = {"apiVersion": "v1", "items": list(items), "kind": "List"}
    return yaml.safe_dump(listed, sort_keys=True)


def test_a_node_that_says_nothing_of_readiness_counts_as_ready() -> None:
    (node,) = facts_of(sources(POOL)).nodes
    assert node.ready
    assert node.allocatable.gpus == 4


def test_a_node_that_is_not_ready_stays_so() -> None:
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    broken = NODE | {"status": NODE["status"] | {"conditions": [condition]}}
    (node,) = facts_of(sources(POOL, nodes=(broken,))).nodes
    assert not node.ready


def test_a_resource_without_a_namespace_is_in_default() -> None:
    (resource,) = facts_of(sources(POOL)).resources
    assert resource.key == "ServingPool/default/chat"
    assert resource.document["metadata"]["namespace"] == "default"


def test_config_maps_and_priority_classes_are_read_and_other_kinds_passed_over() -> None:
    facts = facts_of(
        sources(
            POOL,
            {"kind": "ConfigMap", "metadata": {"name": "t", "namespace": "a"}, "data": {"k": "v"}},
            {"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 7},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},
        )
    )
    assert facts.config_maps == {("a", "t"): {"k": "v"}}
    assert facts.priority_classes == {"high": 7}
    assert len(facts.resources) == 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (sources(POOL, POOL), "ServingPool/default/chat is in 0.yaml already"),
        (sources(POOL | {"kind": "ServingPol"}), "'ServingPol' is no kind of motley.dev"),
        (sources(POOL | {"metadata": {}}), "metadata.name: is missing"),
        (sources(POOL, nodes=()), "holds no Node"),
        (sources(POOL, nodes=(NODE, NODE)), "node n0 is there twice"),
        (
            sources(POOL, nodes=(NODE | {"status": {"allocatable": {"cpu": "many"}}},)),
            "node n0: cannot be read",
        ),
    ],
    ids=["twice", "misspelled kind", "no name", "no nodes", "node twice", "no quantity"],
)
def test_a_mistake_is_named_with_its_place(found: Sources, words: str) -> None:
    with pytest.raises(InputError, match=words):
        facts_of(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", r"line \d: not YAML"),
        ("kind: A\n---\n- 1\n", "document 2: is a list, not an object"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        list(read_documents(path))


def test_a_folder_is_all_its_manifests_and_a_missing_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.yaml", "a.yml", "deep/c.json", "README.md"):
        (tmp_path / name).write_text("{}")
    assert [path.name for path in expand([str(tmp_path)])] == ["a.yml", "b.yaml", "c.json"]
    with pytest.raises(InputError, match="no such file"):
        expand([str(tmp_path / "nothing")])


def test_a_kubectl_list_is_its_items_in_yaml_as_in_json(tmp_path: Path) -> None:
    import json

    other = NODE | {"metadata": {"name": "n1"}}
    listed = tmp_path / "a.yaml", tmp_path / "a.json"
    listed[0].write_text(kubectl_list(NODE, other))
    listed[1].write_text(json.dumps({"kind": "NodeList", "items": [NODE, other]}))
    for path in listed:
        assert [item["metadata"]["name"] for _, item in read_files([str(path)])] == ["n0", "n1"]


texts = st.text(alphabet="ab: -\n#'", max_size=12)
nodes = st.builds(
    lambda images, rest: NODE | {"status": NODE["status"] | {"images": images, "zzz": rest}},
    st.lists(st.fixed_dictionaries({"names": st.lists(texts, max_size=3)}), max_size=3),
    st.dictionaries(texts, texts, max_size=3),
)


@given(st.lists(nodes, min_size=1, max_size=3))
def test_skipping_what_is_not_read_changes_nothing_else(items: list[dict[str, Any]]) -> None:
    text = kubectl_list(*items)
    shorter = yaml.safe_load(without_unread(text))
    expected = yaml.safe_load(text)
    for item in expected["items"]:
        del item["status"]["images"]
    for item in shorter["items"]:
        item["status"].pop("images", None)
    assert shorter == expected
    assert without_unread(text).count("\n") == text.count("\n")


@given(st.text(max_size=200))
def test_text_that_kubectl_did_not_print_is_left_as_it_is(text: str) -> None:
    assert without_unread("kind: X\n" + text) == "kind: X\n" + text
