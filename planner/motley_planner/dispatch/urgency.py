"""Which of a replica's waiting requests goes next: the one with the least slack.

U_i(t) = T_i - (due_i - t), the largest first, where T_i are the seconds that the request will take
here and due_i is when its step has to be done. All urgencies grow alike with t, so the order is that
of due_i - T_i and a heap keeps it; nothing is looked at anew as time goes by.

A request starts while the KV tokens that it will need fit into the replica's credit. The most urgent
one waits for its room and is not overtaken by smaller ones, which would starve it; on an empty
replica it starts whatever its size.

Source: HexGen-Text2SQL, arXiv 2505.05286, local urgency queue.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")


def latest_start_s(due_s: float, service_s: float) -> float:
    """When a request has to start to be in time: the order of urgency."""
    return due_s - service_s


class CreditQueue(Generic[T]):
    """One replica's waiting requests and the KV tokens that those at work hold."""

    __slots__ = ("_arrivals", "_heap", "_held", "_waiting", "credit", "used")

    def __init__(self, credit: float = float("inf")) -> None:
        """`credit`: KV tokens that may be at work."""
        self.credit, self.used = credit, 0.0
        self._heap: list[tuple[float, int, float, T]] = []
        self._held: dict[int, float] = {}
        self._waiting: dict[int, T] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def offer(self, item: T, key: float, tokens: float = 0.0) -> int:
        """Puts a request in line, smaller keys first; its number."""
        self._arrivals += 1
        self._waiting[self._arrivals] = item
        heappush(self._heap, (key, self._arrivals, tokens, item))
        return self._arrivals

    def take(self, tokens: float) -> int | None:
        """A request that starts at once: its number, at work; None where it has to wait its turn."""
        if self._waiting or (self._held and self.used + tokens > self.credit):
            return None
        self._arrivals += 1
        self._held[self._arrivals] = tokens
        self.used += tokens
        return self._arrivals

    def start(self) -> tuple[int, T] | None:
        """The next request, at work from now on; None where none waits or its tokens do not fit."""
        heap = self._heap
        while heap and heap[0][1] not in self._waiting:
            heappop(heap)  # withdrawn
        if not heap:
            return None
        _, number, tokens, item = heap[0]
        if self._held and self.used + tokens > self.credit:
            return None
        heappop(heap)
        del self._waiting[number]
        self._held[number] = tokens
        self.used += tokens
        return number, item

    def end(self, number: int) -> None:
        """A request is over, be it at work or waiting; its tokens are free. Idempotent."""
        self._waiting.pop(number, None)
        tokens = self._held.pop(number, None)
        if tokens is not None:
            self.used = self.used - tokens if self._held else 0.0
