"""The composition root: makes the parts, ties them together, runs them, ends them in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import kopf

from motley_operator.apply import Applier
from motley_operator.connection import Client, Credentials, load_credentials
from motley_operator.cycle import Cycle
from motley_operator.decision import RememberingPlanner
from motley_operator.domain.actions import CycleReport
from motley_operator.errors import OperatorError
from motley_operator.facts import Store, gather
from motley_operator.handlers import build_registry
from motley_operator.metrics import Metrics
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
        self.applier = Applier(client, self.store, settings)
        self.cycle = Cycle(
            gather=partial(gather, self.store),
            writer=self.applier,
            planner=RememberingPlanner(plan_with),
            catalog=load_catalog(),
            context=(settings, metrics),
        )

    def _wake(self, cause: str) -> None:
        self.cycle.wake(cause)

    async def serve(self, login: Callable[[], Credentials], stop: asyncio.Event) -> None:
        """Run until a signal or `stop`; the cycle that runs then is finished first."""
        following = asyncio.create_task(self.store.run(), name="store")
        cycling = asyncio.create_task(self.cycle.run(), name="cycle")
        watching = asyncio.create_task(self._watch(login, stop), name="kopf")
        tasks = {following, cycling, watching}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        logger.info("ending: %s", ", ".join(sorted(task.get_name() for task in done)))
        self.cycle.stop()
        stop.set()
        await asyncio.wait({cycling}, timeout=_LAST_CYCLE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if not task.cancelled() and task.exception():
                raise OperatorError(f"{task.get_name()}: {task.exception()}") from task.exception()

    async def _watch(self, login: Callable[[], Credentials], stop: asyncio.Event) -> None:
        health = f"http://0.0.0.0:{self.settings.health_port}/healthz"
        await kopf.operator(
            registry=build_registry(self.cycle, self.store, login),
            clusterwide=self.settings.clusterwide,
            namespaces=self.settings.namespaces,
            standalone=True,
            stop_flag=stop,
            liveness_endpoint=health if self.settings.health_port else None,
        )

    async def once(self) -> CycleReport:
        """One cycle on a whole view.

        Raises: OperatorError if the view does not become whole, or the cycle decided nothing.
        """
        following = asyncio.create_task(self.store.run(), name="store")
        try:
            async with asyncio.timeout(_ONCE_S):
                while self.store.problems():
                    await asyncio.sleep(0.05)
            report = await self.cycle.once()
        except TimeoutError as error:
            raise OperatorError("; ".join(self.store.problems())) from error
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if report is None:
            raise OperatorError("the cycle came to no decision; the log says why")
        return report


async def serve(settings: Settings, stop: asyncio.Event | None = None) -> CycleReport | None:
    """Run the operator until it is told to end; with `once`, one cycle and its report.

    Raises: OperatorError where the cluster cannot be reached as these settings say.
    """
    login = partial(load_credentials, settings.kubeconfig, settings.context)
    metrics = Metrics()
    metrics.serve(settings.metrics_port if not settings.once else 0)
    async with Client(login, metrics.called) as client:
        operator = Operator(settings, client, metrics)
        if settings.once:
            return await operator.once()
        await operator.serve(login, stop or asyncio.Event())
    return None
