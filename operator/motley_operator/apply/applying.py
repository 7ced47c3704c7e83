"""Carries out actions; the only writer.

Actions go in the order given, except that neighbors of the same sort with different targets are
independent and go together, at most `create_concurrency` at a time. Each gets an Outcome; one that
fails does not hold up the others, for the next cycle decides afresh on what is then true.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Protocol

from motley_operator.apply.events import EventRecorder
from motley_operator.apply.refusals import cannot_be_tried, refusal_of
from motley_operator.apply.requests import (
    given_to,
    is_going,
    owner_request,
    request_for,
    target_of,
)
from motley_operator.connection import ApiError, Client
from motley_operator.domain.actions import (
    Action,
    AdoptPod,
    ApplyObject,
    ChangeRole,
    CreatePod,
    DeleteObject,
    DeletePod,
    EmitEvent,
    LabelPod,
    Outcome,
    PatchStatus,
    TryPod,
)
from motley_operator.settings import Settings

_WAIT_FOR_OTHERS = frozenset({"RoleBinding"})  # refused until the Role that it names is there
DONE, EXISTS, CONFLICT, FAILED = "done", "exists", "conflict", "failed"


class View(Protocol):
    """Where answers go: the store, so that the next cycle sees our own writes."""

    def absorb(self, kind: str, document: Mapping[str, Any]) -> None:
        """Take an object as the server now has it."""

    def version(self, kind: str, uid: str) -> int:
        """The resourceVersion of what is known of an object; 0 if nothing is."""

    def forget(self, kind: str, uid: str) -> None:
        """Drop an object that is gone."""


class Applier:
    """Carries out actions against one API server."""

    def __init__(
        self,
        client: Client,
        view: View,
        settings: Settings,
        may_write: Callable[[], bool] = lambda: True,
        left_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """`left_s` is for how long this process surely may go on writing, in seconds."""
        self._view, self._settings = view, settings
        self._may_write = may_write
        self._send = partial(client.send, allowed=may_write, left_s=left_s)
        self._events = EventRecorder(self._send)
        self._slots = asyncio.Semaphore(settings.create_concurrency)

    async def apply(self, actions: Iterable[Action]) -> tuple[Outcome, ...]:
        """What became of each action, in the order in which they were carried out."""
        outcomes: list[Outcome] = []
        for batch in batches(actions):
            outcomes += await asyncio.gather(*map(self._carry_out, batch))
        return tuple(outcomes)

    async def _carry_out(self, action: Action) -> Outcome:
        async with self._slots:
            # Asked right before each write: leadership may end in the middle of a cycle.
            if not self._may_write():
                return Outcome(action, FAILED, "not the leader any more")
            try:
                if isinstance(action, EmitEvent):
                    said = await self._events.emit(action)
                    return Outcome(action, DONE if said else EXISTS)
                version = 0
                if isinstance(action, PatchStatus):
                    version = self._view.version(action.kind, action.uid)
                    if not version:
                        return Outcome(action, CONFLICT, "gone")
                if await self._owner_goes(action):
                    return Outcome(action, CONFLICT, "its owner is being deleted")
                request = request_for(action, self._settings, version)
                answer = await self._send(request)
            except ApiError as error:
                return self._refused(action, error)
        if not isinstance(action, TryPod):  # of which nothing is there
            self._learn(action, answer)
        return Outcome(action, DONE)

    async def _owner_goes(self, action: Action) -> bool:
        """Whether the server says that who an orphan is given to is on its way out."""
        given = given_to(action)
        return given is not None and is_going(given[1], await self._send(owner_request(*given)))

    def _learn(self, action: Action, answer: Mapping[str, Any]) -> None:
        kind = target_of(action)[0]
        if answer.get("kind") != kind:
            # A deletion that is complete answers with a Status in place of the object.
            if isinstance(action, DeletePod | DeleteObject):
                self._view.forget(kind, action.uid)
            return
        metadata = answer["metadata"]
        is_gone = isinstance(action, DeleteObject) and not metadata.get("finalizers")
        if is_gone or metadata.get("deletionGracePeriodSeconds") == 0:
            self._view.forget(kind, metadata["uid"])
        else:
            self._view.absorb(kind, answer)

    def _refused(self, action: Action, error: ApiError) -> Outcome:
        if isinstance(action, DeletePod | DeleteObject) and error.status in (404, 409):
            # 409 is the UID precondition: a successor has the name, so the one we meant is gone.
            self._view.forget(target_of(action)[0], action.uid)
            return Outcome(action, DONE if error.status == 404 else CONFLICT, error.message)
        if isinstance(action, TryPod) and cannot_be_tried(error):
            return Outcome(action, DONE, error.message)
        if isinstance(action, CreatePod | TryPod) and (refusal := refusal_of(error)):
            is_answer = isinstance(action, TryPod)
            return Outcome(action, DONE if is_answer else FAILED, str(error), refusal)
        if error.status == 409 and isinstance(action, CreatePod):
            if error.reason == "AlreadyExists":
                return Outcome(action, EXISTS, error.message)
            return Outcome(action, CONFLICT, error.message)
        # To change the UID of an object is 422, not 409: a successor has the name.
        carries_uid = isinstance(action, LabelPod | ChangeRole | AdoptPod | ApplyObject)
        foreign = carries_uid and error.status == 422
        if error.status in (404, 409) or (foreign and "metadata.uid" in error.message):
            return Outcome(action, CONFLICT, error.message)
        return Outcome(action, FAILED, str(error))


def batches(actions: Iterable[Action]) -> Iterator[Sequence[Action]]:
    """Runs of neighbors of one sort, cut where a target comes a second time."""
    for run in _runs(actions):
        batch: list[Action] = []
        seen: set[tuple[str, str, str]] = set()
        for action in run:
            target = target_of(action)
            if target in seen:
                yield batch
                batch, seen = [], set()
            batch.append(action)
            seen.add(target)
        if batch:
            yield batch


def _runs(actions: Iterable[Action]) -> Iterator[Sequence[Action]]:
    for _, neighbors in groupby(actions, key=type):
        run = list(neighbors)
        yield [one for one in run if target_of(one)[0] not in _WAIT_FOR_OTHERS]
        yield [one for one in run if target_of(one)[0] in _WAIT_FOR_OTHERS]
