"""Shares, earliest finish, borrowing, failures, hand-over."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import (
    Dispatcher,
    DispatchOptions,
    Policy,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    Ticket,
)

Replicas = list[tuple[float, float]]  # planned rate, capacity


def table(replicas: Replicas, policies: tuple[Policy, ...] = ()) -> RoutingTable:
    return RoutingTable(
        plan_hash="h",
        resource=ResourceRef("ServingPool", "team-a", "chat"),
        served_model_names=("chat",),
        classes=(RequestClass("all", 900, 220),),
        stages=(
            Stage(
                "main",
                "m",
                tuple(
                    Replica(f"r{i}", f"http://r{i}", {"all": rate}, {"all": capacity})
                    for i, (rate, capacity) in enumerate(replicas)
                ),
            ),
        ),
        policies=policies,
    )


def choose(dispatcher: Dispatcher, now_s: float = 0.0, *excluded: str) -> Ticket:
    ticket = dispatcher.choose("main", "all", now_s, excluded)
    assert ticket is not None
    return ticket


rates = st.floats(0.01, 100.0)
replica_lists = st.lists(st.tuples(rates, rates), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    replicas=replica_lists,
    limit=st.floats(0.0, 8.0),
    seed=st.integers(0, 2**32),
    concurrency=st.integers(1, 40),
    randomized=st.booleans(),
)
def test_counts_stay_within_the_proven_bound_of_the_planned_shares_whatever_finishes_when(
    replicas: Replicas, limit: float, seed: int, concurrency: int, randomized: bool
) -> None:
    rng = random.Random(seed)
    phase = random.Random(seed).random if randomized else None
    dispatcher = Dispatcher(table(replicas), DispatchOptions(borrow_limit=limit), random=phase)
    total = sum(rate for rate, _ in replicas)
    counts: Counter[str] = Counter()
    in_flight: list[Ticket] = []
    bound = (len(replicas) - 1) * max(limit, 1.0) + 1e-6
    bound += 2.0 if randomized else 0.0  # the random starting offset, under one token a replica
    for arrived in range(1, 301):
        ticket = choose(dispatcher)
        counts[ticket.replica.name] += 1
        in_flight.append(ticket)
        while len(in_flight) >= concurrency:
            dispatcher.finish(in_flight.pop(rng.randrange(len(in_flight))))
        for index, (rate, _) in enumerate(replicas):
            assert abs(counts[f"r{index}"] - arrived * rate / total) <= bound


@settings(max_examples=50, deadline=None)
@given(replicas=replica_lists, seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_choices(replicas: Replicas, seed: int) -> None:
    def run() -> list[str]:
        dispatcher = Dispatcher(table(replicas), random=random.Random(seed).random)
        return [choose(dispatcher).replica.name for _ in range(50)]

    assert run() == run()


def test_different_seeds_start_with_different_replicas() -> None:
    firsts = {
        choose(Dispatcher(table([(1, 1)] * 4), random=random.Random(seed).random)).replica.name
        for seed in range(40)
    }
    assert firsts == {"r0", "r1", "r2", "r3"}


def test_among_replicas_with_a_token_the_earliest_finish_wins() -> None:
    dispatcher = Dispatcher(table([(1.0, 2.0), (1.0, 5.0)]))
    # Both have half a token; r1 would finish after 0.2 s, r0 after 0.5 s.
    assert choose(dispatcher).replica.name == "r1"


def test_an_idle_replica_borrows_from_a_busy_one_until_its_limit() -> None:
    # r0 is planned to do nearly everything, and never finishes anything here.
    dispatcher = Dispatcher(table([(99.0, 1.0), (1.0, 1.0)]), DispatchOptions(borrow_limit=3.0))
    borrowed = 0
    for _ in range(40):
        ticket = choose(dispatcher)
        if ticket.replica.name == "r1":
            borrowed += 1
            dispatcher.finish(ticket)
    assert borrowed == 3


def test_a_busy_replica_with_an_empty_bucket_does_not_borrow() -> None:
    dispatcher = Dispatcher(table([(99.0, 1.0), (1.0, 100.0)]))
    assert choose(dispatcher).replica.name == "r1"  # on its own hundredth of a token
    # From here on r1 is busy; r0 is far behind, and still r1 takes none of its share.
    assert {choose(dispatcher).replica.name for _ in range(20)} == {"r0"}


def test_without_planned_rates_shares_follow_capacity() -> None:
    dispatcher = Dispatcher(table([(0.0, 3.0), (0.0, 1.0)]))
    counts: Counter[str] = Counter()
    for _ in range(400):
        ticket = choose(dispatcher)
        counts[ticket.replica.name] += 1
        dispatcher.finish(ticket)
    assert abs(counts["r0"] - 300) <= 1


def test_a_replica_planned_at_zero_serves_when_all_others_have_failed() -> None:
    dispatcher = Dispatcher(table([(1.0, 1.0), (0.0, 1.0)]))
    dispatcher.fail(choose(dispatcher), now_s=0.0)
    assert choose(dispatcher, 0.5).replica.name == "r1"


def test_a_failed_replica_is_left_out_twice_as_long_each_time_and_forgiven_on_success() -> None:
    options = DispatchOptions(failure_pause_s=1.0, failure_pause_max_s=5.0)
    dispatcher = Dispatcher(table([(1.0, 1.0), (1.0, 1.0)]), options)

    def pause_after_failure(now_s: float) -> float:
        while (ticket := choose(dispatcher, now_s)).replica.name != "r0":
            dispatcher.finish(ticket)
        dispatcher.fail(ticket, now_s)
        step = 0.25
        while dispatcher.failing("main", now_s + step):
            assert choose(dispatcher, now_s + step).replica.name == "r1"
            step += 0.25
        return step

    assert [pause_after_failure(100.0 * i) for i in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    while (ticket := choose(dispatcher, 900.0)).replica.name != "r0":
        dispatcher.finish(ticket)
    dispatcher.finish(ticket)
    assert pause_after_failure(1000.0) == 1.0


def test_when_every_replica_has_failed_all_are_tried() -> None:
    dispatcher = Dispatcher(table([(1.0, 1.0), (1.0, 1.0)]))
    tickets = [choose(dispatcher), choose(dispatcher)]
    for ticket in tickets:
        dispatcher.fail(ticket, now_s=0.0)
    assert {choose(dispatcher, 0.1).replica.name for _ in range(4)} == {"r0", "r1"}


def test_a_retry_avoids_what_was_tried_and_ends_when_nothing_is_left() -> None:
    dispatcher = Dispatcher(table([(5.0, 5.0), (1.0, 1.0)]))
    assert choose(dispatcher, 0.0, "r0").replica.name == "r1"
    assert dispatcher.choose("main", "all", 0.0, ("r0", "r1")) is None


def test_a_ticket_is_taken_off_its_replica_once() -> None:
    dispatcher = Dispatcher(table([(1.0, 2.0)]))
    first, second = choose(dispatcher), choose(dispatcher)
    dispatcher.finish(first)
    dispatcher.cancel(first)
    dispatcher.fail(first, 0.0)
    assert dispatcher.failing("main", 0.5) == 0
    assert second.release() and not second.release()


def test_a_new_table_knows_what_is_in_flight() -> None:
    equal = [(1.0, 1.0), (1.0, 1.0)]
    assert choose(Dispatcher(table(equal))).replica.name == "r0", "the first of equals"
    old = Dispatcher(table([(1.0, 1.0)]))
    ticket = choose(old)
    new = Dispatcher(table(equal), previous=old)
    assert choose(new).replica.name == "r1", "r0 still works for the old table"
    old.finish(ticket)
    newest = Dispatcher(table(equal), previous=new)
    assert choose(newest).replica.name == "r0", "and now it is r1 that works"


def test_classes_have_buckets_of_their_own_but_share_the_load() -> None:
    replicas = (
        Replica("r0", "http://r0", {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}),
        Replica("r1", "http://r1", {"a": 1.0}, {"a": 1.0}),
    )
    base = table([(1.0, 1.0)])
    both = RoutingTable(
        base.plan_hash,
        base.resource,
        base.served_model_names,
        (RequestClass("a", 10, 10), RequestClass("b", 99, 10), RequestClass("c", 1, 1)),
        (Stage("main", "m", replicas),),
        (),
    )
    dispatcher = Dispatcher(both)
    assert {dispatcher.choose("main", "b", 0.0).replica.name for _ in range(5)} == {"r0"}  # type: ignore[union-attr]
    assert dispatcher.choose("main", "a", 0.0).replica.name == "r1"  # type: ignore[union-attr]
    assert dispatcher.choose("main", "c", 0.0) is None
    assert not dispatcher.is_admissible("main", "c")


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_shares_hold_at_any_load_in_a_queueing_run(factor: float) -> None:
    """Two replicas as single servers with exponential arrivals; finishing times are real."""
    rng = random.Random(7)
    planned = [(6.0, 8.0), (3.0, 4.0)]
    dispatcher = Dispatcher(table(planned))
    free_at, running, now, counts = [0.0, 0.0], [], 0.0, Counter()
    for _ in range(3000):
        now += rng.expovariate(9.0 * factor)
        for entry in [each for each in running if each[0] <= now]:
            dispatcher.finish(entry[1])
            running.remove(entry)
        ticket = choose(dispatcher, now)
        index = int(ticket.replica.name[1])
        counts[index] += 1
        free_at[index] = max(now, free_at[index]) + 1 / planned[index][1]
        running.append((free_at[index], ticket))
    assert abs(counts[0] - 2000) <= 4
