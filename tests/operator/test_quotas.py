"""Quotas and limit ranges through the whole operator, in a world that admits as the server does."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from motley_operator.admission.counting import pod_use
from motley_operator.cli import explain
from motley_operator.cli.documents import Sources, facts_of
from motley_operator.cli.plan import plan_facts
from motley_operator.domain.facts import Room
from motley_operator.domain.quotas import PodUse
from motley_operator.remembering import RememberingPlanner
from motley_operator.testing.limits import Forbidden, taken
from motley_operator.testing.operated import CATALOG, SETTINGS, Operated, load
from motley_operator.testing.samples import gpu_node, pool
from motley_operator.testing.world import World
from motley_operator.translate import translate

GPUS = "requests.nvidia.com/gpu"
LITTLE, MUCH = load(20), load(500)


def operated(nodes: int = 4, **hard: Any) -> tuple[Operated, str]:
    """A world with a quota and a pool that asks for much."""
    made = Operated(nodes)
    if hard:
        made.world.limits.set_quota("q", {k.replace("_", "."): v for k, v in hard.items()})
    return made, made.world.add(pool(workload=MUCH))


def count(made: Operated, key: str) -> int:
    return len(made.world.engine_pods(key))


def test_what_a_quota_leaves_is_planned_and_the_rest_is_said_by_its_name() -> None:
    made, key = operated()
    made.world.limits.set_quota("gpus", {GPUS: "3"})
    made.run()
    assert count(made, key) == 3
    assert made.condition(key, "Planned") == ("False", "QuotaTooLow")
    assert f"ResourceQuota team-a/gpus: {GPUS}" in made.message(key, "Planned")
    bound = made.status(key)["plan"]["binding"][0]
    assert bound["constraint"] == f"ResourceQuota team-a/gpus: {GPUS}"
    assert bound["relax"].startswith("3 -> ")


def test_a_raised_quota_is_used_and_a_lowered_one_stops_nothing() -> None:
    made, key = operated()
    made.world.limits.set_quota("gpus", {GPUS: "3"})
    made.run()
    made.world.limits.set_quota("gpus", {GPUS: "5"})
    made.run()
    five = made.uids(key)
    assert len(five) == 5
    made.world.limits.set_quota("gpus", {GPUS: "2"})
    made.run()
    assert made.uids(key) == five
    del made.world.limits.documents["ResourceQuota", "team-a", "gpus"]
    made.run()
    assert made.uids(key) > five


@pytest.mark.parametrize(
    ("hard", "most"),
    [
        ({"pods": "5"}, 3),  # two are gateways
        ({"count/pods": "6"}, 4),
        ({"requests.cpu": "9"}, 2),  # 4 a GPU and 250m a gateway
        ({"cpu": "8499m"}, 1),
        ({"memory": "50Gi"}, 3),  # 16Gi a GPU and 256Mi a gateway
        ({"requests.memory": "48Gi"}, 2),
        ({GPUS: "0"}, 0),
        ({"requests.amd.com/gpu": "0"}, 8),
        ({"services": "1", "requests.storage": "1Gi"}, 8),
        ({"requests.ephemeral-storage": "1Gi"}, 8),  # none is asked for
    ],
)
def test_everything_that_pods_take_is_counted(hard: dict[str, str], most: int) -> None:
    made, key = operated()
    made.world.limits.set_quota("q", hard)
    made.run()
    assert count(made, key) == most


@pytest.mark.parametrize(
    ("spec", "most"),
    [
        ({"scopes": ["NotTerminating"]}, 1),
        ({"scopes": ["Terminating"]}, 8),
        ({"scopes": ["BestEffort"]}, 8),
        ({"scopes": ["NotBestEffort"]}, 1),
        ({"scopes": ["PriorityClass"]}, 1),
        ({"scopes": ["CrossNamespacePodAffinity"]}, 8),
        ({"scopes": ["NotTerminating", "BestEffort"]}, 8),
        ({"scopes": ["SomethingNew"]}, 8),
        *(
            (
                {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", **rule}]}},
                most,
            )
            for rule, most in (
                ({"operator": "In", "values": ["gold", "silver"]}, 1),
                ({"operator": "In", "values": ["silver"]}, 8),
                ({"operator": "NotIn", "values": ["gold"]}, 8),
                ({"operator": "NotIn", "values": ["silver"]}, 1),
                ({"operator": "Exists"}, 1),
                ({"operator": "DoesNotExist"}, 8),
            )
        ),
    ],
)
def test_a_quota_counts_the_pods_of_its_scopes(spec: dict[str, Any], most: int) -> None:
    made = Operated(4)
    made.world.priority_classes = {"gold": 10}
    made.world.limits.set_quota("q", {GPUS: "1"}, **spec)
    key = made.world.add(pool(workload=MUCH, priorityClassName="gold"))
    made.run()
    assert count(made, key) == most


def test_pods_of_others_are_taken_off_and_our_own_change_no_limit() -> None:
    made, key = operated()
    made.world.limits.set_quota("gpus", {GPUS: "4"})
    made.run()
    solves = made.planner.solves
    made.run()
    assert (made.planner.solves, count(made, key)) == (solves, 4)
    other = Operated(4)
    other.world.limits.set_quota("gpus", {GPUS: "4"})
    key = other.world.add(pool(workload=MUCH))
    theirs = pod_use({"containers": [{"resources": {"limits": {"nvidia.com/gpu": 3}}}]})
    other.world.add_node(gpu_node("other", gpus=4))
    other.world.foreign_pod("x", "other", Room(3, 0, 0, 0, 1), namespace="team-a", use=theirs)
    other.run()
    assert count(other, key) == 1
    solves = other.planner.solves
    del other.world.pods["team-a", "x"]
    other.run()
    assert count(other, key) == 4
    assert other.planner.solves > solves


def test_two_pools_of_a_namespace_share_a_quota_and_others_do_not_feel_it() -> None:
    made, one = operated(6)
    two = made.world.add(pool("second", workload=MUCH))
    elsewhere = pool("far", workload=LITTLE)
    elsewhere["metadata"]["namespace"] = "team-b"
    far = made.world.add(elsewhere)
    made.world.limits.set_quota("gpus", {GPUS: "5"})
    made.run()
    assert count(made, one) + count(made, two) == 5
    assert sum(len(part.replicas) for part in made.cycle().plan.slices if "team-a" in part.key) == 5
    assert {made.condition(key, "Planned")[1] for key in (one, two)} >= {"QuotaTooLow"}
    assert made.condition(far, "Planned") == ("True", "Planned")
    assert "team-a" not in str(made.status(far))


RANGES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a maximum of GPUs a container": (
        [{"type": "Container", "max": {"nvidia.com/gpu": "0"}}],
        "maximum nvidia.com/gpu usage per Container",
    ),
    "a maximum of cores a pod, of which we set no limit": (
        [{"type": "Pod", "max": {"cpu": "64"}}],
        "maximum cpu usage per Pod, and none is set",
    ),
    "a minimum of memory": (
        [{"type": "Pod", "min": {"memory": "200Gi"}}],
        "minimum memory usage per Pod",
    ),
    "a default below what we request": (
        [{"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}],
        "by its default the cpu limit of a container is below its request",
    ),
    "a ratio of limit to request": (
        [
            {
                "type": "Container",
                "default": {"memory": "640Gi"},
                "maxLimitRequestRatio": {"memory": "2"},
            }
        ],
        "maximum ratio of memory limit to request per Container",
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_limit_range_that_refuses_every_pod_is_named(name: str) -> None:
    limits, words = RANGES[name]
    made, key = operated(1)
    made.world.limits.set_range("small", *limits)
    made.run()
    assert count(made, key) == 0
    assert made.condition(key, "Planned") == ("False", "PodNotAdmitted")
    assert f"LimitRange team-a/small: {words}" in made.message(key, "Planned")


@pytest.mark.parametrize(
    "limits",
    [
        {"type": "Container", "max": {"cpu": "8", "memory": "40Gi"}},
        {"type": "Container", "min": {"cpu": "100m"}, "defaultRequest": {"cpu": "1"}},
        {"type": "Pod", "max": {"nvidia.com/gpu": "2"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    ],
)
def test_a_limit_range_that_admits_pods_changes_nothing(limits: dict[str, Any]) -> None:
    made, key = operated(2)
    made.world.limits.set_range("wide", limits)
    made.run()
    assert count(made, key) == 4


def test_a_limit_range_that_comes_later_stops_nothing_that_runs() -> None:
    made = Operated(3)
    key = made.world.add(pool(workload=load(60)))
    made.run()
    before = made.uids(key)
    assert before
    made.world.limits.set_range("small", {"type": "Container", "max": {"nvidia.com/gpu": "0"}})
    made.run()
    made.edit(key, podTemplate={"metadata": {"labels": {"edited": "yes"}}})
    made.run()
    assert made.uids(key) == before


def test_a_quota_on_limits_wants_them_set_and_a_template_or_a_default_sets_them() -> None:
    made, key = operated(2)
    made.world.limits.set_quota("q", {"limits.memory": "70Gi"})
    made.run()
    assert count(made, key) == 0
    named = "ResourceQuota team-a/q: every container must set limits.memory"
    assert named in made.message(key, "Planned")
    container = {"name": "engine", "resources": {"limits": {"memory": "20Gi"}}}
    made.edit(key, podTemplate={"spec": {"containers": [container]}})
    made.run()
    assert count(made, key) == 3  # and 1Gi for each of two gateways
    by_default, key = operated(2)
    by_default.world.limits.set_quota("q", {"limits.memory": "70Gi"})
    by_default.world.limits.set_range("d", {"type": "Container", "default": {"memory": "34Gi"}})
    by_default.run()
    assert count(by_default, key) == 2


def test_a_replica_that_is_gone_under_a_lowered_quota_is_planned_no_more() -> None:
    made, key = operated()
    made.world.limits.set_quota("gpus", {GPUS: "5"})
    made.run()
    made.world.limits.set_quota("gpus", {GPUS: "2"})
    made.run()
    gone = made.world.engine_pods(key)[0]
    del made.world.pods[gone.namespace, gone.name]
    made.run()
    assert count(made, key) == 4
    assert sum(group["count"] for group in made.status(key)["plan"]["groups"]) == 4
    assert "Reconciling" not in {c["type"] for c in made.status(key)["conditions"]}


def moved_off(made: Operated, key: str) -> None:
    """The pool may not be where it is any more, but what runs there serves until it moved."""
    made.edit(key, placement={"nodeSelector": {"pool": "new"}})


def test_a_replacement_that_a_full_quota_would_refuse_waits_for_the_old_one_to_go() -> None:
    made = Operated(0)
    for name in ("old", "new"):
        made.world.add_node(gpu_node(name, gpus=2, labels={"pool": name}))
    made.world.limits.set_quota("gpus", {GPUS: "2"})
    key = made.world.add(pool(workload=MUCH, placement={"nodeSelector": {"pool": "old"}}))
    made.run()
    before = made.uids(key)
    assert made.nodes(key) == ["old", "old"]
    moved_off(made, key)
    fewest = 2
    for _ in range(12):
        made.cycle()  # raises Forbidden where the server would answer 403
        ready = [p for p in made.world.engine_pods(key) if p.ready and not p.deleting]
        fewest = min(fewest, len(ready))
        made.world.settle()
    assert made.nodes(key) == ["new", "new"]
    assert not made.uids(key) & before
    assert fewest == 1


def test_random_histories_of_quotas_never_ask_for_a_pod_that_is_refused() -> None:
    seen_short = 0
    for seed in range(6):
        random, made = Random(seed), Operated(4)
        keys = [made.world.add(pool(name, workload=load(random.choice((30, 90))))) for name in "ab"]
        for _ in range(6):
            event = random.randrange(4)
            if event == 0:
                made.world.limits.set_quota("gpus", {GPUS: str(random.randrange(9))})
            elif event == 1:
                made.world.limits.set_quota("pods", {"pods": str(random.randrange(4, 14))})
            elif event == 2:
                made.edit(random.choice(keys), workload=load(random.choice((10, 60, 120))))
            else:
                made.planner = RememberingPlanner(made.planner._planner)
            before = {key: made.uids(key) for key in keys}
            made.run()  # raises Forbidden where the server would answer 403
            if event in (0, 1):
                assert all(before[key] <= made.uids(key) for key in keys)
            for quota in made.world.facts().quotas:
                used = taken(quota, made.world.pods.values())
                assert used == dict(quota.used)
            seen_short += any(made.condition(key, "Planned")[1] == "QuotaTooLow" for key in keys)
    assert seen_short >= 3


def test_the_world_refuses_what_the_server_refuses() -> None:
    world = World()
    world.limits.set_quota("q", {GPUS: "1"})
    spec = {"containers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": 2}}}]}
    with pytest.raises(Forbidden, match="exceeded quota: q"):
        world.limits.admit({"metadata": {"namespace": "team-a", "name": "p"}, "spec": spec}, ())


def test_quotas_in_files_are_rows_of_an_offline_plan() -> None:
    node = {
        "kind": "Node",
        "metadata": {"name": "n", "labels": {"nvidia.com/gpu.product": "NVIDIA-L40S"}},
        "status": {"allocatable": {"nvidia.com/gpu": "4", "cpu": "64", "memory": "1Ti", "pods": 9}},
    }
    metadata = {"name": "q", "namespace": "team-a"}
    quota = {"kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {GPUS: "1"}}}
    document = pool()
    document["metadata"]["namespace"] = "team-a"
    facts = facts_of(Sources([("f", document), ("f", quota)], [("f", node)]))
    (row,) = translate(facts, CATALOG, SETTINGS).snapshot.quotas
    assert (row.name, row.at_most) == (f"ResourceQuota team-a/q: {GPUS}", 1)


def test_what_is_counted_of_a_planned_size_is_what_the_built_pod_takes() -> None:
    made, key = operated(2)
    made.world.limits.set_quota("q", {"pods": "99", "cpu": "999", "memory": "9Ti", GPUS: "99"})
    made.run()
    quotas = translate(made.world.facts(), CATALOG, SETTINGS).snapshot.quotas
    for pod in made.world.engine_pods(key):
        assert isinstance(pod.use, PodUse)
        amounts = dict(pod.use.amounts)
        for quota in quotas:
            resource = quota.name.rpartition(": ")[2]
            (use,) = quota.uses
            assert use.of(pod.requests.gpus) == amounts[resource]


def test_explain_shows_the_quota_that_binds() -> None:
    made, _ = operated(2)
    made.world.limits.set_quota("gpus", {GPUS: "1"})
    content = plan_facts(made.world.facts())
    text = explain.render(content)
    assert f"binds: ResourceQuota team-a/gpus: {GPUS}" in text
    assert "QuotaTooLow" in text
    assert "1 -> " in text
