"""The fleet cycle: gather, decide, report, apply, once for each burst of wake-ups.

Everyone wakes (watches, kopf's handlers, the timer); only this loop decides, and only one cycle
runs at a time. A cycle starts after `idle_window_s` of quiet, at the latest `max_wait_s` after the first
wake-up, so that 500 lost nodes are one plan. All that a cycle must remember is on objects; the last
good plan is what runs: a cycle that cannot decide does nothing, and so keeps it.

This is the only place where errors become waits:

    FactsIncomplete    no decision; the store wakes us once it has the rest
    CalledOff          a longer search gave way to what woke us: the next cycle, at once
    PlannerError       keep everything as it is, say so on the resources, try again later
    anything else      log, count, try again later; the process lives on
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from motley_operator import lifecycle
from motley_operator.api import RLJob
from motley_operator.apply import CONFLICT, DONE, FAILED
from motley_operator.contests import Contests
from motley_operator.decision import Decision, decide
from motley_operator.domain.actions import (
    Action,
    CycleReport,
    Outcome,
)
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.translation import Translation
from motley_operator.errors import FactsIncomplete
from motley_operator.holding import complaints, hold, remembered
from motley_operator.logs import cycle_id
from motley_operator.memory import Tidying
from motley_operator.metrics import Metrics
from motley_operator.news import News
from motley_operator.pacing import Laps, Pace
from motley_operator.policies import Reason
from motley_operator.refusals import Refusals
from motley_operator.rehearsing import Rehearsal
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_operator.telling import tell
from motley_operator.translate import has_drifted
from motley_planner.domain.hardware import Catalog
from motley_planner.errors import CalledOff, PlannerError

_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """Carries out actions: the applier, or a fake in tests."""

    async def apply(self, actions: Iterable[Action]) -> tuple[Outcome, ...]:
        """What became of each action."""


class Cycle:
    """The loop and its wake-up bell."""

    def __init__(
        self,
        gather: Callable[[], ClusterFacts],
        writer: Writer,
        planner: RememberingPlanner,
        catalog: Catalog,
        context: tuple[Settings, Metrics],
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_act = may_act
        self._gather, self._writer = gather, writer
        self._planner, self._catalog = planner, catalog
        self.settings, self.metrics = context
        self._bell = asyncio.Event()
        self._woken_at: float | None = None
        self._unanswered_at: float | None = None  # of what cycles that came to nothing left waiting
        self._causes: Counter[str] = Counter()
        self._wakes = 0
        self._failures = 0
        self._next_at: float = 0.0  # monotonic; when to run without being woken
        self._started_at: float | None = None
        self._pace, self._tidying = Pace(self.settings), Tidying()
        self._rehearsal = Rehearsal(catalog, self.settings)
        self._contests = Contests(lambda kind: self.metrics.takes.labels(kind).inc())
        self._refusals = Refusals()
        self._stopping = False
        self._translated: Translation | None = None  # of the last decision

    def wake(self, cause: str) -> None:
        """Mark the fleet dirty; cheap, and safe to call from any callback on the loop."""
        self._causes[cause] += 1
        self._wakes += 1
        self.metrics.wakes.labels(cause).inc()
        if self._woken_at is None:
            self._woken_at = time.monotonic()
        self._bell.set()

    def measured(self) -> None:
        """There is a new reading of demand: wake up if it says something else than was planned for.

        A reading comes every few seconds, and on a large fleet a cycle that nothing calls for costs one.
        """
        if self._translated is None or self._started_at is not None:
            return
        try:
            drifted = has_drifted(self._translated, self._gather())
        except FactsIncomplete:
            return
        if drifted:
            self.wake("Demand")

    def stop(self) -> None:
        """End after the cycle that runs now."""
        self._stopping = True
        self._bell.set()

    def stuck_for_s(self) -> float:
        """Seconds that the running cycle has taken; 0 between cycles."""
        return time.monotonic() - self._started_at if self._started_at is not None else 0.0

    async def run(self) -> None:
        """Cycle until stopped."""
        while not self._stopping:
            await self._quiet()
            if not self._stopping and self._may_act():
                await self.once()
            elif not self._stopping:
                await self._rehearse()
                if not self._may_act():  # elected in the middle of it, the wake-up of that counts
                    self._stand_by()

    async def _quiet(self) -> None:
        """Wait for a wake-up or the timer, then until the burst is over."""
        with_timer = max(0.0, self._next_at - time.monotonic())
        await _rings(self._bell, with_timer)
        if self._woken_at is None:
            return
        while not self._stopping:
            self._bell.clear()
            latest = self._woken_at + self._pace.wait_s(self._causes["Node"])
            left_s = latest - time.monotonic()
            if left_s <= 0 or not await _rings(self._bell, min(self._pace.idle_s, left_s)):
                return

    async def _rehearse(self) -> None:
        """Standing by, decide once for practice; liveness looks at that as at a cycle."""
        self._started_at = time.monotonic()
        try:
            await self._rehearsal.once(self._gather, decide, self._planner.twin())
        finally:
            self._started_at = None

    def _stand_by(self) -> None:
        """Another operator leads: nothing is decided for good, and what was is forgotten.

        Whoever is elected plans from what runs, as after a restart.
        """
        self._planner.forget()
        self.metrics.stood_down()
        self._translated = None
        self._causes.clear()
        self._woken_at = self._unanswered_at = None
        self._bell.clear()
        self._next_at = time.monotonic() + self.settings.resync_s

    async def once(self) -> CycleReport | None:
        """One cycle; None where nothing could be decided."""
        token = cycle_id.set(uuid.uuid4().hex[:8])
        causes = dict(self._causes)
        waits_since = self._woken_at if self._unanswered_at is None else self._unanswered_at
        self._causes.clear()
        self._woken_at = None
        self._bell.clear()
        self._started_at = time.monotonic()
        result, report_ = "error", None
        try:
            report_ = await self._steps(causes)
            result = "done"
            self._after(report_)
        except FactsIncomplete as error:
            result = "incomplete"
            self._next_at = time.monotonic() + _RETRY_S[2]
            logger.info("waiting for facts: %s", error)
        except CalledOff:
            result = "called_off"
            logger.info("a longer search gave way to news")
        except PlannerError as error:
            self._retry_later("plan")
            logger.error("no new plan, keeping what runs: %s", error)
            await self._say_held(error)
        except Exception:
            # The last line of defense: one wrong object must not end the operator.
            self._retry_later("cycle")
            logger.exception("the cycle failed")
        finally:
            now = time.monotonic()
            self.metrics.cycles.labels(result).inc()
            self.metrics.cycle_seconds.observe(now - self._started_at)
            self._unanswered_at = None if result == "done" else waits_since
            if waits_since is not None and result == "done":
                self.metrics.delay_seconds.observe(now - waits_since)
            self._started_at = None
            cycle_id.reset(token)
            self._tidying.after_cycle()
        return report_

    async def _steps(self, causes: dict[str, int]) -> CycleReport:
        started_at, clock = time.time(), Laps()
        # 1. Gather: one frozen value, or FactsIncomplete.
        facts = self._refusals.told(self._gather())
        gather_s = clock.lap()
        # 2. Decide, off the event loop; the solver inside is a process of its own.
        news = News(lambda: self._wakes, self._gather, lambda: self._stopping)
        decision = await asyncio.to_thread(
            decide, facts, self._catalog, self.settings, self._planner, news.outdates
        )
        plan_s = clock.lap()
        self._translated = decision.translation
        # 3. Report the plan before acting on it: people see what is about to happen, and why.
        outcomes = await self._writer.apply(decision.statuses)
        # 4. Act, and say what the server refused.
        due = remembered(decision.actions, outcomes)
        acted = await self._writer.apply(self._contests.damped(due, facts))
        self._contests.learn(acted, facts)
        self._refusals.learn(acted, time.time())
        refused = await self._writer.apply(complaints(acted))
        outcomes += acted + refused
        apply_s = clock.lap()
        for step, seconds in (("gather", gather_s), ("decide", plan_s), ("apply", apply_s)):
            self.metrics.step_seconds.labels(step).observe(seconds)
        done = CycleReport(cycle_id.get(), started_at, gather_s, plan_s, apply_s, outcomes)
        tell(self.metrics, done, decision, causes, self._planner.why)
        self.metrics.searching(self._planner.again_at)
        if self._planner.why != Reason.CUT_SHORT:  # a longer search says nothing of the others
            self._pace.decided(plan_s)
        self._next_at = time.monotonic() + self._wait_s(facts, decision)
        if any(outcome.result == DONE for outcome in acted):
            # What was done is in the store already and will wake nobody: look at it once more.
            self.wake("Acted")
        return done

    def _after(self, done: CycleReport) -> None:
        """Failed writes are tried again by a cycle of their own; conflicts at once."""
        results = Counter(outcome.result for outcome in done.outcomes)
        if results[FAILED]:
            self._retry_later("apply")
        elif results[CONFLICT]:
            self._next_at = time.monotonic() + self.settings.idle_window_s
        else:
            self._failures = 0

    def _retry_later(self, where: str) -> None:
        self.metrics.errors.labels(where).inc()
        pause_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self._next_at = time.monotonic() + pause_s

    def _wait_s(self, facts: ClusterFacts, decision: Decision) -> float:
        """Seconds to the next cycle if nothing happens: the resync, or somebody's time running out."""
        loss_s = self.settings.node_loss_seconds
        due = [
            node.not_ready_since + loss_s - facts.now
            for node in facts.nodes
            if node.not_ready_since is not None
        ]
        due_at = decision.translation.suspicions.due_at
        again_at, save_at = self._planner.again_at, self._planner.save_at
        jobs = [each for each in decision.translation.parsed.values() if isinstance(each, RLJob)]
        ends = [*map(lifecycle.due_at, jobs), *self._contests.due_at(facts.now)]
        ends += self._refusals.due_at(facts.now)
        due += [at - facts.now for at in (due_at, again_at, save_at, *ends) if at is not None]
        return min([self._pace.rest_s, *(s for s in due if s > 0)])

    async def _say_held(self, error: PlannerError) -> None:
        try:
            await self._writer.apply(hold(self._gather(), error))
        except FactsIncomplete:
            logger.info("the view was lost before resources could be told")


async def _rings(bell: asyncio.Event, within_s: float) -> bool:
    """True if the bell rings in time."""
    try:
        async with asyncio.timeout(within_s):
            return await bell.wait()
    except TimeoutError:
        return False
