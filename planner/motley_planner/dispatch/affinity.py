"""Prefix affinity: a request goes where its prefix is cached, if that makes it finish earlier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Protocol


class Affinity(Protocol):
    """The hook a dispatcher asks: which replica would save time on a prefix."""

    def preferred(self, stage_name: str, prefix: Hashable) -> tuple[str, float] | None:
        """A replica's name and the seconds it would save; None where no replica would."""

    def placed(self, stage_name: str, prefix: Hashable, replica_name: str) -> None:
        """Notes that a request with this prefix went to a replica."""


class RecentPrefixes:
    """Remembers where each of the last `capacity` prefixes of a stage went."""

    def __init__(self, saved_s: float, capacity: int = 100_000) -> None:
        """`saved_s`: seconds of prefill that a cached prefix saves."""
        self._saved_s, self._capacity = saved_s, capacity
        self._where: OrderedDict[tuple[str, Hashable], str] = OrderedDict()

    def preferred(self, stage_name: str, prefix: Hashable) -> tuple[str, float] | None:
        """Where the prefix went last."""
        name = self._where.get((stage_name, prefix))
        return None if name is None else (name, self._saved_s)

    def placed(self, stage_name: str, prefix: Hashable, replica_name: str) -> None:
        """Remembers it, and forgets the prefix that was longest unused."""
        key = (stage_name, prefix)
        self._where[key] = replica_name
        self._where.move_to_end(key)
        if len(self._where) > self._capacity:
            self._where.popitem(last=False)
