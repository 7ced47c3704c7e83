"""Measured demand through the whole judgement: what the plan is made for, what a status says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from motley_operator import policies, translate
from motley_operator.decision import Decision, decide
from motley_operator.domain.measurement import Histogram, Measurement, Reading, Targets
from motley_operator.domain.names import HELD_AT
from motley_operator.main import plan_with
from motley_operator.metrics import Metrics
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing import CALIBRATION, World, cascade, gpu_node, pool
from motley_operator.translate import has_drifted
from motley_planner.catalog import load_catalog
from motley_planner.dispatch import Hold, RoutingTable, parse_routing

CATALOG, SETTINGS = load_catalog(), Settings()
FLEET: dict[str, Any] = {
    "apiVersion": "motley.dev/v1alpha1",
    "kind": "Fleet",
    "metadata": {"name": "default", "uid": "fleet", "generation": 1},
    "spec": {"prometheus": {"url": "http://prometheus:9090"}},
}
CLASSES = [{"name": "all", "promptTokens": 800, "outputTokens": 200}]
STEP_S = 90.0


class Fleet:
    """A world with one measured pool, and the operator's judgement cycle by cycle."""

    def __init__(self, demand: str = "Measured", **least: Any) -> None:
        self.world = World().add_node(*(gpu_node(f"h{i}") for i in range(4)))
        self.world.fleet = FLEET
        workload = {"requestsPerSecond": 10, "demand": demand, "classes": CLASSES}
        self.key = self.world.add(pool(workload=workload | least))
        self.planner = RememberingPlanner(plan_with)

    def cycle(self) -> Decision:
        decision = decide(self.world.facts(), CATALOG, SETTINGS, self.planner)
        self.world.apply(decision.statuses)
        self.world.apply(decision.actions)
        self.world.settle()
        return decision

    def calm(self) -> Decision:
        """Cycles until one changes nothing."""
        for _ in range(8):
            decision = self.cycle()
            if not decision.actions and not decision.statuses:
                return decision
        raise AssertionError("the operator does not come to rest")

    def asked(self) -> float:
        (service,) = self.calm().translation.snapshot.services
        return service.requests_per_second

    def see(self, per_s: float, **changes: Any) -> None:
        """Prometheus shows a steady rate at every ready gateway."""
        self.world.now += 1000.0
        ready = 2
        targets = Targets(ready, ready, 5.0, (float(ready),) * 10)
        measured = Measurement(
            gateways=replace(targets, **changes), arrived={"all": (per_s * STEP_S,) * 10}
        )
        self.world.reading = Reading(self.world.now, STEP_S, {self.key: measured})

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.world.documents[self.key]["status"]
        return found

    def condition(self) -> tuple[str, str]:
        (found,) = [c for c in self.status()["conditions"] if c["type"] == "DemandMeasured"]
        return found["status"], found["reason"]

    def engines(self) -> set[str]:
        return {pod.uid for pod in self.world.engine_pods(self.key)}


@pytest.fixture
def fleet() -> Fleet:
    made = Fleet()
    made.calm()
    return made


def test_stated_demand_knows_nothing_of_prometheus() -> None:
    fleet = Fleet(demand="Stated")
    fleet.see(500.0)
    assert fleet.asked() == 10.0
    assert "demand" not in fleet.status()
    assert "DemandMeasured" not in {c["type"] for c in fleet.status()["conditions"]}


def test_before_the_first_reading_the_spec_is_planned_for(fleet: Fleet) -> None:
    assert fleet.asked() == 10.0
    assert fleet.condition() == ("Unknown", "WarmingUp")


def test_a_fleet_without_prometheus_is_named(fleet: Fleet) -> None:
    fleet.world.fleet = None
    fleet.calm()
    assert fleet.condition() == ("False", "NoPrometheus")


def test_more_measured_demand_starts_replicas_and_keeps_those_that_run(fleet: Fleet) -> None:
    before = fleet.engines()
    fleet.see(80.0)
    assert 80.0 < fleet.asked() < 84.0
    assert before < fleet.engines()
    assert fleet.condition() == ("True", "Measured")
    assert fleet.status()["demand"]["source"] == "Gateways"


def test_a_measured_rise_moves_no_replica_and_an_edit_may(fleet: Fleet) -> None:
    force = fleet.planner._force
    fleet.see(80.0)
    translation = translate.translate(fleet.world.facts(), CATALOG, SETTINGS)
    assert policies.verdict(force, translation, fleet.world.facts()).replan
    assert policies.edited(force, translation) == frozenset()
    fleet.world.add(
        pool(
            workload={"requestsPerSecond": 10, "demand": "Measured", "classes": CLASSES},
            slo={"tpot": {"p95": "50ms"}},
        )
    )
    translation = translate.translate(fleet.world.facts(), CATALOG, SETTINGS)
    assert policies.edited(force, translation) == {fleet.key}


def test_a_steady_measured_load_writes_nothing(fleet: Fleet) -> None:
    fleet.see(80.0)
    fleet.calm()
    for per_s in (79.0, 81.0, 80.5, 78.8):
        fleet.see(per_s)
        decision = fleet.cycle()
        assert decision.actions == ()
        assert decision.statuses == ()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"up": 0}, "TargetsDown"),
        ({"seen": 0, "up": 0}, "NoTargets"),
        ({"oldest_s": 900.0}, "StaleSamples"),
        ({"alive": (None,) * 10}, "SeriesAbsent"),
    ],
)
def test_a_broken_scrape_is_named_and_changes_no_pod(
    fleet: Fleet, broken: dict[str, Any], reason: str
) -> None:
    fleet.see(80.0)
    fleet.calm()
    pods, demand = fleet.engines(), fleet.status()["demand"]
    fleet.see(0.0, **broken)
    assert fleet.asked() > 80.0
    assert fleet.condition() == ("False", reason)
    assert (fleet.engines(), fleet.status()["demand"]) == (pods, demand)
    assert [e.reason for e in fleet.world.events].count(reason) == 1


def test_an_unreachable_prometheus_changes_no_pod(fleet: Fleet) -> None:
    fleet.see(80.0)
    fleet.calm()
    pods = fleet.engines()
    fleet.world.reading = Reading(
        fleet.world.now, error="Prometheus cannot be read (ConnectTimeout)"
    )
    assert fleet.asked() > 80.0
    assert fleet.condition() == ("False", "PrometheusUnreachable")
    assert fleet.engines() == pods


def test_an_idle_pool_goes_down_to_its_least_rate(fleet: Fleet) -> None:
    fleet.see(80.0)
    fleet.calm()
    before = fleet.engines()
    fleet.see(0.0)
    assert fleet.asked() == 1.0
    assert fleet.condition() == ("True", "Idle")
    assert 0 < len(fleet.engines()) < len(before)


def test_an_idle_pool_whose_least_rate_is_zero_holds_no_node_until_requests_come() -> None:
    fleet = Fleet(minRequestsPerSecond=0)
    assert fleet.asked() == 10.0 and fleet.engines()
    for _ in range(3):
        fleet.see(0.0)
        fleet.calm()
    assert fleet.asked() == 0.0 and not fleet.engines()
    assert fleet.condition()[0] == "True"
    fleet.see(5.0)
    assert fleet.asked() > 5.0 and fleet.engines()


def test_a_restart_changes_nothing_and_needs_no_reading(fleet: Fleet) -> None:
    fleet.see(80.0)
    fleet.calm()
    pods = fleet.engines()
    fleet.planner, fleet.world.reading = RememberingPlanner(plan_with), None
    assert fleet.asked() > 80.0
    assert fleet.engines() == pods


def test_a_pool_that_goes_back_to_stated_drops_the_measured_figures(fleet: Fleet) -> None:
    fleet.see(80.0)
    fleet.calm()
    fleet.world.add(pool(workload={"requestsPerSecond": 10, "classes": CLASSES}))
    assert fleet.asked() == 10.0
    assert "demand" not in fleet.status()


def test_demand_that_somebody_wrote_by_hand_is_no_demand(fleet: Fleet) -> None:
    fleet.see(80.0)
    fleet.calm()
    fleet.world.documents[fleet.key]["status"]["demand"] = {"source": 7, "high": "much"}
    fleet.see(80.0)
    assert 80.0 < fleet.asked() < 84.0


def test_no_pod_is_made_from_measured_lengths(fleet: Fleet) -> None:
    fleet.see(80.0)
    demand = fleet.calm().translation.snapshot.services[0]
    assert demand.classes[0].prompt_tokens == 800
    model: Any = fleet.calm().translation.parsed[fleet.key]
    assert model.spec.workload.requests_per_second == "10"


def test_a_cascade_follows_what_its_gateways_count_and_keeps_its_stated_lengths() -> None:
    world = World().add_node(*(gpu_node(f"h{i}") for i in range(4)))
    world.fleet = FLEET
    world.config_maps[("team-a", "table")] = {"table.csv": CALIBRATION}
    workload = {"requestsPerSecond": 2, "demand": "Measured", "classes": CLASSES}
    key = world.add(cascade(workload=workload))
    measured = Measurement(
        gateways=Targets(2, 2, 5.0, (2.0,) * 10),
        arrived={"all": (15.0 * STEP_S,) * 10},
        prompt=Histogram((1000.0, float("inf")), (0.0, 9e4), 9e8),  # the sum over both stages
        output=Histogram((1000.0, float("inf")), (0.0, 9e4), 9e8),
    )
    world.reading = Reading(world.now, STEP_S, {key: measured})
    (service,) = translate.translate(world.facts(), CATALOG, SETTINGS).snapshot.services
    assert 15.0 < service.requests_per_second < 16.5
    assert [(c.prompt_tokens, c.output_tokens) for c in service.classes] == [(800, 200)]


def test_the_operators_series_tell_the_demand_in_force(fleet: Fleet) -> None:
    fleet.see(80.0)
    metrics = Metrics()
    metrics.translated(fleet.calm().translation)
    labels = {"kind": "ServingPool", "namespace": "team-a", "name": "chat"}
    value = metrics.registry.get_sample_value
    assert 80.0 < (value("motley_demand_requests_per_second", labels) or 0.0) < 84.0
    assert value("motley_demand_measured", {**labels, "reason": "Measured"}) == 1.0
    fleet.see(0.0, up=0)
    metrics.translated(fleet.calm().translation)
    assert value("motley_demand_measured", {**labels, "reason": "Measured"}) is None
    assert value("motley_demand_measured", {**labels, "reason": "TargetsDown"}) == 0.0


class Sleeper(Fleet):
    """A measured pool that was idle long enough to hold nothing."""

    def __init__(self, **least: Any) -> None:
        super().__init__(minRequestsPerSecond=0, **least)
        self.calm()
        for _ in range(3):
            self.see(0.0)
            self.calm()
        assert not self.engines()

    def word(self, text: str) -> None:
        """A gateway says that it holds requests."""
        document = self.world.owned[("ConfigMap", "team-a", "chat-wake")]
        document["metadata"].setdefault("annotations", {})[HELD_AT] = text

    def routing(self) -> RoutingTable:
        text = self.world.owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
        return parse_routing(json.loads(text))


def test_a_word_of_the_gateway_wakes_an_idle_pool_within_one_cycle() -> None:
    fleet = Sleeper()
    assert fleet.routing().hold == Hold(256, 300.0)
    assert not fleet.routing().stages[0].replicas
    fleet.word("first")
    decision = fleet.cycle()
    (service,) = decision.translation.snapshot.services
    assert service.requests_per_second == 1.0  # a tenth of what is stated
    assert fleet.engines() and fleet.routing().stages[0].replicas
    assert fleet.routing().hold == Hold(256, 300.0)
    assert fleet.status()["demand"] | {"time": ""} == {
        "source": "Held",
        "requestsPerSecond": "1",
        "low": "1",
        "high": "1",
        "classes": [CLASSES[0] | {"weight": 1}],
        "time": "",
        "heldAt": "first",
    }


def test_prometheus_being_away_keeps_no_pool_asleep() -> None:
    fleet = Sleeper()
    fleet.world.reading = Reading(fleet.world.now, error="Prometheus cannot be read (X)")
    fleet.word("first")
    assert fleet.asked() == 1.0 and fleet.engines()


def test_a_word_that_was_acted_on_wakes_nothing_again() -> None:
    fleet = Sleeper()
    fleet.word("first")
    fleet.calm()
    pods = fleet.engines()
    fleet.planner = RememberingPlanner(plan_with)
    fleet.calm()
    assert fleet.engines() == pods
    for _ in range(3):
        fleet.see(0.0)
        fleet.calm()
    assert not fleet.engines()
    decision = fleet.cycle()
    assert not decision.actions and not decision.statuses
    fleet.word("second")
    assert fleet.asked() == 1.0 and fleet.engines()


def test_a_pool_does_not_fall_asleep_while_its_gateways_hold_requests() -> None:
    fleet = Sleeper()
    for i in range(4):  # engines take long to start: nothing is counted meanwhile
        fleet.see(0.0)
        fleet.word(f"word {i}")
        fleet.calm()
        assert fleet.engines()


def test_what_is_measured_after_a_wake_goes_before_the_tenth() -> None:
    fleet = Sleeper()
    fleet.word("first")
    fleet.calm()
    few = fleet.engines()
    fleet.see(80.0)
    assert 80.0 < fleet.asked() < 84.0
    assert few <= fleet.engines()


def test_a_pool_stated_at_nothing_wakes_by_its_most() -> None:
    fleet = Sleeper(requestsPerSecond=0, maxRequestsPerSecond=50)
    fleet.word("first")
    assert fleet.asked() == 0.5 and fleet.engines()


def test_only_who_may_sleep_gets_a_hold_and_a_gateway_that_may_speak() -> None:
    for workload, gateway, sleeps in (
        ({"minRequestsPerSecond": 0}, {}, True),
        ({"minRequestsPerSecond": 1}, {}, False),
        ({}, {}, False),
        ({"minRequestsPerSecond": 0}, {"hold": {"requests": 0}}, False),
        ({"minRequestsPerSecond": 0, "demand": "Stated"}, {}, False),
    ):
        fleet = Fleet(**{"demand": "Measured"} | workload)
        old = fleet.world.documents[fleet.key]
        fleet.world.add(old | {"spec": old["spec"] | {"gateway": gateway}})
        fleet.calm()
        owned = fleet.world.owned
        assert (("ConfigMap", "team-a", "chat-wake") in owned) is sleeps
        rules = owned[("Role", "team-a", "chat-gateway")]["rules"]
        patches = [rule["resourceNames"] for rule in rules if "patch" in rule["verbs"]]
        assert patches == ([["chat-wake"]] if sleeps else [])
        text = owned[("ConfigMap", "team-a", "chat-routing")]["data"]["routing.json"]
        assert ("hold" in json.loads(text)) is sleeps


def test_only_a_reading_that_changes_what_is_planned_or_said_is_news() -> None:
    fleet = Fleet()
    fleet.see(10.0)
    translation = fleet.calm().translation
    assert not has_drifted(translation, fleet.world.facts())
    for per_s, is_news in ((10.2, False), (40.0, True)):
        fleet.see(per_s)
        assert has_drifted(translation, fleet.world.facts()) is is_news
    translation = fleet.calm().translation
    assert not has_drifted(translation, fleet.world.facts())
    fleet.see(40.0, up=0)
    assert has_drifted(translation, fleet.world.facts())
    fleet.world.reading = Reading(fleet.world.now, error="Prometheus cannot be read")
    assert has_drifted(translation, fleet.world.facts())


def test_where_nobody_asks_for_measured_demand_no_reading_is_news() -> None:
    fleet = Fleet(demand="Static")
    translation = fleet.calm().translation
    fleet.see(40.0)
    assert not has_drifted(translation, fleet.world.facts())
