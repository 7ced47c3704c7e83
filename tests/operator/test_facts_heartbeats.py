"""A heartbeat is told from news without reading it, and news never passes for a heartbeat."""

from __future__ import annotations

import copy
import json
from collections import Counter
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bench.scale_objects import node_objects

from motley_operator.facts.collection import Collection
from motley_operator.facts.heartbeats import node_gist
from motley_operator.facts.nodes import parse_node

Document = dict[str, Any]
# What is left out of a gist, as keys and values that a person could write somewhere else.
LOOKALIKES = ("resourceVersion", "time", "lastHeartbeatTime", "managedFields", "conditions", "uid")
TEXTS = st.sampled_from(
    [*LOOKALIKES, "1", "2", '"time":"1"', '{"resourceVersion":"7"}', '"conditions":[', "]", "\\"]
)


@cache
def drawn() -> Document:
    """A node of the benchmark; it says the second in which it was made."""
    made: Document = node_objects(1)[0]
    return made


def node(version: int = 7) -> Document:
    """A node in an API server's order of fields, as large as real ones."""
    made = drawn()
    metadata = {
        "name": made["metadata"]["name"],
        "uid": "0b0e7a5e-0000-4000-8000-000000000001",
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": made["metadata"]["labels"],
        "annotations": {"note": "none"},
        "managedFields": [
            {
                "manager": "kubelet",
                "operation": "Update",
                "time": "2026-01-01T00:00:00Z",
                "fieldsV1": {
                    "f:status": {"f:conditions": {'k:{"type":"Ready"}': {"f:status": {}}}}
                },
            }
        ],
    }
    spec = {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}
    status = copy.deepcopy(made["status"])
    return {"kind": "Node", "metadata": metadata, "spec": spec, "status": status}


def beaten(document: Document, version: int, second: int = 1) -> Document:
    """The node after one more heartbeat."""
    later = copy.deepcopy(document)
    later["metadata"]["resourceVersion"] = str(version)
    for entry in later["metadata"].get("managedFields", ()):
        entry["time"] = f"2026-01-01T00:00:{second:02d}Z"
    for condition in later["status"].get("conditions", ()):
        condition["lastHeartbeatTime"] = f"2026-01-01T00:00:{second:02d}Z"
    return later


def line(document: Document, event: str = "MODIFIED") -> bytes:
    """A line of a watch, as compact as the server's."""
    return orjson.dumps({"type": event, "object": document})


def test_two_heartbeats_have_one_gist_and_their_own_versions() -> None:
    first, second = (node_gist(line(beaten(node(), v, v))) for v in (8, 9))
    assert first is not None and second is not None
    assert (first.rest, first.uid) == (second.rest, second.uid)
    assert (first.version, second.version) == (8, 9)
    assert first.uid == node()["metadata"]["uid"]


@pytest.mark.parametrize("event", ["ADDED", "DELETED", "BOOKMARK", "ERROR"])
def test_only_modified_objects_have_a_gist(event: str) -> None:
    assert node_gist(line(node(), event)) is None


def test_a_line_of_another_order_or_form_has_no_gist() -> None:
    turned = node()
    turned["metadata"] = dict(reversed(turned["metadata"].items()))
    assert node_gist(line(turned)) is None
    assert node_gist(json.dumps({"type": "MODIFIED", "object": node()}).encode()) is None
    assert node_gist(b'{"type":"MODIFIED","object":{"kind":"Node"}}') is None
    assert node_gist(b"") is None


def edits(document: Document, data: st.DataObject) -> None:
    """Changes one thing of a node that is read, in the words of what a gist leaves out."""
    metadata, status = document["metadata"], document["status"]
    match data.draw(st.integers(0, 9)):
        case 0:
            metadata["labels"] = {data.draw(TEXTS): data.draw(TEXTS), **metadata["labels"]}
        case 1:
            key = data.draw(st.sampled_from(("motley.dev/exclude", "time", "x")))
            metadata["annotations"] = {key: data.draw(TEXTS)}
        case 2:
            document["spec"] = {"taints": [{"key": data.draw(TEXTS), "effect": "NoSchedule"}]}
        case 3:
            document["spec"] = {"unschedulable": True}
        case 4:
            amount = str(data.draw(st.integers(0, 9)))
            status["allocatable"] = {**status["allocatable"], "nvidia.com/gpu": amount}
        case 5:
            ready = {"type": "Ready", "status": data.draw(st.sampled_from(("True", "False")))}
            ready["lastTransitionTime"] = f"2026-01-01T00:00:0{data.draw(st.integers(0, 9))}Z"
            status["conditions"] = [{"type": data.draw(TEXTS), "status": "True"}, ready]
        case 6:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        case 7:
            metadata.pop("managedFields", None)
        case 8:
            status.pop("conditions", None)
        case _:
            document["metadata"] = dict(data.draw(st.permutations(list(metadata.items()))))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_lines_of_one_gist_have_equal_facts(data: st.DataObject) -> None:
    old = node()
    for _ in range(data.draw(st.integers(0, 2))):
        edits(old, data)
    new = beaten(old, 9, 9)
    for _ in range(data.draw(st.integers(0, 1))):
        edits(new, data)
    before, after = node_gist(line(old)), node_gist(line(new))
    if before is not None and after is not None and before.rest == after.rest:
        assert parse_node(old) == parse_node(new)
        assert after.version == int(new["metadata"]["resourceVersion"])


class Heard:
    """A collection of nodes that counts how often one is read."""

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self.changes: list[tuple[Any, Any]] = []

        def parse(document: Any) -> Any:
            self.read[document["metadata"]["name"]] += 1
            return parse_node(document)

        self.nodes: Collection[Any] = Collection(parse, lambda *pair: self.changes.append(pair))

    def hear(self, document: Document, event: str = "MODIFIED") -> None:
        """A line of the watch, as a reflector takes it."""
        gist = node_gist(line(document, event))
        if gist is None or not self.nodes.beat(gist):
            self.nodes.upsert(document, gist)

    @property
    def times(self) -> int:
        """How often a node was read."""
        return self.read.total()


def test_of_many_heartbeats_one_is_read_and_each_is_known_by_its_version() -> None:
    heard = Heard()
    heard.nodes.replace([node()], 7)
    for version in range(8, 20):
        heard.hear(beaten(node(), version, version))
    uid = node()["metadata"]["uid"]
    assert heard.times == 2  # the LIST, and the first line
    assert heard.nodes.version(uid) == heard.nodes.heard == 19


def test_a_change_between_heartbeats_is_read_and_so_is_its_end() -> None:
    heard = Heard()
    heard.nodes.replace([node()], 7)
    cordoned = node()
    cordoned["spec"]["unschedulable"] = True
    told = []
    for version, document in enumerate((node(), node(), cordoned, cordoned, node(), node()), 8):
        heard.hear(beaten(document, version, version))
        (known,) = heard.nodes.values()
        told.append(known.unschedulable)
    assert told == [False, False, True, True, False, False]
    assert heard.times == 4


def test_a_list_in_between_makes_the_next_line_be_read_where_it_said_something_else() -> None:
    heard = Heard()
    heard.nodes.replace([node()], 7)
    heard.hear(beaten(node(), 8))
    cordoned = beaten(node(), 9)
    cordoned["spec"]["unschedulable"] = True
    heard.nodes.replace([cordoned], 9)
    heard.hear(beaten(node(), 10))
    (known,) = heard.nodes.values()
    assert not known.unschedulable


def test_a_heartbeat_of_a_node_that_is_gone_is_read() -> None:
    heard = Heard()
    heard.nodes.replace([node()], 7)
    heard.hear(beaten(node(), 8))
    heard.nodes.remove(beaten(node(), 9))
    gist = node_gist(line(beaten(node(), 8)))
    assert gist is not None and not heard.nodes.beat(gist)
    assert not heard.nodes.values()


def test_an_old_heartbeat_takes_no_version_back() -> None:
    heard = Heard()
    heard.nodes.replace([node()], 7)
    for version in (8, 12, 10):
        heard.hear(beaten(node(), version))
    assert heard.nodes.version(node()["metadata"]["uid"]) == 12
