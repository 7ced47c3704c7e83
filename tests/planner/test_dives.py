"""Dives: their points are plans close to the bound, the more so the more groups there are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.checker import check
from motley_planner.formulations.fleet import solve_table
from motley_planner.solver import dives, first_parts, lexicographic
from motley_planner.solver.search import Search
from motley_planner.testing.fleets import fleet, loaded, lp_capacity
from motley_planner.testing.special_fleets import resources_fleet


def dives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few dives and nothing else after the relaxation, however few groups there are."""
    monkeypatch.setattr(dives, "MANY_GROUPS", 1)
    monkeypatch.setattr(dives, "IDLE", 2)
    monkeypatch.setattr(first_parts, "FEW_REPLICAS", 0)
    monkeypatch.setattr(Search, "prove_survivors", lambda self, share: None)
    monkeypatch.setattr(lexicographic, "refine", lambda search: None)


@pytest.mark.usefixtures("cpu_seconds")
@pytest.mark.parametrize("objective", ["max_min", "budget", "goodput", "min_cost"])
def test_dives_alone_find_plans_near_their_bound(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = fleet("C", 2048, 2)
    table = replace(loaded(base, objective, lp_capacity(base)), time_limit_s=3.0)
    dives_alone(monkeypatch)
    plan = solve_table(table, use_worker=False)
    assert check(table, plan) == ()
    assert plan.objective is not None and plan.bound is not None and plan.gap is not None
    sign = -1.0 if objective == "min_cost" else 1.0
    assert sign * plan.objective <= sign * plan.bound + 1e-6 * abs(plan.bound)
    assert plan.gap < 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_seconds")
@pytest.mark.parametrize("objective", ["max_min", "budget", "min_cost"])
def test_fleets_of_thirty_groups_are_planned_closely_in_five_seconds(objective: str) -> None:
    base = resources_fleet(10_000, 11, shared=False)
    table = replace(loaded(base, objective, lp_capacity(base)), time_limit_s=5.0)
    plan = solve_table(table, use_worker=False)
    assert check(table, plan) == ()
    assert plan.gap is not None and plan.gap <= 0.004  # half a run of the box alone is above
