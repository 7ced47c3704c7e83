"""Learned speeds through the whole judgement: status, plans, promises, and what changes nothing."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from motley_operator.api.fleetstatus import FleetStatus
from motley_operator.decision import Decision, decide
from motley_operator.demand.corrections import Learning
from motley_operator.domain.measurement import EngineSteps, Reading, Steps
from motley_operator.domain.names import COLUMN
from motley_operator.main import plan_with
from motley_operator.metrics import Metrics
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing import World, gpu_node, pool
from motley_operator.translate.running import read_unit
from motley_planner.catalog import load_catalog
from motley_planner.costs.learned import MeasuredLoad, predicted_tpot
from motley_planner.costs.replica import Replica, replica_of

CATALOG, SETTINGS = load_catalog(), Settings()
CLASSES = [{"name": "all", "promptTokens": 800, "outputTokens": 200}]
STEP_S, STEPS = 90.0, 10
WINDOW_S = STEP_S * STEPS
IN_FLIGHT = 6.0


def fleet(learn: str | None = "Apply") -> dict[str, Any]:
    source = {"url": "http://prometheus:9090", "window": "15m"}
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": {"prometheus": source | ({"learn": learn} if learn else {})},
    }


def counted(replica: Replica, slots: int, replicas: int, factor: float) -> EngineSteps:
    """What engines count that take `factor` times the modeled time with `IN_FLIGHT` requests each."""
    load = MeasuredLoad(IN_FLIGHT, 800.0, 200.0, slots)
    tpot = factor * predicted_tpot(replica, load).seconds
    requests = IN_FLIGHT * replicas * STEP_S / (tpot * 200.0)

    def each(value: float) -> Steps:
        return (value,) * STEPS

    return EngineSteps(
        alive=each(float(replicas)),
        up=each(float(replicas)),
        requests=each(requests),
        prompt=each(800.0 * requests),
        output=each(200.0 * requests),
        tpot_total_s=each(tpot * requests),
        tpot_count=each(requests),
        ttft_total_s=each(0.2 * requests),
        ttft_count=each(requests),
        running=each(IN_FLIGHT * replicas),
        kv_usage=each(0.3),
    )


class Fleet:
    """A world with one pool, and the operator's judgement cycle by cycle."""

    def __init__(self, learn: str | None = "Apply", **spec: Any) -> None:
        self.world = World().add_node(*(gpu_node(f"h{i}") for i in range(4)))
        self.world.fleet = fleet(learn)
        workload = {"requestsPerSecond": 60, "classes": CLASSES}
        self.key = self.world.add(pool(workload=workload, **spec))
        self.planner = RememberingPlanner(plan_with)
        self.calm()

    def cycle(self) -> Decision:
        decision = decide(self.world.facts(), CATALOG, SETTINGS, self.planner)
        self.world.apply(decision.statuses)
        self.world.apply(decision.actions)
        self.world.settle()
        return decision

    def calm(self) -> Decision:
        """Cycles until one changes nothing."""
        for _ in range(12):
            decision = self.cycle()
            if not decision.actions and not decision.statuses:
                return decision
        raise AssertionError("the operator does not come to rest")

    def see(self, factor: float, **changes: Steps) -> None:
        """A window later every engine shows the same speed."""
        self.world.now += WINDOW_S
        columns = {}
        efficiency = CATALOG.efficiency
        assert efficiency is not None
        pods = [p for p in self.world.engine_pods(self.key) if p.ready and not p.deleting]
        ready = Counter(pod.labels[COLUMN] for pod in pods)
        for pod in pods:
            unit = read_unit(pod.annotations)
            assert unit is not None
            made = replica_of(
                CATALOG.models[unit["model"]], unit["precision"], CATALOG.gpus[unit["gpu"]],
                unit["tensor_parallel"], CATALOG.engines["vllm"], efficiency,
            )  # fmt: skip
            assert isinstance(made, Replica)
            column = pod.labels[COLUMN]
            steps = counted(made, unit["operating_batch"], ready[column], factor)
            columns[column] = replace(steps, **changes)
        self.world.reading = Reading(self.world.now, STEP_S, columns={self.key: columns})

    def rows(self) -> list[dict[str, Any]]:
        assert self.world.fleet is not None
        rows: list[dict[str, Any]] = (self.world.fleet.get("status") or {}).get("corrections", [])
        return rows

    def values(self) -> set[float]:
        return {row["value"] for row in self.rows()}

    def promises(self) -> list[dict[str, Any]]:
        plan = self.world.documents[self.key]["status"]["plan"]
        found: list[dict[str, Any]] = plan["promises"]
        return found

    def provenances(self) -> set[str | None]:
        return {promise.get("provenance") for promise in self.promises()}

    def engines(self) -> set[str]:
        return {pod.uid for pod in self.world.engine_pods(self.key)}


@pytest.fixture
def slow() -> Fleet:
    """A fleet that has learned that its engines take 1.5 times as long."""
    made = Fleet()
    for _ in range(4):
        made.see(1.5)
        made.calm()
    return made


def test_a_correction_goes_to_the_measured_speed_window_by_window() -> None:
    made = Fleet()
    assert made.rows() == []
    seen = []
    for _ in range(4):
        made.see(1.5)
        made.calm()
        seen.append(made.values())
    assert seen[0] == {1.225}
    assert seen[1] == seen[2] == seen[3] == {1.5}
    (row,) = [r for r in made.rows() if r["tensorParallel"] == made.rows()[0]["tensorParallel"]][:1]
    assert row["low"] <= 1.5 <= row["high"]
    assert row["provenance"] == "learned"
    assert row["samples"] > 100
    assert made.world.fleet is not None
    FleetStatus.model_validate(made.world.fleet["status"])


def ms(text: str) -> float:
    return float(text.removesuffix("ms")) if text.endswith("ms") else 1e3 * float(text[:-1])


def test_slower_engines_get_more_replicas_and_promises_say_where_they_come_from(
    slow: Fleet,
) -> None:
    modeled = Fleet()
    assert len(slow.engines()) > len(modeled.engines())
    assert slow.provenances() == {"learned"}
    assert modeled.provenances() == {None}
    for found, wide in ((slow, False), (modeled, True)):
        for promise in found.promises():
            relative = (ms(promise["high"]) - ms(promise["low"])) / ms(promise["expected"])
            assert (relative > 0.45) == (wide or promise["metric"] != "tpot")


def test_a_plan_that_stays_says_that_its_promises_are_learned_all_the_same() -> None:
    made = Fleet()
    pods, document = made.engines(), made.world.documents[made.key]
    digest = document["status"]["plan"]["hash"]
    made.see(1.02)
    made.calm()
    assert made.values() == {1.0}
    plan = made.world.documents[made.key]["status"]["plan"]
    assert (made.engines(), plan["hash"]) == (pods, digest)
    assert made.provenances() == {"learned"}


def test_a_steady_speed_writes_nothing_and_moves_no_pod(slow: Fleet) -> None:
    pods = slow.engines()
    for factor in (1.5, 1.47, 1.52, 1.5, 1.55, 1.44) * 3:
        slow.see(factor)
        decision = slow.cycle()
        assert decision.actions == ()
        assert decision.statuses == ()
    assert slow.engines() == pods


def test_a_restart_changes_nothing_and_needs_no_reading(slow: Fleet) -> None:
    pods, rows = slow.engines(), slow.rows()
    slow.planner, slow.world.reading = RememberingPlanner(plan_with), None
    slow.calm()
    assert (slow.engines(), slow.rows()) == (pods, rows)


@pytest.mark.parametrize(
    "broken",
    [
        {"up": (None,) * STEPS},
        {"up": (0.0,) * STEPS},
        {"alive": ()},
        {"requests": (0.0,) * STEPS, "tpot_count": (0.0,) * STEPS},
        {"tpot_total_s": (None,) * STEPS},
        {"kv_usage": (1.0,) * STEPS},
        {"running": (500.0,) * STEPS},
    ],
)
def test_a_broken_scrape_an_idle_pool_or_a_full_cache_moves_nothing(
    slow: Fleet, broken: dict[str, Steps]
) -> None:
    pods, rows = slow.engines(), slow.rows()
    slow.see(0.6, **broken)
    decision = slow.cycle()
    assert (decision.actions, decision.statuses) == ((), ())
    assert (slow.engines(), slow.rows()) == (pods, rows)


def test_an_unreachable_prometheus_or_an_old_reading_moves_nothing(slow: Fleet) -> None:
    slow.see(0.6)
    for reading in (
        Reading(slow.world.now, error="Prometheus cannot be read (ConnectTimeout)"),
        replace(slow.world.reading or Reading(0.0), at=slow.world.now - 3600.0),
    ):
        slow.world.reading = reading
        decision = slow.cycle()
        assert (decision.actions, decision.statuses) == ((), ())
        learning = decision.translation.learning
        assert isinstance(learning, Learning)
        assert {judged.verdict.value for judged in learning.judged.values()} == {"Unread"}


def test_replicas_that_start_or_end_are_not_learned_from(slow: Fleet) -> None:
    rows = slow.rows()
    slow.see(0.6)
    names = sorted(
        name
        for name in slow.world.pods
        if slow.world.pods[name] in slow.world.engine_pods(slow.key)
    )
    slow.world.pods[names[0]] = replace(slow.world.pods[names[0]], ready=False)
    slow.cycle()
    assert slow.rows() == rows


def test_report_says_it_and_plans_as_modeled() -> None:
    made = Fleet(learn=None)  # the default
    pods, promises = made.engines(), made.promises()
    for _ in range(3):
        made.see(1.5)
        made.calm()
    assert made.values() == {1.5}
    assert made.engines() == pods
    assert made.promises() == promises


def test_off_learns_nothing_and_forgets_what_was_learned(slow: Fleet) -> None:
    slow.world.fleet = {**fleet("Off"), "status": (slow.world.fleet or {})["status"]}
    slow.see(1.5)
    slow.calm()
    assert slow.rows() == []
    assert slow.provenances() == {None}


@pytest.mark.parametrize(
    ("factor", "bound"), [(6.0, 2.0), (0.1, 0.5)], ids=["far too slow", "far too fast"]
)
def test_no_correction_leaves_its_bounds(factor: float, bound: float) -> None:
    made = Fleet(learn="Report")
    for _ in range(8):
        made.see(factor)
        made.cycle()
    assert made.values() == {bound}
    assert {row["measured"] for row in made.rows()} == {factor}


def test_rows_that_somebody_wrote_by_hand_are_no_corrections() -> None:
    made = Fleet()
    pods = made.engines()
    assert made.world.fleet is not None
    good = {
        "model": "Qwen/Qwen3-8B", "gpu": "H100-SXM5-80GB", "tensorParallel": 1,
        "precision": "bf16", "engine": "vllm", "value": 1.5, "measured": 1.5, "low": 1.4,
        "high": 1.6, "samples": 9, "since": "not a time",
    }  # fmt: skip
    wrong = [{**good, "value": value} for value in (7.0, float("nan"), "much", None, -1)]
    wrong += [{**good, "low": "x"}, {}, 7, "row"]
    for rows in (wrong, "rows", {"a": 1}, 7):
        made.world.fleet["status"]["corrections"] = copy.deepcopy(rows)
        made.calm()
        assert made.rows() == []
        assert made.engines() == pods
    many = [{**good, "tensorParallel": i + 1} for i in range(60)]
    made.world.fleet["status"]["corrections"] = many
    made.calm()
    assert len(made.rows()) == 40


def test_a_measured_profile_goes_before_what_was_learned(slow: Fleet) -> None:
    lines = ["model,gpu,tp,precision,prompt_tokens,output_tokens,batch,ttft_ms,tpot_ms"]
    lines += [
        f"Qwen/Qwen3-8B,H100-SXM5-80GB,{tp},bf16,800,200,{batch},150,{12 + batch / 20}"
        for tp in (1, 2, 4, 8)
        for batch in (1, 4, 16, 64, 256)
    ]
    slow.world.config_maps[("team-a", "speeds")] = {"t.csv": "\n".join(lines)}
    workload = {"requestsPerSecond": 60, "classes": CLASSES}
    reference = {"configMapKeyRef": {"name": "speeds", "key": "t.csv"}}
    slow.world.add(pool(workload=workload, profile=reference))
    slow.calm()
    assert slow.provenances() == {"profiled"}


def test_the_operators_series_tell_corrections_and_why_others_are_not(slow: Fleet) -> None:
    metrics = Metrics()
    slow.see(1.5)
    translation = slow.calm().translation
    metrics.translated(translation)
    value = metrics.registry.get_sample_value
    row = slow.rows()[0]
    labels = {name: str(row[name]) for name in ("model", "gpu", "precision", "engine")}
    labels["tensor_parallel"] = str(row["tensorParallel"])
    assert value("motley_learned_correction", labels) == 1.5
    ratio = value("motley_measured_over_modeled", {**labels, "what": "tpot"})
    assert ratio == pytest.approx(1.5)
    assert value("motley_learning_configurations", {"result": "Learned"}) == len(slow.rows())
    slow.see(1.5, up=(0.0,) * STEPS)
    metrics.translated(slow.calm().translation)
    assert value("motley_learned_correction", labels) == 1.5
    assert value("motley_measured_over_modeled", {**labels, "what": "tpot"}) is None
    assert value("motley_learning_configurations", {"result": "NotScraped"}) == len(slow.rows())
