"""What arrives while a plan is being sought, and whether it waits for another one.

The plan is sought in a thread of its own, and the store belongs to the event loop, so the facts are gathered
there. They are gathered only after a wake-up, and no more often than leaves most of the
time to the search: where thousands of nodes make facts that take a second to read, every few seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from motley_operator.domain.facts import ClusterFacts
from motley_operator.errors import FactsIncomplete

REST = 4.0  # x what a look took, before the next


class News:
    """Looks at what came since it was made; made on the event loop, asked from another thread."""

    def __init__(
        self,
        wakes: Callable[[], int],
        gather: Callable[[], ClusterFacts],
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """`wakes` counts wake-ups; once the operator is `ending` nothing new is wanted any more."""
        self._wakes, self._gather, self._ending = wakes, gather, ending
        self._loop = asyncio.get_running_loop()
        self._seen, self._next_at = wakes(), 0.0

    def outdates(self, judge: Callable[[ClusterFacts], bool]) -> bool:
        """Whether the judge says so of the facts of now; False while nothing new has come."""
        if self._ending():
            return True
        began, wakes = time.monotonic(), self._wakes()
        if wakes == self._seen or began < self._next_at:
            return False
        self._seen = wakes
        try:
            facts = asyncio.run_coroutine_threadsafe(self._gathered(), self._loop).result()
        except FactsIncomplete:
            return False  # the next cycle could decide nothing either
        found = judge(facts)
        now = time.monotonic()
        self._next_at = now + REST * (now - began)
        return found

    async def _gathered(self) -> ClusterFacts:
        return self._gather()
