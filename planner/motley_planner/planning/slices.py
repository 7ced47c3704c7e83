"""From a solution to slices: one resource's replicas, groups, routing, promises and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from motley_planner.candidates import Candidate
from motley_planner.candidates.learned import learned_of, tpot_band
from motley_planner.domain.demand import Branching, Demand, RlDemand, ServingDemand, Slo
from motley_planner.domain.hardware import NodeClass
from motley_planner.domain.plan import (
    Group,
    PlannedReplica,
    PolicyChoice,
    Promise,
    Slice,
)
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.planning.assembly import Assembly
from motley_planner.planning.demands import class_rates
from motley_planner.planning.phases import caveats_of, flows_of
from motley_planner.planning.prerouting import classes_of
from motley_planner.planning.quotas import full_quotas
from motley_planner.planning.refusals import refusals_of, unpromised
from motley_planner.planning.tiers import policy_id
from motley_planner.planning.wording import binding_words

HASHED_DIGITS = 4  # rates are hashed to four figures: noise of the solver is no new plan
LEAST_SHARE = 1e-6  # policies below it are noise of the solver
PREDICTION_BAND = 0.25  # datasets section 3.3: 79 % of measured TPOT rows within +-25 %

MEASURED_BAND = 0.10  # assumed: what repeated runs of one configuration differ by


def slice_of(
    demand: Demand,
    replicas: Sequence[PlannedReplica],
    solution: Solution,
    assembly: Assembly,
    snapshot: Snapshot,
) -> Slice:
    """One resource's part of the plan."""
    policies = _policies(demand, solution)
    served, asked = _served(demand, solution) if replicas else (0.0, _asked(demand))
    job = isinstance(demand, RlDemand)
    target = assembly.job_targets.get(demand.key, 0.0)
    steps = sum(replica.rates.get("trainer", 0.0) for replica in replicas)
    return Slice(
        key=demand.key,
        hash=_hash(replicas, policies),
        replicas=tuple(replicas),
        groups=groups_of(replicas, assembly.node_classes),
        price_usd_per_hour=sum(r.price_usd_per_hour for r in replicas),
        requests_per_second=target if job else asked,
        served_requests_per_second=steps if job else served,
        policies=policies,
        expected_quality=_quality(demand, policies),
        steps_per_hour=steps * 3600.0 if job else None,
        promises=(
            *_promises(demand.key, replicas, assembly),
            *_late_promises(demand.key, solution, assembly),
            *_loss_promise(demand.key, assembly),
        ),
        refusals=refusals_of(demand, replicas, solution, assembly, snapshot),
        unpromised=unpromised(demand, replicas, solution, assembly, snapshot),
        binding=_binding(demand.key, solution, assembly),
        blocked=demand.key in assembly.blocked,
        flows=flows_of(demand.key, solution, assembly),
        caveats=caveats_of(replicas),
        classes=() if isinstance(demand, RlDemand) else demand.classes,
        slo=Slo() if isinstance(demand, RlDemand) else demand.slo,
        branching=() if isinstance(demand, RlDemand) else _branching(demand),
    )


def _branching(demand: ServingDemand) -> tuple[Branching, ...]:
    return tuple(stage.branching for stage in demand.stages if stage.branching is not None)


def _asked(demand: Demand) -> float:
    return 0.0 if isinstance(demand, RlDemand) else demand.requests_per_second


def _served(demand: Demand, solution: Solution) -> tuple[float, float]:
    """(requests/s served, requests/s asked) of a pool or cascade."""
    if isinstance(demand, RlDemand):
        return 0.0, 0.0
    asked, missing = demand.requests_per_second, 0.0
    unserved = solution.unserved or {}
    if demand.policies:
        missing = unserved.get(demand.key, 0.0)
    else:
        stage = demand.stages[0].name
        for name in class_rates(demand):
            missing += unserved.get(f"{demand.key}/{stage}/{name}", 0.0)
    return max(0.0, asked - missing), asked


def _policies(demand: Demand, solution: Solution) -> tuple[PolicyChoice, ...]:
    if isinstance(demand, RlDemand):
        return ()
    known = {p.id: p for p in demand.policies}
    chosen: dict[str, float] = {}
    for p in solution.policies:
        if p.cascade == demand.key and p.share > LEAST_SHARE:
            chosen[policy_id(p.id)] = chosen.get(policy_id(p.id), 0.0) + p.share
    total = sum(chosen.values()) or 1.0
    return tuple(
        PolicyChoice(i, share / total, p.thresholds, p.visits, classes_of(p))
        for i, share in chosen.items()
        for p in (known[i],)
    )


def _quality(demand: Demand, policies: Sequence[PolicyChoice]) -> float | None:
    if isinstance(demand, RlDemand) or not policies:
        return None
    quality = {p.id: p.quality for p in demand.policies}
    return sum(p.share * quality[p.id] for p in policies)


def groups_of(
    replicas: Sequence[PlannedReplica], classes: Mapping[str, NodeClass]
) -> tuple[Group, ...]:
    """Equal replicas on equal nodes, counted; `classes` are those of nodes by name."""
    groups: dict[tuple[str, ...], list[PlannedReplica]] = {}
    for replica in replicas:
        node = classes[replica.nodes[0]]
        at = (replica.stage, replica.role, replica.column, node.zone, node.capacity_type)
        groups.setdefault(at, []).append(replica)
    return tuple(
        Group(
            stage=stage,
            role=role,
            column=column,
            model=members[0].model,
            gpu=members[0].gpu,
            tensor_parallel=members[0].tensor_parallel,
            zone=zone,
            capacity_type=capacity_type,
            count=len(members),
            price_usd_per_hour=sum(m.price_usd_per_hour for m in members),
            pipeline=members[0].pipeline,
            phase=members[0].phase,
            kv_scale=members[0].kv_scale,
        )
        for (stage, role, column, zone, capacity_type), members in sorted(groups.items())
    )


def _promises(
    key: str, replicas: Sequence[PlannedReplica], assembly: Assembly
) -> tuple[Promise, ...]:
    """The slowest predicted TTFT and TPOT of each class over the replicas that take it."""
    worst: dict[str, tuple[tuple[float, str], Candidate]] = {}
    by_column = {(c.stage, c.column): c for c in assembly.of(key)}
    for replica in replicas:
        candidate = by_column[(replica.stage, replica.column)]
        for name in replica.rates:
            for what, table in (("ttft_s", candidate.ttft_s), ("tpot_s", candidate.tpot_s)):
                at = f"{what} {replica.stage} {name}"
                rank = (table.get(name, 0.0), candidate.provenance)
                if name in table and (at not in worst or rank > worst[at][0]):
                    worst[at] = (rank, candidate)
    return tuple(
        Promise(what, value, value * low, value * high, source)
        for what, ((value, source), candidate) in sorted(worst.items(), key=lambda one: one[0])
        for low, high in (_band(what, candidate, assembly),)
    )


def _band(what: str, candidate: Candidate, assembly: Assembly) -> tuple[float, float]:
    """Shares of a promised time between which it is expected; TPOT alone is learned from."""
    if candidate.provenance == "learned" and what.startswith("tpot_s"):
        found = learned_of(candidate, assembly.learned)
        assert found is not None, "what is labelled learned has a factor"
        return tpot_band(found)
    band = MEASURED_BAND if candidate.provenance == "profiled" else PREDICTION_BAND
    return 1.0 - band, 1.0 + band


def _late_promises(key: str, solution: Solution, assembly: Assembly) -> tuple[Promise, ...]:
    """By percentile of an end-to-end target: the share of answers that are later than it."""
    shares = {p.id: p.share for p in solution.policies if p.cascade == key}
    late: dict[str, float] = {}
    for tiered in assembly.tiered.get(key, ()):
        for name, miss in tiered.miss.items():
            late[name] = late.get(name, 0.0) + shares.get(tiered.id, 0.0) * miss
    return tuple(
        Promise(f"late_share e2e {name}", share, 0.0, share)
        for name, share in sorted(late.items())
        if shares
    )


def _loss_promise(key: str, assembly: Assembly) -> tuple[Promise, ...]:
    """Share of the rate served after the worst loss of nodes: computed, given the capacities."""
    if key not in assembly.after_loss:
        return ()
    share, nodes = assembly.after_loss[key]
    what = f"served_share after losing {nodes} node{'s' if nodes != 1 else ''}"
    return (Promise(what, share, share * (1 - PREDICTION_BAND), share),)


def _binding(key: str, solution: Solution, assembly: Assembly) -> tuple[str, ...]:
    mine = [s for s in solution.shortfalls if s.what == key or s.what.startswith(_within(key))]
    full = full_quotas(key, solution, assembly) if mine else ()
    return tuple(dict.fromkeys((*full, *(binding_words(s.binding, key) for s in mine))))


def _within(key: str) -> tuple[str, str]:
    """How names of a resource's classes and limits start."""
    return f"{key}/", f"{key}|"


def _hash(replicas: Sequence[PlannedReplica], policies: Sequence[PolicyChoice]) -> str:
    """Twelve hex digits over what the slice decides; not over prices, gaps or other tenants."""

    def digits(value: float) -> str:
        return f"{value:.{HASHED_DIGITS}g}"

    decided = {
        "replicas": [
            [
                r.name,
                list(r.nodes),
                {n: digits(v) for n, v in sorted(r.rates.items())},
                *([] if r.column in r.name else [r.phase]),  # it was started in another role
            ]
            for r in sorted(replicas, key=lambda r: r.name)
        ],
        "policies": [[p.id, digits(p.share), dict(p.thresholds)] for p in policies],
    }
    text = json.dumps(decided, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
