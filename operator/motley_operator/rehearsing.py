"""A decision of which nothing is carried out, so that whoever takes over need not begin with its slowest.

What a first decision loads and keeps (libraries, the solver's process, resources' columns and manifests) takes
it seconds on a large fleet, and a standby has the time. It is made once, with hardly any time for the search.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from motley_operator.domain.facts import ClusterFacts
from motley_operator.errors import FactsIncomplete
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_planner.domain.hardware import Catalog

SEARCH_S = 0.2  # an election may come at any moment, and waits for the end

logger = logging.getLogger(__name__)

Decide = Callable[[ClusterFacts, Catalog, Settings, RememberingPlanner], Any]


class Rehearsal:
    """The one that an operator makes in its life."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._settings = replace(settings, time_limit_s=SEARCH_S, first_time_limit_s=SEARCH_S)
        self._is_due = True

    async def once(
        self, gather: Callable[[], ClusterFacts], decide: Decide, planner: RememberingPlanner
    ) -> None:
        """Decide, as soon as there are facts to decide on; raises nothing. `planner` is for this alone."""
        if not self._is_due:
            return
        try:
            facts = gather()
        except FactsIncomplete:
            return
        self._is_due = False
        try:
            await asyncio.to_thread(decide, facts, self._catalog, self._settings, planner)
        except Exception:  # the leader says it, too
            logger.warning("standing by, a decision could not be rehearsed", exc_info=True)
