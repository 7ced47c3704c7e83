"""Node files: what is shipped, what is read, and what is made from shapes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from e2e.cluster.__main__ import main
from e2e.cluster.nodes import DEMO, SHAPES, demo_nodes, make_mix, make_nodes, read, to_yaml


def test_the_demo_file_holds_what_the_generator_makes() -> None:
    assert read(DEMO) == demo_nodes()


def test_the_demo_has_twelve_mixed_nodes_in_two_zones() -> None:
    labels = [node["metadata"]["labels"] for node in read(DEMO)]
    gpus = Counter({one["nvidia.com/gpu.product"]: 0 for one in labels})
    for one in labels:
        gpus[one["nvidia.com/gpu.product"]] += int(one["nvidia.com/gpu.count"])
    assert gpus == {
        "NVIDIA-H100-80GB-HBM3": 24,
        "NVIDIA-A100-SXM4-80GB": 32,
        "NVIDIA-L40S": 24,
        "NVIDIA-L4": 16,
    }
    assert Counter(one["karpenter.sh/capacity-type"] for one in labels) == {
        "on-demand": 9,
        "spot": 3,
    }
    assert {one["topology.kubernetes.io/zone"] for one in labels} == {"az-1", "az-2"}


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_and_allocatable_of_a_shape_agree(shape: str) -> None:
    (node,) = make_nodes(shape)
    labels, status = node["metadata"]["labels"], node["status"]
    assert status["allocatable"]["nvidia.com/gpu"] == labels["nvidia.com/gpu.count"]
    assert status["allocatable"].keys() == status["capacity"].keys()


def test_a_thousand_nodes_have_a_thousand_names() -> None:
    nodes = make_mix([("h100", 500), ("l4", 300), ("a100-80", 200)])
    assert len({node["metadata"]["name"] for node in nodes}) == 1000


def test_what_a_server_printed_is_read_without_what_only_a_server_writes(tmp_path: Path) -> None:
    (node,) = make_nodes("h100")
    printed = {
        **node,
        "metadata": {**node["metadata"], "uid": "u", "resourceVersion": "7"},
        "status": {**node["status"], "conditions": [{"type": "Ready", "status": "True"}]},
    }
    (tmp_path / "nodes.yaml").write_text(to_yaml([printed]))
    assert read(tmp_path / "nodes.yaml") == [node]


def test_the_short_form_says_the_same_as_the_generator(tmp_path: Path) -> None:
    text = "nodes: [{shape: h100, count: 2, prefix: big, zones: [z], capacityTypes: [spot]}]"
    (tmp_path / "short.yaml").write_text(text)
    made = make_nodes("h100", 2, prefix="big", zones=["z"], capacity_types=["spot"])
    assert read(tmp_path / "short.yaml") == made


@pytest.mark.parametrize("text", ["nodes: [{shape: h1000}]", "kind: Pod", "[1]"])
def test_a_file_that_holds_no_nodes_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.yaml"):
        read(tmp_path / "wrong.yaml")


def test_the_command_prints_a_list_that_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nodes", "t4=2", "l4=1"]) == 0
    (tmp_path / "made.yaml").write_text(capsys.readouterr().out)
    assert [node["metadata"]["name"] for node in read(tmp_path / "made.yaml")] == [
        "t4-1",
        "t4-2",
        "l4-1",
    ]
    assert main(["nodes", "t5=2"]) == 2
