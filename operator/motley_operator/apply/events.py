"""Kubernetes Events without spam: one object for one fact, counted when it happens again.

An Event's name is a digest of what it says, so the same fact said by a restarted operator finds the
old object (409) and raises its count. Within `_QUIET_S` the same fact is not said again at all.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from motley_operator.connection import KINDS, ApiError, Sent
from motley_operator.connection.client import MERGE, Document
from motley_operator.domain.actions import EmitEvent

Send = Callable[[Sent], Awaitable[Document]]

_QUIET_S = 60.0
_REMEMBERED = 2048
_MESSAGE_CHARACTERS = 1024  # the API server's limit
_COMPONENT = "motley"


class EventRecorder:
    """Writes Events and remembers the last few."""

    def __init__(self, send: Send) -> None:
        """`send` sends a request, unless writing is not allowed any more."""
        self._send = send
        self._said: OrderedDict[str, float] = OrderedDict()

    async def emit(self, event: EmitEvent) -> bool:
        """True if the Event was written, False if it was said a moment ago.

        Raises: ApiError.
        """
        name, now = event_name(event), time.monotonic()
        if now - self._said.get(name, -_QUIET_S) < _QUIET_S:
            return False
        self._said[name] = now
        self._said.move_to_end(name)
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        try:
            await self._write(event, name)
        except ApiError:
            self._said.pop(name, None)
            raise
        return True

    async def _write(self, event: EmitEvent, name: str) -> None:
        namespace = event.namespace or "default"
        path, said = KINDS["Event"].path(namespace), _said_now()
        body = {**event_body(event, name, namespace), "firstTimestamp": said, "lastTimestamp": said}
        try:
            await self._send(Sent("create", "events", "POST", path, body=body))
            return
        except ApiError as error:
            if error.status != 409:
                raise
        path = KINDS["Event"].path(namespace, name)
        known = await self._send(Sent("get", "events", "GET", path))
        again = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": said}
        await self._send(Sent("patch", "events", "PATCH", path, body=again, content_type=MERGE))


def event_name(event: EmitEvent) -> str:
    """The Event's name: the object's, and a digest of what is said about it."""
    said = f"{event.kind}\0{event.uid}\0{event.type}\0{event.reason}\0{event.message}"
    return f"{event.name}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def event_body(event: EmitEvent, name: str, namespace: str) -> dict[str, Any]:
    """The Event's manifest without its times."""
    involved = {
        "apiVersion": KINDS[event.kind].api_version,
        "kind": event.kind,
        "name": event.name,
        "uid": event.uid,
    }
    if event.namespace:
        involved["namespace"] = event.namespace
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:_MESSAGE_CHARACTERS],
        "count": 1,
        "source": {"component": _COMPONENT},
        "reportingComponent": _COMPONENT,
        "reportingInstance": _COMPONENT,
    }


def _said_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
