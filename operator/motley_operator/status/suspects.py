"""Where pods of a resource failed, as its status, its condition and its events tell it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from motley_operator.api import ResourceStatus
from motley_operator.api.suspects import SuspectRow
from motley_operator.domain.actions import EmitEvent
from motley_operator.domain.suspects import Suspect
from motley_operator.status.conditions import Statement, shortened, timestamp
from motley_planner.domain.plan import Slice

LIFT = "edit the resource or set motley.dev/replan-requested-at to try sooner"
SUSPECT = "Suspect"
WAITS = "what would serve it failed lately"
MOST_TOLD = 4


def suspect_row(one: Suspect) -> dict[str, Any]:
    """The row of a status."""
    at = one.place
    row = SuspectRow(
        node=at.node,
        stage=at.stage,
        column=one.column,
        gpu=at.gpu,
        size=at.size,
        zone=at.zone,
        capacity_type=at.capacity_type,
        reason=shortened(one.reason, 63),
        failures=one.failures,
        since=timestamp(one.since),
        until=timestamp(one.until) if one.until else None,
    )
    document = row.model_dump(by_alias=True, mode="json", exclude_none=True)
    return {name: value for name, value in document.items() if value != ""}


def suspected(suspects: Sequence[Suspect]) -> tuple[Statement, ...]:
    """The condition Suspect, while something is; the first reason is the newest."""
    if not suspects:
        return ()
    told = [explained(one) for one in suspects[:MOST_TOLD]]
    if len(suspects) > MOST_TOLD:
        told.append(f"and {len(suspects) - MOST_TOLD} more")
    words = f"nothing is started there for now: {'; '.join(told)}; {LIFT}"
    return (Statement("Suspect", "True", suspects[0].reason, words),)


def waiting(part: Slice | None, suspects: Sequence[Suspect]) -> Slice | None:
    """The slice; what only lacks because of suspects says so, and not that a search was too short."""
    if part is None or not suspects:
        return part
    refusals = tuple(
        replace(r, reason=SUSPECT, message=WAITS, lift=LIFT) if r.reason == "SolverTimeLimit" else r
        for r in part.refusals
    )
    return replace(part, refusals=refusals)


def retried(suspects: Sequence[Suspect]) -> Statement:
    """When something is tried again."""
    words = f"tried again at {timestamp(min(one.until for one in suspects))}"
    return Statement("Reconciling", "True", SUSPECT, words)


def explained(one: Suspect) -> str:
    """A suspect in words: where, why, how often, until when."""
    again = f", failure {one.failures}" if one.failures > 1 else ""
    return f"{one.place.words} until {timestamp(one.until)} ({one.reason}{again})"


def suspect_events(
    place: tuple[str, str, str, str], known: Iterable[Suspect], old: ResourceStatus, now: float
) -> list[EmitEvent]:
    """One Warning for each place that has just become suspect, or failed again."""
    before = {tuple(suspect_row_key(row)) for row in old.suspects}
    events = []
    for one in known:
        row = SuspectRow.model_validate(suspect_row(one))
        if one.in_force(now) and tuple(suspect_row_key(row)) not in before:
            events.append(EmitEvent(*place, "Warning", "Suspect", explained(one)))
    return events


def suspect_row_key(row: SuspectRow) -> list[object]:
    """What tells one failure of one place from another."""
    return [row.node, row.stage, row.gpu, row.size, row.zone, row.capacity_type, row.failures]
