"""The other routing policies, and the prefix hook."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import (
    Dispatcher,
    DispatchRule,
    RecentPrefixes,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingError,
    RoutingTable,
    Stage,
    Ticket,
    parse_routing,
    routing_document,
)


def table(capacities: list[float], policy: str, alpha: float = 0.2) -> RoutingTable:
    replicas = tuple(
        Replica(f"r{i}", f"http://r{i}", {"all": capacity}, {"all": capacity})
        for i, capacity in enumerate(capacities)
    )
    return RoutingTable(
        "h",
        ResourceRef("ServingPool", "t", "p"),
        ("p",),
        (RequestClass("all", 100, 100),),
        (Stage("main", "m", replicas),),
        (),
        dispatch=DispatchRule(policy, alpha),
    )


def choose(dispatcher: Dispatcher, *excluded: str, prefix: str | None = None) -> Ticket:
    ticket = dispatcher.choose("main", "all", 0.0, excluded, prefix)
    assert ticket is not None
    return ticket


def names(dispatcher: Dispatcher, count: int) -> list[str]:
    return [choose(dispatcher).replica.name for _ in range(count)]


def test_round_robin_goes_round_whatever_the_replicas_can_do() -> None:
    assert names(Dispatcher(table([1.0, 50.0, 9.0], "roundRobin")), 6) == ["r0", "r1", "r2"] * 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.integers(0, 2**32))
def test_least_loaded_always_takes_a_replica_with_the_fewest_in_flight(
    capacities: list[float], seed: int
) -> None:
    rng, running = random.Random(seed), Counter[str]()
    dispatcher = Dispatcher(table(capacities, "leastLoaded"))
    tickets: list[Ticket] = []
    for _ in range(200):
        least = min(running[f"r{i}"] for i in range(len(capacities)))
        ticket = choose(dispatcher)
        assert running[ticket.replica.name] == least
        running[ticket.replica.name] += 1
        tickets.append(ticket)
        while tickets and rng.random() < 0.5:
            ended = tickets.pop(rng.randrange(len(tickets)))
            dispatcher.finish(ended)
            running[ended.replica.name] -= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 99))
def test_hexgen_takes_the_best_score_of_suitability_and_outstanding_work(
    capacities: list[float], alpha: float, seed: int
) -> None:
    rng, work = random.Random(seed), [0.0] * len(capacities)
    dispatcher = Dispatcher(table(capacities, "hexgen", alpha))
    service = [1 / capacity for capacity in capacities]
    for _ in range(40):
        most = max(work)
        scores = [
            alpha * min(service) / s - ((1 - alpha) * w / most if most else 0.0)
            for s, w in zip(service, work, strict=True)
        ]
        ticket = choose(dispatcher)
        index = int(ticket.replica.name[1:])
        assert scores[index] == pytest.approx(max(scores), abs=1e-9)
        if rng.random() < 0.3:
            dispatcher.finish(ticket)
        else:
            work[index] += service[index]


@pytest.mark.parametrize("policy", ["earliestFinish", "hexgen", "roundRobin", "leastLoaded"])
def test_every_policy_leaves_out_what_failed_and_what_was_tried(policy: str) -> None:
    dispatcher = Dispatcher(table([1.0, 1.0, 1.0], policy))
    failed = choose(dispatcher)
    dispatcher.fail(failed, 0.0)
    left = {"r0", "r1", "r2"} - {failed.replica.name}
    assert set(names(dispatcher, 10)) <= left
    tried = min(left)
    assert choose(dispatcher, tried).replica.name == max(left)
    assert dispatcher.choose("main", "all", 0.0, ("r0", "r1", "r2")) is None


def test_a_failure_seen_through_an_old_table_counts_in_the_new_one() -> None:
    old = Dispatcher(table([1.0, 1.0], "earliestFinish"))
    ticket = choose(old)
    new = Dispatcher(table([1.0, 1.0], "earliestFinish"), previous=old)
    choose(new)
    old.fail(ticket, 0.0)
    assert ticket.replica.name not in names(new, 5)


def test_the_routing_file_names_the_policy_and_an_unknown_one_is_refused() -> None:
    made = table([1.0], "hexgen", 0.4)
    document = routing_document(made)
    assert document["routing"] == {"policy": "hexgen", "alpha": 0.4}
    assert parse_routing(document) == made
    assert "routing" not in routing_document(replace(made, dispatch=DispatchRule()))
    with pytest.raises(RoutingError, match="must be one of earliestFinish"):
        parse_routing(document | {"routing": {"policy": "fastest"}})
    with pytest.raises(RoutingError, match="from 0 to 1"):
        parse_routing(document | {"routing": {"policy": "hexgen", "alpha": 1.5}})


def test_a_prefix_stays_where_it_is_cached_while_that_is_no_slower() -> None:
    # A request takes 1 s; a cached prefix saves 0.5 s of it.
    rule = table([1.0, 1.0], "earliestFinish")
    dispatcher = Dispatcher(rule, affinity=RecentPrefixes(saved_s=0.5))
    first = choose(dispatcher, prefix="p").replica.name
    assert choose(dispatcher, prefix="p").replica.name != first, "a whole request waits there"
    idle = Dispatcher(rule, affinity=RecentPrefixes(saved_s=0.5))
    seen = set()
    for _ in range(3):
        ticket = choose(idle, prefix="p")
        seen.add(ticket.replica.name)
        idle.finish(ticket)
    assert len(seen) == 1
    plain = Dispatcher(rule)
    spread = set()
    for _ in range(3):
        ticket = choose(plain, prefix="p")
        spread.add(ticket.replica.name)
        plain.finish(ticket)
    assert len(spread) == 2


def test_affinity_overdraws_a_bucket_no_further_than_borrowing_does() -> None:
    dispatcher = Dispatcher(table([1.0, 1.0], "earliestFinish"), affinity=RecentPrefixes(1e9))
    counts: Counter[str] = Counter()
    for arrived in range(1, 200):
        ticket = choose(dispatcher, prefix="p")
        counts[ticket.replica.name] += 1
        dispatcher.finish(ticket)
        assert abs(counts["r0"] - arrived / 2) <= 4.0 + 1e-6


def test_recent_prefixes_forget_the_oldest() -> None:
    prefixes = RecentPrefixes(1.0, capacity=2)
    for name in "abc":
        prefixes.placed("main", name, f"r-{name}")
    assert prefixes.preferred("main", "a") is None
    assert prefixes.preferred("main", "c") == ("r-c", 1.0)
