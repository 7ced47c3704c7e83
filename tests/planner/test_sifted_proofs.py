"""Certificates of many columns: prices found on few of them prove the same of all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motley_planner.checker import check
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations import certificate, sifted_proofs
from motley_planner.formulations.certificate import kept_back_s, with_cheap_proofs
from motley_planner.formulations.certifying import certify
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.sifted_proofs import can_sift, certify_sifted
from motley_planner.testing.corpus import structured_cases
from motley_planner.testing.tables import large_table, tiny_table


def plan_of(table: FleetTable) -> Solution | None:
    """The plan without certificates; None where the table is refused or nothing is known of it."""
    try:
        solution = solve_table(table, use_worker=False)
    except SnapshotError:
        return None
    return None if solution.status == "no_solution" or not can_sift(table) else solution


def what_runs(table: FleetTable) -> set[int]:
    runs = {r.column for r in table.previous.replicas} if table.previous else set()
    return {i for i, column in enumerate(table.columns) if column.id in runs}


def farther(level: str, one: float, other: float) -> float:
    """By how much of it the first bound is farther from the plan than the second."""
    return (other - one if level == "price" else one - other) / max(1.0, abs(other))


@pytest.mark.parametrize("first", range(0, 240, 60))
def test_what_the_other_columns_add_is_counted(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices of a few columns, and no column joins them: the bounds are far off, and true."""
    monkeypatch.setattr(sifted_proofs, "best_columns", what_runs)
    monkeypatch.setattr(sifted_proofs, "ROUNDS", 1)
    seen = far = moved = 0
    for seed in range(first, first + 60):
        table = tiny_table(seed)
        solution = plan_of(table)
        if solution is None:
            continue
        whole = certify(table, solution, 10.0, use_worker=False)
        proofs = certify_sifted(table, solution, 10.0, use_worker=False)
        assert check(table, replace(solution, certificates=proofs)) == (), seed
        told = {p.level: p.bound for p in whole}
        for one in proofs:
            if one.level in told:
                assert farther(one.level, one.bound, told[one.level]) >= -1e-6, seed
                far += farther(one.level, one.bound, told[one.level]) > 1e-3
        seen += len(proofs) >= 1
        moved += any(name.startswith("moves[") for p in proofs for name in p.multipliers)
    assert seen >= 25 and moved >= 5 and far >= 1


def test_columns_that_add_much_join_until_the_bound_is_that_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sifted_proofs, "best_columns", what_runs)
    monkeypatch.setattr(sifted_proofs, "ROUNDS", 12)
    cases = [replace(case.table, time_limit_s=1.0) for case in structured_cases(2)[::3]]
    cases += [replace(large_table(256, 300, seed), time_limit_s=1.0) for seed in range(4)]
    few = compared = 0
    for table in cases:
        solution = plan_of(table)
        if solution is None:
            continue
        monkeypatch.setattr(sifted_proofs, "JOIN", max(2, len(table.columns) // 6))
        whole = {p.level: p.bound for p in certify(table, solution, 10.0, use_worker=False)}
        proofs = certify_sifted(table, solution, 10.0, use_worker=False)
        assert check(table, replace(solution, certificates=proofs)) == ()
        assert {p.level for p in proofs} == whole.keys()
        for one in proofs:
            assert farther(one.level, one.bound, whole[one.level]) <= 2e-2
            compared += 1
        few += len(sifted_proofs._Sifted(table).kept) < len(table.columns) / 2
    assert compared >= 12 and few >= 8


def test_the_best_columns_alone_prove_nearly_what_all_prove() -> None:
    for seed, objective in enumerate(("max_min", "min_cost", "goodput")):
        table = replace(large_table(1024, 4000, seed), objective=objective, time_limit_s=1.0)  # type: ignore[arg-type]
        solution = plan_of(table)
        assert solution is not None
        whole = {p.level: p.bound for p in certify(table, solution, 20.0, use_worker=False)}
        proofs = certify_sifted(table, solution, 20.0, use_worker=False)
        assert check(table, replace(solution, certificates=proofs)) == ()
        assert [p.level for p in proofs] == list(whole)
        for one in proofs:
            assert abs(farther(one.level, one.bound, whole[one.level])) <= 2e-4


def test_a_table_whose_closer_proof_takes_too_long_gets_the_quick_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = replace(large_table(256, 400), time_limit_s=2.0)
    solution = plan_of(table)
    assert solution is not None
    monkeypatch.setattr(certificate, "RATE_S", 1.0)
    assert 0.0 < kept_back_s(table) <= 0.2
    proved = with_cheap_proofs(table, solution, 2.0, use_worker=False)
    assert [p.level for p in proved.certificates] == [lv.name for lv in proved.levels]
    assert proved.no_certificates == "" and check(table, proved) == ()
    monkeypatch.setattr(certificate, "SIFTED_RATE_S", 1.0)
    assert kept_back_s(table) == 0.0
    late = with_cheap_proofs(table, solution, 2.0, use_worker=False)
    assert late.certificates == () and "takes about" in late.no_certificates


def test_of_an_infeasible_table_the_quick_proof_is_that_of_its_scale() -> None:
    table = replace(large_table(256, 400), objective="min_cost", time_limit_s=2.0)
    classes = tuple(
        replace(c, requests_per_second=100.0 * c.requests_per_second) for c in table.classes
    )
    table = replace(table, classes=classes)
    solution = solve_table(table, use_worker=False)
    assert solution.status == "infeasible"
    (proof,) = certify_sifted(table, solution, 10.0, use_worker=False)
    assert proof.level == "max_min" and proof.bound < 1.0
    assert check(table, replace(solution, certificates=(proof,))) == ()
