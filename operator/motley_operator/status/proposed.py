"""A proposal as its resource's status shows it, what is said about it, and how to approve it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from motley_operator.api import PlanStatus, Quantity, ResourceStatus
from motley_operator.api.status import Condition, ProposedPlan
from motley_operator.domain.names import APPROVE
from motley_operator.domain.standing import Proposal, Record, Standing
from motley_operator.status.conditions import Statement, shortened
from motley_planner.domain.plan import PlannedReplica, Slice
from motley_planner.units import dollars, figure

MOST_CHANGES, MOST_GROUPS, MOST_PROMISES = 16, 16, 8  # beside the plan in one status
LONGEST_CHANGE = 300
APPROVED = "Approved"
STALE = "StaleApproval"
ROLLED_BACK = "RolledBack"
AWAITING = "AwaitingApproval"
NOTHING = "NothingProposed"


@dataclass(frozen=True, slots=True)
class Preview:
    """What is known of a resource in Preview or Disabled."""

    standing: Standing
    proposal: Proposal
    place: tuple[str, str, str]  # kind, namespace, name
    stands: Record | None = None  # what is recorded of the plan that stands

    @property
    def is_preview(self) -> bool:
        """Whether plans wait for approval."""
        return self.standing.mode == "Preview"

    @property
    def record(self) -> Record | None:
        """The plan that waits."""
        return self.proposal.record

    def command(self) -> str:
        """How to approve the plan that waits."""
        kind, namespace, name = self.place
        found = self.record.hash if self.record is not None else ""
        return (
            f"kubectl annotate --overwrite {kind.lower()}.motley.dev {name} -n {namespace}"
            f" {APPROVE}={found}"
        )


def proposed_status(preview: Preview, plan: PlanStatus) -> ProposedPlan:
    """The waiting plan; `plan` is its slice as a status shows one."""
    assert preview.record is not None
    new, standing = preview.record.part, preview.standing
    old = standing.part.replicas if standing.part is not None else ()
    before, after = {r.name: r for r in old}, {r.name: r for r in new.replicas}
    document = plan.model_dump(by_alias=True, mode="json", exclude_none=True)
    groups = [{k: v for k, v in g.items() if k != "ready"} for g in document.get("groups", ())]
    promises = document.get("promises", ())
    price = sum(r.price_usd_per_hour for r in old)
    told: dict[str, Any] = {
        "groups": groups[:MOST_GROUPS],
        "promises": promises[:MOST_PROMISES],
        "reason": shortened(_reason(preview, price), 1024),
        "proposedAt": preview.record.made_at,
        "dollarsPerHourBefore": Quantity.of(price, 2),
        "starts": len(after.keys() - before.keys()),
        "stops": len(before.keys() - after.keys()),
        "keeps": len(before.keys() & after.keys()),
        "changes": _changes(before, after, standing),
    }
    return ProposedPlan.model_validate(document | told)


def _reason(preview: Preview, price: float) -> str:
    assert preview.record is not None
    new, standing = preview.record.part, preview.standing
    served, asked = new.served_requests_per_second, new.requests_per_second
    unit = "steps/s" if new.steps_per_hour is not None else "requests/s"
    words = [f"serves {figure(served)} of {figure(asked)} {unit}"]
    if standing.record is None or standing.part is None:
        words.insert(0, "the first plan")
    else:
        if standing.edited:
            words.insert(0, "the spec was edited after what runs was planned")
        words.append(f"{dollars(price)} $/h now, {dollars(new.price_usd_per_hour)} $/h then")
    return "; ".join(words)


def _changes(
    before: dict[str, PlannedReplica], after: dict[str, PlannedReplica], standing: Standing
) -> list[str]:
    """Moves, starts, stops and changes of role of equal replicas in one line each."""
    starts = [after[name] for name in sorted(after.keys() - before.keys())]
    stops = [before[name] for name in sorted(before.keys() - after.keys())]
    both = sorted(before.keys() & after.keys())
    flips = [after[name] for name in both if after[name].phase != before[name].phase]
    lines = [*_moved(starts, stops), *_told("start", starts), *_told("stop", stops)]
    for role in ("prefill", "decode"):
        lines += _told(f"let {role}", [r for r in flips if r.phase == role])
    if standing.edited and after.keys() & before.keys():
        lines.append(
            "what stays follows the edited spec; pods that it changes are replaced one by one"
        )
    lines = [shortened(line, LONGEST_CHANGE) for line in lines or ["no replica starts or stops"]]
    if len(lines) > MOST_CHANGES:
        lines = [*lines[: MOST_CHANGES - 1], f"and {len(lines) - MOST_CHANGES + 1} more"]
    return lines


def _moved(starts: list[PlannedReplica], stops: list[PlannedReplica]) -> Iterator[str]:
    """A stop and a start of one configuration are a move; both are taken off the lists."""
    for new in list(starts):
        old = next((r for r in stops if (r.stage, r.column) == (new.stage, new.column)), None)
        if old is not None:
            starts.remove(new)
            stops.remove(old)
            yield f"move {_what(new)} from {', '.join(old.nodes)} to {', '.join(new.nodes)}"


def _told(verb: str, replicas: Sequence[PlannedReplica]) -> Iterator[str]:
    kinds: dict[str, list[PlannedReplica]] = {}
    for replica in replicas:
        kinds.setdefault(_what(replica), []).append(replica)
    for what, alike in kinds.items():
        nodes = Counter(node for replica in alike for node in replica.nodes)
        yield f"{verb} {len(alike)} x {what} on {', '.join(sorted(nodes))}"


def _what(replica: PlannedReplica) -> str:
    gpus = f"{replica.gpus}x{replica.gpu}"
    return f"{replica.stage} replica of {replica.model} ({gpus})"


def approval(preview: Preview, old: ResourceStatus) -> Statement:
    """The condition Approved: whether a plan waits, and what became of the last approval."""
    standing, record = preview.standing, preview.record
    if standing.verdict == "Approved":
        words = f"plan {standing.request} was approved and is applied"
        return Statement(APPROVED, "True", APPROVED, words)
    known = old.condition(APPROVED)
    if standing.verdict == ROLLED_BACK or _still(ROLLED_BACK, standing, known, old):
        why = f"the plan that was approved is given up: {standing.refusal}; the one before it is back in force"
        if standing.verdict != ROLLED_BACK and known is not None:
            why = "; ".join(known.message.split("; ")[:2])
        then = f"the proposal now: {preview.command()}" if record else "nothing is proposed now"
        return Statement(APPROVED, "False", ROLLED_BACK, f"{why}; {then}")
    if standing.verdict == "Stale" or _still(STALE, standing, known, old):
        why = standing.refusal or _first_part(known)
        if standing.verdict == "Stale":
            why = f"{APPROVE} names {standing.request}, which is not applied: {standing.refusal}"
        then = f"the proposal now: {preview.command()}" if record else "nothing is proposed now"
        return Statement(APPROVED, "False", STALE, f"{why}; {then}")
    if record is not None:
        words = f"plan {record.hash} is not applied before: {preview.command()}"
        return Statement(APPROVED, "False", AWAITING, words)
    if standing.request and standing.request == old.last_handled_approval:
        words = f"plan {standing.request} was approved and applied"
        return Statement(APPROVED, "True", APPROVED, words)
    if standing.record is None:
        return Statement(APPROVED, "False", NOTHING, "there is no plan to approve yet")
    return Statement(APPROVED, "True", NOTHING, "no other plan than what runs is proposed")


def _still(reason: str, standing: Standing, known: Condition | None, old: ResourceStatus) -> bool:
    """What became of an approval is said until somebody writes another one or takes it off."""
    handled = standing.request and standing.request == old.last_handled_approval
    return bool(handled and known is not None and known.reason == reason)


def _first_part(known: Condition | None) -> str:
    return known.message.partition("; ")[0] if known is not None else ""


def planned(preview: Preview, part: Slice) -> Statement:
    """The condition Planned of a resource that holds still: what it has, what it lacks, what waits."""
    standing, record = preview.standing, preview.record
    count = len(part.replicas)
    has = f"{count} replicas stay, {part.price_usd_per_hour:.2f} $/h" if count else "nothing runs"
    lacks = "; ".join(refusal.message for refusal in part.refusals)
    good = "True" if count and not part.refusals else "False"
    if not preview.is_preview:
        words = [f"replan.mode is Disabled, planning is off: {has}, lost replicas are replaced"]
        words += [f"it lacks: {lacks}"] if lacks else []
        if standing.edited:
            words.append("the edited spec is not acted on until replan.mode is Auto or Preview")
        return Statement("Planned", good, "ReplanDisabled", "; ".join(words))
    words = [f"replan.mode is Preview: {has}"] + ([f"it lacks: {lacks}"] if lacks else [])
    if record is not None:
        words.append(f"a plan waits in status.proposedPlan, to apply it: {preview.command()}")
        return Statement("Planned", good, AWAITING, "; ".join(words))
    refusals = preview.proposal.refusals
    if refusals:
        told = (
            f"{r.field}: {r.message}" + (f" (lift: {r.lift})" if r.lift else "") for r in refusals
        )
        words.append(f"no plan is better: {'; '.join(told)}")
        return Statement("Planned", "False", refusals[0].reason, "; ".join(words))
    return Statement("Planned", good, "PreviewHolds", "; ".join(words))
