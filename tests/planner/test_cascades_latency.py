"""Late answers of cascades: convolved latencies, tiers of stages, and floors by class."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.domain.demand import (
    RoutingPolicy,
    RunningUnit,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.plan import Plan
from motley_planner.domain.snapshot import Snapshot
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import assemble as assembling
from motley_planner.planning import plan
from motley_planner.planning.assemble import assemble
from motley_planner.planning.tiers import (
    Atoms,
    StageTiers,
    convolved,
    late_share,
    policy_id,
    stage_tiers,
    tiered_policies,
)

CATALOG = load_catalog()
NEVER = float("inf")

POLICIES = (
    RoutingPolicy("never", {"small": 0.0}, 0.70, 0.71, {"small": 1.0, "large": 0.0}),
    RoutingPolicy("some", {"small": 0.5}, 0.82, 0.83, {"small": 1.0, "large": 0.4}),
    RoutingPolicy("most", {"small": 0.8}, 0.87, 0.88, {"small": 1.0, "large": 0.7}),
    RoutingPolicy("all", {"small": 1.1}, 0.90, 0.91, {"small": 0.0, "large": 1.0}),
)


def cascade(target_s: float, floor: float = 0.8, rate: float = 10.0) -> ServingDemand:
    small, large = CATALOG.model("Qwen/Qwen3-8B"), CATALOG.model("Qwen/Qwen3-32B")
    assert small is not None and large is not None
    return ServingDemand(
        key="ModelCascade/team-a/support",
        tenant="team-a",
        stages=(
            StageDemand("small", small, "bf16", "vllm"),
            StageDemand("large", large, "fp8", "vllm"),
        ),
        classes=(WorkloadClass("easy", 900, 220, 3), WorkloadClass("hard", 1500, 260, 1)),
        requests_per_second=rate,
        slo=Slo(e2e_s={"p95": target_s}),
        policies=POLICIES,
        quality_floor=floor,
    )


def fleet() -> tuple[Node, ...]:
    found = []
    for gpu, price, count in (
        ("H100-SXM5-80GB", 6.88, 3),
        ("A100-SXM4-80GB", 3.43, 3),
        ("L40S", 1.86, 4),
    ):
        kind = NodeClass(gpu, "az-1", "on-demand", "", price)
        found += [Node(f"{gpu}-{i}", kind, 8, 192_000, 2**41, 110, 8) for i in range(count)]
    return tuple(found)


def solve(service: ServingDemand) -> Plan:
    return plan(Snapshot(fleet(), services=(service,)), CATALOG, use_worker=False)


atoms_of = st.lists(st.floats(0.1, 5.0), min_size=2, max_size=4, unique=True).map(
    lambda values: tuple((v, 1.0 / len(values)) for v in sorted(values))
)


@given(atoms_of, atoms_of, st.floats(0.1, 10.0))
def test_the_sum_of_two_stages_is_late_as_often_as_all_pairs_say(
    one: Atoms, other: Atoms, limit: float
) -> None:
    both = convolved(one, other)
    assert sum(p for _, p in both) == pytest.approx(1.0)
    pairs = sum(p * q for (a, p), (b, q) in product(one, other) if a + b > limit * (1 + 1e-9))
    assert late_share(both, limit) == pytest.approx(pairs)


def test_an_answer_after_both_stages_pays_both_and_one_that_stops_pays_one() -> None:
    service = cascade(10.0)
    tiers = {s.name: StageTiers(stage_tiers(service, CATALOG)) for s in service.stages}
    found = tiered_policies(service, tiers)
    for tiered in found:
        small, large = (
            tiers[name].tiers[i].atoms
            for name, i in zip(("small", "large"), tiered.combination, strict=True)
        )
        both = late_share(convolved(small, large), 10.0)
        expected = {
            "never": late_share(small, 10.0),
            "some": 0.6 * late_share(small, 10.0) + 0.4 * both,
            "most": 0.3 * late_share(small, 10.0) + 0.7 * both,
            "all": late_share(large, 10.0),
        }[tiered.policy.id]
        assert tiered.miss["p95"] == pytest.approx(expected)
    assert {t.policy.id for t in found} == {p.id for p in POLICIES}


def test_latencies_within_the_tiers_are_never_late_more_often_than_said() -> None:
    service = cascade(10.0)
    tiers = {s.name: StageTiers(stage_tiers(service, CATALOG)) for s in service.stages}
    generator = np.random.default_rng(3)
    for tiered in tiered_policies(service, tiers):
        if tiered.policy.id != "some":
            continue
        total = np.zeros(20_000)
        for name, i in zip(("small", "large"), tiered.combination, strict=True):
            draws = quantile_draws(tiers[name].tiers[i].atoms, generator, len(total))
            visit = 1.0 if name == "small" else (generator.random(len(total)) < 0.4)
            total += draws * visit
        assert float((total > 10.0).mean()) <= tiered.miss["p95"] + 0.005


def quantile_draws(atoms: Atoms, generator: np.random.Generator, count: int) -> np.ndarray:  # type: ignore[type-arg]
    """A latency whose every listed percentile is just the tier's, straight lines between them."""
    quantiles = np.cumsum([0.0, *(p for _, p in atoms[:-1])])
    seconds = np.array([0.5 * atoms[0][0], *(s for s, _ in atoms[:-1])])
    uniform = generator.random(count)
    return np.where(
        uniform <= quantiles[-1], np.interp(uniform, quantiles, seconds), 1.5 * seconds[-1]
    )


TARGETS = (6.0, 14.0)


@pytest.mark.parametrize("target_s", TARGETS)
def test_few_enough_answers_are_late_and_the_floor_holds(target_s: float) -> None:
    service = cascade(target_s)
    (part,) = solve(service).slices
    late = {p.what: p.value for p in part.promises}["late_share e2e p95"]
    assert part.served_requests_per_second == pytest.approx(10.0)
    assert late <= 0.05 + 1e-6
    assert part.expected_quality is not None and part.expected_quality >= 0.8 - 1e-6
    assert {p.id for p in part.policies} <= {p.id for p in POLICIES}


def prices(targets: tuple[float, ...]) -> list[float]:
    return [solve(cascade(t)).price_usd_per_hour for t in targets]


def test_tiers_cost_no_more_than_a_fixed_split_and_less_where_time_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiered = prices(TARGETS)
    monkeypatch.setattr(assembling, "is_tiered", lambda service: False)
    split = prices(TARGETS)
    assert all(a <= b * 1.002 for a, b in zip(tiered, split, strict=True)), (tiered, split)
    assert any(a < 0.99 * b for a, b in zip(tiered, split, strict=True)), (tiered, split)


def test_a_stricter_target_never_costs_less() -> None:
    strict, loose = prices(TARGETS)
    assert strict >= loose * 0.998


def test_the_checker_refuses_a_plan_whose_answers_are_late_too_often() -> None:
    table, _ = assemble(Snapshot(fleet(), services=(cascade(6.0),)), CATALOG)
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    late = max(table.side_rows[-1].per_policy, key=lambda at: table.side_rows[-1].per_policy[at])
    changed = replace(
        solution,
        policies=tuple(
            replace(p, id=late[1]) if i == 0 else p for i, p in enumerate(solution.policies)
        ),
    )
    assert any("e2e p95" in text for text in check(table, changed))


def test_a_class_with_a_floor_of_its_own_gets_policies_that_keep_it() -> None:
    by_class = {"never": 0.5, "some": 0.66, "most": 0.85, "all": 0.7}
    policies = tuple(
        replace(p, class_quality={"hard": by_class[p.id], "easy": p.quality}) for p in POLICIES
    )
    asked = replace(cascade(14.0), policies=policies)
    free = solve(asked).slices[0]
    strict = solve(replace(asked, class_floors={"hard": 0.8})).slices[0]

    def quality(shares: dict[str, float]) -> float:
        return sum(share * by_class[policy_id(i)] for i, share in shares.items())

    assert quality({p.id: p.share for p in free.policies}) < 0.8
    assert quality({p.id: p.share for p in strict.policies}) >= 0.8 - 1e-6
    assert strict.price_usd_per_hour >= free.price_usd_per_hour - 1e-6


def test_what_runs_is_kept_when_planned_again() -> None:
    service = cascade(9.0)
    first = solve(service)
    running = tuple(
        RunningUnit(
            f"{part.key}/{r.name}", part.key, r.stage, r.role, r.gpu, r.tensor_parallel,
            r.operating_batch, r.model, r.precision, r.nodes,
        )
        for part in first.slices
        for r in part.replicas
    )  # fmt: skip
    again = Snapshot(fleet(), services=(service,), running=running)
    second = plan(again, CATALOG, use_worker=False)
    assert second.moves == ()
    assert [p.hash for p in second.slices] == [p.hash for p in first.slices]
