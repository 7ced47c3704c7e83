"""Earliest finish among admissible replicas, held to the planned rates.

Theory of operation. Each (stage, class, replica) has a bucket. Every arrival of the class issues
one token, split over the buckets in proportion to the planned rates, and the replica that takes
the request pays one. So tokens are clocked by arrivals, not by seconds: the shares hold at
half the planned load and at twice it. Among replicas with a token the one that would finish
first wins: work in flight there plus this request, both in seconds of that replica.
If that winner is busy and a replica with an empty bucket is idle and would finish earlier,
the idle one borrows, down to `borrow_limit` tokens of debt.

Why long-run shares equal planned rates: the credits of a class sum to zero and none falls below
-max(borrow_limit, 1), so with n replicas none exceeds (n - 1) * max(borrow_limit, 1); after N
requests a replica's count differs from N * share by no more than that, whatever N is.

A replica that fails is left out for a while (doubling with each failure in a row). When the
set of replicas in use changes, shares are taken over those that are left and debts are forgiven.
If all of them have failed, all are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from motley_planner.dispatch.policies import PolicyMixer
from motley_planner.dispatch.routing import Policy, Replica, RoutingTable, Stage

_PHASES = 64  # distinct starting points of the policy sequence among gateways


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """Borrowing in requests, circuit breaking in seconds."""

    borrow_limit: float = 4.0
    failure_pause_s: float = 1.0
    failure_pause_max_s: float = 30.0


class ReplicaLoad:
    """What is in flight on one replica, over all classes and across routing tables."""

    __slots__ = ("failing_until_s", "failures", "in_flight", "work_s")

    def __init__(self) -> None:
        self.in_flight = 0
        self.work_s = 0.0
        self.failures = 0
        self.failing_until_s = float("-inf")


class _Lane:
    """One replica as one class sees it."""

    __slots__ = ("credit", "load", "rate", "replica", "service_s", "share")

    def __init__(self, replica: Replica, class_name: str, load: ReplicaLoad) -> None:
        self.replica, self.load = replica, load
        self.rate = replica.rates.get(class_name, 0.0)
        self.service_s = 1.0 / replica.capacity[class_name]
        self.share = 0.0
        self.credit = 0.0


class _Lanes:
    """All admissible replicas of one stage for one class, and which of them are in use."""

    __slots__ = ("every", "members", "open")

    def __init__(self, every: tuple[_Lane, ...]) -> None:
        self.every = every
        self.members = -1
        self.open: Sequence[_Lane] = ()


class Ticket:
    """One request on one replica, from `choose` until `finish` or `fail`."""

    __slots__ = ("_load", "_open", "_service_s", "replica")

    def __init__(self, lane: _Lane) -> None:
        self.replica = lane.replica
        self._load, self._service_s = lane.load, lane.service_s
        self._open = True
        self._load.in_flight += 1
        self._load.work_s += lane.service_s

    def release(self) -> bool:
        """Takes the request off its replica's load; False where that was done before."""
        if not self._open:
            return False
        self._open = False
        load = self._load
        load.in_flight -= 1
        load.work_s = load.work_s - self._service_s if load.in_flight else 0.0
        return True


class Dispatcher:
    """Runs one routing table. Not thread-safe: one owner, one event loop."""

    def __init__(
        self,
        table: RoutingTable,
        options: DispatchOptions | None = None,
        previous: Dispatcher | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        """A dispatcher for `table`; `previous` hands over what is in flight on each replica.

        `random` (uniform on [0, 1)) shifts the starting point of buckets and mixture, so that
        several gateways of one plan do not all begin with the same replica.
        """
        self.table = table
        self._options = options or DispatchOptions()
        self._random = random
        known = previous._loads if previous is not None else {}
        self._loads: dict[tuple[str, str], ReplicaLoad] = {
            (stage.name, replica.name): known.get((stage.name, replica.name)) or ReplicaLoad()
            for stage in table.stages
            for replica in stage.replicas
        }
        self._lanes = {
            (stage.name, each.name): self._lanes_of(stage, each.name)
            for stage in table.stages
            for each in table.classes
        }
        self._mixers = {
            each.name: PolicyMixer(table.policies, int(random() * _PHASES) if random else 0)
            for each in table.classes
        }

    def _lanes_of(self, stage: Stage, class_name: str) -> _Lanes:
        return _Lanes(
            tuple(
                _Lane(replica, class_name, self._loads[stage.name, replica.name])
                for replica in stage.replicas
                if class_name in replica.capacity
            )
        )

    def draw_policy(self, class_name: str) -> Policy | None:
        """The policy of the next request of a class, in exactly the plan's proportions."""
        return self._mixers[class_name].draw()

    def is_admissible(self, stage_name: str, class_name: str) -> bool:
        """Whether any replica of the stage serves the class at all."""
        return bool(self._lanes[stage_name, class_name].every)

    def failing(self, stage_name: str, now_s: float) -> int:
        """How many replicas of a stage are left out at the moment."""
        return sum(
            load.failing_until_s > now_s
            for (stage, _), load in self._loads.items()
            if stage == stage_name
        )

    def choose(
        self, stage_name: str, class_name: str, now_s: float, excluded: Collection[str] = ()
    ) -> Ticket | None:
        """The replica for one request of a class; None where none is left.

        `excluded` names replicas already tried for this request.
        """
        lanes = self._open_lanes(self._lanes[stage_name, class_name], now_s)
        if excluded:
            lanes = [lane for lane in lanes if lane.replica.name not in excluded]
        if not lanes:
            return None
        _issue_token(lanes)
        lane = self._pick(lanes)
        lane.credit -= 1.0
        return Ticket(lane)

    def finish(self, ticket: Ticket) -> None:
        """The replica answered: its failures are forgotten."""
        if ticket.release():
            ticket._load.failures = 0

    def cancel(self, ticket: Ticket) -> None:
        """The request ended without telling anything about the replica."""
        ticket.release()

    def fail(self, ticket: Ticket, now_s: float) -> None:
        """The replica did not answer: it is left out for a while."""
        if not ticket.release():
            return
        load, options = ticket._load, self._options
        pause = options.failure_pause_s * 2.0 ** min(load.failures, 30)
        load.failures += 1
        load.failing_until_s = now_s + min(pause, options.failure_pause_max_s)

    def _open_lanes(self, lanes: _Lanes, now_s: float) -> Sequence[_Lane]:
        members, bit = 0, 1
        for lane in lanes.every:
            if lane.load.failing_until_s <= now_s:
                members |= bit
            bit <<= 1
        if members == lanes.members:
            return lanes.open
        lanes.members = members
        lanes.open = [lane for i, lane in enumerate(lanes.every) if members >> i & 1] or lanes.every
        self._reset(lanes.open)
        return lanes.open

    def _reset(self, lanes: Sequence[_Lane]) -> None:
        """Shares over the lanes in use: planned rates, or capacities where none is planned."""
        planned = any(lane.rate > 0 for lane in lanes)
        weights = [lane.rate if planned else 1.0 / lane.service_s for lane in lanes]
        total = sum(weights)
        for lane, weight in zip(lanes, weights, strict=True):
            lane.share, lane.credit = weight / total, 0.0
        if self._random is not None and len(lanes) > 1:
            # A random order of the first requests: offsets below one token that sum to zero.
            offsets = [self._random() * lane.share for lane in lanes]
            excess = sum(offsets)
            for lane, offset in zip(lanes, offsets, strict=True):
                lane.credit = offset - excess * lane.share

    def _pick(self, lanes: Sequence[_Lane]) -> _Lane:
        funded: _Lane | None = None
        idle: _Lane | None = None
        funded_finish = idle_finish = float("inf")
        floor = 1.0 - self._options.borrow_limit
        for lane in lanes:
            finish = lane.load.work_s + lane.service_s
            if lane.credit > 0.0:
                if finish < funded_finish or (
                    finish == funded_finish and funded is not None and lane.credit > funded.credit
                ):
                    funded, funded_finish = lane, finish
            elif not lane.load.in_flight and finish < idle_finish and lane.credit >= floor:
                idle, idle_finish = lane, finish
        if funded is None:  # only after a retry has left the richest buckets out
            return max(lanes, key=lambda lane: lane.credit)
        if idle is not None and funded.load.in_flight and idle_finish < funded_finish:
            return idle
        return funded


def _issue_token(lanes: Sequence[_Lane]) -> None:
    total = 0.0
    for lane in lanes:
        total += lane.share
    for lane in lanes:
        lane.credit += lane.share / total if total > 0 else 1.0 / len(lanes)
