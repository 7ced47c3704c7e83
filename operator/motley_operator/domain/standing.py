"""Plans of resources that hold still (Preview, Disabled): the one that stands, the one proposed.

A record is a slice of a plan with the spec that it was made from, so that what stands can be
restored, and what was approved carried out, whatever has been edited since. The hash of a proposal
covers the whole record, its time included: what is approved is what was proposed, and no two
proposals share a hash, so an approval can never be used for a later plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from motley_operator.domain.patience import SHOWN_S
from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.plan import PlannedReplica, Refusal, Slice

HASH_DIGITS = 20  # 80 bits: nobody finds another record with the hash of an approved one
_SLICES = TypeAdapter(Slice)
_OWN = ("name", "ordinal", "nodes", "kept")  # what equal replicas differ in
_NOT_PLANNED = (
    "mode",
    "minImprovement",
    "cooldown",
    "startDeadline",
)  # fields of spec.replan that shape no plan


@dataclass(frozen=True, slots=True)
class Record:
    """A slice, the spec that it was made from, and when it was made (RFC 3339)."""

    part: Slice
    spec: Mapping[str, Any]
    made_at: str
    before: Record | None = None  # what it took the place of, to go back to; no part of its hash

    @property
    def hash(self) -> str:
        """The slice's hash."""
        return self.part.hash

    def after(self, before: Record | None) -> Record:
        """The record as one that takes the place of another."""
        return replace(self, before=replace(before, before=None) if before is not None else None)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a resource that holds still keeps, and what people said about changing it."""

    mode: str  # Preview | Disabled
    record: Record | None = None  # what it keeps; None: nothing is recorded yet
    part: Slice | None = None  # of the record, what is there or can be started now
    source: object | None = None  # the resource with the record's spec: pods are built from it
    broken: bool = False  # the record's spec makes no sense any more: nothing is built from it
    edited: bool = False  # the spec is another one than the record's
    lost: tuple[str, ...] = ()  # replicas of the record for which there is no room now
    serving_on: int = 0  # replicas of the plan before that go on for those that are lost
    stops: tuple[RunningUnit, ...] = ()  # what runs beside it
    accepted: str = ""  # fingerprint of the text in which the record is on the cluster
    changed: bool = False  # somebody wrote another record there: it is not read
    unknown: bool = False  # there is no record, and what runs is not of the present spec ...
    spec_hash: str = ""  # ... but of one with this hash
    repaired: bool = False  # the record was changed to replace what is lost
    proposed: Record | None = None  # waits for approval, and could be carried out now
    outdated: str = ""  # why an earlier proposal cannot be carried out any more
    request: str = ""  # the hash that motley.dev/approve names
    verdict: str = (
        ""  # what became of it just now: Approved | Stale | RolledBack; empty: nothing new
    )
    refusal: str = ""  # why it is stale


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the planner would do with a resource in Preview."""

    record: Record | None = None  # None: nothing better than what stands
    refusals: tuple[Refusal, ...] = ()  # what even that plan lacks
    cut_short: bool = False  # a longer search may find a better one

    def may_be_bettered(self, now: float) -> bool:
        """Whether it is sought again: not once somebody may have read it for a while."""
        if not self.cut_short or self.record is None:
            return self.cut_short
        try:
            made_at = datetime.fromisoformat(self.record.made_at).timestamp()
        except ValueError:
            return False  # somebody wrote it
        return now <= made_at + SHOWN_S


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept on the cluster beside a plan: records and proposals, by resource key."""

    records: Mapping[str, Record] = field(default_factory=dict)
    proposals: Mapping[str, Proposal] = field(default_factory=dict)

    def may_be_bettered(self, now: float) -> bool:
        """Whether any proposal is sought again."""
        return any(proposal.may_be_bettered(now) for proposal in self.proposals.values())


def recorded_spec(document: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without what only says when a plan may change."""
    spec = dict(document.get("spec") or {})
    replan = {k: v for k, v in (spec.get("replan") or {}).items() if k not in _NOT_PLANNED}
    return {**{k: v for k, v in spec.items() if k != "replan"}, "replan": replan}


def running_name(replica: PlannedReplica) -> str:
    """The name that a replica runs under."""
    return replica.kept.rpartition("/")[2] if replica.kept is not None else replica.name


def bare(part: Slice) -> Slice:
    """The slice as it is recorded: what is decided, and not what is told about the moment."""
    replicas = tuple(replace(r, name=running_name(r), kept=None) for r in part.replicas)
    return replace(part, replicas=replicas, refusals=(), binding=(), blocked=False, caveats=())


def sealed(record: Record) -> Record:
    """The record with the hash over all that it says."""
    return replace(record, part=replace(record.part, hash=seal(record)))


def seal(record: Record) -> str:
    """Hash over the record but for the hash itself."""
    text = _text(replace(record, part=replace(record.part, hash=""), before=None))
    return fingerprint(text)


def spec_hash(spec: Mapping[str, Any]) -> str:
    """Hash over a recorded spec."""
    return fingerprint(json.dumps(spec, sort_keys=True))


def fingerprint(text: str) -> str:
    """Hash over a record as it is written, word for word."""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def written(record: Record) -> str:
    """The record as a ConfigMap holds it."""
    return _text(record)


def read_record(text: str | None) -> Record | None:
    """The record that a ConfigMap holds; None if there is none or somebody wrote into it."""
    try:
        document = json.loads(text or "")
        before = document.get("before")
        return _read(document, _read(before) if before is not None else None)
    except (ValueError, LookupError, TypeError, AttributeError, ValidationError):
        return None


def _read(document: Mapping[str, Any], before: Record | None = None) -> Record:
    part = _SLICES.validate_python({**document["part"], "replicas": _replicas(document)})
    spec, made_at = document["spec"], document["madeAt"]
    if not isinstance(spec, dict) or not isinstance(made_at, str):
        raise TypeError("a record of something else")
    return Record(part, spec, made_at, before)


def _text(record: Record) -> str:
    return json.dumps(_document(record), sort_keys=True)


def _document(record: Record) -> dict[str, Any]:
    """What equal replicas share is written once: thousands fit into a ConfigMap."""
    part = _SLICES.dump_python(record.part, mode="json")
    kinds: dict[str, int] = {}
    rows = []
    for replica in part.pop("replicas"):
        own = [replica.pop(name) for name in _OWN]
        kind = kinds.setdefault(json.dumps(replica, sort_keys=True), len(kinds))
        rows.append([kind, *own])
    document = {
        "kinds": [json.loads(kind) for kind in kinds],
        "madeAt": record.made_at,
        "part": part,
        "replicas": rows,
        "spec": record.spec,
    }
    if record.before is not None:
        document["before"] = _document(replace(record.before, before=None))
    return document


def _replicas(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds = document["kinds"]
    return [
        {**kinds[kind], **dict(zip(_OWN, own, strict=True))} for kind, *own in document["replicas"]
    ]
