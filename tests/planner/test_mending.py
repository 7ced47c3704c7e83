"""Mending: a loss is repaired around what goes on, and as well as by a look at the whole table."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from tests.planner.test_planning import (
    CATALOG,
    assert_fits,
    cascade,
    job,
    mixed_fleet,
    nodes_of,
    pool,
)

from motley_planner.domain.demand import Budget, ServingDemand
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import mending, money, plan, steadiness
from motley_planner.planning.worth import running_units


def solve(snapshot: Snapshot) -> Plan:
    return plan(snapshot, CATALOG, use_worker=False)


def without_mending(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot) -> Plan:
    """The plan of the ladder alone, which sees the whole table."""
    with monkeypatch.context() as patched:
        patched.setattr(steadiness, "mend", lambda *_, **__: (None, 0.0))
        return solve(snapshot)


def tables_solved(monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot) -> tuple[Plan, int]:
    """The plan, and how often the whole table was solved for it."""
    count, whole = [0], steadiness.solve_table

    def counted(*args: object, **more: object) -> object:
        count[0] += 1
        return whole(*args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        for room in (steadiness, money):
            patched.setattr(room, "solve_table", counted)
        return solve(snapshot), count[0]


def after_loss(snapshot: Snapshot, first: Plan, lost: set[str]) -> Snapshot:
    """What the next plan is asked once the nodes are gone, and their replicas with them."""
    return replace(
        snapshot,
        nodes=tuple(n for n in snapshot.nodes if n.name not in lost),
        running=tuple(u for u in running_units(first) if not set(u.nodes) & lost),
        steady=True,
    )


def drawn_services(random: Random) -> tuple[ServingDemand, ...]:
    pools = tuple(
        pool(
            f"ServingPool/team-{i % 2}/chat-{i}",
            random.uniform(2.0, 25.0),
            priority=random.choice((0, 0, 1)),
            budget=Budget(usd_per_hour=random.choice((None, None, 40.0))),
        )
        for i in range(random.randint(2, 5))
    )
    return (*pools, cascade(random.uniform(2.0, 10.0))) if random.random() < 0.5 else pools


@pytest.mark.parametrize("seed", range(8))
def test_a_mended_plan_serves_what_the_whole_table_would_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    snapshot = Snapshot(mixed_fleet(), services=drawn_services(random))
    first = solve(snapshot)
    busy = sorted({name for unit in running_units(first) for name in unit.nodes})
    asked = after_loss(snapshot, first, set(random.sample(busy, random.randint(1, 2))))
    mended, climbed = solve(asked), without_mending(monkeypatch, asked)
    assert_fits(mended, asked)
    assert not [m for m in mended.moves if m.action == "stop"]
    for one, other in zip(mended.levels, climbed.levels, strict=True):
        if one.name.startswith("goodput") and one.value is not None and other.value is not None:
            assert one.value >= other.value - 1e-6
            assert one.bound is None or one.bound >= other.value - 1e-6


def test_where_there_is_room_the_whole_table_is_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    services = tuple(pool(f"ServingPool/a/chat-{i}", 10.0) for i in range(10))
    snapshot = Snapshot(tuple(nodes_of("L40S", 30, 4)), services=services)
    first = solve(snapshot)
    lost = running_units(first)[0].nodes[0]
    made, solved = tables_solved(monkeypatch, after_loss(snapshot, first, {lost}))
    assert solved == 0
    assert all(not part.refusals for part in made.slices)
    assert [m for m in made.moves if m.action == "start"]
    shown = {level.name: level for level in made.levels}
    assert shown["goodput[1]"].gap == 0.0
    assert shown["price"].bound is None  # nothing was proved of it


def test_a_restart_finds_everything_served_and_moves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(), cascade()))
    again = after_loss(snapshot, solve(snapshot), set())
    made, solved = tables_solved(monkeypatch, again)
    assert made.moves == ()
    assert solved == 0


def test_where_not_everything_can_be_served_the_whole_table_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = (pool("ServingPool/a/one", 60.0, priority=1), pool("ServingPool/a/two", 60.0))
    snapshot = Snapshot(tuple(nodes_of("L40S", 3, 4)), services=services)
    first = solve(snapshot)
    lost = running_units(first)[0].nodes[0]
    _, solved = tables_solved(monkeypatch, after_loss(snapshot, first, {lost}))
    assert solved > 0


def test_a_job_that_is_not_at_its_pace_leaves_it_to_the_whole_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(),), jobs=(job(),))
    first = solve(snapshot)
    trainer = next(u for u in running_units(first) if u.key == job().key)
    asked = after_loss(snapshot, first, {trainer.nodes[0]})
    mended, climbed = solve(asked), without_mending(monkeypatch, asked)
    pace = {level.name: level.value for level in climbed.levels}
    for level in mended.levels:
        if level.name.startswith("goodput") and level.value is not None:
            assert level.value >= (pace[level.name] or 0.0) - 1e-6


def test_money_is_looked_at_when_nothing_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = Snapshot(mixed_fleet(), services=(pool(),))
    asked = replace(after_loss(snapshot, solve(snapshot), set()), steady=False)
    _, solved = tables_solved(monkeypatch, asked)
    assert solved > 0


def after_edit(snapshot: Snapshot, first: Plan, key: str, share: float) -> Snapshot:
    """What the next plan is asked once a service's rate is that share of what it was."""
    services = tuple(
        replace(each, requests_per_second=share * each.requests_per_second)
        if each.key == key
        else each
        for each in snapshot.services
    )
    edited = replace(snapshot, services=services, running=tuple(running_units(first)))
    return replace(edited, steady=True, edited=frozenset({key}))


@pytest.mark.parametrize("share", [0.3, 0.9, 1.3, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_an_edit_is_mended_for_the_price_that_the_whole_table_finds(
    monkeypatch: pytest.MonkeyPatch, seed: int, share: float
) -> None:
    random = Random(seed)
    snapshot = Snapshot(mixed_fleet(), services=drawn_services(random))
    first = solve(snapshot)
    key = random.choice(snapshot.services).key
    asked = after_edit(snapshot, first, key, share)
    climbed = without_mending(monkeypatch, asked)
    monkeypatch.setattr(mending, "LARGE_COLUMNS", 0)
    mended, solved = tables_solved(monkeypatch, asked)
    assert_fits(mended, asked)
    for one, other in zip(mended.levels, climbed.levels, strict=True):
        if one.name.startswith("goodput") and one.value is not None and other.value is not None:
            assert one.value >= other.value - 1e-6
    if solved == 0:  # everything is served around what goes on
        assert {m.key for m in mended.moves if m.action == "stop"} <= {key}
        assert mended.price_usd_per_hour == pytest.approx(climbed.price_usd_per_hour, rel=1e-3)


def test_of_a_large_table_an_edit_looks_at_what_was_edited_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services = tuple(pool(f"ServingPool/a/chat-{i}", 10.0) for i in range(10))
    snapshot = Snapshot(tuple(nodes_of("L40S", 30, 4)), services=services)
    first = solve(snapshot)
    more = after_edit(snapshot, first, services[3].key, 4.0)
    _, solved = tables_solved(monkeypatch, more)
    assert solved > 0  # a small one is solved whole, and says what freedom would save
    monkeypatch.setattr(mending, "LARGE_COLUMNS", 0)
    made, solved = tables_solved(monkeypatch, more)
    assert solved == 0 and all(not part.refusals for part in made.slices)
    assert {m.key for m in made.moves} == {services[3].key}
    less = after_edit(more, made, services[3].key, 0.25)
    made, solved = tables_solved(monkeypatch, less)
    assert solved == 0
    assert {(m.key, m.action) for m in made.moves} == {(services[3].key, "stop")}
