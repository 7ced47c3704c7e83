"""The composition root: makes the parts, ties them together, runs them, ends them in order."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from motley_operator.apply import Applier
from motley_operator.connection import Client, Credentials, load_credentials, own_namespace
from motley_operator.cycle import Cycle
from motley_operator.domain.actions import CycleReport
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.measurement import Reading
from motley_operator.errors import OperatorError
from motley_operator.facts import Measurer, Store, gather
from motley_operator.handlers import build_registry, run_kopf
from motley_operator.health import Health
from motley_operator.images import moved_catalog
from motley_operator.leadership import Leadership
from motley_operator.memory import settle_in
from motley_operator.metrics import Metrics
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_planner import planning
from motley_planner.catalog import load_catalog
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot

_LAST_CYCLE_S = 20.0  # how long a cycle may go on once the end was asked for
_ONCE_S = 120.0

logger = logging.getLogger(__name__)


def plan_with(snapshot: Snapshot, catalog: Catalog) -> Plan:
    """The planner as the cycle calls it."""
    return planning.plan(snapshot, catalog=catalog)


class Operator:
    """One operator process against one cluster."""

    def __init__(self, settings: Settings, client: Client, metrics: Metrics) -> None:
        self.settings = settings
        self.store = Store(client, settings, self._wake)
        self.planner = RememberingPlanner(plan_with, self._planned_before)
        self.leadership = _leadership(settings, client, self.planner.planned_inputs)
        may_act = self.leadership.may_write if self.leadership else lambda: True
        left_s = self.leadership.left_s if self.leadership else lambda: math.inf
        self.applier = Applier(client, self.store, settings, may_act, left_s)
        catalog = moved_catalog(load_catalog(), settings.image_registry)
        self.metrics = metrics
        self.measurer = Measurer(self.store, catalog, self._read)
        self.cycle = Cycle(
            gather=self._gather,
            writer=self.applier,
            planner=self.planner,
            catalog=catalog,
            context=(settings, metrics),
            may_act=may_act,
        )

    def _gather(self) -> ClusterFacts:
        return gather(self.store, reading=self.measurer.reading)

    def _read(self, reading: Reading | None) -> None:
        self.metrics.read_prometheus(reading)
        if reading is not None:
            self.cycle.measured()

    def _planned_before(self) -> str:
        return self.leadership.note() if self.leadership else ""

    def _lacks(self) -> list[str]:
        """What keeps this operator from planning, or from taking over, in sentences."""
        lease = self.leadership.problem() if self.leadership else ""
        return self.store.problems() + ([lease] if lease else [])

    def _wake(self, cause: str) -> None:
        self.cycle.wake(cause)

    async def serve(self, login: Callable[[], Credentials], stop: asyncio.Event) -> None:
        """Run until `stop`; the cycle that runs then is finished first.

        Raises: OperatorError if a part ends that should not.
        """
        ending = threading.Event()
        tasks = {
            asyncio.create_task(self.store.run(), name="store"),
            cycling := asyncio.create_task(self.cycle.run(), name="cycle"),
            asyncio.create_task(self._watch(login, ending), name="kopf"),
            asyncio.create_task(self.measurer.run(), name="measurer"),
            asyncio.create_task(stop.wait(), name="stop"),
        }
        electing: asyncio.Task[None] | None = None
        if self.leadership:
            elected = partial(self._wake, "Elected")
            electing = asyncio.create_task(self.leadership.run(elected), name="leadership")
            tasks.add(electing)
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        logger.info("ending: %s", ", ".join(sorted(task.get_name() for task in done)))
        self.cycle.stop()
        ending.set()
        await asyncio.wait({cycling}, timeout=_LAST_CYCLE_S)
        if self.leadership and electing:
            electing.cancel()
            await asyncio.gather(electing, return_exceptions=True)
            await self.leadership.release()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if task.get_name() != "stop":
                error = task.exception() if not task.cancelled() else None
                raise OperatorError(f"{task.get_name()} ended: {error or 'no reason'}") from error

    async def _watch(self, login: Callable[[], Credentials], ending: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        health = Health(self.cycle, self._lacks, loop)
        registry = build_registry(self.cycle, self.store, login, loop, health)
        ended: asyncio.Future[None] = loop.create_future()

        def body() -> None:
            try:
                run_kopf(registry, self.settings, ending)
            except Exception as error:  # noqa: BLE001 - handed to the loop, which raises it
                _settle(loop, ended, error)
            else:
                _settle(loop, ended, None)

        # A daemon: should kopf not end, the process does all the same.
        threading.Thread(target=body, name="kopf", daemon=True).start()
        await ended

    async def once(self) -> CycleReport:
        """One cycle on a whole view.

        Raises: OperatorError if the view does not become whole, or the cycle decided nothing.
        """
        following = asyncio.create_task(self.store.run(), name="store")
        try:
            async with asyncio.timeout(_ONCE_S):
                while self.store.problems():
                    await asyncio.sleep(0.05)
                if (source := self.measurer.source()) is not None:
                    await self.measurer.once(source)
            report = await self.cycle.once()
        except TimeoutError as error:
            raise OperatorError("; ".join(self.store.problems())) from error
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if report is None:
            raise OperatorError("the cycle came to no decision; the log says why")
        return report


def _leadership(settings: Settings, client: Client, note: Callable[[], str]) -> Leadership | None:
    """This process' part in the election, if there is one."""
    if not settings.leader_election or settings.once:
        return None
    namespace, _, name = settings.lease.rpartition("/")
    place = (namespace or own_namespace(), name)
    # A pod's name is its host name; the rest tells two processes on one machine apart.
    identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
    return Leadership(client, place, identity, note=note)


def _settle(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], error: Exception | None
) -> None:
    """Complete a future of a loop from another thread, unless nobody waits any more."""

    def complete() -> None:
        if future.done():
            return
        if error:
            future.set_exception(error)
        else:
            future.set_result(None)

    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(complete)


async def serve(settings: Settings, stop: asyncio.Event | None = None) -> CycleReport | None:
    """Run the operator until it is told to end; with `once`, one cycle and its report.

    Raises: OperatorError where the cluster cannot be reached as these settings say.
    """
    settle_in()
    login = partial(load_credentials, settings.kubeconfig, settings.context)
    metrics = Metrics()
    metrics.serve(settings.metrics_port if not settings.once else 0)
    async with Client(login, metrics.called) as client:
        operator = Operator(settings, client, metrics)
        if settings.once:
            return await operator.once()
        stop = stop or asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await operator.serve(login, stop)
    return None
