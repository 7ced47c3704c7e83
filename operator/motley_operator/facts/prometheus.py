"""Reads Prometheus beside the cycle: a cycle takes the latest reading and never waits for one.

One reading at a time, in a thread, each query with a timeout. A reading that fails is a reading
too: it says so, and replaces the one before, whose figures are old news.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from motley_operator.api import Fleet, read
from motley_operator.api.measuring import PrometheusSpec
from motley_operator.domain.measurement import Reading
from motley_operator.facts.columns import column_queries, engine_steps
from motley_operator.facts.queries import STEPS, instant_queries, measurements, range_queries
from motley_operator.facts.store import Store
from motley_planner.domain.hardware import Catalog

_QUERY_S = 5.0  # the longest wait for one answer
_LOOK_S = 5.0  # how often it is looked whether anybody wants a reading
_MEASURED_KINDS = ("ServingPool", "ModelCascade")

logger = logging.getLogger(__name__)


class Measurer:
    """Keeps the latest reading of the Prometheus that the Fleet names."""

    def __init__(
        self, store: Store, catalog: Catalog, told: Callable[[Reading | None], None] | None = None
    ) -> None:
        """`told` hears of each reading, and of None once nothing is read any more."""
        self._store, self._catalog = store, catalog
        self._told = told or (lambda reading: None)
        self._stop = threading.Event()
        self.reading: Reading | None = None

    async def run(self) -> None:
        """Read while the Fleet names a Prometheus and wants something of it."""
        try:
            while True:
                began, before = time.monotonic(), self.reading
                source = self.source()
                if source is not None:
                    await self.once(source)
                elif before is not None and self.reading is None:
                    self._told(None)
                wait_s = source.interval.seconds if source is not None else _LOOK_S
                await asyncio.sleep(max(0.1, wait_s - (time.monotonic() - began)))
        finally:
            self._stop.set()  # a thread that still reads ends with its present query

    async def once(self, source: PrometheusSpec) -> None:
        """One reading."""
        self.reading = await asyncio.to_thread(read_prometheus, source, self._catalog, self._stop)
        self._told(self.reading)

    def source(self) -> PrometheusSpec | None:
        """What to read; None where nobody asks for demand, and nothing is to be learned."""
        documents = (d for d in self._store.documents("Fleet"))
        named = next((d for d in documents if d["metadata"]["name"] == "default"), None)
        fleet = read(named)[0] if named is not None else None
        source = fleet.spec.prometheus if isinstance(fleet, Fleet) else None
        asked = any(_asks(d) for kind in _MEASURED_KINDS for d in self._store.documents(kind))
        if not asked and (source is None or source.learn == "Off"):
            self.reading = None
            return None
        return source


def _asks(document: Mapping[str, Any]) -> bool:
    workload = (document.get("spec") or {}).get("workload") or {}
    return isinstance(workload, Mapping) and workload.get("demand") == "Measured"


def read_prometheus(source: PrometheusSpec, catalog: Catalog, stop: threading.Event) -> Reading:
    """One look at everything; what fails is told in the reading."""
    # Imported here: only who measures pays for it (18 MiB, 0.1 s).
    from prometheus_api_client import PrometheusConnect
    from prometheus_api_client.exceptions import PrometheusApiClientException
    from requests import RequestException
    from urllib3.util import Retry

    url, began = source.url.rstrip("/"), time.time()
    try:
        with PrometheusConnect(url=url, retry=Retry(total=0), timeout=_QUERY_S) as server:
            return _read(server, source, catalog, stop)
    except (RequestException, PrometheusApiClientException) as error:
        # The log has the server's words; a status, which tenants read, only what kind of failure.
        logger.warning("Prometheus cannot be read: %s", str(error)[:300])
        return Reading(began, error=f"Prometheus cannot be read ({type(error).__name__})")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        logger.warning("Prometheus's answer cannot be read: %r", error)
        return Reading(began, error="what answers is no Prometheus, or another version of it")


def _read(server: Any, source: PrometheusSpec, catalog: Catalog, stop: threading.Event) -> Reading:
    step_s = max(1, round(source.window.seconds / STEPS))
    # Its clock, not ours: the newest step must not lie in its future, nor in its past.
    end = int(float(server.custom_query("time()")[1]))
    times = [end - step_s * i for i in reversed(range(STEPS))]
    answers = {}
    queries = range_queries(catalog, step_s)
    if source.learn != "Off":
        queries |= column_queries(catalog, step_s)
    for name, query in queries.items():
        if stop.is_set():
            return Reading(time.time(), error="the operator ends")
        start, last = (datetime.fromtimestamp(at, UTC) for at in (times[0], times[-1]))
        answers[name] = server.custom_query_range(query, start, last, str(step_s))
    for name, query in instant_queries(catalog, step_s * STEPS).items():
        if stop.is_set():
            return Reading(time.time(), error="the operator ends")
        answers[name] = server.custom_query(query, params={"time": str(end)})
    columns = engine_steps(answers, times)
    return Reading(time.time(), float(step_s), measurements(answers, times), columns=columns)
