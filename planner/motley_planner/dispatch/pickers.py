"""Ways to pick a replica for a class: the choices that do not need the plan's rates.

A picker holds the replicas of one stage that are in use for one class. `next` picks one, `pay`
books it. Work that ended on a replica is told by putting its lane on `dirty`; work that began is
found out when the lane comes up, for it only makes a replica less attractive.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from motley_planner.dispatch.lanes import Lane


class Picker:
    """Picks in turn: `roundRobin`. O(1)."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self.dirty: list[Lane] = []
        self._turn = 0
        for index, lane in enumerate(lanes):
            lane.index, lane.picker, lane.dirty = index, self, False

    def close(self) -> None:
        """Lets the lanes go, before another picker takes them."""
        for lane in self.lanes:
            lane.picker, lane.dirty = None, False

    def next(self, excluded: Collection[str] = ()) -> Lane | None:
        """The replica for one more request; None where all are excluded."""
        self.forget_dirty()
        for _ in self.lanes:
            lane = self.lanes[self._turn]
            self._turn = (self._turn + 1) % len(self.lanes)
            if lane.replica.name not in excluded:
                return lane
        return None

    def pay(self, lane: Lane) -> None:
        """Books one request on a lane, after `next`."""

    def may_prefer(self, lane: Lane) -> bool:
        """Whether a request may go to a lane of somebody else's choice instead."""
        return True

    def forget_dirty(self) -> None:
        """Empties `dirty` where nothing depends on it."""
        for lane in self.dirty:
            lane.dirty = False
        self.dirty.clear()


class LeastLoaded(Picker):
    """Fewest requests in flight; among equals the one that was idle longest. O(log n)."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        super().__init__(lanes)
        self._clock = 0
        self._heap = [(lane.load.in_flight, 0, lane.index) for lane in lanes]
        heapify(self._heap)

    def next(self, excluded: Collection[str] = ()) -> Lane | None:
        """The least loaded lane."""
        self._refresh()
        if excluded:
            left = [lane for lane in self.lanes if lane.replica.name not in excluded]
            return min(left, key=lambda lane: lane.load.in_flight, default=None)
        heap = self._heap
        while True:
            count, used, index = heap[0]
            lane = self.lanes[index]
            if used != lane.taken or count > lane.load.in_flight:
                heappop(heap)  # another entry stands for the lane
            elif count < lane.load.in_flight:
                heapreplace(heap, (lane.load.in_flight, used, index))
            else:
                return lane

    def pay(self, lane: Lane) -> None:
        """Puts the lane behind its equals. `taken` holds when it was used."""
        self._clock += 1
        lane.taken = self._clock
        heappush(self._heap, (lane.load.in_flight, lane.taken, lane.index))

    def _refresh(self) -> None:
        for lane in self.dirty:
            lane.dirty = False
            heappush(self._heap, (lane.load.in_flight, lane.taken, lane.index))
        self.dirty.clear()
        if len(self._heap) > 4 * len(self.lanes) + 64:
            self._heap = [(lane.load.in_flight, lane.taken, lane.index) for lane in self.lanes]
            heapify(self._heap)


class HexGen(Picker):
    """alpha x T_best / T_e - (1 - alpha) x W_e / W_max, the largest wins. O(n).

    T_e: seconds of the request on replica e; W_e: outstanding work there, in seconds of e. The
    authors' code never takes finished work off W; this is the rule of their paper.
    Source: HexGen-Text2SQL, arXiv 2505.05286.
    """

    def __init__(self, lanes: Sequence[Lane], alpha: float) -> None:
        super().__init__(lanes)
        self._alpha = alpha
        self._best_s = min((lane.service_s for lane in lanes), default=0.0)

    def next(self, excluded: Collection[str] = ()) -> Lane | None:
        """The lane with the best balance of suitability and load."""
        self.forget_dirty()
        most = max((lane.load.work_s for lane in self.lanes), default=0.0)
        balance = (1.0 - self._alpha) / most if most > 0.0 else 0.0
        fit, best, best_score = self._alpha * self._best_s, None, float("-inf")
        for lane in self.lanes:
            score = fit / lane.service_s - balance * lane.load.work_s
            if score > best_score and (not excluded or lane.replica.name not in excluded):
                best, best_score = lane, score
        return best
