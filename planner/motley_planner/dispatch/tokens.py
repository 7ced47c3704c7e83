"""Earliest finish, held to the planned rates: the default way to pick a replica.

Each lane has a bucket. Every arrival of the class issues one token, split over the buckets in
proportion to the planned rates, and the replica that takes the request pays one. So tokens are
clocked by arrivals, not by seconds: the shares hold at half the planned load and at twice it. Among
lanes with a token the one that would finish first wins: work in flight there plus this request,
both in seconds of that replica. If that winner is busy and a lane with an empty bucket is idle and
would finish earlier, the idle one borrows, down to `borrow_limit` tokens of debt.

Why long-run shares equal planned rates: the credits of a class sum to zero and none falls below
-max(borrow_limit, 1), so with n replicas none exceeds (n - 1) * max(borrow_limit, 1); after N
requests a replica's count differs from N * share by no more than that, whatever N is.

O(log n) a request. A lane is in one of three bands: barred, may borrow, funded. It rises when as
many tokens are issued as its bucket waits for, so the lanes wait in a heap by that number. Funded
ones stand in a heap by finish. An entry whose lane has got more work since is put back at its new
place when it comes up; one whose lane has got less, or has paid, is left behind as a dead one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from motley_planner.dispatch.lanes import Lane
from motley_planner.dispatch.pickers import Picker

BARRED, MAY_BORROW, FUNDED = 0, 1, 2
Entry = tuple[float, float, int]  # finish, due, index


class EarliestFinish(Picker):
    """Tokens and three bands of lanes."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        borrow_limit: float,
        random: Callable[[], float] | None = None,
    ) -> None:
        """Debts are forgiven; `random` spreads the order of the first requests."""
        super().__init__(lanes)
        self._borrow_limit = borrow_limit
        self._issued = 0
        self._funded: list[Entry] = []
        self._idle: list[tuple[float, int]] = []
        self._waiting: list[tuple[float, int]] = []
        _share_out(lanes, random)
        for lane in lanes:
            lane.taken, lane.is_listed_idle = 0, False
            lane.account(borrow_limit)
            self._file(lane)

    def next(self, excluded: Collection[str] = ()) -> Lane | None:
        """Issues one token and picks; among excluded ones the richest bucket if none is funded."""
        self._issued += 1
        self._advance()
        if excluded:
            return self._next_of(lane for lane in self.lanes if lane.replica.name not in excluded)
        best = self._first_funded()
        if best is None:  # rounding has left every bucket a hair below zero
            return self._next_of(self.lanes)
        if not best.load.in_flight:
            return best
        idle = self._first_idle()
        if idle is not None and idle.service_s < best.load.work_s + best.service_s:
            return idle
        return best

    def pay(self, lane: Lane) -> None:
        """Takes one token out of the lane's bucket."""
        lane.taken += 1
        lane.account(self._borrow_limit)
        self._file(lane)

    def may_prefer(self, lane: Lane) -> bool:
        """Whether the lane has a token, or may borrow one."""
        return lane.band != BARRED

    def _file(self, lane: Lane) -> None:
        """Puts a lane into the band that the next arrival will find it in."""
        coming = self._issued + 1
        if coming > lane.due:
            lane.band = FUNDED
            heappush(self._funded, (lane.load.work_s + lane.service_s, lane.due, lane.index))
            return
        if coming >= lane.may_borrow_from:
            lane.band = MAY_BORROW
            if lane.due != float("inf"):
                heappush(self._waiting, (lane.due, lane.index))
            self._list_idle(lane)
            return
        lane.band = BARRED
        threshold = min(lane.due, lane.may_borrow_from)
        if threshold != float("inf"):
            heappush(self._waiting, (threshold, lane.index))

    def _list_idle(self, lane: Lane) -> None:
        if not lane.is_listed_idle and not lane.load.in_flight:
            lane.is_listed_idle = True
            heappush(self._idle, (lane.service_s, lane.index))

    def _advance(self) -> None:
        """Lifts lanes whose bucket has filled, and notes where work has ended."""
        issued, waiting, lanes = self._issued, self._waiting, self.lanes
        while waiting and waiting[0][0] < issued:
            threshold, index = heappop(waiting)
            lane = lanes[index]
            if lane.band == FUNDED or threshold > lane.due:
                continue
            if issued > lane.due:
                lane.band = FUNDED
                finish = lane.load.work_s + lane.service_s
                heappush(self._funded, (finish, lane.due, index))
            elif lane.band == BARRED and threshold == lane.may_borrow_from:
                lane.band = MAY_BORROW
                heappush(waiting, (lane.due, index))
                self._list_idle(lane)
        for lane in self.dirty:
            lane.dirty = False
            if lane.band == FUNDED:
                finish = lane.load.work_s + lane.service_s
                heappush(self._funded, (finish, lane.due, lane.index))
            elif lane.band == MAY_BORROW:
                self._list_idle(lane)
        self.dirty.clear()
        if len(self._funded) > 4 * len(lanes) + 64:
            self._compact()

    def _compact(self) -> None:
        self._funded = [
            (lane.load.work_s + lane.service_s, lane.due, lane.index)
            for lane in self.lanes
            if lane.band == FUNDED
        ]
        heapify(self._funded)

    def _first_funded(self) -> Lane | None:
        heap, lanes = self._funded, self.lanes
        while heap:
            finish, due, index = heap[0]
            lane = lanes[index]
            now = lane.load.work_s + lane.service_s
            if lane.band != FUNDED or due != lane.due or finish > now:
                heappop(heap)
            elif finish < now:
                heapreplace(heap, (now, due, index))
            else:
                return lane
        return None

    def _first_idle(self) -> Lane | None:
        heap, lanes = self._idle, self.lanes
        while heap:
            lane = lanes[heap[0][1]]
            if lane.band == MAY_BORROW and not lane.load.in_flight:
                return lane
            heappop(heap)
            lane.is_listed_idle = False
        return None

    def _next_of(self, lanes: Iterable[Lane]) -> Lane | None:
        best: Lane | None = None
        best_finish, richest = float("inf"), None
        for lane in lanes:
            finish = lane.load.work_s + lane.service_s
            if self._issued > lane.due and finish < best_finish:
                best, best_finish = lane, finish
            if richest is None or _credit(lane, self._issued) > _credit(richest, self._issued):
                richest = lane
        return best or richest


def _credit(lane: Lane, issued: int) -> float:
    return lane.offset + lane.share * issued - lane.taken


def _share_out(lanes: Sequence[Lane], random: Callable[[], float] | None) -> None:
    """Shares over the lanes in use: planned rates, or capacities where none is planned.

    Random offsets, below one token and summing to zero, give a random order of the first requests.
    """
    planned = any(lane.rate > 0 for lane in lanes)
    weights = [lane.rate if planned else 1.0 / lane.service_s for lane in lanes]
    total = sum(weights)
    for lane, weight in zip(lanes, weights, strict=True):
        lane.share, lane.offset = weight / total, 0.0
    if random is not None and len(lanes) > 1:
        offsets = [random() * lane.share for lane in lanes]
        excess = sum(offsets)
        for lane, offset in zip(lanes, offsets, strict=True):
            lane.offset = offset - excess * lane.share
