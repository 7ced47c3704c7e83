"""Proofs of bounds: found by the solver, worked out again by addition, never below any plan."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from motley_planner.checker import check, examine
from motley_planner.checker.certificates import proved_bound
from motley_planner.domain.certificate import Certificate
from motley_planner.domain.solution import PROVED, UNPROVED, Solution
from motley_planner.domain.table import Column, FleetTable, Fragment, NodeGroup, RequestClass
from motley_planner.errors import SnapshotError
from motley_planner.formulations import certificate, proving
from motley_planner.formulations.certificate import (
    certify,
    kept_back_s,
    leaving_time,
    with_cheap_proofs,
    with_proofs,
)
from motley_planner.formulations.fleet import solve_table
from motley_planner.testing.corpus import structured_cases
from motley_planner.testing.oracle import Unbounded, best_value
from motley_planner.testing.tables import large_table, tiny_table


def certified(table: FleetTable) -> Solution | None:
    """The plan with its certificates; None where there is no plan."""
    try:
        solution = solve_table(table, use_worker=False)
    except SnapshotError:
        return None
    if solution.status not in ("optimal", "feasible"):
        return None
    return replace(solution, certificates=certify(table, solution, 10.0, use_worker=False))


@cache
def certified_tiny(seed: int) -> Solution | None:
    """The same of a tiny table, which several tests judge."""
    return certified(tiny_table(seed))


def beyond(level: str, value: float, bound: float) -> float:
    """By how much a value is better than a bound."""
    return bound - value if level == "price" else value - bound


def test_a_bound_that_nobody_proved_is_told_apart_from_one_that_a_certificate_proves() -> None:
    """A plan that calls itself optimal passes as a plan; its bound is no more than its word."""
    told = set()
    for seed in range(40):
        table, solution = tiny_table(seed), certified_tiny(seed)
        if solution is None:
            continue
        levels = tuple(replace(lv, bound=lv.value, gap=0.0) for lv in solution.levels)
        claims = replace(
            solution,
            status="optimal",
            bound=solution.objective,
            gap=0.0,
            levels=levels,
        )
        forged = examine(table, replace(claims, certificates=()))
        assert forged.complaints == ()
        assert {b.bound_proof for b in forged.bounds} == {UNPROVED}
        assert {b.certified_bound for b in forged.bounds} == {None}
        verdict = examine(table, claims)
        for one, level in zip(verdict.bounds, levels, strict=True):
            assert (one.level, one.claimed) == (level.name, level.value)
            if one.certified_bound is not None:
                assert level.value is not None
                farther = beyond(one.level, one.certified_bound, level.value)
                close = farther <= 1e-6 * max(1.0, abs(level.value))
                assert one.bound_proof == (PROVED if close else UNPROVED)
                told.add(one.bound_proof)
    assert told == {PROVED, UNPROVED}


def test_a_certified_bound_that_its_certificate_does_not_prove_is_a_complaint() -> None:
    table = tiny_table(3)
    solution = certified(table)
    assert solution is not None
    proved = with_proofs(table, solution, 10.0, use_worker=False)
    assert [lv.certified_bound for lv in proved.levels] == [c.bound for c in proved.certificates]
    assert check(table, proved) == ()
    assert any("certified_bound" in text for text in check(table, replace(proved, certificates=())))
    first, *rest = proved.levels
    assert first.certified_bound is not None
    closer = replace(first, certified_bound=first.certified_bound * 0.9)
    assert any(
        "certified_bound" in text for text in check(table, replace(proved, levels=(closer, *rest)))
    )


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_every_level_of_a_plan_has_a_proof_that_enumeration_never_beats(first: int) -> None:
    seen = 0
    for seed in range(first, first + 50):
        table, solution = tiny_table(seed), certified_tiny(seed)
        if solution is None:
            continue
        names = [level.name for level in solution.levels if level.name != "tolerance"]
        assert [c.level for c in solution.certificates] == names
        assert check(table, solution) == ()
        if table.side_rows or table.scenarios:
            continue
        try:
            best = best_value(table)
        except Unbounded:
            continue
        assert best is not None
        top, *_ = solution.certificates
        reached = -best[0] if top.level == "price" else best[0]
        assert beyond(top.level, reached, top.bound) <= 1e-6 * max(1.0, abs(reached)), seed
        seen += 1
    assert seen >= 15


def test_most_proofs_are_as_close_as_what_branching_proved() -> None:
    close, far = 0, 0
    for seed in range(120):
        solution = certified_tiny(seed)
        levels = {lv.name: lv.bound for lv in solution.levels} if solution else {}
        for one in solution.certificates if solution else ():
            bound = levels[one.level]
            if bound is not None:
                near = abs(one.bound - bound) <= 1e-5 * max(1.0, abs(bound))
                close, far = close + near, far + (not near)
                # Never closer than the truth, which small tables are solved to.
                assert beyond(one.level, bound, one.bound) <= 1e-5 * max(1.0, abs(bound))
    assert close >= 2 * far


@pytest.mark.parametrize("case", structured_cases(1)[::4], ids=lambda case: case.name)
def test_larger_tables_are_certified_too(case: object) -> None:
    table = replace(case.table, time_limit_s=1.0)  # type: ignore[attr-defined]
    solution = certified(table)
    assert solution is not None and solution.certificates
    assert check(table, solution) == ()


def test_a_forged_proof_is_refused() -> None:
    refused = 0
    for seed in range(90):
        table, solution = tiny_table(seed), certified_tiny(seed)
        if solution is None or not solution.certificates:
            continue
        one = solution.certificates[-1]
        better = -1.0 if one.level != "price" else 1.0
        forged = replace(one, bound=one.bound + better * (0.01 + 0.01 * abs(one.bound)))
        assert check(table, replace(solution, certificates=(forged,))) != ()
        if not one.multipliers:
            continue
        name = max(sorted(one.multipliers), key=lambda n: abs(one.multipliers[n]))
        prices = {k: v for k, v in one.multipliers.items() if k != name}
        proved = proved_bound(table, solution.levels, replace(one, multipliers=prices))
        # Without one of its prices a proof says less, or nothing; never more than the whole one.
        whole = proved_bound(table, solution.levels, one)
        assert whole is not None
        if proved is None or beyond(one.level, whole, proved) < -1e-9:
            refused += 1
    assert refused >= 20


def test_prices_of_unknown_limits_and_senseless_prices_prove_nothing() -> None:
    table = tiny_table(1)
    solution = certified(table)
    assert solution is not None
    level = solution.certificates[0].level
    for prices in ({"nonsense": 1.0}, {}, {name: -1e9 for name in ("budget", "time[c0]")}):
        made = Certificate(level, solution.certificates[0].bound, prices)
        proved = proved_bound(table, solution.levels, made)
        value = solution.levels[0].value
        assert value is not None
        assert proved is None or beyond(level, value, proved) <= 1e-6 * max(1.0, abs(value))


def test_a_small_table_has_its_proofs_unasked_and_a_check_finds_them_good() -> None:
    table = tiny_table(0)
    solution = with_cheap_proofs(table, solve_table(table, use_worker=False), 1.0, use_worker=False)
    assert len(solution.certificates) == len(solution.levels) > 0
    assert solution.no_certificates == "" and check(table, solution) == ()


def test_a_small_table_has_its_proofs_even_where_the_search_took_all_the_time() -> None:
    table = tiny_table(0)
    solution = solve_table(table, use_worker=False)
    late = with_cheap_proofs(table, solution, 0.0, use_worker=False)
    assert len(late.certificates) == len(late.levels) > 0


def test_a_search_leaves_the_time_that_proofs_need_where_it_is_little() -> None:
    table = replace(tiny_table(0), time_limit_s=10.0)
    small = kept_back_s(table)
    assert 0.0 < small < 0.01
    assert leaving_time(table).time_limit_s == 10.0 - small
    many = tuple(replace(table.columns[0], id=f"c{i}") for i in range(40_000))
    large = replace(table, columns=many)
    rates = 40_000 * len(table.columns[0].requests_per_second)
    assert rates * 1.2e-5 <= kept_back_s(large) <= 1.5  # as measured, and 15 % of ten seconds
    hurried = replace(large, time_limit_s=4.9)  # the quick way, in at most a tenth of a short limit
    assert rates * 2.4e-6 <= kept_back_s(hurried) <= 0.1 * 4.9
    short = replace(large, time_limit_s=1.0)  # nothing is left out of what has no time for either
    assert kept_back_s(short) == 0.0 and leaving_time(short).time_limit_s == 1.0


def test_proofs_that_would_take_long_are_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = tiny_table(0)
    solution = solve_table(table, use_worker=False)
    monkeypatch.setattr(certificate, "RATE_S", 0.2)
    monkeypatch.setattr(certificate, "SIFTED_S", 0.2)
    late = with_cheap_proofs(table, solution, 0.0, use_worker=False)
    assert late.certificates == () and "0 s were left" in late.no_certificates
    monkeypatch.setattr(certificate, "RATE_S", 10.0)
    monkeypatch.setattr(certificate, "SIFTED_S", 10.0)
    large = with_cheap_proofs(table, solution, 10.0, use_worker=False)
    assert large.certificates == () and "takes about" in large.no_certificates
    none = with_cheap_proofs(table, Solution(status="no_solution"), 1.0, use_worker=False)
    assert none.certificates == () and "no level" in none.no_certificates


def test_that_not_everything_can_be_served_is_proved_by_addition() -> None:
    column = Column("c", "m", "z", (Fragment("H100", 4),), {"k": 3.2}, price_usd_per_hour=12.0)
    made = FleetTable(
        (RequestClass("k", "m", 50.0),),
        (column,),
        (NodeGroup("H100", "z", 8, 2),),
        objective="min_cost",
        penalty_per_started_gpu=1.0,
    )
    found = with_cheap_proofs(made, solve_table(made, use_worker=False), 5.0, use_worker=False)
    assert (found.status, found.levels) == ("infeasible", ())
    (proof,) = found.certificates
    assert (proof.level, proof.bound) == ("max_min", pytest.approx(4 * 3.2 / 50.0))
    assert check(made, found) == ()
    wrong = replace(found, certificates=(replace(proof, bound=1.0),))
    assert any("proves nothing" in said for said in check(made, wrong))
    half = replace(made, classes=(RequestClass("k", "m", 5.0),), budget_usd_per_hour=20.0)
    unproved = with_cheap_proofs(half, solve_table(half, use_worker=False), 5.0, use_worker=False)
    assert (unproved.status, unproved.certificates) == ("infeasible", ())
    assert "only whole ones cannot" in unproved.no_certificates


def test_proofs_by_blocks_are_those_of_the_whole_relaxation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, forced, beside, moved = 0, 0, 0, 0
    tables = [tiny_table(seed) for seed in range(160)]
    tables += [replace(case.table, time_limit_s=1.0) for case in structured_cases(2)[::5]]
    for number, table in enumerate(tables):
        monkeypatch.setattr(proving, "FEW_BLOCKS", 10**9)
        whole = certified(table)
        if whole is None:
            continue
        monkeypatch.setattr(proving, "FEW_BLOCKS", 0)
        proofs = certify(table, whole, 10.0, use_worker=False)
        assert check(table, replace(whole, certificates=proofs)) == (), number
        assert [p.level for p in proofs] == [c.level for c in whole.certificates], number
        for one, other in zip(proofs, whole.certificates, strict=True):
            assert one.bound == pytest.approx(other.bound, rel=1e-6, abs=1e-6), number
        names = {name.partition("[")[0] for proof in proofs for name in proof.multipliers}
        forced, beside = forced + ("force" in names), beside + bool(names & {"kv", "nic"})
        seen, moved = seen + 1, moved + ("moves" in names)
    assert min(forced, moved) >= 30 and beside >= 3 and seen >= 60


def test_a_proof_gives_a_plan_without_a_bound_one(cpu_seconds: None) -> None:
    table = replace(large_table(256, 400), objective="max_min", time_limit_s=4.0)
    searched = solve_table(table, use_worker=False)
    levels = tuple(replace(level, bound=None, gap=None) for level in searched.levels)
    bare = replace(searched, levels=levels, bound=None, gap=None, status="feasible")
    proved = with_proofs(table, bare, 10.0, use_worker=False)
    assert proved.bound == proved.certificates[0].bound and proved.gap is not None
    assert proved.objective is not None and 0.0 <= proved.gap < 0.05
    assert proved.bound - proved.objective == pytest.approx(proved.gap * proved.objective)
    assert check(table, proved) == ()
    # What the search proved itself is kept where it is the better bound.
    kept = with_proofs(table, searched, 10.0, use_worker=False)
    assert kept.bound is not None and searched.bound is not None
    assert kept.bound <= min(searched.bound, proved.bound) * (1 + 1e-9)
