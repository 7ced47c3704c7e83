"""The ladder alone: its bound is one of the whole program, and exact where all blocks are in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.solver import first_parts, refine
from motley_planner.solver.search import Search
from motley_planner.testing.fleets import fleet, loaded, lp_capacity


def small_fleet(seed: int, objective: str) -> FleetTable:
    base = fleet("A", 24, seed)
    table = loaded(base, objective, lp_capacity(base))
    return replace(table, relative_gap=1e-6, time_limit_s=20.0)


def ladder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "prove_survivors", lambda self, share: None)
    monkeypatch.setattr(refine, "refine", lambda search: None)
    monkeypatch.setattr(first_parts, "FEW_REPLICAS", 10_000)


@pytest.mark.parametrize("objective", ["max_min", "min_cost"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_rung_with_all_blocks_proves_and_a_smaller_one_claims_nothing(
    seed: int, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = small_fleet(seed, objective)
    best = solve_table(table, use_worker=False)
    assert best.status == "optimal" and best.objective is not None
    ladder_alone(monkeypatch)
    whole = solve_table(table, use_worker=False)
    assert whole.status == "optimal"
    assert whole.objective == pytest.approx(best.objective, rel=1e-5)
    monkeypatch.setattr(first_parts, "LADDER", (1, 2))
    monkeypatch.setattr(first_parts, "NEARLY_ALL", 1.1)
    part = solve_table(table, use_worker=False)
    assert part.objective is not None and part.bound is not None
    sign = -1.0 if objective == "min_cost" else 1.0
    slack = 1e-5 * abs(best.objective)
    assert sign * part.objective <= sign * best.objective + slack
    assert sign * part.bound >= sign * best.objective - slack
