"""A plan that a starved solver cut short is sought again, a few times, and moves no more than it may."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from motley_operator.decision import decide
from motley_operator.domain.actions import CreatePod, DeletePod
from motley_operator.domain.patience import TRIES, Asked, is_better, wants_time
from motley_operator.remembering import RememberingPlanner
from motley_operator.testing import plan_of, replica, slice_of
from motley_operator.testing.operated import CATALOG, load
from motley_operator.testing.starved import StarvedFleet
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Move, Plan, Refusal
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level
from motley_planner.errors import CalledOff, SolverError

ASKED = Asked(0.0, 1.0, 8.0, True, frozenset({"a"}), frozenset(), 0.05)


def test_an_edit_that_a_starved_solver_cut_short_is_planned_again_and_costs_less() -> None:
    fleet = StarvedFleet(pools=6)
    edited, others = fleet.keys[:3], fleet.keys[3:]
    for key in edited:
        fleet.edit(key, workload=load(90))
    fleet.run()
    dear_usd = fleet.step().plan.price_usd_per_hour
    before = {key: fleet.uids(key) for key in others}
    fleet.solver.limits_s.clear()
    fleet.solver.starved = True
    for i, key in enumerate(edited):
        fleet.edit(key, workload=load(10 + 7 * i))
    poor = fleet.step()
    assert poor.plan.cut_short and poor.plan.status == "feasible"
    assert fleet.planner.again_at is not None
    fleet.solver.starved = False
    whys = []
    while fleet.planner.again_at is not None:
        last = fleet.step()
        whys.append(fleet.planner.why)
    assert 1 <= whys.count("CutShort") <= TRIES
    assert poor.plan.price_usd_per_hour < 0.5 * dear_usd  # as few of what ran as the demand needs
    assert last.plan.price_usd_per_hour < 0.9 * poor.plan.price_usd_per_hour
    assert sum(p.served_requests_per_second for p in last.plan.slices) == pytest.approx(
        sum(p.served_requests_per_second for p in poor.plan.slices)
    )
    assert {key: fleet.uids(key) for key in others} == before
    fleet.run()
    fleet.at_rest()
    limits = fleet.solver.limits_s
    assert all(later == min(2 * limit, 7.0) for limit, later in pairwise(limits))


def test_what_a_killed_operator_had_begun_is_sought_again_where_its_heir_was_starved() -> None:
    fleet = StarvedFleet(pools=3)
    fleet.edit(fleet.keys[0], workload=load(90))
    fleet.run()
    fleet.edit(fleet.keys[0], workload=load(6))
    begun = decide(fleet.world.facts(), CATALOG, fleet.settings, fleet.planner)
    fleet.world.apply(begun.statuses)  # and then it was killed
    fleet.planner, fleet.solver.starved = RememberingPlanner(fleet.solver), True
    fleet.solver.limits_s.clear()
    poor = fleet.step().plan
    assert fleet.solver.limits_s == [fleet.settings.time_limit_s]  # nobody waits longer for it
    assert poor.cut_short and fleet.planner.again_at is not None
    fleet.solver.starved = False
    fleet.run()
    assert fleet.last.plan.price_usd_per_hour == pytest.approx(begun.plan.price_usd_per_hour)
    assert poor.price_usd_per_hour > 1.1 * begun.plan.price_usd_per_hour


@pytest.mark.parametrize("pools", [1, 3])
def test_what_a_starved_solver_left_running_after_an_edit_to_less_goes_soon(pools: int) -> None:
    fleet = StarvedFleet(pools=pools)
    for key in fleet.keys:
        fleet.edit(key, workload=load(150))
    fleet.run()
    mine, running = fleet.keys[0], fleet.uids(fleet.keys[0])
    fleet.solver.starved = True
    fleet.edit(mine, workload=load(6))
    poor = fleet.step()
    assert poor.plan.cut_short
    left = fleet.uids(mine)  # as few of the old ones as are needed, and these are too dear
    assert left < running and len(left) < len(running) / 4
    dear = next(part.price_usd_per_hour for part in poor.plan.slices if part.key == mine)
    fleet.solver.starved = False
    fleet.run()
    assert fleet.usd_per_hour(mine) < dear / 2
    fleet.at_rest()


def test_an_edit_moves_nobody_for_what_another_is_owed() -> None:
    fleet = StarvedFleet(pools=3)
    first, second, _ = fleet.keys
    for key in (first, second):
        fleet.edit(key, workload=load(90))
    fleet.run()
    fleet.solver.starved = True
    fleet.edit(first, workload=load(6))
    assert fleet.step().plan.cut_short
    fleet.solver.starved = False
    left, dear = fleet.uids(first), fleet.usd_per_hour(first)
    fleet.edit(second, workload=load(110))
    fleet.step()
    assert fleet.uids(first) == left
    fleet.run()
    assert fleet.usd_per_hour(first) < dear / 2
    fleet.at_rest()


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("pools", [2, 6])
def test_a_budget_that_a_starved_solver_tightens_moves_nobody_else(
    pools: int, share: float
) -> None:
    fleet = StarvedFleet(pools=pools)
    # The second try has 6 s of CPU and needs half of it; one of 1 s found no plan that moves no other.
    fleet.settings = replace(fleet.settings, time_limit_s=3.0)
    for i, key in enumerate(fleet.keys):
        fleet.edit(key, workload=load(90 + 20 * i))
    before = {part.key: part.price_usd_per_hour for part in fleet.step().plan.slices}
    fleet.run()
    mine, *others = fleet.keys
    running = {key: fleet.uids(key) for key in others}
    kept = fleet.uids(mine)
    fleet.solver.starved = True
    fleet.edit(mine, budget={"dollarsPerHour": f"{share * before[mine]:.2f}"})
    poor = fleet.step().plan
    assert poor.cut_short
    assert poor.slices[0].price_usd_per_hour <= share * before[mine]
    assert {move.key for move in poor.moves} == {mine}
    assert kept & fleet.uids(mine)  # what the budget still pays for goes on
    fleet.solver.starved = False
    fleet.run()
    assert {key: fleet.uids(key) for key in others} == running
    fleet.at_rest()


@pytest.mark.parametrize("seed", range(3))
def test_a_solver_that_stays_starved_is_asked_a_few_times_and_never_at_rest(seed: int) -> None:
    random = Random(seed)
    fleet = StarvedFleet(pools=4, nodes=12)
    fleet.solver.starved = True
    for _ in range(4):
        fleet.run()
        for _ in range(2 * TRIES):
            fleet.step()
        fleet.at_rest()
        assert fleet.planner.again_at is None
        fleet.solver.limits_s.clear()
        fleet.edit(random.choice(fleet.keys), workload=load(random.randint(2, 60)))
        fleet.step()
        solves = len(fleet.solver.limits_s)
        for _ in range(2 * TRIES):
            fleet.step()
        assert len(fleet.solver.limits_s) <= solves + TRIES


def poor(price: float = 10.0, **changes: Any) -> Plan:
    """A plan cut short that may cost twice too much."""
    part = replace(
        slice_of("a", [replica()]),
        requests_per_second=1.0,
        served_requests_per_second=1.0,
        price_usd_per_hour=price,
    )
    levels = (Level("goodput[1]", 1.0, 1.0, 0.0), Level("price", 10.0, 5.0, 1.0))
    made = replace(plan_of(part), status="feasible", levels=levels, cut_short=True)
    return replace(made, **changes)


def short(plan: Plan, served: float) -> Plan:
    """The plan with one resource that gets less than it asked for."""
    part = replace(plan.slices[0], served_requests_per_second=served)
    return replace(plan, slices=(part,))


@pytest.mark.parametrize(
    ("plan", "asked", "wants"),
    [
        (poor(), ASKED, True),
        (poor(cut_short=False), ASKED, False),
        (poor(status="optimal"), ASKED, False),
        (poor(), replace(ASKED, tries=TRIES), False),
        (poor(levels=(Level("price", 10.0, 9.8, 0.02),)), ASKED, False),
        (poor(levels=(Level("price", 10.0, None, None),)), ASKED, True),
        # A loss moves nothing for money, and nobody waits for less than they get.
        (poor(), replace(ASKED, edited=frozenset()), False),
        (poor(), replace(ASKED, edited=frozenset(), steady=False), True),
        (
            short(poor(levels=(Level("goodput[1]", 0.5, 1.0, 1.0),)), 0.5),
            replace(ASKED, edited=frozenset()),
            True,
        ),
        (short(poor(levels=(Level("goodput[1]", 0.5, 0.5, 0.0),)), 0.5), ASKED, False),
    ],
)
def test_more_time_is_wanted_where_it_may_bring_what_can_be_carried_out(
    plan: Plan, asked: Asked, wants: bool
) -> None:
    assert wants_time(plan, asked) is wants


def stopping(plan: Plan, key: str) -> Plan:
    """The plan where it stops a replica."""
    return replace(plan, moves=(Move(key, "r", "stop", ("h0",), "Saves"),))


@pytest.mark.parametrize(
    ("found", "better"),
    [
        (poor(9.0), True),
        (poor(10.0), False),
        (poor(11.0), False),
        (short(poor(5.0), 0.9), False),
        (stopping(poor(9.0), "a"), True),
        (stopping(poor(9.8), "a"), False),  # by less than a move must save
        (stopping(poor(9.0), "b"), False),  # nobody edited that
        (stopping(poor(9.0, cut_short=False), "b"), True),  # the planner's whole rule says so
        (poor(1.0, status="no_solution"), False),
    ],
)
def test_a_plan_replaces_the_one_in_force_only_where_it_is_better(
    found: Plan, better: bool
) -> None:
    assert is_better(found, poor(), ASKED) is better


def test_who_serves_more_is_better_at_a_higher_price() -> None:
    assert is_better(poor(20.0), short(poor(), 0.5), ASKED)
    assert not is_better(short(poor(1.0), 0.5), poor(), ASKED)


def test_a_try_that_finds_nothing_at_all_keeps_the_plan() -> None:
    fleet = StarvedFleet(pools=3)
    fleet.solver.starved = True
    fleet.step()
    assert fleet.planner.again_at is not None
    pods = {p.uid for p in fleet.world.engine_pods()}

    def fails(snapshot: Snapshot, catalog: Catalog) -> Plan:
        raise SolverError("none", snapshot.time_limit_s, 1, 0)

    fleet.planner._planner = fails
    for _ in range(4 * TRIES):
        fleet.step()
    assert {p.uid for p in fleet.world.engine_pods()} == pods
    assert fleet.planner.again_at is None


def test_an_event_goes_before_one_more_try() -> None:
    fleet = StarvedFleet(pools=3)
    fleet.solver.starved = True
    fleet.step()
    fleet.world.now += 60.0
    busy = fleet.nodes(fleet.keys[0])[0]
    fleet.world.lose_node(busy)
    fleet.step()
    assert fleet.planner.why == "InputsChanged"


def test_a_try_gives_way_to_a_lost_node_and_nothing_of_either_is_forgotten() -> None:
    fleet = StarvedFleet(pools=3)
    key, poor = fleet.cut_short_after_an_edit()
    busy = fleet.nodes(fleet.keys[2])[0]
    others = {p.uid for p in fleet.world.engine_pods() if p.node != busy}
    asked = fleet.planner._force.asked

    def loses() -> None:
        fleet.solver.meanwhile = lambda: None
        fleet.world.lose_node(busy)

    fleet.solver.meanwhile = loses
    with pytest.raises(CalledOff):
        fleet.cycle()
    assert fleet.planner.why == "CutShort"
    assert {p.uid for p in fleet.world.engine_pods()} == others
    assert fleet.planner._force.plan is poor
    assert fleet.planner._force.asked == replace(asked, at=fleet.world.now)  # it does not count
    mended = fleet.step()
    assert fleet.planner.why == "InputsChanged"
    assert all(busy not in r.nodes for part in mended.plan.slices for r in part.replicas)
    dear = next(part.price_usd_per_hour for part in poor.slices if part.key == key)
    fleet.run()  # the edit that got too little time gets more, after the loss
    assert fleet.usd_per_hour(key) < dear / 2
    fleet.at_rest()


def test_a_try_goes_on_where_what_happens_needs_no_plan() -> None:
    fleet = StarvedFleet(pools=3)
    key, poor = fleet.cut_short_after_an_edit()
    dear = next(part.price_usd_per_hour for part in poor.slices if part.key == key)
    name = fleet.world.engine_pods(fleet.keys[1])[0].name

    def restarts() -> None:
        pods = fleet.world.pods
        (at,) = [each for each, pod in pods.items() if pod.name == name]
        pods[at] = replace(pods[at], ready=False)

    fleet.solver.meanwhile = restarts
    fleet.step()
    assert fleet.planner.why == "CutShort"
    fleet.solver.meanwhile = lambda: None
    fleet.run()
    assert fleet.usd_per_hour(key) < dear / 2


def test_only_a_try_gives_way_and_never_the_plan_of_a_loss() -> None:
    fleet = StarvedFleet(pools=3)
    fleet.run()
    lost = [fleet.nodes(key)[0] for key in fleet.keys[:2]]
    fleet.solver.meanwhile = lambda: fleet.world.lose_node(lost[1])
    fleet.world.lose_node(lost[0])
    fleet.cycle()  # raises nothing: half a plan would serve nobody
    assert fleet.planner.why == "InputsChanged"


def test_no_try_begins_while_a_node_may_be_lost_any_moment() -> None:
    fleet = StarvedFleet(pools=3)
    fleet.settings = replace(fleet.settings, node_loss_seconds=30.0)
    fleet.cut_short_after_an_edit()
    name = fleet.nodes(fleet.keys[0])[0]
    nodes = fleet.world.nodes
    nodes[name] = replace(nodes[name], ready=False, not_ready_since=fleet.world.now)
    fleet.step()
    assert fleet.planner.why == "Unchanged"
    nodes[name] = replace(nodes[name], ready=True, not_ready_since=None)
    fleet.step()
    assert fleet.planner.why == "CutShort"


def test_no_try_is_made_while_replicas_of_the_plan_are_not_there() -> None:
    fleet = StarvedFleet(pools=3)
    fleet.solver.starved = True
    made = fleet.cycle()  # none of its pods is created
    fleet.world.pods.clear()
    fleet.world.now += 60.0
    again = fleet.cycle()
    assert fleet.planner.why == "Unchanged"
    assert again.plan is made.plan
    assert any(isinstance(action, CreatePod) for action in again.actions)
    assert not any(isinstance(action, DeletePod) for action in again.actions)


def test_a_refusal_counts_as_falling_short() -> None:
    refused = replace(
        poor().slices[0], refusals=(Refusal("SolverTimeLimit", "spec", "no time", "time"),)
    )
    levels = (Level("goodput[1]", 1.0, 2.0, 1.0),)
    assert wants_time(replace(poor(), slices=(refused,), levels=levels), ASKED)
