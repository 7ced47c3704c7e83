"""A cascade's end-to-end target: latency tiers of its stages, and late answers as a row.

Theory of operation. A request pays the sum of the stages it visits, and percentiles do not add up.
So each stage is offered at a few tiers. A tier is a whole distribution: a replica holds it where
every listed percentile of its latency stays within the tier's,

    latency_q <= seconds x ratio_q / ratio_anchor   for every listed quantile q,

which bounds the stage's latency by a discrete one (the rest beyond the last quantile counts as
never). For a policy and one tier a stage, the latencies along each path that requests take are
convolved, as if stages were independent, and give the share of late answers, `miss`. The plan picks
one combination of tiers and mixes policies under

    sum_p v_p (miss_p - allowed) <= 0,       allowed = 1 - quantile of the target.

One combination, not a mixture of them: the gateway sends a stage's requests to all its replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from motley_planner.candidates import Candidate
from motley_planner.candidates.targets import quantile_of, tpot_ratio
from motley_planner.domain.demand import RoutingPolicy, ServingDemand, Slo
from motley_planner.domain.hardware import Catalog

# Of the end-to-end target, by number of stages; the combinations multiply.
FRACTIONS = {2: (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0), 3: (0.2, 0.35, 0.5, 0.7, 1.0)}
FEWEST = (0.25, 0.5, 1.0)
MOST_LATE = 0.5  # policies with more late answers are of no use in any mixture
SEPARATOR = "~"  # between a class and its tier in the table
NEVER = float("inf")

Atoms = tuple[tuple[float, float], ...]  # (seconds, probability)
Shape = tuple[object, ...]  # what a replica is, but for its batch


@dataclass(frozen=True, slots=True)
class Tier:
    """One level of latency that a stage's replicas may hold."""

    slo: Slo
    atoms: Atoms
    share: float  # of the end-to-end target


@dataclass(slots=True)
class StageTiers:
    """The tiers of one stage, tightest first, and which candidates hold each."""

    tiers: tuple[Tier, ...]
    split: int = -1  # position of the tier of the fixed split
    holds: list[dict[Shape, int]] = field(default_factory=list)  # by tier: shape -> largest batch

    def note(self, found: Sequence[Candidate]) -> None:
        """What enumeration listed for the next tier."""
        batches: dict[Shape, int] = {}
        for candidate in found:
            shape = shape_of(candidate)
            batches[shape] = max(candidate.operating_batch, batches.get(shape, 0))
        self.holds.append(batches)

    def of(self, candidate: Candidate) -> tuple[int, ...]:
        """Tiers that a candidate holds: one that lists its like at no smaller a batch."""
        shape, batch = shape_of(candidate), candidate.operating_batch
        held = [i for i, batches in enumerate(self.holds) if batches.get(shape, 0) >= batch]
        return tuple(held) or (len(self.tiers) - 1,)

    def held_by_all(self, stage: str, running: Sequence[Candidate]) -> set[int]:
        """Tiers that every running replica of the stage holds; all where none runs."""
        found = set(range(len(self.tiers)))
        for candidate in running:
            if candidate.stage == stage:
                found &= set(self.of(candidate))
        return found

    def is_largest(self, candidate: Candidate, tier: int) -> bool:
        """Whether no other of its shape holds the tier at a larger batch."""
        return self.holds[tier].get(shape_of(candidate)) == candidate.operating_batch


@dataclass(frozen=True, slots=True)
class TieredPolicy:
    """A policy at one tier a stage; `miss` is its share of late answers by percentile."""

    policy: RoutingPolicy
    combination: tuple[int, ...]  # by stage
    miss: Mapping[str, float]

    @property
    def id(self) -> str:
        """Names both; see policy_id for the way back."""
        return f"{self.policy.id}@{self.tier}"

    @property
    def tier(self) -> str:
        """The combination as a label."""
        return "-".join(str(i) for i in self.combination)


def policy_id(tiered: str) -> str:
    """The routing policy's id of a table policy's."""
    return tiered.partition("@")[0]


def is_tiered(service: ServingDemand) -> bool:
    """Whether a service has several stages that share an end-to-end target."""
    percentiles = [name for name in service.slo.e2e_s if quantile_of(name) > 0]
    return len(service.stages) > 1 and bool(service.policies) and bool(percentiles)


def shape_of(candidate: Candidate) -> Shape:
    """What a candidate is but for its batch and place; replicas of one shape slow down alike.

    One that shares its memory under a row of its own is another shape.
    """
    return (
        candidate.gpu,
        candidate.tensor_parallel,
        candidate.fragments,
        getattr(candidate, "pipeline", ()),
        getattr(candidate, "phase", "both"),
        bool(candidate.kv_share),
        frozenset(candidate.capacity),
    )


def stage_tiers(
    service: ServingDemand, catalog: Catalog, split: float | None = None
) -> tuple[Tier, ...]:
    """The tiers of a stage, tightest first; `split` is a share of the target offered as well."""
    assert catalog.efficiency is not None
    ratios = catalog.efficiency.tpot_quantiles
    anchor = max((n for n in service.slo.e2e_s if quantile_of(n) > 0), key=quantile_of)
    target = service.slo.e2e_s[anchor]
    fractions = FRACTIONS.get(len(service.stages), FEWEST)
    if split is not None:
        fractions = tuple(sorted({*fractions, split}))
    return tuple(
        _tier(service.slo, ratios, target / tpot_ratio(ratios, quantile_of(anchor)), f)
        for f in fractions
    )


def _tier(slo: Slo, ratios: Mapping[str, float], whole_s: float, share: float) -> Tier:
    listed = sorted((quantile_of(name), name) for name in ratios)
    atoms, below, mean_s = [], 0.0, whole_s * share
    for quantile, name in listed:
        atoms.append((mean_s * ratios[name], quantile - below))
        below = quantile
    atoms.append((NEVER, 1.0 - below))
    limits = {name: mean_s * ratios[name] for _, name in listed}
    return Tier(replace(slo, e2e_s=limits), tuple(atoms), share)


def tiered_policies(
    service: ServingDemand, tiers: Mapping[str, StageTiers]
) -> tuple[TieredPolicy, ...]:
    """Useful policies at useful combinations of tiers.

    A combination is left out where no policy alone is on time often enough, and where another,
    looser one in every stage, is on time often enough with every policy.
    """
    allowed = {n: 1.0 - q for n in service.slo.e2e_s if (q := quantile_of(n)) > 0}
    stages = [stage.name for stage in service.stages]
    combinations = list(product(*(range(len(tiers[name].tiers)) for name in stages)))
    found: dict[tuple[int, ...], list[TieredPolicy]] = {}
    for combination in combinations:
        atoms = [tiers[n].tiers[i].atoms for n, i in zip(stages, combination, strict=True)]
        made = [TieredPolicy(p, combination, _misses(service, p, atoms)) for p in service.policies]
        if any(all(t.miss[n] <= a for n, a in allowed.items()) for t in made):
            found[combination] = [t for t in made if max(t.miss.values()) <= MOST_LATE]
    safe = [
        c
        for c, made in found.items()
        if len(made) == len(service.policies)
        and all(t.miss[n] <= a for t in made for n, a in allowed.items())
    ]
    useful = [c for c in found if not any(_looser(other, c) for other in safe)]
    return tuple(tiered for combination in useful for tiered in found[combination])


def _looser(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _misses(
    service: ServingDemand, policy: RoutingPolicy, atoms: Sequence[Atoms]
) -> dict[str, float]:
    """By percentile: the share of all requests whose path takes longer than the target."""
    late = dict.fromkeys((n for n in service.slo.e2e_s if quantile_of(n) > 0), 0.0)
    so_far: Atoms = ((0.0, 1.0),)
    visits = [policy.visits.get(stage.name, 0.0) for stage in service.stages]
    last = len(visits) - 1
    for i, visited in enumerate(visits):
        if visited <= 0:
            continue
        so_far = convolved(so_far, atoms[i])
        going_on = max(visits[i + 1 :], default=0.0) if i < last else 0.0
        ending = max(0.0, visited - going_on)
        for name in late:
            late[name] += ending * late_share(so_far, service.slo.e2e_s[name])
    return late


def convolved(one: Atoms, other: Atoms) -> Atoms:
    """The distribution of the sum of two independent latencies."""
    sums: dict[float, float] = {}
    for a, p in one:
        for b, q in other:
            sums[a + b] = sums.get(a + b, 0.0) + p * q
    return tuple(sorted(sums.items()))


def late_share(atoms: Atoms, limit_s: float) -> float:
    """Probability of more than `limit_s` seconds."""
    return sum(p for seconds, p in atoms if seconds > limit_s * (1.0 + 1e-9))
