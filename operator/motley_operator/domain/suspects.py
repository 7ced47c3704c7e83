"""What failed to start, or to stay, and is therefore not tried again for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """What is suspected of a resource: a node, or a stage's configuration on a kind of node.

    With neither node nor GPU it is the whole stage.
    """

    stage: str = ""
    node: str = ""
    gpu: str = ""  # catalog id
    size: str = ""  # as motley_planner.domain.fragments.size_text
    zone: str = ""
    capacity_type: str = ""

    @property
    def words(self) -> str:
        """The place as people are told of it."""
        if self.node:
            return f"node {self.node}"
        if not self.gpu:
            return f"{self.stage}, anywhere"
        where = " ".join(part for part in (self.zone, self.capacity_type) if part)
        return f"{self.stage}, {self.size} on {self.gpu} ({where})"


@dataclass(frozen=True, slots=True)
class Suspect:
    """Failures in one place; times in whole Unix seconds."""

    place: Place
    reason: str  # the last one
    failures: int
    since: int  # the last failure; a pod made before it does not count again
    until: int = 0  # nothing is started there before; 0: not yet failed often enough
    column: str = ""  # of the pod that failed, as on its label

    def in_force(self, now: float) -> bool:
        """Whether nothing may be started there now."""
        return self.until > now


@dataclass(frozen=True, slots=True)
class Suspicions:
    """What is remembered and found of all resources."""

    known: Mapping[str, tuple[Suspect, ...]] = field(default_factory=dict)  # by resource key
    broken: Mapping[str, str] = field(default_factory=dict)  # UIDs of pods to be given up -> why
    causes: Mapping[str, str] = field(default_factory=dict)  # key -> why a replica of it is lost
    due_at: float | None = None  # when the next deadline passes or the next suspicion ends

    def failing(self, key: str, now: float) -> frozenset[tuple[str, str]]:
        """(stage, column) of the configurations of a resource of which nothing new is started.

        Column "" is the whole stage.
        """
        held = (one for one in self.in_force(key, now) if not one.place.node)
        return frozenset((one.place.stage, one.column if one.place.gpu else "") for one in held)

    def in_force(self, key: str, now: float) -> tuple[Suspect, ...]:
        """Those of a resource that hold now."""
        return tuple(one for one in self.known.get(key, ()) if one.in_force(now))
