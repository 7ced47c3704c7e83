"""One leader among several operators, by a Lease, as client-go's leader election has it.

Theory of operation. The leader renews the Lease every `renew_s`. It may write for `deadline_s` after
the moment in which it *sent* the last renewal that succeeded, by its own monotonic clock, which also runs
while the process is stopped; so it stops before others may take over. A write that is still on its way then is
given up, and what the server has got by then it has `duration_s - deadline_s` to carry out. A follower takes over when
the Lease has not changed for `duration_s` by the follower's own clock: wall clocks of different machines are
never compared. Every write of the Lease carries its resourceVersion, so of two that try only
one succeeds. A leader that ends gives the Lease back, and the next one need not wait.

The follower keeps its store warm; only deciding and writing is the leader's.

The Lease also carries a note from leader to leader: the hash of the inputs that were planned last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from motley_operator.connection import KINDS, ApiError, Client, Sent
from motley_operator.domain.names import PLANNED_INPUTS

logger = logging.getLogger(__name__)

_LEASE = KINDS["Lease"]


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """Seconds; duration_s > deadline_s > renew_s, so that a leader stops before it is succeeded."""

    duration_s: float = 5.0
    deadline_s: float = 3.5
    renew_s: float = 1.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """The Lease as it was last seen to change, and when that was by our own clock."""

    holder: str
    version: str
    document: dict[str, Any] | None  # None: there is no Lease
    at: float


class Leadership:
    """Takes, keeps and gives back one Lease."""

    def __init__(
        self,
        client: Client,
        place: tuple[str, str],
        identity: str,
        terms: LeaseTerms | None = None,
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[], str] = lambda: "",
    ) -> None:
        """`place` is namespace and name of the Lease; `identity` is unlike that of all others.

        `note` gives what the next leader may read; where it is empty, the note before stays.
        """
        self._note_now = note
        self._client, self._identity, self._clock = client, identity, clock
        self._namespace, self._name = place
        self._terms = terms or LeaseTerms()
        self._seen: _Seen | None = None
        self._error = "not read yet"
        self._held_until = float("-inf")

    def may_write(self) -> bool:
        """Whether this process is the leader at this very moment."""
        return self.left_s() > 0

    def left_s(self) -> float:
        """For how many seconds more it may write if the Lease is not renewed; no less than zero."""
        return max(0.0, self._held_until - self._clock())

    def problem(self) -> str:
        """Why this process can never lead, in a sentence: the Lease was never read; else empty."""
        if self._seen is not None:
            return ""
        return f"the lease {self._namespace}/{self._name}: {self._error}"

    def note(self) -> str:
        """What this or an earlier leader left on the Lease; empty where nobody did."""
        document = self._seen.document if self._seen else None
        annotations = (document or {}).get("metadata", {}).get("annotations") or {}
        return str(annotations.get(PLANNED_INPUTS, ""))

    async def run(self, on_elected: Callable[[], None]) -> None:
        """Take part until cancelled; `on_elected` is called each time this process becomes leader."""
        led = False
        while True:
            if led and not self.may_write():
                logger.warning("not the leader any more: the lease could not be renewed in time")
                led = False
            await self.attempt()
            if self.may_write() and not led:
                logger.info("leader: %s holds %s/%s", self._identity, self._namespace, self._name)
                led = True
                on_elected()
            await asyncio.sleep(self._terms.renew_s)

    async def attempt(self) -> None:
        """Look at the Lease; renew it or take it where that is allowed."""
        try:
            async with asyncio.timeout(self._terms.deadline_s):
                if self._seen is None or self._seen.holder != self._identity:
                    await self._look()
                seen = self._seen
                assert seen is not None
                age_s = self._clock() - seen.at
                if seen.holder in ("", self._identity) or age_s >= self._terms.duration_s:
                    await self._write(self._identity)
        except ApiError as error:
            if error.status in (404, 409):
                await self._overtaken()
            else:
                self._error = str(error)
                logger.warning("the lease %s/%s: %s", self._namespace, self._name, error)
        except TimeoutError:
            self._error = "no answer"
            logger.warning("the lease %s/%s: no answer", self._namespace, self._name)

    async def _overtaken(self) -> None:
        """Somebody else wrote the Lease, or deleted it: what we knew of it is not true any more."""
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(self._terms.deadline_s):
                await self._look()

    async def release(self) -> None:
        """Give the Lease back, so that the next leader need not wait; writes end at once."""
        held, self._held_until = self.may_write(), float("-inf")
        if not held:
            return
        try:
            async with asyncio.timeout(self._terms.deadline_s):
                await self._write("")
        except (ApiError, TimeoutError) as error:
            logger.warning("the lease could not be given back: %s", error)

    async def _look(self) -> None:
        path = _LEASE.path(self._namespace, self._name)
        try:
            found: dict[str, Any] | None
            found = await self._client.send(Sent("get", _LEASE.plural, "GET", path))
        except ApiError as error:
            if error.status != 404:
                raise
            found = None
        self._note(found)

    def _note(self, found: dict[str, Any] | None) -> None:
        version = found["metadata"]["resourceVersion"] if found else ""
        holder = str((found.get("spec") or {}).get("holderIdentity") or "") if found else ""
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(holder, version, found, self._clock())

    async def _write(self, holder: str) -> None:
        sent_at = self._clock()
        seen = self._seen
        assert seen is not None
        path = _LEASE.path(self._namespace, self._name if seen.document else "")
        verb, method = ("update", "PUT") if seen.document else ("create", "POST")
        body = self._document(seen, holder)
        answer = await self._client.send(Sent(verb, _LEASE.plural, method, path, body=body))
        self._note(answer)
        if holder == self._identity:
            self._held_until = sent_at + self._terms.deadline_s

    def _document(self, seen: _Seen, holder: str) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = (seen.document or {}).get("spec") or {}
        spec = {
            **old,
            "holderIdentity": holder,
            "leaseDurationSeconds": round(self._terms.duration_s),
            "renewTime": now,
        }
        if seen.holder != self._identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(old.get("leaseTransitions") or 0) + 1
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        if seen.document:
            old_metadata = seen.document["metadata"]
            kept = {k: old_metadata[k] for k in ("labels", "annotations") if k in old_metadata}
            metadata |= {**kept, "resourceVersion": seen.version}
        if note := self._note_now():
            metadata["annotations"] = {**metadata.get("annotations", {}), PLANNED_INPUTS: note}
        return {
            "apiVersion": _LEASE.api_version,
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
