"""Keeps one Collection equal to one on the API server: LIST, then WATCH for ever.

Theory of operation. A chunked LIST gives objects and a resourceVersion; a WATCH from there gives every
later change. The server ends a watch now and then, which is no event: the next one goes on from the
last version heard. 410 Gone means that the history in between is lost: LIST again, and the
collection sweeps what vanished meanwhile. A watch can also die without a sign (a NAT forgets it, a
proxy hangs): the server sends a bookmark about every minute, so a longer silence ends it here (silence.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from motley_operator.connection import CUSTOM, SILENT, ApiError, Client, Kind, Sent, owned_kinds
from motley_operator.facts.collection import Collection, version_of
from motley_operator.facts.heartbeats import Gist
from motley_operator.facts.silence import Silence

_PAGE = 500
# What the server is asked for: 2.4 ends an hour at most, and 2.3 of kopf's beside them.
_WATCH_S = (1500, 1800)
_ABSENT_S = 1800.0  # until an optional kind is looked for again
# What is read where the operator plans; the rest is read of the whole cluster in every mode.
_PLANNED_IN = frozenset({*CUSTOM, *owned_kinds(True, True), "ResourceQuota", "LimitRange"})
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects a reflector follows."""

    kind: Kind
    namespace: str = ""
    selector: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False  # not every API server has it, or shows it: then there is nothing
    gist: Callable[[bytes], Gist | None] = lambda line: None  # what tells a heartbeat from news
    older: tuple[str, ...] = ()  # versions that are asked for, in this order, where the first lacks


class Reflector:
    """One LIST and WATCH loop."""

    def __init__(
        self,
        client: Client,
        collection: Collection[Any],
        scope: Scope,
        on_contact: Callable[[], None],
    ) -> None:
        self.kind, self.namespace = scope.kind, scope.namespace
        self._versions = (scope.kind.version, *scope.older)
        self.collection = collection
        self._on_contact = on_contact  # called when the view became whole, or is known not to
        self.error: str | None = "not read yet"
        self.absent = False  # an optional kind that the server does not have, or does not show
        self.lists = 0
        self.failed = 0
        self._client = client
        self._selector, self._optional = dict(scope.selector), scope.optional
        self._gist = scope.gist
        self._silence = Silence()
        self._version = ""
        self._failures = 0
        self._failing_since: float | None = None

    def failing_for_s(self) -> float:
        """Seconds since the server was last in reach; 0 while it is."""
        if self._failing_since is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._failing_since

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                await asyncio.sleep(_BACKOFF_S[0])
            except ApiError as error:
                await self._recover(error)

    async def _recover(self, error: ApiError) -> None:
        self.failed += 1
        if self.failed == 1:
            self._on_contact()
        if error.status == 404 and self._turns_older():
            return
        if self._optional and error.status in (403, 404):
            await self._do_without(error)
            return
        expired = error.status == 410
        if error.reason == SILENT:
            self._silence.given_up()
        if expired:
            self._version = ""
        else:
            self.error = f"{error}{self._fix()}" if error.status == 403 else str(error)
            if self._failing_since is None:
                self._failing_since = asyncio.get_running_loop().time()
        level = logging.INFO if expired or not self._failures else logging.WARNING
        logger.log(level, "%s: %s", self.kind.plural, error if expired else self.error)
        pause_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1
        await asyncio.sleep((error.retry_after_s or pause_s) * random.uniform(0.8, 1.2))

    def _fix(self) -> str:
        """What lifts a 403; nothing for a ConfigMap that a resource names, whose mistake it may be."""
        if self._selector.get("fieldSelector"):
            return ""
        file = "rules-namespace.yaml" if self.kind.name in _PLANNED_IN else "rules-cluster.yaml"
        where = f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"
        return f"; bind the rules of the chart's files/{file} to this account {where}"

    def _turns_older(self) -> bool:
        """Ask for the next older version of the kind from now on; False, and the first, after the last."""
        place = self._versions.index(self.kind.version) + 1
        is_left = place < len(self._versions)
        self.kind = replace(self.kind, version=self._versions[place if is_left else 0])
        return is_left

    async def _do_without(self, error: ApiError) -> None:
        logger.info("%s: %s; going on without", self.kind.plural, error)
        self.absent = True
        self.collection.replace((), self.collection.heard)
        self._version = ""
        self._heard()
        await asyncio.sleep(_ABSENT_S * random.uniform(0.8, 1.2))

    def _heard(self) -> None:
        again = self.error is not None
        self.error, self._failures, self._failing_since = None, 0, None
        if again:
            self._on_contact()

    async def _list(self) -> None:
        # Each page is parsed before the next one is asked for: as documents, thousands of nodes take
        # ten times the memory of what is kept of them.
        listed: set[str] = set()
        params = {"limit": str(_PAGE), **self._selector}
        while True:
            page = await self._client.send(self._request("list", params))
            listed |= self.collection.take(page.get("items") or [])
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            params["continue"] = metadata["continue"]
        self.absent = False
        self.collection.sweep(listed, version_of(page))
        self._version = str(metadata.get("resourceVersion") or "0")
        self.lists += 1
        self._heard()

    async def _watch(self) -> None:
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(*_WATCH_S)),
            **self._selector,
        }
        self._silence.begins()
        asked = self._request("watch", params)
        async with self._client.stream(asked, self._silence.limit_s) as events:
            self._heard()
            async for line in events:
                self._take(line)

    def _take(self, line: bytes) -> None:
        gist = self._gist(line)
        if gist is not None and self.collection.beat(gist):
            self._version = str(gist.version)
            return
        event = orjson.loads(line)
        subject, what = event["object"], event["type"]
        if what == "ERROR":
            code, message = int(subject.get("code") or 500), str(subject.get("message", ""))
            # A watch that fails for another reason starts over as well: its place is in doubt.
            self._version = ""
            raise ApiError(code, str(subject.get("reason", "")), message, None)
        if what == "BOOKMARK":
            self.collection.advance(version_of(subject))
            self._silence.marked()
        elif what == "DELETED":
            self.collection.remove(subject)
        else:
            self.collection.upsert(subject, gist)
        self._version = subject["metadata"].get("resourceVersion") or self._version

    def _request(self, verb: str, params: Mapping[str, str]) -> Sent:
        path = self.kind.path(self.namespace)
        plural, wanted = self.kind.plural, dict(params)
        return Sent(verb, plural, "GET", path, params=wanted, optional=self._optional)
