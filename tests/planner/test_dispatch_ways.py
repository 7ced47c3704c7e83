"""Ways through a stage whose phases are apart: shares, groups, and what a routing file may say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.dispatch import (
    Dispatcher,
    RoutingError,
    RoutingTable,
    Way,
    hop_name,
    only,
    parse_routing,
    routing_document,
    ways_of,
)

ZONES = "abc"


def replica(name: str, group: str, rate: float, zone: str = "") -> dict[str, Any]:
    made = {"name": name, "url": f"http://{name}:1", "group": group}
    return made | {"rates": {"all": rate}, "capacity": {"all": max(rate, 0.5)}, "trust_zone": zone}


def document(flows: dict[tuple[str, str], float], whole: float | None = None) -> dict[str, Any]:
    """A stage with two prefill and two decode replicas in each zone of the flows, rates balanced."""
    out: Counter[str] = Counter()
    into: Counter[str] = Counter()
    for (a, b), rate in flows.items():
        out[a] += rate  # type: ignore[assignment]
        into[b] += rate  # type: ignore[assignment]
    halves = (("1", 0.75), ("2", 0.25))
    stage = {
        "name": "main",
        "model": "m",
        "replicas": [] if whole is None else [replica("w", "", whole)],
        "prefill": [replica(f"p{z}{n}", z, r * part) for z, r in out.items() for n, part in halves],
        "decode": [replica(f"d{z}{n}", z, r * part) for z, r in into.items() for n, part in halves],
        "flows": [{"class": "all", "from": a, "to": b, "rate": r} for (a, b), r in flows.items()],
        "handoff": {"protocol": "nixl"},
    }
    return {
        "version": 1,
        "plan_hash": "h",
        "resource": {"kind": "ServingPool", "namespace": "n", "name": "p"},
        "served_model_names": ["p"],
        "classes": [{"name": "all", "prompt_tokens": 10, "output_tokens": 10}],
        "stages": [stage],
    }


def table(flows: dict[tuple[str, str], float], whole: float | None = None) -> RoutingTable:
    return parse_routing(document(flows, whole))


flows_drawn = st.dictionaries(
    st.tuples(st.sampled_from(ZONES), st.sampled_from(ZONES)), st.floats(0.1, 9.0), min_size=1
)


@settings(deadline=None)
@given(flows_drawn, st.none() | st.floats(0.0, 9.0))
def test_a_table_with_flows_comes_back_from_its_document(
    flows: dict[tuple[str, str], float], whole: float | None
) -> None:
    made = table(flows, whole)
    assert parse_routing(routing_document(made)) == made


@settings(deadline=None)
@given(flows_drawn, st.none() | st.floats(0.0, 9.0), st.integers(1, 200))
def test_every_prefix_of_requests_follows_the_flows_within_one(
    flows: dict[tuple[str, str], float], whole: float | None, count: int
) -> None:
    dispatcher = Dispatcher(table(flows, whole))
    drawn = Counter(dispatcher.draw_way("main", "all", 0.0) for _ in range(count))
    rates = {
        Way(hop_name("main", "decode", b), hop_name("main", "prefill", a)): rate
        for (a, b), rate in flows.items()
    }
    rates[Way("main")] = whole or 0.0
    total = sum(rates.values())
    for way, rate in rates.items():
        assert abs(drawn[way] - count * rate / total) <= 1.0 + 1e-6


@settings(deadline=None)
@given(flows_drawn, st.integers(50, 200))
def test_each_leg_keeps_its_replicas_planned_shares(
    flows: dict[tuple[str, str], float], count: int
) -> None:
    """Flows balance rates, so legs drawn along them give each replica its planned part."""
    made = table(flows)
    dispatcher, seen = Dispatcher(made), Counter[str]()
    for _ in range(count):
        way = dispatcher.draw_way("main", "all", 0.0)
        assert way is not None and way.prefill is not None
        for hop in (way.prefill, way.hop):
            ticket = dispatcher.choose(hop, "all", 0.0)
            assert ticket is not None
            assert ticket.replica.group == hop.rpartition("/")[2]
            seen[ticket.replica.name] += 1
            dispatcher.finish(ticket)
    total = sum(flows.values())
    for each in (*made.stages[0].prefill, *made.stages[0].decode):
        # One for the mixture of each flow, and the bound of borrowing within the group.
        bound = len(flows) + 4.0 + 1e-6
        assert abs(seen[each.name] - count * each.rates["all"] / total) <= bound
    assert dispatcher.in_flight() == 0


def test_a_way_that_lost_an_end_gives_way_to_others_until_it_is_back() -> None:
    dispatcher = Dispatcher(table({("a", "a"): 8.0, ("b", "b"): 1.0}))
    hop = hop_name("main", "prefill", "a")
    for _ in range(2):
        ticket = dispatcher.choose(hop, "all", 0.0, {"pa1"} if _ else ())
        assert ticket is not None
        dispatcher.fail(ticket, 0.0)
    assert dispatcher.failing("main", 0.0) == 2
    other = Way(hop_name("main", "decode", "b"), hop_name("main", "prefill", "b"))
    assert {dispatcher.draw_way("main", "all", 0.5) for _ in range(20)} == {other}
    back = Counter(dispatcher.draw_way("main", "all", 60.0) for _ in range(90))
    assert abs(back[other] - 10) <= 1


def test_a_colocated_replica_without_planned_rate_is_only_the_last_way() -> None:
    made = table({("a", "b"): 1.0}, whole=0.0)
    assert [way.prefill is None for way, _ in ways_of(made.stages[0], "all")] == [True, False]
    dispatcher = Dispatcher(made)
    ways = [dispatcher.draw_way("main", "all", 0.0) for _ in range(9)]
    assert all(way is not None and way.prefill is not None for way in ways)


def test_a_new_plan_with_the_same_flows_goes_on_where_the_old_one_was() -> None:
    flows = {("a", "a"): 3.0, ("a", "b"): 2.0, ("b", "b"): 1.0}
    alone = Dispatcher(table(flows))
    once = [alone.draw_way("main", "all", 0.0) for _ in range(60)]
    first = Dispatcher(table(flows))
    cut = [first.draw_way("main", "all", 0.0) for _ in range(17)]
    second = Dispatcher(table(flows), previous=first)
    cut += [second.draw_way("main", "all", 0.0) for _ in range(43)]
    assert cut == once


def test_a_trust_zone_takes_its_replicas_and_their_flows_along() -> None:
    made = document({("a", "a"): 1.0, ("b", "b"): 1.0})
    for phase in ("prefill", "decode"):
        for each in made["stages"][0][phase]:
            each["trust_zone"] = each["group"]
    stage = only(parse_routing(made).stages[0], lambda zone: zone == "a")
    assert {r.group for r in stage.every_replica} == {"a"}
    assert [(f.source, f.target) for f in stage.flows] == [("a", "a")]


WRONG: list[tuple[str, Any, str]] = [
    ("flows", [{"class": "x", "from": "a", "to": "a", "rate": 1}], "stages[0].flows[0].class"),
    ("flows", [{"class": "all", "from": "z", "to": "a", "rate": 1}], "stages[0].flows[0].from"),
    ("flows", [{"class": "all", "from": "a", "to": "z", "rate": 1}], "stages[0].flows[0].to"),
    ("flows", [{"class": "all", "from": "a", "to": "a", "rate": -1}], "stages[0].flows[0].rate"),
    ("flows", {}, "stages[0].flows"),
    ("handoff", None, "stages[0].handoff"),
    ("handoff", {"protocol": "smoke"}, "stages[0].handoff.protocol"),
    ("handoff", {"protocol": "bootstrap", "bootstrap_port": "9"}, "stages[0].handoff.bootstrap"),
    ("decode", [replica("pa1", "a", 1.0)], "stages[0].replicas"),
    ("prefill", [{**replica("x", "a", 1.0), "group": 7}], "stages[0].prefill[0].group"),
]


@pytest.mark.parametrize(("key", "value", "field"), WRONG)
def test_a_contradiction_is_refused_with_its_field(key: str, value: Any, field: str) -> None:
    made = document({("a", "a"): 1.0})
    made["stages"][0][key] = value
    with pytest.raises(RoutingError) as caught:
        parse_routing(made)
    assert caught.value.field.startswith(field)
