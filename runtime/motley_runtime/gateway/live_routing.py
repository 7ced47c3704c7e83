"""The routing table in force: the last good one, replaced as a whole."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import orjson

from motley_planner.dispatch import Dispatcher, RoutingError, parse_routing
from motley_runtime.gateway.metrics import Metrics

log = logging.getLogger("motley.gateway")


class LiveRouting:
    """Holds the dispatcher new requests start on.

    A request keeps the dispatcher it started on, so a swap disturbs nobody; what is in flight on
    a replica is handed from table to table by the replica's name.
    """

    def __init__(
        self, metrics: Metrics, uniform: Callable[[], float] | None = random.random
    ) -> None:
        self._metrics = metrics
        self._uniform = uniform
        self._raw: bytes | None = None
        self.current: Dispatcher | None = None
        self.problem: str | None = "no routing has been read yet"

    def offer(self, raw: bytes) -> bool:
        """Puts a routing document in force, or refuses it and keeps the last good one."""
        if raw == self._raw and self.problem is None:
            return True
        try:
            table = parse_routing(orjson.loads(raw))
        except (orjson.JSONDecodeError, RoutingError) as error:
            self.refuse(str(error))
            return False
        self.current = Dispatcher(table, previous=self.current, random=self._uniform)
        self._raw, self.problem = raw, None
        self._metrics.plan_in_force(table.plan_hash)
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
