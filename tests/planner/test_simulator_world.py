"""Whole runs: prefill and decode apart, cascades by outcome tables, changes of plan, determinism."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from motley_planner.candidates.calibration import read_calibration
from motley_planner.dispatch import (
    DispatchRule,
    Policy,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
)
from motley_planner.domain.demand import Slo
from motley_planner.simulator import (
    Arrivals,
    Change,
    Deployment,
    FixedSteps,
    Kind,
    Route,
    Scenario,
    ServerSpec,
    TableOutcomes,
    Terms,
    VisitOutcomes,
    drawn,
    picture_of,
    report_of,
    samples_of,
    simulate,
)

ENGINE = FixedSteps(prefill_s_per_token=0.00005, decode_step_s=0.01)


def deployment(
    hops: dict[str, list[ServerSpec]],
    routes: tuple[tuple[Route, ...], ...],
    policies: tuple[Policy, ...] = (),
) -> Deployment:
    stages = tuple(
        Stage(hop, "m", tuple(Replica(s.name, "sim://r", {"a": 1.0}, {"a": 1.0}) for s in specs))
        for hop, specs in hops.items()
    )
    ref = ResourceRef("ServingPool", "t", "p")
    table = RoutingTable("h", ref, ("p",), (RequestClass("a", 1000, 50),), stages, policies)
    servers = {(hop, s.name): s for hop, specs in hops.items() for s in specs}
    return Deployment(table, servers, routes)


def specs(count: int, mode: str = "both", batch: int = 16) -> list[ServerSpec]:
    return [ServerSpec(f"{mode}{i}", ENGINE, batch, mode, 10.0) for i in range(count)]


def pool(count: int) -> Deployment:
    return deployment({"main": specs(count)}, ((Route(("main",)),),))


def requests(rate: float, count: int, seed: int = 1) -> Arrivals:
    return drawn([Kind("a", rate, 1000.0, 51.0)], count, seed=seed)


def test_every_request_is_answered_once_and_no_faster_than_its_work() -> None:
    run = simulate(Scenario(pool(3), requests(40.0, 4000)))
    least = 1000 * 0.00005 + 50 * 0.01
    assert len(run.visits.ttft_s) == 4000
    assert min(job.answered_s - job.arrival_s for job in run.jobs) >= least - 1e-9
    assert not run.refused


def test_the_same_scenario_gives_the_same_run() -> None:
    one, other = (simulate(Scenario(pool(3), requests(40.0, 1000))) for _ in range(2))
    assert one.visits.ttft_s == other.visits.ttft_s
    assert [j.answered_s for j in one.jobs] == [j.answered_s for j in other.jobs]


def test_work_is_spread_as_planned_over_equal_replicas() -> None:
    run = simulate(Scenario(pool(4), requests(40.0, 4000)))
    busy = [life.server.slot_s for lives in run.lives.values() for life in lives]
    assert max(busy) < 1.1 * min(busy)


@pytest.mark.parametrize("policy", ["earliestFinish", "hexgen", "roundRobin", "leastLoaded"])
def test_every_dispatch_policy_can_be_simulated(policy: str) -> None:
    base = pool(3)
    table = replace(base.table, dispatch=DispatchRule(policy))
    run = simulate(Scenario(replace(base, table=table), requests(20.0, 500)))
    assert all(job.answered_s > 0 for job in run.jobs)


def test_prefill_and_decode_apart_pay_for_the_bytes_between_them() -> None:
    nic = 1e9
    prefill = [
        replace(each, kv_bytes_per_token=1e5, nic_bytes_per_s=nic) for each in specs(2, "prefill")
    ]
    hops = {"main/prefill": prefill, "main/decode": specs(2, "decode")}
    split = deployment(hops, ((Route(("main/prefill", "main/decode")),),))
    run = simulate(Scenario(split, requests(1.0, 400)))
    # Alone: the prompt, its cache over the NIC, then 50 steps of decode.
    alone = 0.05 + 1001 * 1e5 / nic + 50 * 0.01
    took = np.array([job.answered_s - job.arrival_s for job in run.jobs])
    assert np.median(took) == pytest.approx(alone, abs=0.011)
    assert all(life.server.batch == 0 for lives in run.lives.values() for life in lives)


def test_a_stage_may_have_both_kinds_of_replicas_in_the_planned_proportion() -> None:
    hops = {
        "main": specs(2),
        "main/prefill": specs(1, "prefill"),
        "main/decode": specs(1, "decode"),
    }
    routes = (Route(("main",), 0.7), Route(("main/prefill", "main/decode"), 0.3))
    run = simulate(Scenario(deployment(hops, (routes,)), requests(5.0, 1000)))
    assert all(job.answered_s > 0 for job in run.jobs)
    through = sum(job.hop == 1 for job in run.jobs)
    assert abs(through - 300) <= 1


CALIBRATION = "question_id,small:score,small:quality,large:quality\n" + "".join(
    f"q{i},{i / 100},{1 if i >= 30 else 0},1\n" for i in range(100)
)


def cascade(policies: tuple[Policy, ...]) -> Deployment:
    hops = {"small": specs(2), "large": specs(2)}
    return deployment(hops, ((Route(("small",)),), (Route(("large",)),)), policies)


def test_a_cascade_escalates_the_questions_that_score_below_the_threshold() -> None:
    table = read_calibration(CALIBRATION, ("small", "large"))
    policies = (Policy("t", 1.0, {"small": 0.4}),)
    scenario = Scenario(cascade(policies), requests(10.0, 4000), TableOutcomes(table))
    run = simulate(scenario)
    stages = Counter(run.visits.stage)
    assert stages[0] == 4000
    assert stages[1] / 4000 == pytest.approx(0.40, abs=0.025)
    assert np.mean(run.quality) == 1.0, "whoever scores below 0.4 gets the large model's answer"
    whole = [job.answered_s - job.arrival_s for job in run.jobs if job.stage == 1]
    assert min(whole) > 2 * (0.05 + 0.5), "an escalated request pays both stages"


def test_without_a_table_a_cascade_escalates_as_often_as_its_policies_visit() -> None:
    policies = (Policy("few", 0.25, {"small": 0.4}), Policy("many", 0.75, {"small": 0.9}))
    visits = VisitOutcomes({"few": (1.0, 0.2), "many": (1.0, 0.8)})
    run = simulate(Scenario(cascade(policies), requests(10.0, 4000), visits))
    share = Counter(run.visits.stage)[1] / 4000
    assert share == pytest.approx(0.25 * 0.2 + 0.75 * 0.8, abs=0.025)
    assert run.policies["few"] == pytest.approx(1000, abs=1)


def test_a_grown_plan_serves_after_the_start_delay_and_is_paid_from_the_change() -> None:
    change = Change(20.0, pool(6), start_delay_s=30.0)
    run = simulate(Scenario(pool(2), requests(30.0, 3000), changes=(change,)))
    lives = {key[1]: each for key, (each,) in run.lives.items()}
    assert lives["both5"].start_s == 20.0
    assert lives["both5"].server.busy_s > 0
    report = report_of(run, "p", ("main",), Terms())
    assert report.usd == pytest.approx((2 * run.end_s + 4 * (run.end_s - 20.0)) * 10.0 / 3600.0)
    waits = [(job.arrival_s, job.first_s - job.started_s) for job in run.jobs]
    during = np.mean([w for at, w in waits if 40.0 < at < 50.0])
    after = np.mean([w for at, w in waits if at > 70.0])
    assert after < during


def test_a_shrunk_plan_drains_and_is_paid_until_its_last_answer() -> None:
    run = simulate(Scenario(pool(4), requests(30.0, 3000), changes=(Change(20.0, pool(2)),)))
    assert all(job.answered_s > 0 for job in run.jobs)
    (gone,) = run.lives["main", "both3"]
    assert 20.0 <= gone.end_s < 22.0


def test_requests_of_a_lost_replica_start_again_elsewhere() -> None:
    lost = frozenset({("main", "both0")})
    left = specs(3)[1:]
    smaller = deployment({"main": left}, ((Route(("main",)),),))
    change = Change(20.0, smaller, lost=lost)
    run = simulate(Scenario(pool(3), requests(30.0, 3000), changes=(change,)))
    assert all(job.answered_s > 0 for job in run.jobs)
    assert len(run.visits.ttft_s) == 3000
    (gone,) = run.lives["main", "both0"]
    assert gone.end_s == 20.0 and gone.server.is_empty
    hit = [job for job in run.jobs if job.arrival_s < 20.0 < job.answered_s]
    calm = [job for job in run.jobs if job.answered_s < 19.0]
    assert max(j.answered_s - j.arrival_s for j in hit) > 1.3 * max(
        j.answered_s - j.arrival_s for j in calm
    )


def test_what_is_not_answered_by_the_end_counts_as_missed() -> None:
    arrivals = requests(1000.0, 3000)  # one replica does about 30 a second
    slo = Slo(ttft_s={"p50": 1e6}, tpot_s={"p50": 1e6})
    run = simulate(Scenario(pool(1), arrivals, end_s=10.0))
    report = report_of(run, "p", ("main",), Terms(slo))
    assert report.answered < 600 and report.requests == 3000
    assert not report.is_kept
    assert all(a.share is not None and a.share < 0.3 for a in report.attainment)


def test_a_plan_with_no_replica_for_a_class_refuses_its_requests() -> None:
    empty = deployment({"main": []}, ((Route(("main",)),),))
    run = simulate(Scenario(empty, requests(10.0, 50)))
    assert run.refused == 50
    assert not report_of(run, "p", ("main",), Terms()).is_kept


def test_the_picture_is_well_formed_and_names_its_classes() -> None:
    from xml.etree import ElementTree

    slo = Slo(ttft_s={"p95": 0.2}, tpot_s={"p95": 0.02}, e2e_s={"p99": 2.0})
    run = simulate(Scenario(pool(3), requests(40.0, 500)))
    report = report_of(run, "pool <a & b>", ("main",), Terms(slo))
    text = picture_of(report, samples_of(run, ("main",)))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert "main a" in text and "&lt;a &amp; b&gt;" in text
    assert text.count("<polyline") == 3
