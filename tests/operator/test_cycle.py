"""The loop: bursts become one cycle, errors become waits, nothing is lost and nothing spins."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from motley_operator import cycle as cycle_module
from motley_operator import pacing
from motley_operator.api import read
from motley_operator.cycle import Cycle
from motley_operator.domain.actions import (
    Action,
    ApplyObject,
    CreatePod,
    DeletePod,
    EmitEvent,
    Outcome,
    PatchStatus,
    TryPod,
)
from motley_operator.domain.facts import ClusterFacts, NodeFacts, ResourceFacts, Room
from motley_operator.domain.verdicts import Sort, Verdict
from motley_operator.errors import FactsIncomplete
from motley_operator.holding import complaints, hold
from motley_operator.memory import Tidying
from motley_operator.metrics import Metrics
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing.samples import job
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import CalledOff, SolverError

QUICK = Settings(idle_window_s=0.05, max_wait_s=0.3, resync_s=30.0)
CREATE = CreatePod({"kind": "Pod", "metadata": {"name": "p0", "namespace": "team-a"}})


class FakeWriter:
    """Carries out nothing and remembers everything."""

    def __init__(self, result: str = "done") -> None:
        self.applied: list[Action] = []
        self.result = result

    async def apply(self, actions: Iterable[Action]) -> tuple[Outcome, ...]:
        taken = tuple(actions)
        self.applied += taken
        return tuple(Outcome(action, self.result) for action in taken)


class Bench:
    """A cycle on frozen facts with a judgement of the test's choice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings = QUICK) -> None:
        self.facts = ClusterFacts(now=1000.0, nodes=(), pods=(), resources=())
        self.writer = FakeWriter()
        self.decided: list[float] = []
        self.verdicts: list[Mapping[Sort, Verdict]] = []
        self.due_at: float | None = None
        self.parsed: dict[str, object] = {}
        self.leads = True
        self.judge: Callable[[], tuple[Action, ...]] = lambda: ()
        monkeypatch.setattr(cycle_module, "decide", self._decide)
        self.metrics = Metrics()
        self.cycle = Cycle(
            self.gather,
            self.writer,
            RememberingPlanner(lambda snapshot, catalog: None),  # type: ignore[arg-type,return-value]
            Catalog({}),
            (settings, self.metrics),
            may_act=lambda: self.leads,
        )

    def gather(self) -> ClusterFacts:
        return self.facts

    def _decide(self, facts: ClusterFacts, *_: Any) -> Any:
        self.decided.append(time.monotonic())
        self.verdicts.append(dict(facts.verdicts or {}))
        plan = SimpleNamespace(
            solve_seconds=0.1, gap=0.0, price_usd_per_hour=1.0, gpus=8, gpus_used=4, kept=1,
            slices=(), status="optimal",
        )  # fmt: skip
        read = SimpleNamespace(
            snapshot=SimpleNamespace(services=(), demands=()),
            demands={},
            rejected={},
            unmet=(),
            learning=None,
            suspicions=SimpleNamespace(due_at=self.due_at),
            parsed=self.parsed,
        )
        return SimpleNamespace(
            actions=self.judge(), statuses=(), plan=plan, translation=read, replans=()
        )

    async def deciding(self, times: int, rest_s: float = 0.2) -> None:
        """Runs cycles until they have decided so often; and some seconds more, in which none does."""
        task = asyncio.create_task(self.cycle.run())
        async with asyncio.timeout(30.0):
            while len(self.decided) < times:
                await asyncio.sleep(0.01)
        await asyncio.sleep(rest_s)
        self.cycle.stop()
        async with asyncio.timeout(30.0):
            await task
        assert len(self.decided) == times or not rest_s

    async def looking_again(self) -> None:
        """Runs cycles until one decides without a wake-up, 0.2 s after the first: here no time passes."""
        await self.deciding(2, rest_s=0.0)
        assert self.decided[1] - self.decided[0] >= 0.15

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_a_burst_of_wake_ups_is_one_cycle(bench: Bench) -> None:
    await bench.cycle.once()
    task = asyncio.create_task(bench.deciding(2))
    for _ in range(500):
        bench.cycle.wake("Node")
    await task
    assert bench.count("motley_wakes_total", cause="Node") == 500


async def test_a_stream_without_a_pause_does_not_put_a_cycle_off_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, replace(QUICK, idle_window_s=60.0))  # a pause that never comes
    await bench.cycle.once()
    task, began = asyncio.create_task(bench.cycle.run()), time.monotonic()
    async with asyncio.timeout(30.0):
        while len(bench.decided) < 3:
            bench.cycle.wake("Pod")
            await asyncio.sleep(0.01)
    bench.cycle.stop()
    await task
    assert bench.decided[1] - began >= 0.25


async def test_nodes_that_go_by_the_dozen_are_one_cycle_however_slowly_they_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, replace(QUICK, idle_window_s=0.25))
    await bench.cycle.once()
    task = asyncio.create_task(bench.deciding(2, rest_s=1.0))
    for _ in range(60):  # 0.9 s, three times as long as the longest wait for a few
        bench.cycle.wake("Node")
        bench.cycle.wake("Node")
        await asyncio.sleep(0.015)
    await task  # which knows of no third


async def test_nothing_happens_without_a_wake_up_until_the_resync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "_REST_SHARE", 1.0)  # however long a decision takes here
    bench = Bench(monkeypatch, Settings(idle_window_s=0.02, resync_s=0.3))
    task = asyncio.create_task(bench.cycle.run())
    async with asyncio.timeout(30.0):
        while len(bench.decided) < 3:
            await asyncio.sleep(0.01)
    bench.cycle.stop()
    await task
    # At the start, and twice by the timer: never earlier, however busy the machine is.
    assert all(after - before >= 0.29 for before, after in pairwise(bench.decided))


async def test_a_cycle_woken_during_a_cycle_follows_it(bench: Bench) -> None:
    def judge() -> tuple[Action, ...]:
        if len(bench.decided) == 1:
            loop.call_soon_threadsafe(bench.cycle.wake, "Pod")
            time.sleep(0.05)
        return ()

    loop = asyncio.get_running_loop()
    bench.judge = judge
    await bench.deciding(2)


async def test_incomplete_facts_decide_nothing(bench: Bench) -> None:
    def gather() -> ClusterFacts:
        raise FactsIncomplete("nodes: not read yet")

    bench.cycle._gather = gather
    assert await bench.cycle.once() is None
    assert (bench.decided, bench.writer.applied) == ([], [])
    assert bench.count("motley_cycles_total", result="incomplete") == 1


async def test_a_solver_without_a_plan_keeps_what_runs_and_says_so_once(bench: Bench) -> None:
    def judge() -> tuple[Action, ...]:
        raise SolverError("time limit", 5.0, 10, 10)

    document = {"status": {"plan": {"hash": "abc"}, "conditions": [{"type": "Ready"}]}}
    pool = ResourceFacts("ServingPool", "team-a", "chat", "u", 3, False, {}, document)
    bench.facts = ClusterFacts(now=0.0, nodes=(), pods=(), resources=(pool,))
    bench.judge = judge
    assert await bench.cycle.once() is None
    patch, _ = bench.writer.applied
    assert isinstance(patch, PatchStatus)
    assert patch.status["plan"] == {"hash": "abc"}
    ready, stalled = patch.status["conditions"]
    assert (ready, stalled["type"], stalled["reason"]) == (
        {"type": "Ready"}, "Stalled", "SolverTimeLimit"
    )  # fmt: skip
    told = ResourceFacts(
        "ServingPool", "team-a", "chat", "u", 3, False, {}, {"status": patch.status}
    )
    held = ClusterFacts(now=9.0, nodes=(), pods=(), resources=(told,))
    assert hold(held, SolverError("time limit", 5.0, 10, 10)) == ()


async def test_a_bug_ends_the_cycle_and_not_the_operator(bench: Bench) -> None:
    def judge() -> tuple[Action, ...]:
        raise ZeroDivisionError

    bench.judge = judge
    assert await bench.cycle.once() is None
    assert bench.count("motley_errors_total", where="cycle") == 1
    bench.judge = lambda: ()
    assert await bench.cycle.once() is not None


async def test_a_standby_decides_once_for_practice_and_again_when_it_leads(bench: Bench) -> None:
    bench.leads, bench.judge = False, lambda: (CREATE,)
    facts, incomplete = bench.facts, FactsIncomplete("pods: not read yet")
    bench.cycle._gather = lambda: (_ for _ in ()).throw(incomplete)
    task = asyncio.create_task(bench.cycle.run())
    await asyncio.sleep(0.2)
    assert bench.decided == []
    bench.cycle._gather = lambda: facts
    for _ in range(5):  # as news come in
        bench.cycle.wake("Node")
        await asyncio.sleep(0.1)
    assert len(bench.decided) == 1
    assert bench.writer.applied == [] and bench.count("motley_cycles_total", result="done") == 0
    bench.leads, bench.judge = True, lambda: (CREATE,) if len(bench.decided) == 2 else ()
    bench.cycle.wake("Elected")
    async with asyncio.timeout(30.0):
        while len(bench.decided) < 3:  # what was done is looked at once more
            await asyncio.sleep(0.01)
    bench.cycle.stop()
    await task
    assert bench.writer.applied == [CREATE]


async def test_one_that_is_elected_while_it_practices_plans_at_once(bench: Bench) -> None:
    practicing, elected, stuck_s = threading.Event(), threading.Event(), list[float]()

    def judge() -> tuple[Action, ...]:
        if not practicing.is_set():
            practicing.set()
            assert elected.wait(30.0)
        return ()

    bench.leads, bench.judge = False, judge
    task = asyncio.create_task(bench.cycle.run())
    bench.cycle.wake("Node")
    await asyncio.to_thread(practicing.wait, 30.0)
    stuck_s.append(bench.cycle.stuck_for_s())
    bench.leads = True
    bench.cycle.wake("Elected")
    elected.set()
    async with asyncio.timeout(10.0):  # the next timer would ring in 30 s
        while len(bench.decided) < 2:
            await asyncio.sleep(0.01)
    bench.cycle.stop()
    await task
    assert stuck_s[0] > 0.0  # liveness tells a practice that hangs
    assert bench.count("motley_cycles_total", result="done") == 1


async def test_a_standby_outlives_a_bug_in_its_practice(bench: Bench) -> None:
    bench.leads, bench.judge = False, lambda: 1 / 0  # type: ignore[assignment,return-value]
    await bench.deciding(1)
    assert bench.writer.applied == []


async def test_one_that_leads_no_more_shows_no_plan(bench: Bench) -> None:
    await bench.deciding(1)
    assert bench.count("motley_plan_price_usd_per_hour") == 1.0
    bench.leads = False
    bench.cycle._stopping = False
    task = asyncio.create_task(bench.cycle.run())
    bench.cycle.wake("Node")
    async with asyncio.timeout(30.0):
        while bench.count("motley_plan_price_usd_per_hour"):
            await asyncio.sleep(0.01)
    bench.cycle.stop()
    await task
    assert bench.count("motley_cycles_total", result="done") == 1


async def test_failed_writes_are_tried_again_soon_and_not_at_once(bench: Bench) -> None:
    bench.writer.result = "failed"
    bench.judge = lambda: (CREATE,)
    await bench.deciding(2)
    first, second = bench.decided
    assert second - first >= 0.9


async def test_what_was_done_is_looked_at_once_more(bench: Bench) -> None:
    bench.judge = lambda: (CREATE,) if len(bench.decided) == 1 else ()
    await bench.deciding(2)


def test_a_refused_pod_is_told_to_its_owner_once_for_each_reason() -> None:
    owner = {"kind": "ServingPool", "name": "chat", "uid": "u", "controller": True}

    def refused(name: str, result: str = "failed") -> Outcome:
        metadata = {"name": name, "namespace": "team-a", "ownerReferences": [owner]}
        pod = CreatePod({"kind": "Pod", "metadata": metadata})
        return Outcome(pod, result, f'pods "{name}" is forbidden: exceeded quota')

    (event,) = complaints([refused("p0"), refused("p1"), refused("p2", "done")])
    assert isinstance(event, EmitEvent)
    assert (event.name, event.reason) == ("chat", "PodRefused")
    assert "exceeded quota" in event.message


async def test_what_the_server_said_of_a_pod_is_a_fact_of_the_next_cycle_which_comes_at_once(
    bench: Bench,
) -> None:
    bench.judge = lambda: (TryPod(CREATE.manifest),) if len(bench.decided) == 1 else ()
    await bench.deciding(2)
    assert bench.verdicts[0] == {}
    (verdict,) = bench.verdicts[1].values()
    assert verdict.refusal is None and verdict.until > time.time()


async def test_the_end_waits_for_the_cycle_that_runs(bench: Bench) -> None:
    def judge() -> tuple[Action, ...]:
        time.sleep(0.3)
        return (CREATE,)

    bench.judge = judge
    await bench.deciding(1, rest_s=0.0)
    assert bench.writer.applied == [CREATE]


async def test_the_seconds_of_a_cycle_and_of_its_steps_are_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step takes its own time here; the machine may add to it."""
    facts, apply = bench.facts, bench.writer.apply

    def gather() -> ClusterFacts:
        time.sleep(0.02)
        return facts

    def judge() -> tuple[Action, ...]:
        time.sleep(0.05)
        return (CREATE,)

    async def slowly(actions: Iterable[Action]) -> tuple[Outcome, ...]:
        taken = tuple(actions)
        await asyncio.sleep(0.1 * len(taken))
        return await apply(taken)

    bench.cycle._gather, bench.judge = gather, judge
    monkeypatch.setattr(bench.writer, "apply", slowly)
    began = time.monotonic()
    await bench.cycle.once()
    took_s = time.monotonic() - began
    steps = {"gather": 0.02, "decide": 0.05, "apply": 0.1}
    for step, least_s in steps.items():
        seconds = bench.count("motley_cycle_step_seconds_sum", step=step)
        assert least_s <= seconds < took_s - sum(steps.values()) + least_s + 1e-6, step
    assert sum(steps.values()) <= bench.count("motley_cycle_seconds_sum") <= took_s
    bench.judge = lambda: 1 / 0  # type: ignore[assignment,return-value]
    await bench.cycle.once()
    assert bench.count("motley_cycle_seconds_count") == 2
    assert bench.count("motley_cycle_step_seconds_count", step="apply") == 1


async def test_what_cycles_that_came_to_nothing_left_waiting_is_timed_to_its_answer(
    bench: Bench,
) -> None:
    def failing(error: Exception) -> Callable[[], tuple[Action, ...]]:
        def judge() -> tuple[Action, ...]:
            raise error

        return judge

    series = "motley_wake_to_done_seconds"
    began = time.monotonic()
    for error in (CalledOff(), ZeroDivisionError(), SolverError("time limit", 5.0, 10, 10)):
        bench.cycle.wake("Node")
        bench.judge = failing(error)
        await bench.cycle.once()
        await asyncio.sleep(0.05)
    assert bench.count(f"{series}_count") == 0
    bench.judge = lambda: ()
    await bench.cycle.once()
    took_s = time.monotonic() - began
    assert 0.15 <= bench.count(f"{series}_sum") <= took_s
    await bench.cycle.once()  # by the timer: nothing waits
    assert bench.count(f"{series}_count") == 1
    again = time.monotonic()
    bench.cycle.wake("Node")
    await bench.cycle.once()
    assert bench.count(f"{series}_count") == 2
    assert bench.count(f"{series}_sum") <= took_s + time.monotonic() - again


async def test_a_stuck_cycle_shows(bench: Bench) -> None:
    goes_on = threading.Event()
    bench.judge = lambda: goes_on.wait(30.0) and ()
    task = asyncio.create_task(bench.cycle.once())
    await asyncio.sleep(0.2)
    assert bench.cycle.stuck_for_s() >= 0.15
    goes_on.set()
    await task
    assert bench.cycle.stuck_for_s() == 0.0


async def test_a_node_whose_time_runs_out_is_looked_at_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, Settings(idle_window_s=0.02, node_loss_seconds=10.0))
    lost = NodeFacts(
        "n0", "u", {}, {}, (), False, False, 990.2, False, Room(8), "nvidia.com/gpu", None
    )
    bench.facts = ClusterFacts(now=1000.0, nodes=(lost,), pods=(), resources=())
    await bench.looking_again()


async def test_a_pod_whose_time_to_start_runs_out_is_looked_at_then(bench: Bench) -> None:
    bench.due_at = bench.facts.now + 0.2
    await bench.looking_again()


async def test_a_reading_wakes_only_where_it_says_something_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(cycle_module, "has_drifted", lambda translation, facts: told.pop())
    bench.cycle.measured()  # nothing was planned yet: whatever comes is read then
    await bench.cycle.once()
    told += [True, False]
    bench.cycle.measured()
    assert bench.count("motley_wakes_total", cause="Demand") == 0
    bench.cycle.measured()
    assert bench.count("motley_wakes_total", cause="Demand") == 1


def ended(at: str) -> dict[str, Any]:
    complete = {"type": "Complete", "status": "True", "reason": "R", "message": "m"}
    times = {"observedGeneration": 1, "lastTransitionTime": at}
    return {"completionTime": at, "conditions": [complete | times]}


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({"activeDeadlineSeconds": 300}, {"startTime": "1970-01-01T00:11:40Z"}),
        ({"ttlSecondsAfterFinished": 300}, ended("1970-01-01T00:11:40Z")),
    ],
)
async def test_a_job_whose_time_runs_out_is_looked_at_then(
    bench: Bench, spec: dict[str, Any], status: dict[str, Any]
) -> None:
    """300 s after 700 s is the time that it is, and a little."""
    document = job(**spec) | {"status": status}
    bench.facts = replace(bench.facts, now=999.8)
    bench.parsed["RLJob/team-a/math"] = read(document)[0]
    await bench.looking_again()


async def test_a_suspended_job_has_no_time_that_runs_out(bench: Bench) -> None:
    document = job(activeDeadlineSeconds=300, suspend=True)
    status = {"startTime": "1970-01-01T00:11:40Z"}
    bench.facts = replace(bench.facts, now=999.8)
    bench.parsed["RLJob/team-a/math"] = read(document | {"status": status})[0]
    await bench.deciding(1, rest_s=0.35)


async def test_a_plan_that_was_cut_short_is_looked_at_when_it_may_be_sought_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = property(lambda planner: bench.facts.now + 0.2 if len(bench.decided) < 2 else None)
    monkeypatch.setattr(RememberingPlanner, "again_at", due)
    await bench.deciding(2)


async def test_what_rests_on_a_status_waits_until_that_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pod that failed: its failure is counted there. Of a record: it is known by it as ours."""
    status = PatchStatus("ServingPool", "team-a", "chat", "uid", {})
    failed = DeletePod("team-a", "chat-0", "pod-1", "OutOfcpu")
    labels = {"app.kubernetes.io/component": "plan"}
    metadata = {"namespace": "team-a", "name": "chat-plan", "labels": labels}
    record = ApplyObject({"kind": "ConfigMap", "metadata": metadata})
    routing = ApplyObject({"kind": "ConfigMap", "metadata": {**metadata, "labels": {}}})
    other = DeletePod("team-b", "chat-0", "pod-2", "OutOfcpu")
    bench.judge = lambda: (failed, record, routing, other)
    decide = bench._decide
    answers = {PatchStatus: "conflict"}

    def with_status(*given: Any) -> Any:
        made = decide(*given)
        made.statuses = (status,)
        return made

    async def apply(actions: Iterable[Action]) -> tuple[Outcome, ...]:
        taken = tuple(actions)
        bench.writer.applied += taken
        return tuple(Outcome(a, answers.get(type(a), "done")) for a in taken)

    monkeypatch.setattr(cycle_module, "decide", with_status)
    monkeypatch.setattr(bench.writer, "apply", apply)
    await bench.cycle.once()
    assert bench.writer.applied == [status, routing, other]
    answers.clear()
    await bench.cycle.once()
    assert bench.writer.applied[3:] == [status, failed, record, routing, other]


def test_equal_snapshots_are_solved_once() -> None:
    solved: list[Snapshot] = []

    def solve(snapshot: Snapshot, catalog: Catalog) -> Any:
        solved.append(snapshot)
        return object()

    planner = RememberingPlanner(solve)
    first = planner(Snapshot(nodes=()), Catalog({}))
    assert planner(Snapshot(nodes=()), Catalog({})) is first
    assert planner(Snapshot(nodes=(), time_limit_s=9.0), Catalog({})) is not first
    assert len(solved) == planner.solves == 2


async def test_memory_is_given_back_after_each_cycle_and_after_one_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(Tidying, "after_cycle", lambda _: given.append(True))
    await bench.cycle.once()
    bench.gather = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    await bench.cycle.once()
    assert len(given) == 2
