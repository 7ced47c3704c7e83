"""What was worked out before, so that the next plan of a fleet works out only what is new.

Kept is the latest value of each place only, and places of what is gone are dropped, so that memory does
not grow with time. What a value is made
from is told by equality, or by identity (`Same`) where documents and catalogs are replaced whole and
never edited.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Same:
    """A value that equals only itself, so that what is large or unhashable can be part of a key.

    It holds the value, so that no other can come to lie where it was.
    """

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class Memory(Generic[T]):
    """The latest value by place, with what it was made from; the oldest places go first."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._held: OrderedDict[Hashable, tuple[object, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, is_wanted: Callable[[Hashable], bool]) -> None:
        """Drop the places that are not wanted: of what is gone for good."""
        for place in [place for place in self._held if not is_wanted(place)]:
            del self._held[place]

    def get(self, place: Hashable, made_from: object, make: Callable[[], T]) -> T:
        """What is held there, if it was made from the same; else what `make` makes."""
        held = self._held.get(place)
        if held is not None and held[0] == made_from:
            self._held.move_to_end(place)
            return held[1]
        made = make()
        self._held[place] = (made_from, made)
        self._held.move_to_end(place)
        while len(self._held) > self._places:
            self._held.popitem(last=False)
        return made
