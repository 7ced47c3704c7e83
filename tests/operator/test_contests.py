"""Objects that somebody takes again and again are taken back a bounded number of times, and told of."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from motley_operator.changes.contained import difference
from motley_operator.changes.managers import managers_of
from motley_operator.connection import KINDS
from motley_operator.contests import FREE_TAKES, LONGEST_PAUSE_S, Contests
from motley_operator.decision import decide
from motley_operator.domain.actions import ApplyObject, EmitEvent, Outcome
from motley_operator.facts.resources import trimmed
from motley_operator.testing import World, gpu_node, pool
from motley_operator.testing.operated import CATALOG, Operated

PLACE = ("Deployment", "team-a", "chat-gateway")


class Contested(Operated):
    """An operator whose gateway somebody scales; a cycle whenever something happens."""

    def __init__(self) -> None:
        super().__init__(0)
        self.world = World().add_node(gpu_node("h0", gpus=2))
        self.taken: list[str] = []
        self.thief = ""  # as managedFields name it
        self.contests = Contests(self.taken.append)
        self.key = self.world.add(pool())
        self.told: list[str] = []
        for _ in range(6):
            self.judged()
        self.contests = Contests(self.taken.append)  # another process: it has written nothing yet

    def judged(self, result: str = "done") -> list[ApplyObject]:
        """One cycle; the writes that it made."""
        facts = self.world.facts()
        decision = decide(facts, CATALOG, self.settings, self.planner)
        self.world.apply(decision.statuses)
        actions = self.contests.damped(decision.actions, facts)
        if result == "done":
            self.world.apply(actions)
        self.world.settle()
        self.contests.learn([Outcome(action, result) for action in actions], facts)
        self.told += [
            a.message for a in actions if isinstance(a, EmitEvent) and a.reason == "FieldTaken"
        ]
        return [action for action in actions if isinstance(action, ApplyObject)]

    def steal(self, replicas: int = 7) -> None:
        """Somebody else takes spec.replicas."""
        live = copy.deepcopy(self.world.owned[PLACE])
        live["spec"]["replicas"] = replicas
        if self.thief:
            fields = {"f:spec": {"f:replicas": {}}}
            row = {"manager": self.thief, "operation": "Update", "fieldsV1": fields}
            live["metadata"]["managedFields"] = [row]
        self.world.owned[PLACE] = live

    def is_ours(self) -> bool:
        return bool(self.world.owned[PLACE]["spec"]["replicas"] != 7)

    def robbed(self, seconds: int, every_s: int = 1) -> int:
        """Writes while somebody takes it every so many seconds, with two cycles a second."""
        writes = 0
        for second in range(seconds):
            if second % every_s == 0:
                self.steal()
            for _ in range(2):
                writes += len(self.judged())
                self.world.now += 0.5
        return writes


@pytest.fixture
def contested() -> Contested:
    return Contested()


def test_a_thief_every_second_for_half_a_minute_causes_a_handful_of_writes(
    contested: Contested,
) -> None:
    assert contested.robbed(30) <= 1 + FREE_TAKES + 3
    assert 2 <= len(contested.told) <= 4  # once for each pause
    assert "spec.replicas of Deployment chat-gateway" in contested.told[0]
    assert set(contested.taken) == {"Deployment"}


def test_the_one_who_takes_it_is_named_where_the_object_says_who_that_is(
    contested: Contested,
) -> None:
    contested.thief = "horizontal-pod-autoscaler"
    contested.robbed(6)
    said = "manager horizontal-pod-autoscaler writes spec.replicas of Deployment chat-gateway"
    assert contested.told[0].startswith(said)
    contested.thief = ""
    contested.world.now += 1000.0
    contested.robbed(6)
    assert contested.told[-1].startswith("somebody writes spec.replicas")
    assert "managedFields name no other manager" in contested.told[-1]


OBJECT: dict[str, Any] = {
    "metadata": {
        "labels": {"app.kubernetes.io/name": "motley"},
        "managedFields": [
            {"manager": "kubectl-edit", "fieldsV1": {
                "f:data": {"f:routing.json": {}},
                "f:metadata": {"f:labels": {"f:app.kubernetes.io/name": {}, "f:app": {}}},
            }},
            {"manager": "mesh", "fieldsV1": {"f:spec": {"f:containers": {
                'k:{"name":"engine"}': {".": {}, "f:env": {'k:{"name":"B"}': {"f:value": {}}}},
                'k:{"name":"mesh"}': {".": {}, "f:image": {}},
            }}}},
            {"manager": "gc", "fieldsV1": {"f:metadata": {"f:finalizers": {'v:"b"': {}}}}},
            {"manager": "rack", "fieldsV1": {"f:spec": {"f:args": {}, "f:ports": {"i:1": {}}}}},
            {"manager": "odd", "fieldsV1": None},
        ],
    },
    "data": {"routing.json": "{}"},
    "spec": {
        "containers": [
            {"name": "engine", "image": "a", "env": [{"name": "A"}, {"name": "B", "value": "1"}]},
            {"name": "mesh", "image": "b"},
        ],
        "args": ["x", "y"],
        "ports": [1, 2],
    },
}  # fmt: skip
OBJECT["metadata"]["finalizers"] = ["a", "b"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (("data", "routing.json"), ["kubectl-edit"]),
        (("data", "routing"), []),
        (("metadata", "labels", "app.kubernetes.io/name"), ["kubectl-edit"]),
        (("metadata",), ["kubectl-edit", "gc"]),
        (("metadata", "finalizers", 1), ["gc"]),
        (("metadata", "finalizers", 0), []),
        (("spec", "containers", 0, "env", 1, "value"), ["mesh"]),
        (("spec", "containers", 0, "env", 0, "value"), []),
        (("spec", "containers", 0, "image"), []),
        (("spec", "containers", 1, "image"), ["mesh"]),
        (("spec", "args", 1), ["rack"]),  # an atomic list is held as a whole
        (("spec", "ports", 1), ["rack"]),
        (("spec", "ports", 0), []),
        (("status",), []),
    ],
)
def test_managers_are_found_by_field(path: tuple[str | int, ...], found: list[str]) -> None:
    assert list(managers_of(OBJECT, path)) == found


def test_of_managers_only_those_are_kept_that_could_take_something_of_ours() -> None:
    rows = [
        {"manager": "motley", "operation": "Apply"},
        {"manager": "kubectl-edit", "operation": "Update"},
        {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status"},
        {"manager": "vpa", "operation": "Update", "subresource": "scale"},
    ]
    labels = {"app.kubernetes.io/managed-by": "motley"}
    document = {"metadata": {"name": "x", "labels": labels, "managedFields": rows}}
    kept = trimmed(KINDS["Deployment"], document)["metadata"]["managedFields"]
    assert [row["manager"] for row in kept] == ["kubectl-edit", "vpa"]
    document["metadata"]["managedFields"] = rows[:1]
    assert "managedFields" not in trimmed(KINDS["Deployment"], document)["metadata"]
    foreign = {"metadata": {"name": "x", "managedFields": rows}}
    assert "managedFields" not in trimmed(KINDS["ServingPool"], foreign)["metadata"]


def test_pauses_double_up_to_some_minutes(contested: Contested) -> None:
    seconds = 1300  # 635 s of pauses that double, and two of the longest
    writes = contested.robbed(seconds, every_s=1)
    assert writes <= 1 + FREE_TAKES + 7 + (seconds - 635) / LONGEST_PAUSE_S
    told = [words.partition("taken back in ")[2].partition(" s:")[0] for words in contested.told]
    assert told[:7] == ["5", "10", "20", "40", "80", "160", "320"]
    assert set(told[6:]) == {"320"} and len(told) >= 8


def test_one_accident_is_undone_at_once_and_said_nowhere(contested: Contested) -> None:
    for _ in range(10):
        contested.steal()
        contested.judged()
        assert contested.is_ours()
        contested.world.now += 61.0
    assert not contested.told


def test_once_the_thief_is_gone_the_field_is_taken_back_and_the_object_as_new(
    contested: Contested,
) -> None:
    contested.robbed(30)
    contested.steal()
    (due,) = contested.contests.due_at(contested.world.now)
    contested.judged()
    assert not contested.is_ours()
    contested.world.now = due
    contested.judged()
    assert contested.is_ours()
    assert contested.contests.due_at(contested.world.now) == []
    contested.world.now += 120.0
    told = len(contested.told)
    contested.steal()
    contested.judged()
    assert contested.is_ours()
    assert len(contested.told) == told


def test_what_we_change_ourselves_is_written_in_the_middle_of_a_pause(contested: Contested) -> None:
    contested.robbed(12)
    assert contested.contests.due_at(contested.world.now)
    contested.edit(contested.key, gateway={"replicas": 3})
    contested.judged()
    assert contested.world.owned[PLACE]["spec"]["replicas"] == 3


def test_other_objects_are_not_held_up(contested: Contested) -> None:
    contested.robbed(10)
    contested.steal()
    place = ("ConfigMap", "team-a", "chat-routing")
    contested.world.owned[place] = copy.deepcopy(contested.world.owned[place])
    contested.world.owned[place]["data"] = {}
    assert [a.manifest["kind"] for a in contested.judged()] == ["ConfigMap"]


def test_a_refused_write_is_no_take(contested: Contested) -> None:
    contested.steal()
    for _ in range(20):
        assert len(contested.judged("failed")) == 1
        contested.world.now += 1.0
    assert not contested.told
    assert not contested.taken


@pytest.mark.parametrize(
    ("desired", "live", "expected"),
    [
        ({"spec": {"replicas": 2}}, {"spec": {"replicas": 7, "x": 1}}, ("spec", "replicas")),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, ("a", 1, "b")),
        ({"a": [1]}, {"a": [1, 2]}, ("a",)),
        ({"a": {"b": 1}}, {}, ("a",)),
        ({"a": 1}, {"a": 1, "b": 2}, None),
    ],
)
def test_the_first_field_that_differs_is_named(desired: Any, live: Any, expected: Any) -> None:
    assert difference(desired, live) == expected
