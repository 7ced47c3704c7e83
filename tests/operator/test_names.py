"""Whatever resources may be called, the API server takes the names and labels of all that is made for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator import manifests, translate
from motley_operator.domain.names import QUEUE
from motley_operator.domain.purchases import REQUEST, TEMPLATE
from motley_operator.manifests.frame import label_value
from motley_operator.manifests.queues import GROUP
from motley_operator.settings import Settings
from motley_operator.testing import (
    CALIBRATION,
    World,
    cascade,
    gpu_node,
    job,
    plan_of,
    pool,
    replica,
    slice_of,
)
from motley_operator.testing.asking import Asking
from motley_operator.testing.operated import CATALOG, load

Document = dict[str, Any]

# Source: Kubernetes, apimachinery/pkg/util/validation and apis/core/validation.
VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# A Service's name is a DNS label; a Job's becomes a label of its pods.
LONGEST = {"Service": 63, "Job": 63}

LETTERS, INNER = "abcxyz", "abcxyz019-"
CACHE = {"persistentVolumeClaim": {"claimName": "models"}}
SETTINGS = Settings(network_policies=True, metrics_namespaces=("monitoring",))


def names(longest: int) -> st.SearchStrategy[str]:
    """DNS-1035 labels, often as long as they may be."""

    @st.composite
    def made(draw: st.DrawFn) -> str:
        size = draw(st.one_of(st.just(longest), st.integers(1, longest)))
        inner = draw(st.text(INNER, min_size=size, max_size=size))
        return (draw(st.sampled_from(LETTERS)) + inner[1:-1] + "z")[:size]

    return made()


def wrong(manifest: Document) -> Iterator[str]:
    """What the API server would refuse of an object's names and labels."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    name = metadata["name"]
    pattern = DNS_1035 if kind == "Service" else DNS_1123
    if len(name) > LONGEST.get(kind, 253) or not pattern.fullmatch(name):
        yield f"{kind} {name}"
    for each in _mappings(manifest):
        for key, value in _labels(each):
            if not isinstance(value, str) or len(value) > 63 or not VALUE.fullmatch(value):
                yield f"{kind}: {key}={value}"
        for field in ("hostname", "subdomain"):
            text = each.get(field) if "containers" in each else None
            if text is not None and (len(text) > 63 or not DNS_1123.fullmatch(text)):
                yield f"{kind}: {field}={text}"
        for part in (*each.get("volumes", ()), *each.get("containers", ())):
            if len(part["name"]) > 63 or not DNS_1123.fullmatch(part["name"]):
                yield f"{kind}: {part['name']}"


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _mappings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _mappings(inner)


def _labels(each: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Labels, and what selects them."""
    for field in ("labels", "matchLabels"):
        yield from (each.get(field) or {}).items()


def gang(stage: str, ordinal: int) -> Any:
    """A replica over two nodes."""
    return replica(stage, ordinal, tensor_parallel=8, nodes=("h0", "h1"))


def made_for(
    document: Document, stages: list[str], ordinal: int, table: str = ""
) -> tuple[Document, ...]:
    """All objects of a queued resource with a replica over two nodes in each stage."""
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    world.config_maps["team-a", "table"] = {"table.csv": table}
    document["metadata"]["labels"] = {QUEUE: "research"}
    key = world.add(document)
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    assert not translation.rejected, translation.rejected
    plan = plan_of(slice_of(key, [gang(stage, ordinal) for stage in stages]))
    return manifests.build(plan, translation, facts, CATALOG, SETTINGS)


def assert_taken(made: tuple[Document, ...], groups: int) -> None:
    """The server would take all of it, and each replica is a group of its own."""
    assert [text for each in made for text in wrong(each)] == []
    assert {"Pod", "Service", "Job", "NetworkPolicy"} <= {each["kind"] for each in made}
    pods = [each for each in made if each["kind"] == "Pod"]
    assert len(pods) == 2 * groups
    assert len({pod["metadata"]["labels"][GROUP] for pod in pods}) == groups


ORDINALS = st.one_of(st.just(9999), st.integers(0, 9999))


@settings(max_examples=15, deadline=None)
@given(names(40), names(15), names(15), ORDINALS)
def test_a_cascades_objects_have_names_and_labels_that_the_server_takes(
    name: str, first: str, second: str, ordinal: int
) -> None:
    if second == first:
        second = f"{first[:14]}0"
    stages = [
        {"name": first, "model": {"id": "Qwen/Qwen3-8B", "cache": CACHE}},
        {"name": second, "model": {"id": "Qwen/Qwen3-32B"}},
    ]
    table = CALIBRATION.replace("small:", f"{first}:").replace("large:", f"{second}:")
    assert_taken(made_for(cascade(name, stages=stages), [first, second], ordinal, table), 2)


@settings(max_examples=15, deadline=None)
@given(names(40), ORDINALS)
def test_a_pools_and_a_jobs_objects_have_names_and_labels_that_the_server_takes(
    name: str, ordinal: int
) -> None:
    cached = {"id": "Qwen/Qwen3-8B", "cache": CACHE}
    assert_taken(made_for(pool(name, model=cached), ["main"], ordinal), 1)
    cached = {"id": "Qwen/Qwen2.5-7B-Instruct", "cache": CACHE}
    assert_taken(made_for(job(name, model=cached), ["rollout", "trainer"], ordinal), 2)


def test_what_is_asked_of_autoscalers_has_names_and_labels_that_the_server_takes() -> None:
    asking = Asking(name="s" * 50)
    asking.world.add(pool("p" * 40, workload=load(100)))
    asking.steps(4)
    asked = [one for kind in (REQUEST, TEMPLATE) for one in asking.owned(kind).values()]
    assert asked and [text for each in asked for text in wrong(each)] == []
    assert all(not list(wrong({"kind": "Pod", "metadata": {"name": p.name, "labels": p.labels}}))
               for p in asking.world.engine_pods())  # fmt: skip


@given(st.text(INNER, min_size=64, max_size=90), st.text(INNER, min_size=64, max_size=90))
def test_long_values_are_cut_and_stay_apart(one: str, other: str) -> None:
    assert len(label_value(one)) == 63
    assert (label_value(one) == label_value(other)) is (one == other)
    assert label_value(one[:63]) == one[:63]
