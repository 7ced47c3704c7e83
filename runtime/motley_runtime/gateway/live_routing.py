"""The routing table in force: the last good one, replaced as a whole."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import orjson

from motley_planner.dispatch import (
    Affinity,
    Dispatcher,
    RoutingError,
    RoutingTable,
    only,
    parse_routing,
)
from motley_runtime.gateway.last_good import LastGood
from motley_runtime.gateway.metrics import Metrics

log = logging.getLogger("motley.gateway")


class LiveRouting:
    """Holds the dispatcher new requests start on.

    A request keeps the dispatcher it started on, so a swap disturbs nobody; what is in flight on
    a replica is handed from table to table by the replica's name. Plans overlap until the last
    request of the older one has ended.
    """

    def __init__(
        self,
        metrics: Metrics,
        uniform: Callable[[], float] | None = random.random,
        affinity: Affinity | None = None,
        trust_zones: frozenset[str] | None = None,
        last_good: LastGood | None = None,
        check: Callable[[RoutingTable], None] | None = None,
    ) -> None:
        """`check` refuses tables that this gateway cannot run, by a RoutingError."""
        self._metrics, self._uniform, self._affinity = metrics, uniform, affinity
        self._trust_zones, self._last_good = trust_zones, last_good
        self._check = check
        self._raw: bytes | None = None
        self.current: Dispatcher | None = None
        self.problem: str | None = "no routing has been read yet"
        self.at_work: dict[str, int] = {}

    def restore(self) -> None:
        """Starts on the last good table of an earlier run, where one was kept."""
        raw = self._last_good.read() if self._last_good is not None else None
        if raw is not None and self.offer(raw):
            self.problem = "running on the last good routing of an earlier run"

    def offer(self, raw: bytes) -> bool:
        """Puts a routing document in force, or refuses it and keeps the last good one."""
        if raw == self._raw:
            self.problem = None
            return True
        try:
            table = self._trusted(parse_routing(orjson.loads(raw)))
            if self._check is not None:
                self._check(table)
        except (orjson.JSONDecodeError, RoutingError) as error:
            self.refuse(str(error))
            return False
        self.current = Dispatcher(
            table, previous=self.current, random=self._uniform, affinity=self._affinity
        )
        self._raw, self.problem = raw, None
        self._metrics.plan_in_force(table.plan_hash)
        if self._last_good is not None:
            self._last_good.write(raw)
        log.info(
            "routing in force",
            extra={"fields": {"plan": table.plan_hash, "stages": [s.name for s in table.stages]}},
        )
        return True

    def refuse(self, reason: str) -> None:
        """Notes that a routing document could not be used; the last good one stays."""
        self.problem = reason
        self._metrics.routing_refused.inc()
        kept = self.current.table.plan_hash if self.current else None
        log.error("routing refused", extra={"fields": {"reason": reason, "kept_plan": kept}})

    @contextmanager
    def working(self, dispatcher: Dispatcher) -> Iterator[None]:
        """Counts a request to its plan while it is at work."""
        plan = dispatcher.table.plan_hash
        self.at_work[plan] = self.at_work.get(plan, 0) + 1
        try:
            yield
        finally:
            self.at_work[plan] -= 1
            if not self.at_work[plan]:
                del self.at_work[plan]

    def _trusted(self, table: RoutingTable) -> RoutingTable:
        zones = self._trust_zones
        if zones is None:
            return table
        stages = (only(stage, zones.__contains__) for stage in table.stages)
        return replace(table, stages=tuple(stages))
