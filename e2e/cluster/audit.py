"""The API server's audit log as typed records: every write it took, in the order it stored them.

The log is written as answers go out, so two writes of one millisecond may stand swapped. Where an
answer carries a resourceVersion (etcd's revision) that decides the order; the others (a binding,
a node's deletion) keep their place in the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

READS, HEARTBEATS = ("get", "list", "watch"), ("leases", "events")
LATE = 200  # records at the end of a log beside which an earlier one may still be on its way


@dataclass(frozen=True, slots=True)
class Record:
    """One write that was accepted.

    `object` is the object as stored, or what was sent where the answer is only a Status (a binding,
    a deletion). `time_s` is Unix time.
    """

    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    uid: str
    user: str
    time_s: float
    revision: int | None
    object: Mapping[str, Any]


def read(path: Path, offset: int = 0) -> list[Record]:
    """The records of a log from a byte offset on, in the order of the store."""
    return Tail(path, offset).new(late=0)


@dataclass(slots=True)
class Tail:
    """A log that grows, read a part at a time; no part is kept."""

    path: Path
    offset: int = 0
    _late: list[Record] = field(default_factory=list)

    def new(self, late: int = LATE) -> list[Record]:
        """The records since the last call, in the order of the store.

        The last `late` of them come with the next call: one that belongs before them may still be
        logged. A last line that is still being written is left for then, too.
        """
        with self.path.open("rb") as handle:
            handle.seek(self.offset)
            whole, end, _ = handle.read().rpartition(b"\n")
        self.offset += len(whole) + len(end)
        lines = whole.split(b"\n") if whole else []
        found = in_order([*self._late, *(one for line in lines for one in parse(json.loads(line)))])
        first = max(0, len(found) - late)
        self._late = found[first:]
        return found[:first]


def in_order(records: Iterable[Record]) -> list[Record]:
    """The records by revision; one without keeps its place after the latest before it."""
    latest, keyed = 0, []
    for record in records:
        latest = max(latest, record.revision or 0)
        keyed.append((record.revision or latest, record))
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]


def parse(event: Mapping[str, Any]) -> Iterator[Record]:
    """The writes of one audit event: none if it failed, one for each object of a collection.

    Reads and heartbeats are none; e2e/rights.py looks at those.
    """
    if event["verb"] in READS or (event.get("objectRef") or {}).get("resource") in HEARTBEATS:
        return
    status = event.get("responseStatus", {}).get("code", 0)
    sent = event.get("requestObject") or {}
    if not 200 <= status < 300 or (sent.get("dryRun") or "dryRun=" in event.get("requestURI", "")):
        return
    answer = event.get("responseObject") or {}
    if event["verb"] == "deletecollection":
        for one in answer.get("items", ()):
            yield _record(event, "delete", _deleted(one, sent, event["stageTimestamp"]))
        return
    is_status = answer.get("kind") == "Status" and answer.get("apiVersion") == "v1"
    yield _record(event, event["verb"], sent if is_status or not answer else answer)


def _deleted(thing: Mapping[str, Any], options: Mapping[str, Any], when: str) -> Mapping[str, Any]:
    """An object of a deleted collection as the deletion left it.

    The answer lists the objects as they were before, so what the API server does to each is done
    here again: a pod that runs on a node is only marked, with its grace period, and everything
    else goes at once. The old resourceVersion goes too: it is not the deletion's.
    """
    metadata = {key: one for key, one in thing["metadata"].items() if key != "resourceVersion"}
    spec, phase = thing.get("spec", {}), thing.get("status", {}).get("phase")
    runs = bool(spec.get("nodeName")) and phase not in ("Succeeded", "Failed")
    grace_s = options.get("gracePeriodSeconds")
    if grace_s is None:
        grace_s = spec.get("terminationGracePeriodSeconds", 0)
    metadata.setdefault("deletionTimestamp", when)
    metadata["deletionGracePeriodSeconds"] = grace_s if runs else 0
    return {**thing, "metadata": metadata}


def _record(event: Mapping[str, Any], verb: str, thing: Mapping[str, Any]) -> Record:
    reference = event.get("objectRef") or {}
    metadata = thing.get("metadata") or {}
    answer = event.get("responseObject") or {}
    details = answer.get("details") or {}
    revision = metadata.get("resourceVersion") if thing is not event.get("requestObject") else None
    return Record(
        verb=verb,
        group=reference.get("apiGroup", ""),
        resource=reference.get("resource", ""),
        subresource=reference.get("subresource", ""),
        namespace=reference.get("namespace") or metadata.get("namespace", ""),
        name=metadata.get("name") or reference.get("name", ""),
        uid=metadata.get("uid") or details.get("uid") or reference.get("uid", ""),
        user=event["user"]["username"],
        time_s=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
        revision=int(revision) if revision else None,
        object=thing,
    )
