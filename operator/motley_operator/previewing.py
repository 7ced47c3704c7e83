"""Plans of resources that hold still: what stands takes its place in the plan, and what is proposed.

Theory of operation. The applied problem holds such a resource at its replicas; here its slice
becomes the recorded one, word for word, so that its routing and hash stay too. In Preview one more
solve, made only when the applied plan is made anew, frees this one resource while everything else
stays as just planned: what may be approved can then be carried out without moving anybody else. A
proposal stays as it is, hash included, while a new solve says the same, so that other tenants'
changes make no approval stale. Where that solve was cut short the same is asked again while the
proposal is fresh (domain/patience.py), and only what is clearly better replaces it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import unit_id
from motley_operator.domain.patience import how_asked, is_better_proposal, wants_time
from motley_operator.domain.standing import (
    Proposal,
    Record,
    Standing,
    bare,
    recorded_spec,
    running_name,
    sealed,
)
from motley_operator.domain.translation import Translation
from motley_operator.translate.restoring import unit_of
from motley_planner.domain.demand import RunningUnit
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.moves import flip_of, start_of, stop_of
from motley_planner.domain.plan import Move, Plan, Refusal, Slice
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import PlannerError
from motley_planner.planning.slices import groups_of

Solve = Callable[[Snapshot, Catalog], Plan]

PREVIEW = "Preview"
LEAST_SOLVE_S = 0.2
SAME_PRICE = 0.005  # share by which the prices of two equal proposals may differ
_UNKNOWN = Refusal(
    "Held",
    "spec",
    "the record of what runs is lost or was changed by somebody, and the spec is another one now: what runs is kept",
    "approve a plan of the present spec, or set replan.mode to Auto",
)


def stood(plan: Plan, translation: Translation) -> Plan:
    """The plan with what stands in the place of what was planned for it."""
    slices, moves = [], [m for m in plan.moves if m.key not in translation.standing]
    price = plan.price_usd_per_hour
    for part in plan.slices:
        standing = translation.standing.get(part.key)
        if standing is None:
            slices.append(part)
            continue
        kept = _kept(part, standing, translation)
        price += kept.price_usd_per_hour - part.price_usd_per_hour
        slices.append(kept)
        moves += _moves(kept, standing, translation.snapshot)
    return replace(
        plan,
        slices=tuple(slices),
        moves=tuple(moves),
        price_usd_per_hour=price,
        kept=sum(r.kept is not None for part in slices for r in part.replicas),
        gpus_used=sum(r.gpus_there for part in slices for r in part.replicas),
    )


def _kept(part: Slice, standing: Standing, translation: Translation) -> Slice:
    if standing.part is None:
        return _unrecorded(part, standing, translation)
    replicas = standing.part.replicas
    planned = {r.kept for r in part.replicas}
    whole = planned == {unit_id(part.key, r.name) for r in replicas}
    counted = part if whole else standing.part
    refusals = (*_lost(standing), *part.refusals)
    if standing.broken:
        words = "the spec that what runs was planned for makes no sense any more"
        refusals = (Refusal("Held", "spec", words, "approve a plan of the present spec"), *refusals)
    return replace(
        standing.part,
        blocked=standing.broken,
        groups=groups_of(replicas, _classes(translation)),
        price_usd_per_hour=sum(r.price_usd_per_hour for r in replicas),
        requests_per_second=part.requests_per_second,
        served_requests_per_second=counted.served_requests_per_second,
        refusals=refusals,
        binding=part.binding,
        caveats=part.caveats,
    )


def _classes(translation: Translation) -> dict[str, NodeClass]:
    return {node.name: node.node_class for node in translation.snapshot.nodes}


def _unrecorded(part: Slice, standing: Standing, translation: Translation) -> Slice:
    """Held, but nothing is recorded: what runs, or nothing; a first plan that may be applied."""
    if part.key not in translation.frozen:
        return part
    running = {unit.id for unit in translation.snapshot.running if unit.key == part.key}
    if {r.kept for r in part.replicas} == running:
        return replace(part, blocked=True, refusals=(_UNKNOWN,)) if standing.unknown else part
    reason = Refusal("Held", "spec", "what runs is no plan of this spec, and is held", "see status")
    return replace(part, replicas=(), groups=(), blocked=True, refusals=(reason, *part.refusals))


def _lost(standing: Standing) -> Iterator[Refusal]:
    if standing.lost and standing.record is not None:
        count, all_ = len(standing.lost), len(standing.record.part.replicas)
        message = f"{count} of {all_} replicas of the plan are lost, and nothing free takes them"
        if standing.serving_on:
            message += f"; {standing.serving_on} of the plan before it serve on"
        gpus = sorted({r.gpu for r in standing.record.part.replicas if r.name in standing.lost})
        yield Refusal(
            "ReplicaLost", "spec.replan.mode", message, f"room on {', '.join(gpus)} nodes"
        )


def _moves(part: Slice, standing: Standing, snapshot: Snapshot) -> Iterator[Move]:
    reason = "Approved" if standing.verdict == "Approved" else "Restored"
    if standing.part is None:
        reason = "New"
    roles = {unit.id: unit.phase for unit in snapshot.running}
    for unit in standing.stops:
        yield stop_of(snapshot, unit, reason)
    for replica in part.replicas:
        if replica.kept is None:
            yield start_of(snapshot, part.key, replica, reason)
        elif roles.get(replica.kept, replica.phase) != replica.phase:
            yield flip_of(part.key, replica, reason)


def records(plan: Plan, translation: Translation, facts: ClusterFacts) -> dict[str, Record]:
    """What stands, by key, as it is to be remembered."""
    documents = {resource.key: resource.document for resource in facts.resources}
    found: dict[str, Record] = {}
    for part in plan.slices:
        standing = translation.standing.get(part.key)
        if standing is None:
            continue
        if standing.record is not None:
            found[part.key] = standing.record
        elif part.replicas and not part.blocked:
            spec = recorded_spec(documents[part.key])
            found[part.key] = Record(bare(part), spec, _time(facts.now))
    return found


def proposals(
    plan: Plan,
    translation: Translation,
    facts: ClusterFacts,
    solve: Solve,
    shown: Mapping[str, Proposal] | None = None,
) -> dict[str, Proposal]:
    """What would be done with each resource in Preview if it were free; the solves share one limit.

    Of those that are `shown` only the ones that were cut short and are fresh are sought again.
    """
    keys = [key for key, s in translation.standing.items() if s.mode == PREVIEW]
    sought = [k for k in keys if shown is None or shown[k].may_be_bettered(facts.now)]
    documents = {resource.key: resource.document for resource in facts.resources}
    found: dict[str, Proposal] = {k: shown[k] for k in keys if shown is not None}
    for key in sought:
        standing = translation.standing[key]
        snapshot = _freed(key, plan, translation, len(sought))
        try:
            free = solve(snapshot, translation.catalog)
        except PlannerError:
            # What is proposed can still be had.
            found[key] = found.get(key, Proposal(standing.proposed, cut_short=True))
            continue
        part = next(each for each in free.slices if each.key == key)
        fresh = _fresh(part, snapshot, standing)
        record = None
        if fresh is not None:
            spec = recorded_spec(documents[key])
            record = sealed(Record(fresh, spec, _time(facts.now)))
            old = standing.proposed
            if old is not None and _is_same(old, record, _names(snapshot, key)):
                record = old
        made = Proposal(record, part.refusals, _wants_time(free, part, snapshot))
        least_gain = snapshot.min_improvement
        if key in found and not _replaces(made, found[key], least_gain):
            made = replace(found[key], cut_short=made.cut_short)
        found[key] = made
    return found


def _wants_time(free: Plan, part: Slice, snapshot: Snapshot) -> bool:
    """Whether a longer search may find a better proposal; what others lack is none of its business."""
    own = replace(free, slices=(part,))
    return wants_time(own, how_asked(snapshot, now=0.0, most_s=snapshot.time_limit_s))


def _replaces(made: Proposal, shown: Proposal, least_gain: float) -> bool:
    """Whether a longer search found what replaces what is shown."""
    if shown.record is None:
        return True
    if made.record is None:  # a search to the end says that nothing is better than what stands
        return not made.cut_short
    return is_better_proposal(made.record.part, shown.record.part, least_gain)


def _freed(key: str, plan: Plan, translation: Translation, solves: int) -> Snapshot:
    """The snapshot in which one resource is free and all others stand as they were just planned."""
    snapshot, standing = translation.snapshot, translation.standing[key]
    others: list[RunningUnit] = []
    for part in plan.slices:
        if part.key == key or not part.replicas:
            continue
        named = (replace(r, name=running_name(r)) for r in part.replicas)
        others += [unit_of(part.key, replica) for replica in named]
    planned = {unit.key for unit in others}
    units = [u for u in snapshot.running if u.key not in planned]
    edited = standing.edited or standing.record is None
    return replace(
        snapshot,
        running=tuple(sorted((*units, *others), key=lambda unit: unit.id)),
        frozen=frozenset(demand.key for demand in snapshot.demands) - {key},
        edited=frozenset((key,)) if edited else frozenset[str](),
        shapes=tuple(replace(shape, buys=False) for shape in snapshot.shapes),
        cooling=frozenset(),
        still=frozenset(),
        steady=False,
        time_limit_s=max(LEAST_SOLVE_S, snapshot.time_limit_s / solves),
    )


def _names(snapshot: Snapshot, key: str) -> frozenset[str]:
    """Names of what stands of a resource."""
    return frozenset(u.id.rpartition("/")[2] for u in snapshot.running if u.key == key)


def _fresh(part: Slice, snapshot: Snapshot, standing: Standing) -> Slice | None:
    """The free slice, where it is another plan than what stands."""
    if part.blocked or not part.replicas:
        return None
    same = {running_name(r) for r in part.replicas} == _names(snapshot, part.key)
    roles = {unit.id: unit.phase for unit in snapshot.running}
    same = same and all(r.kept is not None and roles[r.kept] == r.phase for r in part.replicas)
    return None if same and not standing.edited else bare(part)


def _is_same(old: Record, new: Record, stands: frozenset[str]) -> bool:
    """Whether two proposals do the same: the same is kept, and there is as much of everything."""
    close = SAME_PRICE * max(old.part.price_usd_per_hour, new.part.price_usd_per_hour)
    return (
        old.spec == new.spec
        and _kept_names(old, stands) == _kept_names(new, stands)
        and _counts(old.part) == _counts(new.part)
        and abs(old.part.price_usd_per_hour - new.part.price_usd_per_hour) <= close
    )


def _kept_names(record: Record, stands: frozenset[str]) -> frozenset[str]:
    return stands & {replica.name for replica in record.part.replicas}


def _counts(part: Slice) -> Mapping[tuple[str, ...], int]:
    counts: Counter[tuple[str, ...]] = Counter()
    for group in part.groups:
        counts[group.stage, group.column, group.zone, group.capacity_type] += group.count
    return counts


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
