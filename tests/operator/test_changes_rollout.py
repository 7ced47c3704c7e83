"""Make before break: who goes on serving while replicas are replaced, and who has to go."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_operator import changes, manifests, translate
from motley_operator.changes.turns import PATIENCE_S
from motley_operator.domain.actions import Action, CreatePod, DeletePod
from motley_operator.domain.facts import Room
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, plan_of, pool, replica, slice_of
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import Dispatcher, parse_routing
from motley_planner.domain.plan import Plan, PlannedReplica

CATALOG = load_catalog()
SETTINGS = Settings()


def step(world: World, plan: Plan) -> tuple[Action, ...]:
    """One cycle: what was done."""
    facts = world.facts()
    translation = translate.translate(facts, CATALOG, SETTINGS)
    desired = manifests.build(plan, translation, facts, CATALOG, SETTINGS)
    actions = changes.changes(desired, facts, plan)
    world.apply(actions)
    return actions


def carry_out(world: World, plan: Plan) -> None:
    for _ in range(20):
        if not step(world, plan):
            return
        world.settle()
    raise AssertionError("no end after twenty cycles")


def names(world: World) -> list[str]:
    return [pod.name for pod in world.engine_pods() if not pod.deleting]


def routed(world: World) -> list[str]:
    text = world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
    return [one["name"] for one in json.loads(text)["stages"][0]["replicas"]]


def deleted(actions: tuple[Action, ...]) -> list[str]:
    return [action.name for action in actions if isinstance(action, DeletePod)]


def created(actions: tuple[Action, ...]) -> list[str]:
    found = (a.manifest["metadata"]["name"] for a in actions if isinstance(a, CreatePod))
    return list(found)


OLD, NEW = "chat-main-0a1b2c3d-0", "chat-main-ffffffff-0"


def moved(node: str = "h1", **changes: Any) -> PlannedReplica:
    return replica(column="ffffffff", nodes=(node,), **changes)


@pytest.fixture
def world() -> World:
    return World().add_node(gpu_node("h0"), gpu_node("h1"))


def test_the_old_replica_serves_until_the_new_one_is_ready(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica()])))
    new = plan_of(slice_of(key, [moved()]))
    first = step(world, new)
    assert (created(first), deleted(first)) == ([NEW], [])
    assert sorted(routed(world)) == [OLD, NEW]
    assert step(world, new) == ()  # nothing more before the new one is ready
    world.settle()
    assert deleted(step(world, new)) == [OLD]
    assert routed(world) == [NEW]


def test_a_replacement_that_never_becomes_ready_leaves_the_old_one(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica()])))
    new = plan_of(slice_of(key, [moved()]))
    step(world, new)
    for _ in range(5):
        world.now += 3600.0
        assert step(world, new) == ()
    assert sorted(names(world)) == [OLD, NEW]


def test_a_replica_goes_first_only_where_its_room_is_needed(world: World) -> None:
    """Two replicas of 4 GPUs fill a node; one of 4 GPUs is to come there and one elsewhere."""
    key = world.add(pool())
    old = [replica(tensor_parallel=4), replica(ordinal=1, tensor_parallel=4)]
    carry_out(world, plan_of(slice_of(key, old)))
    new = [moved("h0", tensor_parallel=4), moved("h1", ordinal=1, tensor_parallel=4)]
    plan = plan_of(slice_of(key, new))
    first = step(world, plan)
    assert (created(first), deleted(first)) == (["chat-main-ffffffff-1"], [])
    assert step(world, plan) == ()  # half of the stage is on its way
    world.settle()
    assert deleted(step(world, plan)) == [OLD]


def test_scaling_down_waits_for_nobody(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica(), replica(ordinal=1)])))
    actions = step(world, plan_of(slice_of(key, [replica()])))
    assert deleted(actions) == ["chat-main-0a1b2c3d-1"]


def test_room_that_another_resource_needs_is_given_when_the_last_one_has_a_successor(
    world: World,
) -> None:
    first, second = world.add(pool("chat")), world.add(pool("other"))
    carry_out(world, plan_of(slice_of(first, [replica(tensor_parallel=8)])))
    new = plan_of(
        slice_of(first, [moved(tensor_parallel=8)]), slice_of(second, [replica(tensor_parallel=8)])
    )
    actions = step(world, new)
    assert (created(actions), deleted(actions)) == ([NEW], [])
    world.settle()
    assert deleted(step(world, new)) == [OLD]


def test_it_is_not_waited_for_a_successor_that_takes_too_long(world: World) -> None:
    first, second = world.add(pool("chat")), world.add(pool("other"))
    carry_out(world, plan_of(slice_of(first, [replica(tensor_parallel=8)])))
    new = plan_of(
        slice_of(first, [moved(tensor_parallel=8)]), slice_of(second, [replica(tensor_parallel=8)])
    )
    assert deleted(step(world, new)) == []
    world.now += PATIENCE_S
    assert deleted(step(world, new)) == [OLD]


def test_room_that_another_resource_needs_is_given_at_once_where_no_successor_has_any() -> None:
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    first, second = world.add(pool("chat")), world.add(pool("other"))
    carry_out(world, plan_of(slice_of(first, [replica(tensor_parallel=8)])))
    world.foreign_pod("theirs", "h1", Room(gpus=8))
    new = plan_of(
        slice_of(first, [moved(tensor_parallel=8)]), slice_of(second, [replica(tensor_parallel=8)])
    )
    assert deleted(step(world, new)) == [OLD]


def eights(names: list[str], column: str) -> list[PlannedReplica]:
    """Replicas that take a node each."""
    return [
        replica(column=column, ordinal=i, tensor_parallel=8, nodes=(name,))
        for i, name in enumerate(names)
    ]


def hosts(count: int) -> list[str]:
    return [f"h{i}" for i in range(count)]


def full_world(count: int) -> World:
    return World().add_node(*map(gpu_node, hosts(count)))


def ready_of(world: World, key: str) -> int:
    return sum(pod.ready and not pod.deleting for pod in world.engine_pods(key))


@pytest.mark.parametrize(("count", "fewest"), [(1, 0), (2, 1), (3, 2), (4, 3), (8, 6), (9, 7)])
def test_on_full_nodes_a_quarter_of_a_stage_makes_way_at_a_time(count: int, fewest: int) -> None:
    world = full_world(count)
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, eights(hosts(count), "0a1b2c3d"))))
    new = eights(hosts(count), "ffffffff")
    plan = plan_of(slice_of(key, new))
    seen = []
    for _ in range(60):
        actions = step(world, plan)
        seen.append(ready_of(world, key))
        if not actions and sorted(names(world)) == sorted(f"chat-{r.name}" for r in new):
            break
        world.settle()
    assert sorted(names(world)) == sorted(f"chat-{r.name}" for r in new)
    assert min(seen) == fewest


def test_while_those_that_came_are_not_ready_no_more_make_way() -> None:
    world = full_world(8)
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, eights(hosts(8), "0a1b2c3d"))))
    plan = plan_of(slice_of(key, eights(hosts(8), "ffffffff")))
    for _ in range(10):
        step(world, plan)
        world.end_pods()
        world.now += 3600.0
    assert ready_of(world, key) == 6


def test_a_gang_that_makes_way_is_one_and_goes_whole() -> None:
    """Four replicas over two nodes each: one of them is a quarter."""
    world = full_world(8)
    key = world.add(pool())
    pairs = [(f"h{i}", f"h{i + 1}") for i in range(0, 8, 2)]

    def gangs(column: str) -> list[PlannedReplica]:
        return [
            replica(column=column, ordinal=i, tensor_parallel=8, nodes=pair)
            for i, pair in enumerate(pairs)
        ]

    carry_out(world, plan_of(slice_of(key, gangs("0a1b2c3d"))))
    assert ready_of(world, key) == 8
    plan, fewest = plan_of(slice_of(key, gangs("ffffffff"))), 8
    for _ in range(40):
        actions = step(world, plan)
        fewest = min(fewest, ready_of(world, key))
        if not actions:
            break
        world.settle()
    assert fewest == 6
    assert {pod.labels["motley.dev/column"] for pod in world.engine_pods(key)} == {"ffffffff"}


def test_what_needs_more_than_a_quarter_waits_for_the_others_and_not_for_ever() -> None:
    """A node that four old ones share is one new one's; beside it others go one by one."""
    world = full_world(2)
    key = world.add(pool())
    old = [
        replica(ordinal=i, tensor_parallel=2, nodes=(node,))
        for i, node in enumerate(["h0"] * 4 + ["h1"] * 4)
    ]
    carry_out(world, plan_of(slice_of(key, old)))
    new = [
        *eights(["h0"], "ffffffff"),
        replica(column="eeeeeeee", tensor_parallel=2, nodes=("h1",)),
    ]
    plan = plan_of(slice_of(key, new))
    assert len(deleted(step(world, plan))) == 1
    world.settle()
    step(world, plan)
    world.settle()
    assert len(deleted(step(world, plan))) == 4
    world.settle()
    carry_out(world, plan)
    assert sorted(names(world)) == sorted(f"chat-{r.name}" for r in new)


def test_what_replaces_something_lost_takes_its_place_from_others_at_once() -> None:
    world = full_world(8)
    lost, other = world.add(pool("chat")), world.add(pool("other"))
    carry_out(world, plan_of(slice_of(other, eights(hosts(8), "0a1b2c3d"))))
    plan = plan_of(
        slice_of(lost, eights(hosts(6), "ffffffff")),
        slice_of(other, eights(hosts(8)[6:], "eeeeeeee")),
    )
    assert len(deleted(step(world, plan))) == 2  # as a new resource, which serves nobody yet
    change = {"tier": "T1", "reason": "NodeLost", "time": "2026-01-01T00:00:00Z"}
    world.documents[lost]["status"] = {"lastReplan": change}
    assert len(deleted(step(world, plan))) == 4


def test_one_that_is_not_ready_has_nothing_to_stand_by_for(world: World) -> None:
    key = world.add(pool())
    carry_out(world, plan_of(slice_of(key, [replica()])))
    for place, pod in world.pods.items():
        if pod.name == OLD:
            world.pods[place] = replace(pod, ready=False)
    assert deleted(step(world, plan_of(slice_of(key, [moved()])))) == [OLD]


def test_while_the_new_replica_starts_all_requests_go_to_the_old_one(world: World) -> None:
    key = world.add(pool())
    rates = {"rates": {"all": 2.0}, "capacity": {"all": 3.0}}
    carry_out(world, plan_of(slice_of(key, [replica(**rates)])))
    step(world, plan_of(slice_of(key, [moved(**rates)])))
    text = world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
    table = parse_routing(json.loads(text))
    dispatcher = Dispatcher(table)
    (stage,), (each,) = table.stages, table.classes
    went = set()
    for number in range(10):
        ticket = dispatcher.choose(stage.name, each.name, float(number) / 10.0)
        assert ticket is not None
        if ticket.replica.name == NEW:  # refused: it is not listening yet
            dispatcher.fail(ticket, float(number) / 10.0)
        else:
            went.add(ticket.replica.name)
            dispatcher.finish(ticket)
    assert went == {OLD}


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(0, 2),
    st.randoms(use_true_random=False),
)
def test_on_full_nodes_no_stage_ever_lacks_more_than_a_quarter(
    first: int, second: int, spare: int, random: Any
) -> None:
    """Two resources change places at will; pods get ready and end in any order."""
    count = first + second + spare
    world, names_ = full_world(count), hosts(count)
    keys = [world.add(pool("chat")), world.add(pool("other"))]

    def placed_anyhow(column: str) -> Plan:
        order = random.sample(names_, count)
        parts = order[:first], order[first : first + second]
        return plan_of(
            *(slice_of(k, eights(part, column)) for k, part in zip(keys, parts, strict=True))
        )

    carry_out(world, placed_anyhow("0a1b2c3d"))
    plan = placed_anyhow("ffffffff")
    floors = {k: n - max(1, n // 4) for k, n in zip(keys, (first, second), strict=True)}
    for _ in range(200):
        actions = step(world, plan)
        for key, floor in floors.items():
            assert ready_of(world, key) >= floor
        columns = {pod.labels["motley.dev/column"] for pod in world.engine_pods()}
        unready = [p for p in world.engine_pods() if not p.ready and not p.deleting]
        if not actions and not unready and columns == {"ffffffff"}:
            assert len(world.engine_pods()) == first + second
            return
        if unready and random.random() < 0.7:
            chosen = random.choice(unready)
            place = (chosen.namespace, chosen.name)
            world.pods[place] = replace(chosen, ready=True, bound=True, phase="Running")
        else:
            world.end_pods()
    raise AssertionError(f"did not end: {names(world)}")


SIZES = st.lists(st.sampled_from((1, 2, 4, 8)), min_size=1, max_size=4)


def placed(sizes: list[int], column: str) -> list[PlannedReplica]:
    """First fit on two nodes of eight GPUs; what does not fit is left out."""
    left = {"h0": 8, "h1": 8}
    found: list[PlannedReplica] = []
    for size in sizes:
        node = next((name for name, free in left.items() if free >= size), None)
        if node is not None:
            left[node] -= size
            ordinal = len(found)
            found.append(
                replica(column=column, ordinal=ordinal, tensor_parallel=size, nodes=(node,))
            )
    return found


@settings(max_examples=25, deadline=None)
@given(SIZES, SIZES, st.randoms(use_true_random=False))
def test_every_change_of_plan_ends_as_planned_and_never_leaves_less_than_it_must(
    before: list[int], after: list[int], random: Any
) -> None:
    """The world refuses overfull nodes at every step; readiness comes in any order."""
    world = World().add_node(gpu_node("h0"), gpu_node("h1"))
    key = world.add(pool())
    old, new = placed(before, "0a1b2c3d"), placed(after, "ffffffff")
    carry_out(world, plan_of(slice_of(key, old)))
    plan = plan_of(slice_of(key, new))
    fits_beside = sum(r.tensor_parallel for r in (*old, *new)) <= 8
    for _ in range(60):
        actions = step(world, plan)
        ready = [pod for pod in world.engine_pods() if pod.ready and not pod.deleting]
        if fits_beside:
            assert ready  # room for both on any node: never without a replica that answers
        if not actions and sorted(names(world)) == sorted(f"chat-{r.name}" for r in new):
            return
        unready = [p for p in world.engine_pods() if not p.ready and not p.deleting]
        if unready and random.random() < 0.7:
            chosen = random.choice(unready)
            place = (chosen.namespace, chosen.name)
            world.pods[place] = replace(chosen, ready=True, bound=True, phase="Running")
        else:
            world.end_pods()
    raise AssertionError(f"did not end: {names(world)}")
