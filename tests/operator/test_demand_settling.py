"""What a measurement may change, and what it never does: idle is not broken, noise is not news."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_operator.api.status import DemandStatus
from motley_operator.api.traffic import Workload
from motley_operator.demand import Settled, settle
from motley_operator.demand.settling import BAND, Context, planned
from motley_operator.demand.sources import BROKEN, Found, Ready, Reason, judge, unread
from motley_operator.domain.measurement import Histogram, Measurement, Reading, Targets

STEP_S, STALE_S, NOW = 90.0, 120.0, 1_800_000_000.0
CONTEXT = Context(NOW, cooldown_s=600.0, split=True)
READY = Ready(gateways=2, engines=3)
GATEWAYS = Targets(seen=2, up=2, oldest_s=10.0, alive=(2.0,) * 10)
ENGINES = Targets(seen=3, up=3, oldest_s=10.0, alive=(3.0,) * 10)


def workload(rate: str = "10", **more: Any) -> Workload:
    classes = [{"name": "all", "promptTokens": 800, "outputTokens": 200}]
    document = {"requestsPerSecond": rate, "demand": "Measured", "classes": classes}
    return Workload.model_validate({**document, **more})


def at_gateways(*steps: float | None, **changes: Any) -> Measurement:
    return Measurement(
        gateways=replace(GATEWAYS, **changes), arrived={"all": steps} if steps else {}
    )


def steady(rate: float) -> tuple[float, ...]:
    return (rate * STEP_S,) * 10


def judged(measured: Measurement, ready: Ready = READY, before: str = "") -> Found:
    return judge(measured, ready, (STEP_S, STALE_S), (True, before))


def settled(
    measured: Measurement, before: DemandStatus | None = None, asked: Workload | None = None
) -> Settled:
    return settle(asked or workload(), before, judged(measured), measured, CONTEXT)


def in_force(low: str, high: str, time: str = "2020-01-01T00:00:00Z") -> DemandStatus:
    return DemandStatus.model_validate(
        {
            "source": "Gateways",
            "requestsPerSecond": high,
            "low": low,
            "high": high,
            "classes": [{"name": "all", "promptTokens": 800, "outputTokens": 200, "weight": 1}],
            "time": time,
        }
    )


def rate_of(found: Settled, asked: Workload | None = None) -> float:
    return planned(asked or workload(), found.demand).requests_per_second.per_second


def test_what_is_measured_as_stated_changes_nothing() -> None:
    found = settled(at_gateways(*steady(10.0)))
    assert found.demand is None
    assert (found.status, found.reason) == ("True", Reason.MEASURED)


def test_a_rise_is_planned_for_at_the_upper_end_of_its_last_steps() -> None:
    found = settled(at_gateways(*(900.0,) * 8, 1800.0, 1800.0))
    assert found.demand is not None
    assert found.demand.low.value < 20.0 < rate_of(found)
    assert rate_of(found) == found.demand.high.value


def test_a_fall_waits_for_the_whole_window_and_for_the_cooldown() -> None:
    old = in_force("19", "21")
    fallen = at_gateways(*steady(5.0))
    assert rate_of(settled(fallen, old)) < 6.0
    partly = at_gateways(*(1800.0,) * 5, *(450.0,) * 5)
    assert rate_of(settled(partly, old)) > 10.0
    fresh = in_force("19", "21", time="2027-01-15T07:55:00Z")  # five minutes before NOW
    assert settled(fallen, fresh).demand == fresh


@pytest.mark.parametrize("old", [None, in_force("19", "21")])
@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (at_gateways(seen=2, up=0, alive=(None,) * 10), Reason.TARGETS_DOWN),
        (at_gateways(*steady(0.1), seen=2, up=1), Reason.TARGETS_DOWN),
        (Measurement(engines=ENGINES, finished=steady(0.1)), None),
        (at_gateways(*steady(0.1), oldest_s=500.0), Reason.STALE_SAMPLES),
        (at_gateways(alive=(None,) * 10), Reason.SERIES_ABSENT),
        (at_gateways(*steady(0.1)[:9], None, alive=(2.0,) * 9 + (None,)), Reason.SERIES_ABSENT),
        (at_gateways(*steady(0.1), alive=(1.0,) * 5 + (2.0,) * 5), Reason.WARMING_UP),
        (at_gateways(*steady(0.1), alive=(None,) * 5 + (2.0,) * 5), Reason.WARMING_UP),
        (Measurement(), Reason.NO_TARGETS),
    ],
    ids=[
        "all down", "one of two down", "gateways lost, engines seen", "stale", "no series",
        "series ended", "one was away", "all were away", "no targets",
    ],
)  # fmt: skip
def test_a_scrape_that_is_not_whole_lowers_nothing(
    measured: Measurement, reason: Reason | None, old: DemandStatus | None
) -> None:
    if reason is None and old is None:
        return  # who never counted at gateways may count at engines
    found = settle(
        workload(), old, judged(measured, before=old.source if old else ""), measured, CONTEXT
    )
    assert found.demand == old
    assert found.reason == (reason or Reason.NO_TARGETS)
    assert found.status == ("False" if found.reason in BROKEN else "Unknown")


def test_a_part_of_the_targets_may_raise_what_is_planned() -> None:
    found = settled(at_gateways(*steady(30.0), up=1))
    assert found.status == "False"
    assert rate_of(found) > 29.0


def test_idle_is_measured_and_goes_down_to_the_least_rate() -> None:
    quiet = at_gateways(*(None,) * 10)  # a counter nobody has touched has no series
    found = settled(quiet, in_force("19", "21"))
    assert (found.status, found.reason) == ("True", Reason.IDLE)
    assert rate_of(found) == 1.0  # a tenth of what is stated
    asked = workload(minRequestsPerSecond="3")
    assert rate_of(settled(quiet, in_force("19", "21"), asked), asked) == 3.0


def test_a_doubled_scrape_is_bounded() -> None:
    asked = workload(maxRequestsPerSecond="15")
    assert rate_of(settled(at_gateways(*steady(40.0)), asked=asked), asked) == 15.0
    assert rate_of(settled(at_gateways(*steady(4000.0)))) == 100.0  # ten times what is stated


def test_a_queue_at_the_engines_forbids_a_fall() -> None:
    slow = Measurement(engines=ENGINES, finished=steady(2.0), waiting=4.0)
    assert settled(slow, replace_source(in_force("9", "11"))).demand is not None
    assert rate_of(settled(slow, replace_source(in_force("9", "11")))) == 11.0
    assert rate_of(settled(replace(slow, waiting=0.0), replace_source(in_force("9", "11")))) < 3.0


def replace_source(demand: DemandStatus) -> DemandStatus:
    return demand.model_copy(update={"source": "Engines"})


def test_a_cascade_is_never_counted_at_its_engines() -> None:
    measured = Measurement(engines=ENGINES, finished=steady(50.0))
    found = judge(measured, READY, (STEP_S, STALE_S), (False, ""))
    assert (found.reason, found.recent) == (Reason.NO_TARGETS, None)


@pytest.mark.parametrize(
    ("reading", "reason"),
    [
        (None, Reason.WARMING_UP),
        (Reading(NOW, error="refused"), Reason.PROMETHEUS_UNREACHABLE),
        (Reading(NOW - 500.0), Reason.PROMETHEUS_UNREACHABLE),
    ],
)
def test_without_a_reading_there_is_a_reason(reading: Reading | None, reason: Reason) -> None:
    found = unread(reading, NOW, STALE_S)
    assert found is not None
    assert found.reason == reason
    kept = settle(workload(), in_force("19", "21"), found, Measurement(), CONTEXT)
    assert kept.demand == in_force("19", "21")


@pytest.mark.parametrize("rate", [0.2, 2.0, 40.0])
def test_noise_of_a_steady_load_changes_the_demand_at_most_once_in_a_month_of_readings(
    rate: float,
) -> None:
    """3000 windows of 15 minutes are a month; the first may take up the measured figure."""
    rng = np.random.default_rng(11)
    asked, before, changes = workload(str(rate)), None, 0
    for _ in range(3000):
        found = settled(at_gateways(*map(float, rng.poisson(rate * STEP_S, 10))), before, asked)
        changes += found.demand != before
        before = found.demand
    assert changes <= 2


@given(
    st.lists(st.none() | st.floats(0.0, 1e5), min_size=10, max_size=10),
    st.lists(st.none() | st.floats(0.0, 4.0), min_size=10, max_size=10),
    st.integers(0, 3),
    st.floats(0.0, 300.0),
    st.floats(1.0, 50.0),
)
def test_whatever_is_scraped_a_second_look_at_it_changes_nothing_more(
    counts: list[float | None], alive: list[float | None], up: int, age_s: float, high: float
) -> None:
    measured = at_gateways(*counts, alive=tuple(alive), up=up, oldest_s=age_s)
    old = in_force(f"{high * 0.9:.3f}", f"{high:.3f}")
    first = settled(measured, old)
    assert first.status in ("True", "False", "Unknown")
    if first.status == "False" and first.demand is not None:
        assert first.demand.high.value >= old.high.value
    again = settled(measured, first.demand)
    assert again.demand == first.demand
    rate = rate_of(first)
    assert 1.0 <= rate <= 100.0


def lengths(mean: float, count: int = 10_000) -> Histogram:
    below = tuple(count * (1.0 - np.exp(-b / mean)) for b in (10.0, 100.0, 1000.0, 10_000.0))
    return Histogram((10.0, 100.0, 1000.0, 10_000.0, float("inf")), (*below, count), mean * count)


def test_lengths_are_scaled_to_the_measured_mean_once_they_moved() -> None:
    same = replace(at_gateways(*steady(10.0)), prompt=lengths(830.0), output=lengths(205.0))
    assert settled(same).demand is None
    longer = replace(same, prompt=lengths(1600.0))
    found = settled(longer)
    assert found.demand is not None
    (only,) = found.demand.classes
    assert (only.prompt_tokens, only.output_tokens) == (1600, 200)
    assert settled(longer, found.demand).demand == found.demand


def test_noise_of_lengths_changes_nothing() -> None:
    """1000 requests a window of exponential length, 500 windows: each mean is 3 % off or so."""
    rng, before = np.random.default_rng(5), None
    bounds = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, float("inf"))
    for _ in range(500):
        drawn = rng.exponential(800.0, 1000)
        counts = tuple(float((drawn <= bound).sum()) for bound in bounds)
        prompt = Histogram(bounds, counts, float(drawn.sum()))
        found = settled(replace(at_gateways(*steady(10.0)), prompt=prompt), before)
        assert found.demand is None


def test_few_requests_tell_no_lengths() -> None:
    few = replace(at_gateways(*steady(10.0)), prompt=lengths(1600.0, count=40))
    assert settled(few).demand is None


def two_classes() -> Workload:
    classes = [
        {"name": "chat", "promptTokens": 100, "outputTokens": 100, "weight": 1},
        {"name": "rag", "promptTokens": 10_000, "outputTokens": 100, "weight": 1},
    ]
    return workload(classes=classes)


def test_shares_follow_what_gateways_count_by_class() -> None:
    measured = Measurement(gateways=GATEWAYS, arrived={"chat": steady(8.0), "rag": steady(2.0)})
    found = settle(two_classes(), None, judged(measured), measured, CONTEXT)
    assert found.demand is not None
    assert [c.weight for c in found.demand.classes] == [800, 200]
    even = Measurement(gateways=GATEWAYS, arrived={"chat": steady(5.2), "rag": steady(4.8)})
    assert settle(two_classes(), None, judged(even), even, CONTEXT).demand is None


def test_shares_come_from_prompt_lengths_where_only_engines_are_scraped() -> None:
    bounds = (100.0, 1000.0, 2000.0, 10_000.0, float("inf"))
    prompt = Histogram(bounds, (0.0, 8000.0, 8000.0, 8000.0, 10_000.0), 3e7)
    measured = Measurement(engines=ENGINES, finished=steady(10.0), prompt=prompt)
    found = settle(two_classes(), None, judged(measured), measured, CONTEXT)
    assert found.demand is not None
    assert [c.weight for c in found.demand.classes] == [800, 200]


def test_a_change_is_never_smaller_than_the_band() -> None:
    slightly = at_gateways(*steady(10.0 * (1.0 + BAND / 3.0)))
    assert settled(slightly, in_force("9.95", "10")).demand == in_force("9.95", "10")
