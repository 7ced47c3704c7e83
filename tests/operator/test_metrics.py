from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from prometheus_client import generate_latest

from motley_operator.apply import DONE, FAILED
from motley_operator.decision import Decision
from motley_operator.domain.actions import CreatePod, CycleReport, Outcome
from motley_operator.metrics import Metrics
from motley_operator.remembering import RememberingPlanner
from motley_operator.telling import tell
from motley_operator.testing import job, plan_of, pool, replica, slice_of
from motley_operator.testing.operated import Operated, load, solve
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot


def count(metrics: Metrics) -> float:
    """Plans that were counted."""
    for line in generate_latest(metrics.registry).decode().splitlines():
        if line.startswith("motley_solve_seconds_count "):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_a_plan_that_is_held_is_counted_once() -> None:
    metrics = Metrics()
    plan = plan_of(slice_of("ServingPool/team-a/chat", [replica()]))
    for _ in range(3):
        metrics.planned(plan)
    assert count(metrics) == 1.0
    metrics.planned(plan_of(slice_of("ServingPool/team-a/chat", [replica()])))
    assert count(metrics) == 2.0


def test_a_longer_search_that_is_due_is_shown() -> None:
    metrics = Metrics()
    for again_at, shown in ((None, "0.0"), (5.5, "5.5"), (None, "0.0")):
        metrics.searching(again_at)
        text = generate_latest(metrics.registry).decode()
        assert f"\nmotley_plan_search_due_timestamp_seconds {shown}\n" in text


def desired(metrics: Metrics) -> dict[tuple[str, str], float]:
    """motley_desired_replicas by resource and stage."""
    return {
        (sample.labels["name"], sample.labels["stage"]): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "motley_desired_replicas"
    }


def test_a_stage_that_gets_no_replicas_wants_zero_and_is_not_absent() -> None:
    operated = Operated(nodes=1)
    nowhere = {"nodeSelector": {"there-is": "none"}}
    operated.world.add(pool())
    operated.world.add(pool("nowhere", placement=nowhere))
    operated.world.add(job("train", placement=nowhere))
    metrics = Metrics()
    decision = operated.cycle()
    tell(metrics, CycleReport("id", 0.0, 0.0, 0.0, 0.0, ()), decision, {}, "FirstPlan")
    found = desired(metrics)
    assert found.pop(("chat", "main")) > 0
    assert found == {("nowhere", "main"): 0, ("train", "rollout"): 0, ("train", "trainer"): 0}


def gauges(metrics: Metrics) -> list[tuple[str, dict[str, str], float]]:
    """Every sample of every gauge."""
    return [
        (sample.name, sample.labels, sample.value)
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if metric.type == "gauge"
    ]


def test_one_that_leads_no_more_shows_no_plan_and_the_same_plan_again_once_it_leads() -> None:
    operated, metrics = Operated(nodes=1), Metrics()
    operated.world.fleet = {"metadata": {"name": "default"}, "spec": {"replan": {"mode": "Never"}}}
    operated.world.add(pool())
    decision = operated.cycle()
    report = CycleReport("id", 0.0, 0.0, 0.0, 0.0, ())
    tell(metrics, report, decision, {}, "FirstPlan")
    metrics.searching(99.0)
    shown = desired(metrics)
    assert shown[("chat", "main")] > 0
    metrics.stood_down()
    assert [each for each in gauges(metrics) if not each[0].endswith("_created")] == gauges(
        Metrics()
    )
    assert count(metrics) == 1.0
    tell(metrics, report, decision, {}, "Elected")
    assert desired(metrics) == shown


def test_what_is_wrong_with_the_fleet_is_shown_by_reason_until_it_is_mended() -> None:
    operated, metrics = Operated(nodes=1), Metrics()
    price = {"dollarsPerHour": "1"}
    unknown = {"prices": {"gpus": [{"gpu": "abacus", **price}, {"gpu": "slide-rule", **price}]}}
    broken = {"replan": {"mode": "Never"}}

    def shown(**spec: Any) -> tuple[float, bool]:
        """All refusals of a Fleet that says this, and whether its condition names one of their reasons."""
        head = {"apiVersion": "motley.dev/v1alpha1", "kind": "Fleet"}
        metadata = {"name": "default", "generation": 1}
        operated.world.fleet = {**head, "metadata": metadata, "spec": spec}
        report = CycleReport("id", 0.0, 0.0, 0.0, 0.0, ())
        tell(metrics, report, operated.cycle(), {}, "FirstPlan")
        found = {
            labels["reason"]: value
            for name, labels, value in gauges(metrics)
            if name == "motley_fleet_refusals"
        }
        rows = {c["type"]: c for c in operated.world.fleet["status"]["conditions"]}
        return sum(found.values()), rows["Accepted"]["reason"] in found

    assert shown() == (0.0, False)
    assert shown(**unknown) == (2.0, True)
    assert shown(**broken) == (1.0, True)
    assert shown() == (0.0, False)


NODE_GAP = 1 / 64


def solve_loosely(snapshot: Snapshot, catalog: Catalog) -> Plan:
    """A plan whose gap changes with the nodes, and is not what a series has that nobody sets."""
    return replace(solve(snapshot, catalog), gap=NODE_GAP * len(snapshot.nodes))


class Told(Operated):
    """Tells metrics of each cycle, and notes what may be seen of it on pods and statuses."""

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes)
        self.metrics = Metrics()
        self.planner = RememberingPlanner(solve_loosely)
        self.world.fleet = {"metadata": {"name": "default"}, "spec": {}}
        self.moved: Counter[str] = Counter()
        self.replanned: Counter[tuple[str, str]] = Counter()
        self.plan: Plan | None = None
        self.ran: frozenset[str] = frozenset()  # replicas, when the last plan was made

    def running(self) -> frozenset[str]:
        """Replicas that nobody has asked to end, by UID: each is one pod here."""
        return frozenset(pod.uid for pod in self.world.engine_pods() if not pod.deleting)

    def cycle(self) -> Decision:
        ran, before = self.running(), self._pods()
        last = {key: self.status(key).get("lastReplan") for key in self.world.documents}
        decision = super().cycle()
        if decision.plan is not self.plan:
            self.plan, self.ran = decision.plan, ran
        after = self._pods()
        self.moved["CreatePod"] += len(after.keys() - before.keys())
        self.moved["DeletePod"] += sum(
            ends and not before.get(uid, False) for uid, ends in after.items()
        )
        for key, was in last.items():
            now = self.status(key).get("lastReplan")
            if now not in (None, was):
                self.replanned[now["tier"], now["reason"]] += 1
        outcomes = [Outcome(action, DONE) for action in (*decision.statuses, *decision.actions)]
        outcomes.append(Outcome(CreatePod({"kind": "Pod"}), FAILED))  # of this nothing is seen
        report = CycleReport("id", 0.0, 0.0, 0.0, 0.0, tuple(outcomes))
        tell(self.metrics, report, decision, {}, str(self.planner.why))
        return decision

    def _pods(self) -> dict[str, bool]:
        """Whether each pod is on its way out, by UID."""
        return {pod.uid: pod.deleting for pod in self.world.pods.values()}

    def refused(self) -> Counter[str]:
        """Reasons for which resources say that they are not accepted, or not planned."""
        found: Counter[str] = Counter()
        for key in self.world.documents:
            for kind in ("Accepted", "Planned"):
                status, reason = self.condition(key, kind)
                if status == "False":
                    found[reason] += 1
                    break
        return found

    def shown(self, name: str, *labels: str) -> Counter[Any]:
        """A series' values by its labels; what is 0 is left out."""
        samples = (s for metric in self.metrics.registry.collect() for s in metric.samples)
        return Counter(
            {
                tuple(sample.labels[label] for label in labels)
                if len(labels) > 1
                else "".join(sample.labels[label] for label in labels): int(sample.value)
                for sample in samples
                if sample.name == name and sample.value
            }
        )

    def assert_told(self) -> None:
        """The series say what pods and statuses say."""
        assert self.shown("motley_moved_pods_total", "action") == +self.moved
        assert self.shown("motley_replans_total", "tier", "reason") == self.replanned
        assert self.shown("motley_shortfalls", "reason") == self.refused()
        kept = self.metrics.registry.get_sample_value("motley_plan_kept_replicas")
        assert kept == len(self.ran & self.running())
        assert self.world.fleet is not None
        gap = self.metrics.registry.get_sample_value("motley_plan_gap")
        assert gap == self.world.fleet["status"]["gap"] == NODE_GAP * len(self.world.nodes)


def test_the_series_of_plans_say_what_pods_and_statuses_show() -> None:
    told = Told(nodes=3)
    key = told.world.add(pool(workload=load("60")))
    told.world.add(pool("nowhere", placement={"nodeSelector": {"there-is": "none"}}))
    told.world.add(pool("unknown", model={"id": "nobody/knows-it"}))
    told.run()
    told.assert_told()
    assert len(told.running()) > 1 and told.refused().total() == 2

    told.world.lose_node(told.nodes(key)[0])
    told.run()
    told.assert_told()
    assert told.ran & told.running()

    told.edit(key, workload=load("6000"))
    told.run()
    told.assert_told()
    assert told.refused().total() == 3

    told.edit(key, workload=load("2"))
    told.run()
    told.assert_told()
    assert told.moved["DeletePod"] and len(told.replanned) > 1

    told.edit("ServingPool/team-a/unknown", model={"id": "Qwen/Qwen3-8B"}, workload=load("1"))
    told.run()
    told.assert_told()
    assert told.refused().total() == 1
