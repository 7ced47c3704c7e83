"""What is known of one collection of objects, and never anything older than what was known.

Three sources write here: LISTs and WATCH events of a reflector, and the answers to our own writes
(read-your-writes: the next cycle must not see a world without them). They arrive in any order, so
every object carries its resourceVersion, which within one collection only grows:

    older than the stored one          -> ignored
    answer to a write, not stored, but no newer than what the watch has told
                                       -> it is gone already: ignored, or it would be a ghost
    stored, not in a LIST, no newer than that LIST
                                       -> it vanished while the watch was cut: swept
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Generic, TypeVar

from motley_operator.facts.heartbeats import Gist

Document = Mapping[str, Any]
T = TypeVar("T")


def version_of(document: Document) -> int:
    """The object's resourceVersion as a number; 0 where it has none.

    Resource versions are whole numbers that grow (Kubernetes API concepts, comparable since 1.35).
    """
    text = str(document["metadata"].get("resourceVersion") or "")
    return int(text) if text.isdigit() else 0


class Collection(Generic[T]):
    """Objects by UID; `on_change(old, new)` hears of each change heard from the server."""

    def __init__(
        self, parse: Callable[[Document], T], on_change: Callable[[T | None, T | None], None]
    ) -> None:
        self._parse, self._on_change = parse, on_change
        self._entries: dict[str, tuple[int, T]] = {}  # by UID: version, value
        self._gists: dict[str, tuple[int, T]] = {}  # by UID: hash of the line that said the value
        self._heard = 0
        self.complete = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def heard(self) -> int:
        """The newest version heard of."""
        return self._heard

    def values(self) -> Iterable[T]:
        """Everything there is."""
        return [value for _, value in self._entries.values()]

    def replace(self, documents: Iterable[Document], version: int) -> None:
        """Take a whole LIST made at `version`; what it lacks and is no newer has vanished."""
        self.sweep(self.take(documents), version)

    def take(self, documents: Iterable[Document]) -> set[str]:
        """Take a page of a LIST; the UIDs of its objects, for the `sweep` after the last page."""
        listed = set()
        for document in documents:
            listed.add(document["metadata"]["uid"])
            self.upsert(document)
        return listed

    def sweep(self, listed: AbstractSet[str], version: int) -> None:
        """Drop what a LIST made at `version` lacked, unless it is newer: it has vanished."""
        self._heard = max(self._heard, version)
        for uid, (known, value) in list(self._entries.items()):
            if uid not in listed and known <= version:
                self.forget(uid)
                self._on_change(value, None)
        self.complete = True

    def beat(self, gist: Gist) -> bool:
        """Take a line of a watch by its gist; False where the line has to be read."""
        known, value = self._entries.get(gist.uid, (0, None))
        rest, said = self._gists.get(gist.uid, (0, None))
        if value is None or said is not value or rest != gist.rest:
            return False
        self._heard = max(self._heard, gist.version)
        if gist.version > known:
            self._entries[gist.uid] = (gist.version, value)
        return True

    def upsert(self, document: Document, gist: Gist | None = None) -> None:
        """Take an added or modified object of a LIST or a watch, and the gist of its line."""
        version = version_of(document)
        self._heard = max(self._heard, version)
        uid = document["metadata"]["uid"]
        known, old = self._entries.get(uid, (0, None))
        if not version or version > known:
            new = self._parse(document)
            if old is not None and new == old:
                new = old  # a heartbeat is no other value: what was made from it stays in force
            self._entries[uid] = (version, new)
            if gist is not None:
                self._gists[uid] = (gist.rest, new)
            self._on_change(old, new)

    def remove(self, document: Document) -> None:
        """Take a deletion of a watch."""
        self._heard = max(self._heard, version_of(document))
        entry = self._entries.get(document["metadata"]["uid"])
        if entry:
            self.forget(document["metadata"]["uid"])
            self._on_change(entry[1], None)

    def advance(self, version: int) -> None:
        """Take a bookmark: everything up to `version` has been told."""
        self._heard = max(self._heard, version)

    def absorb(self, document: Document) -> None:
        """Take the server's answer to a write of ours; nobody is told, for we know."""
        uid, version = document["metadata"]["uid"], version_of(document)
        known, _ = self._entries.get(uid, (self._heard, None))
        if not version or version > known:
            self._entries[uid] = (version, self._parse(document))

    def version(self, uid: str) -> int:
        """The resourceVersion of what is known of an object; 0 if nothing is."""
        return self._entries[uid][0] if uid in self._entries else 0

    def is_behind(self, document: Document) -> bool:
        """True if someone else has heard of a newer version than we have."""
        known, _ = self._entries.get(document["metadata"]["uid"], (0, None))
        return version_of(document) > max(known, self._heard)

    def forget(self, uid: str) -> T | None:
        """Drop an object that the server says is gone; what was known of it."""
        _, value = self._entries.pop(uid, (0, None))
        self._gists.pop(uid, None)
        return value
