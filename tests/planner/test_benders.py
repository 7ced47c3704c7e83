"""Benders decomposition of a level: what it finds alone, and that it only ever reports plans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from motley_planner.domain.table import FleetTable
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.program import Index, formulate
from motley_planner.formulations.starts import find_starts
from motley_planner.solver import benders, first_parts, highs
from motley_planner.solver.blocks import Structured
from motley_planner.solver.clock import CLOCK
from motley_planner.solver.milp import Milp
from motley_planner.solver.relaxing import Limits
from motley_planner.solver.search import Search
from motley_planner.testing.fleets import fleet, loaded, lose, lp_capacity, running

FEW = 3  # survivors that may stop


def lost_nodes(objective: str, seed: int) -> FleetTable:
    """A fleet of family A that lost a fifth of its nodes."""
    base = fleet("A", 32, seed)
    before = running(loaded(base, objective, lp_capacity(base)), limit_s=2.0)
    return replace(lose(before, 0.2, seed), most_stopped=FEW)


def search_from(table: FleetTable, number: int = 0) -> tuple[Search, Milp, Index]:
    """A search of a level that begins from what still runs."""
    milp, index = formulate(table)
    limits = Limits(CLOCK.now() + 20.0, 1e-9)
    program = Structured(milp, index.blocks)
    search = Search(program, None, index.levels[number], limits, lambda *_: None)
    search.offer(find_starts(milp, index)[0])
    return search, milp, index


def decomposed(search: Search) -> int:
    """How many counts a decomposition on all blocks judged."""
    every = np.ones(search.program.blocks.number, dtype=np.bool_)
    return benders.decompose(search, every, search.limits.deadline)


@pytest.mark.parametrize("objective", ["max_min", "goodput"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("near", [True, False], ids=["neighbourhoods", "whole"])
def test_alone_it_finds_what_the_whole_integer_program_finds(
    seed: int, objective: str, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not near:
        monkeypatch.setattr(benders, "IDLE", 0)
    search, milp, index = search_from(lost_nodes(objective, seed))
    before = search.value
    judged = decomposed(search)
    limits = highs.MipLimits(CLOCK.now() + 20.0, 1e-6)
    best = highs.solve_mip(milp, index.levels[0].cost, limits).value
    assert best is not None
    best += index.levels[0].constant
    assert search.value == pytest.approx(best, rel=2 * benders.MASTER_GAP)
    assert search.value > before + 1e-3 and judged < benders.MOST_ROUNDS
    assert search.x is not None and milp.violation(search.x) <= 1e-6


def test_what_was_found_is_not_proposed_again() -> None:
    search, _, _ = search_from(lost_nodes("max_min", 2))
    assert decomposed(search) > 2
    assert decomposed(search) <= 2


def test_counts_without_rates_end_it_and_leave_the_incumbent() -> None:
    """Below a level that is held most counts have no rates at all."""
    search, milp, index = search_from(lost_nodes("goodput", 0))
    decomposed(search)
    assert search.x is not None
    least = float(index.levels[0].cost @ search.x)
    held = milp.with_row(index.levels[0].cost, least - 1e-8, np.inf)
    below = Search(
        Structured(held, index.blocks), None, index.levels[-1], search.limits, lambda *_: None
    )
    below.offer(search.x)
    decomposed(below)
    assert below.x is not None and held.violation(below.x) <= 1e-6


def test_a_fleet_with_too_many_counts_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_parts, "MOST_COUNTS", 3)
    monkeypatch.setattr(first_parts, "decompose", lambda *_: pytest.fail("decomposed"))
    found = solve_table(replace(lost_nodes("max_min", 0), time_limit_s=5.0), use_worker=False)
    assert found.status in ("optimal", "feasible")


def test_only_a_level_of_one_scale_is_decomposed() -> None:
    for objective, fits in (("max_min", True), ("goodput", False), ("min_cost", False)):
        base = fleet("A", 32, 0)
        milp, index = formulate(loaded(base, objective, lp_capacity(base)))
        assert benders.is_least_of_many(milp, index.levels[0]) == fits, objective
