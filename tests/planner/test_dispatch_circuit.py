"""The circuit of a replica: open after a failure, one probe, then in use again; and what tables hand over."""

from __future__ import annotations

from collections import Counter

import pytest

from motley_planner.dispatch import (
    Dispatcher,
    Policy,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    Ticket,
    parse_routing,
    routing_document,
)


def table(names: str, policies: tuple[Policy, ...] = (), zone: str = "") -> RoutingTable:
    made = (Replica(n, f"http://{n}", {"all": 1.0}, {"all": 1.0}, zone) for n in names)
    return RoutingTable(
        plan_hash="h",
        resource=ResourceRef("ServingPool", "team-a", "chat"),
        served_model_names=("chat",),
        classes=(RequestClass("all", 900, 220),),
        stages=(Stage("main", "m", tuple(made)),),
        policies=policies,
    )


def choose(dispatcher: Dispatcher, now_s: float, wanted: str = "") -> Ticket:
    """A ticket; of the replica wanted, the others are finished at once."""
    for _ in range(20):
        ticket = dispatcher.choose("main", "all", now_s)
        assert ticket is not None
        if not wanted or ticket.replica.name == wanted:
            return ticket
        dispatcher.finish(ticket)
    raise AssertionError(f"{wanted} is not chosen")


@pytest.fixture
def tripped() -> Dispatcher:
    """Replica b has failed at 0 s and may be probed from 1 s on."""
    dispatcher = Dispatcher(table("ab"))
    dispatcher.fail(choose(dispatcher, 0.0, "b"), 0.0)
    return dispatcher


def names(dispatcher: Dispatcher, now_s: float, count: int = 8) -> Counter[str]:
    tickets = [choose(dispatcher, now_s) for _ in range(count)]
    found = Counter(ticket.replica.name for ticket in tickets)
    for ticket in tickets:
        dispatcher.cancel(ticket)
    return found


def test_after_the_pause_one_request_probes_while_the_others_go_elsewhere(
    tripped: Dispatcher,
) -> None:
    assert names(tripped, 0.9) == {"a": 8}
    choose(tripped, 1.1, "b")
    assert names(tripped, 1.2, 20) == {"a": 20}
    assert tripped.failing("main", 1.2) == 1


def test_a_probe_that_begins_to_answer_closes_the_circuit(tripped: Dispatcher) -> None:
    tripped.answered(choose(tripped, 1.1, "b"))
    assert names(tripped, 1.2)["b"] >= 3
    assert tripped.failing("main", 1.2) == 0


def test_a_probe_that_fails_opens_it_for_twice_as_long(tripped: Dispatcher) -> None:
    tripped.fail(choose(tripped, 1.1, "b"), 1.2)
    assert names(tripped, 3.1) == {"a": 8}, "1.2 s and a pause of 2 s"
    choose(tripped, 3.3, "b")


def test_a_probe_that_was_cancelled_lets_the_next_request_probe(tripped: Dispatcher) -> None:
    tripped.cancel(choose(tripped, 1.1, "b"))
    choose(tripped, 1.1, "b")
    assert names(tripped, 1.2) == {"a": 8}


def test_a_probe_that_hangs_is_replaced_after_the_longest_pause(tripped: Dispatcher) -> None:
    choose(tripped, 1.1, "b")
    assert names(tripped, 31.0) == {"a": 8}
    choose(tripped, 31.2, "b")


def test_an_answer_begun_before_the_failure_does_not_close_the_circuit() -> None:
    dispatcher = Dispatcher(table("ab"))
    early = choose(dispatcher, 0.0, "b")
    dispatcher.fail(choose(dispatcher, 0.0, "b"), 0.0)
    dispatcher.finish(early)
    assert names(dispatcher, 0.5) == {"a": 8}


def test_who_dies_in_every_answer_is_left_out_longer_each_time() -> None:
    dispatcher, now_s, pauses = Dispatcher(table("ab")), 0.0, []
    for _ in range(4):
        ticket = choose(dispatcher, now_s, "b")
        dispatcher.answered(ticket)
        dispatcher.fail(ticket, now_s)
        step = 0.5
        while dispatcher.failing("main", now_s + step):
            step += 0.5
        pauses.append(step)
        now_s += step
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_a_new_table_with_the_same_mixture_goes_on_with_its_sequence() -> None:
    """Random starting points would add an error of one request with each table."""
    half = (Policy("p", 0.5, {}), Policy("q", 0.5, {}))
    dispatcher = Dispatcher(table("a", half), random=lambda: 0.3)
    counts: Counter[str] = Counter()
    for number in range(101):
        drawn = dispatcher.draw_policy("all")
        assert drawn is not None
        counts[drawn.id] += 1
        assert abs(counts["p"] - counts["q"]) <= 1
        phase = (number * 0.37) % 1.0
        dispatcher = Dispatcher(table("ab", half), previous=dispatcher, random=lambda p=phase: p)
    changed = (Policy("p", 0.9, {}), Policy("q", 0.1, {}))
    fresh = Dispatcher(table("a", changed), previous=dispatcher)
    ids = Counter(policy.id for _ in range(100) if (policy := fresh.draw_policy("all")))
    assert ids == {"p": 90, "q": 10}


def test_a_replicas_trust_zone_survives_the_document() -> None:
    given = table("ab", zone="eu")
    assert parse_routing(routing_document(given)) == given
    assert "trust_zone" not in str(routing_document(table("ab")))
