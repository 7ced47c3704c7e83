"""What a dispatcher knows of a replica: work in flight, and the replica as one class sees it."""

from __future__ import annotations

from typing import Protocol

from motley_planner.dispatch.routing import Replica


class Told(Protocol):
    """Who has to look at lanes anew once work on them has ended: a picker."""

    dirty: list[Lane]


class Health:
    """Counts the failures of a stage, so that who remembers its replicas knows when to look anew."""

    __slots__ = ("failures",)

    def __init__(self) -> None:
        self.failures = 0


class ReplicaLoad:
    """What is in flight on one replica, over all classes and across routing tables.

    `lanes` are those of the newest table. A dispatcher of an older one, which only ends what it
    began, is not told when work ends and then overrates it.
    """

    __slots__ = (
        "failing_until_s",
        "failures",
        "health",
        "in_flight",
        "is_open",
        "lanes",
        "work_s",
    )

    def __init__(self, health: Health) -> None:
        self.in_flight = 0
        self.work_s = 0.0
        self.failures = 0
        self.failing_until_s = float("-inf")
        self.is_open = False  # the circuit, from a failure until a request has been answered
        self.health = health
        self.lanes: list[Lane] = []


class Lane:
    """One replica as one class sees it: its service time, its share and its bucket.

    The bucket holds share x tokens issued + offset - taken. It is not stored: `due` is the number
    of issued tokens above which it is positive, so issuing a token touches no lane.
    """

    __slots__ = (
        "band",
        "dirty",
        "due",
        "index",
        "is_listed_idle",
        "load",
        "may_borrow_from",
        "offset",
        "picker",
        "rate",
        "replica",
        "service_s",
        "share",
        "taken",
    )

    def __init__(self, replica: Replica, class_name: str, load: ReplicaLoad) -> None:
        self.replica, self.load = replica, load
        self.rate = replica.rates.get(class_name, 0.0)
        self.service_s = 1.0 / replica.capacity[class_name]
        self.picker: Told | None = None  # None while the replica is left out
        self.index = self.taken = self.band = 0
        self.share = self.offset = 0.0
        self.due = self.may_borrow_from = float("inf")
        self.dirty = self.is_listed_idle = False

    def account(self, borrow_limit: float) -> None:
        """Works out anew when the bucket is positive and from when it may go into debt.

        Tokens N for a positive bucket: N > due = (taken - offset) / share; for a bucket of at least
        1 - borrow_limit: N >= due + (1 - borrow_limit) / share.
        """
        spent = self.taken - self.offset
        if self.share > 0.0:
            self.due = spent / self.share
            self.may_borrow_from = (spent + 1.0 - borrow_limit) / self.share
        else:
            self.due = float("inf")
            self.may_borrow_from = float("-inf" if spent + 1.0 <= borrow_limit else "inf")


class Ticket:
    """One request on one replica, from `choose` until `finish` or `fail`."""

    __slots__ = ("_open", "_service_s", "is_probe", "load", "replica")

    def __init__(self, lane: Lane) -> None:
        self.replica = lane.replica
        self.load, self._service_s = lane.load, lane.service_s
        self._open = True
        self.is_probe = lane.load.is_open
        self.load.in_flight += 1
        self.load.work_s += lane.service_s

    def release(self) -> bool:
        """Takes the request off its replica's load; False where that was done before."""
        if not self._open:
            return False
        self._open = False
        load = self.load
        load.in_flight -= 1
        load.work_s = load.work_s - self._service_s if load.in_flight else 0.0
        for lane in load.lanes:
            if not lane.dirty and lane.picker is not None:
                lane.dirty = True
                lane.picker.dirty.append(lane)
        return True
