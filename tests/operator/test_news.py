"""What arrives while a longer search goes on: it gives way to what waits for it, and to nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from motley_operator.cycle import Cycle
from motley_operator.domain.actions import Action, Outcome
from motley_operator.domain.facts import ClusterFacts
from motley_operator.errors import FactsIncomplete
from motley_operator.metrics import Metrics
from motley_operator.news import News
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.testing.operated import CATALOG, solve
from motley_operator.testing.samples import gpu_node, pool
from motley_operator.testing.world import World
from motley_planner.calling_off import go_on
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Level

SEARCH_S = 20.0
SOON_S = 4.0  # a small part of the search; a cycle of this fleet takes a fraction of a second
QUICK = Settings(idle_window_s=0.02, max_wait_s=0.1, time_limit_s=1.0, first_time_limit_s=1.0)
FACTS = ClusterFacts(now=0.0, nodes=(), pods=(), resources=())


class Live:
    """A cycle that runs against a world; each plan looks cut short, and a try at more takes long."""

    def __init__(self) -> None:
        self.world, self.metrics = World(), Metrics()
        for i in range(3):
            self.world.add_node(gpu_node(f"h{i}", gpus=2))
        self.key = self.world.add(pool("chat"))
        self.planner = RememberingPlanner(self.search)
        self.searching = False
        self.cycle = Cycle(self.world.facts, self, self.planner, CATALOG, (QUICK, self.metrics))

    async def apply(self, actions: Iterable[Action]) -> tuple[Outcome, ...]:
        taken = tuple(actions)
        self.world.apply(taken)
        self.world.settle()
        return tuple(Outcome(action, "done") for action in taken)

    def search(self, snapshot: Snapshot, catalog: Catalog) -> Plan:
        until = time.monotonic() + SEARCH_S
        try:
            while self.planner.why == "CutShort" and time.monotonic() < until:
                self.searching = True
                go_on()
                time.sleep(0.02)
        finally:
            self.searching = False
        levels = (Level("price", 10.0, 5.0, 1.0),)
        made = solve(snapshot, catalog)
        return replace(made, status="feasible", cut_short=True, levels=levels)

    def called_off(self) -> float:
        labels = {"result": "called_off"}
        return self.metrics.registry.get_sample_value("motley_cycles_total", labels) or 0.0

    @asynccontextmanager
    async def in_the_middle_of_a_try(self) -> AsyncIterator[asyncio.Task[None]]:
        running = asyncio.create_task(self.cycle.run())
        self.cycle.wake("Start")
        await within(60.0, lambda: self.planner.again_at is not None and bool(self.pods()))
        self.world.now += 1000.0
        self.cycle.wake("Time")
        await within(60.0, lambda: self.searching)
        yield running
        self.cycle.stop()
        await asyncio.wait_for(running, SOON_S)

    def pods(self) -> list[str]:
        return sorted(pod.node or "" for pod in self.world.engine_pods(self.key))


async def within(seconds: float, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_node_that_is_lost_during_a_try_is_planned_around_at_once() -> None:
    live = Live()
    async with live.in_the_middle_of_a_try():
        (node, *_), count = live.pods(), len(live.pods())
        live.world.lose_node(node)
        live.cycle.wake("Node")
        await within(SOON_S, lambda: len(live.pods()) == count and node not in live.pods())
        assert live.called_off() == 1
        assert live.planner.why != "CutShort"


async def test_a_wake_up_that_needs_no_plan_lets_the_search_go_on() -> None:
    live = Live()
    async with live.in_the_middle_of_a_try():
        for _ in range(5):
            live.cycle.wake("Pod")
            await asyncio.sleep(0.1)
        assert live.searching
        assert live.called_off() == 0


async def test_the_end_of_the_operator_waits_for_no_search() -> None:
    live = Live()
    async with live.in_the_middle_of_a_try() as running:
        live.cycle.stop()
        await asyncio.wait_for(running, SOON_S)
        assert live.called_off() == 1


@pytest.mark.parametrize("news", [True, False])
async def test_facts_are_gathered_only_after_a_wake_up(news: bool) -> None:
    wakes, gathered = [0], []
    made = News(lambda: wakes[0], lambda: gathered.append(1) or FACTS)
    assert await asyncio.to_thread(made.outdates, lambda facts: True) is False
    assert not gathered
    wakes[0] += 3
    assert await asyncio.to_thread(made.outdates, lambda facts: news) is news
    assert len(gathered) == 1
    assert await asyncio.to_thread(made.outdates, lambda facts: True) is False  # seen


async def test_a_look_that_takes_long_is_rare_and_what_comes_between_is_seen() -> None:
    wakes, looks = [0], []

    def judge(facts: ClusterFacts) -> bool:
        time.sleep(0.05)
        looks.append(1)
        return False

    made = News(lambda: wakes[0], lambda: FACTS)

    def ask() -> None:
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            wakes[0] += 1
            made.outdates(judge)
            time.sleep(0.005)

    await asyncio.to_thread(ask)
    assert 1 <= len(looks) <= 3  # 0.05 s of each 0.25 s at most
    async with asyncio.timeout(30.0):
        while not await asyncio.to_thread(made.outdates, lambda facts: True):
            await asyncio.sleep(0.01)


async def test_facts_that_are_not_whole_are_no_news() -> None:
    def gather() -> ClusterFacts:
        raise FactsIncomplete("nodes: not read yet")

    wakes = [0]
    made = News(lambda: wakes[0], gather)
    wakes[0] += 1
    assert await asyncio.to_thread(made.outdates, lambda facts: True) is False
