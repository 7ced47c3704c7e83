"""Where waiting pods count: claims as names, places as facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_operator.domain.claims import CLAIM, claim_of, is_coming, node_of, number_of, shape_of
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import UNIT
from motley_operator.testing.samples import gpu_node
from motley_operator.testing.world import World
from motley_operator.translate import with_claims

LABELS = {"pool": "gpu"}
SHAPE = {
    "name": "p5",
    "gpuProduct": "NVIDIA-H100-80GB-HBM3",
    "gpus": 4,
    "cpu": "64",
    "memory": "512Gi",
    "dollarsPerHour": "12",
    "maxNodes": 3,
    "delay": "2m",
    "labels": LABELS,
    "provision": "Pods",
}


def world_of(*claims: str, **shape: Any) -> World:
    """A pod of two GPUs for each claim, all waiting."""
    world = World(
        fleet={
            "apiVersion": "motley.dev/v1alpha1",
            "kind": "Fleet",
            "metadata": {"name": "default"},
            "spec": {"shapes": [SHAPE | shape]},
        }
    )
    for i, claim in enumerate(claims):
        manifest = {
            "metadata": {
                "namespace": "a",
                "name": f"pod-{i}",
                "labels": {
                    "app.kubernetes.io/managed-by": "motley",
                    "motley.dev/replica": f"main-{i}",
                    "motley.dev/rank": "0",
                    CLAIM: claim,
                },
                "annotations": {UNIT: "{}"},
            },
            "spec": {
                "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]
            },
        }
        world._create(manifest)
    return world


def places(facts: ClusterFacts) -> list[str | None]:
    return [pod.node for pod in with_claims(facts).pods]


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", fullmatch=True), st.integers(0, 10**6))
def test_a_claim_and_a_node_to_come_are_two_names_of_one_thing(shape: str, number: int) -> None:
    node = f"+{shape}/{number}"
    assert is_coming(node) and shape_of(node) == shape
    assert node_of(claim_of(node)) == node and number_of(claim_of(node)) == number
    assert len(claim_of(node)) <= 63


def test_waiting_pods_count_on_a_closed_node_with_the_shapes_room() -> None:
    facts = with_claims(world_of("p5-0", "p5-0", "p5-1").facts())
    assert [pod.node for pod in facts.pods] == ["+p5/0", "+p5/0", "+p5/1"]
    node, _ = facts.nodes
    assert (node.name, node.unschedulable, node.allocatable.gpus) == ("+p5/0", True, 4)
    assert with_claims(facts) == facts


def test_a_node_that_fits_is_the_claims_and_no_other_claims() -> None:
    world = world_of("p5-0", "p5-0", "p5-1").add_node(gpu_node("n", gpus=8, labels=LABELS))
    assert places(world.facts()) == ["n", "n", "+p5/1"]
    assert with_claims(with_claims(world.facts())) == with_claims(world.facts())


@pytest.mark.parametrize(
    "node",
    [
        gpu_node("n", gpus=2, labels=LABELS),
        gpu_node("n", gpus=4),
        gpu_node("n", gpus=4, labels=LABELS, unschedulable=True),
        gpu_node("n", gpus=4, labels=LABELS, ready=False, not_ready_since=0.0),
    ],
    ids=["too small", "without the labels", "cordoned", "not ready"],
)
def test_a_node_that_cannot_take_them_is_not_theirs(node: Any) -> None:
    assert places(world_of("p5-0", "p5-0").add_node(node).facts()) == ["+p5/0", "+p5/0"]


def test_where_one_of_a_claim_is_bound_the_others_follow() -> None:
    world = world_of("p5-0", "p5-0").add_node(
        gpu_node("m", gpus=4, labels=LABELS), gpu_node("n", gpus=4, labels=LABELS)
    )
    world._put(replace(world.pods[("a", "pod-0")], node="n", bound=True))
    assert places(world.facts()) == ["n", "n"]


@pytest.mark.parametrize(
    ("delay", "margin_s"), [("2m", 60.0), ("20m", 600.0)], ids=["a minute", "half the delay"]
)
def test_a_pod_counts_nowhere_once_the_delay_and_its_margin_are_over(
    delay: str, margin_s: float
) -> None:
    world = world_of("p5-0", delay=delay)
    world.now += float(delay.removesuffix("m")) * 60.0 + margin_s - 1.0
    assert places(world.facts()) == ["+p5/0"]
    world.now += 1.0
    assert places(world.facts()) == [None]


@pytest.mark.parametrize("change", [{"name": "p6"}, {"provision": "None"}])
def test_a_claim_to_a_shape_that_is_not_bought_any_more_counts_nowhere(change: Any) -> None:
    assert places(world_of("p5-0", **change).facts()) == [None]
