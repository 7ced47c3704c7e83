"""When somebody else takes what is ours again and again: how often it is taken back.

Theory of operation. An object that is to be written although what is wanted of it is what was
written last was taken: another manager has a field of it. The first takes are undone at once, as
nearly all are an accident. A further one within the window begins a pause in which the object is
left as it is, twice as long each time; nobody wins by writing more often. What changes in what we
want ourselves is written all the same. An object that nobody took for long enough is as new.

Nothing of this need survive a restart: the next process takes the first few back at once again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from motley_operator.api.findings import render
from motley_operator.apply import CONFLICT, DONE
from motley_operator.apply.requests import target_of
from motley_operator.changes.contained import difference
from motley_operator.changes.managers import managers_of
from motley_operator.domain.actions import Action, ApplyObject, EmitEvent, Manifest, Outcome
from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import key_of

FREE_TAKES = 3  # within the window, undone at once
WINDOW_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 320.0

Place = tuple[str, str, str]
# What removes a field holds it no more, and another operator may have our own name.
_UNNAMED = (
    ". managedFields name no other manager of it; the API server's audit log would say who it is"
)


@dataclass(slots=True)
class Contest:
    """What happened to one object."""

    wanted: Manifest
    takes: deque[float] = field(default_factory=lambda: deque[float](maxlen=FREE_TAKES + 1))
    pause_s: float = 0.0  # the last pause; 0: none yet
    until: float = 0.0

    def take(self, now: float) -> bool:
        """Somebody took it at `now`, outside of any pause; True where a pause begins."""
        calm_s = now - self.takes[-1] if self.takes else 0.0
        if calm_s > max(WINDOW_S, 2 * self.pause_s):
            self.takes.clear()
            self.pause_s = 0.0
        self.takes.append(now)
        lately = sum(now - at <= WINDOW_S for at in self.takes)
        if not self.pause_s and lately <= FREE_TAKES:
            return False
        self.pause_s = min(max(FIRST_PAUSE_S, 2 * self.pause_s), LONGEST_PAUSE_S)
        self.until = now + self.pause_s
        return True


class Contests:
    """The objects that were written here, and how often each was taken since."""

    def __init__(self, on_take: Callable[[str], object] = lambda kind: None) -> None:
        """`on_take` is told the kind of whatever was taken."""
        self._on_take = on_take
        self._written: dict[Place, Contest] = {}

    def damped(self, actions: Iterable[Action], facts: ClusterFacts) -> list[Action]:
        """The actions without applies that pause, and an event for each pause that begins."""
        kept: list[Action] = []
        for action in actions:
            contest = self._contest(action)
            if contest is None:
                kept.append(action)
            elif facts.now < contest.until:
                continue
            elif contest.until:  # the pause is over: once more, and see
                contest.until = 0.0
                kept.append(action)
            else:
                assert isinstance(action, ApplyObject)
                self._on_take(action.manifest["kind"])
                if contest.take(facts.now):
                    kept += _said(action, facts, contest.pause_s)
                else:
                    kept.append(action)
        return kept

    def learn(self, outcomes: Iterable[Outcome], facts: ClusterFacts) -> None:
        """Note what was written; a conflict is somebody else's write in the same moment."""
        done = set[Place]()
        for outcome in outcomes:
            action = outcome.action
            if isinstance(action, ApplyObject) and outcome.result in (DONE, CONFLICT):
                done.add(place := target_of(action))
                known = self._written.get(place)
                if known is None:
                    self._written[place] = Contest(action.manifest)
                else:
                    known.wanted = action.manifest
        for place in self._written.keys() - facts.owned.keys() - done:
            del self._written[place]

    def due_at(self, now: float) -> list[float]:
        """When pauses end."""
        return [one.until for one in self._written.values() if one.until > now]

    def _contest(self, action: Action) -> Contest | None:
        """What is known of the object, where it is to be written as it was before."""
        if not isinstance(action, ApplyObject) or not action.uid:
            return None
        known = self._written.get(target_of(action))
        return known if known is not None and known.wanted == action.manifest else None


def _said(action: ApplyObject, facts: ClusterFacts, pause_s: float) -> list[EmitEvent]:
    kind, namespace, name = target_of(action)
    live = facts.owned.get((kind, namespace, name)) or {}
    key = key_of(action.manifest["metadata"].get("labels") or {}, namespace)
    owner = next((one for one in facts.resources if one.key == key), None)
    if owner is None:
        return []
    path = difference(action.manifest, live) or ()
    what = render(path) or "a field"
    managers = managers_of(live, path) if path else ()
    who = f"manager {' and '.join(managers)}" if managers else "somebody"
    words = (
        f"{who} writes {what} of {kind} {name} again and again, which is Motley's; it is taken back in {pause_s:.0f} s:"
        f" leave the field to Motley, or take the object out of the other's hands{_UNNAMED if not managers else ''}"
    )
    place = (owner.kind, owner.namespace, owner.name, owner.uid)
    return [EmitEvent(*place, "Warning", "FieldTaken", words)]
