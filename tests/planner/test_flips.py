"""Survivors that go on in another role: against enumeration, and only where a table says so."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from motley_planner.checker import check, examine
from motley_planner.checker.room import flipped_gpus
from motley_planner.domain.table import (
    FLIP_SHARE,
    Column,
    FleetTable,
    Fragment,
    Previous,
    RequestClass,
    RunningReplica,
    TableNode,
)
from motley_planner.errors import SnapshotError
from motley_planner.formulations.certificate import with_proofs
from motley_planner.formulations.fleet import solve_table
from motley_planner.formulations.program import formulate
from motley_planner.table_json import read_table
from motley_planner.testing.agreement import compare
from motley_planner.testing.tables import as_json, flipping_table, tiny_table

BLOCKS = 6  # of 12 instances, each takes about 0.1 s


@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_milp_finds_what_enumeration_of_all_roles_finds(block: int) -> None:
    seen = Counter(compare(flipping_table(seed)) for seed in range(block * 12, (block + 1) * 12))
    assert {"max_min", "goodput"} <= set(seen)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_the_milp_finds_what_enumeration_of_all_roles_finds_on_many_more(block: int) -> None:
    for seed in range(5000 + block * 60, 5000 + (block + 1) * 60):
        compare(flipping_table(seed))


def test_certificates_hold_where_roles_change() -> None:
    """A bound that a certificate proves is no lower than what a plan with flips reaches."""
    flipped = 0
    for seed in range(70):
        table = flipping_table(seed)
        try:
            solution = solve_table(table, use_worker=False)
        except SnapshotError:
            continue
        proved = with_proofs(table, solution, 1.0, use_worker=False)
        verdict = examine(table, proved)
        assert verdict.complaints == ()
        values = {level.name: level.value for level in proved.levels}
        for bound in verdict.bounds:
            value, proof = values[bound.level], bound.certified_bound
            if value is not None and proof is not None:
                sign = -1.0 if bound.level == "price" else 1.0
                assert sign * (proof - value) >= -1e-6 * max(1.0, abs(value)), (seed, bound)
        flipped += bool(flipped_gpus(table, solution.placement)) and bool(proved.certificates)
    assert flipped >= 5


def pair(*running: str, **changes: object) -> FleetTable:
    """Replicas on a GPU each, that prefill 4 requests/s of a class or decode 1."""
    columns = (
        Column("p", "m", "z", (Fragment("A", 1),), {"k": 4.0}, "prefill", 1.0),
        Column("d", "m", "z", (Fragment("A", 1),), {"k": 1.0}, "decode", 1.0),
    )
    other = {"p": ("d",), "d": ("p",)}
    replicas = tuple(
        RunningReplica(f"r{i}", name, (f"n{i}",), other[name]) for i, name in enumerate(running)
    )
    table = FleetTable(
        classes=(RequestClass("k", "m", 2.0),),
        columns=columns,
        previous=Previous(
            tuple(TableNode(f"n{i}", "A", "z", 1) for i in range(len(running))), replicas
        ),
        penalty_per_started_gpu=0.5,
        penalty_per_stopped_gpu=0.5,
        penalty_in_price=True,
        relative_gap=1e-9,
    )
    return replace(table, **changes)  # type: ignore[arg-type]


def roles(table: FleetTable) -> tuple[list[str], int, int]:
    """The columns that go on, in the order of the running replicas; replicas started and stopped."""
    solution = solve_table(table, use_worker=False)
    assert check(table, solution) == ()
    placed = {one.kept: one.column for one in solution.placement}
    return [placed[r] for r in sorted(filter(None, placed))], solution.started, solution.stopped


def test_a_replica_changes_its_role_where_the_mix_needs_it() -> None:
    assert roles(pair("p", "p", "d")) == (["p", "d", "d"], 0, 0)
    assert roles(pair("d", "d", "d")) == (["d", "d", "p"], 0, 0)


def test_no_role_changes_where_that_gains_nothing() -> None:
    """Two of each and one request/s: any of them could do either; without penalties, too."""
    little = (RequestClass("k", "m", 1.0),)
    for penalty in (0.5, 0.0):
        table = pair("p", "d", classes=little)
        table = replace(table, penalty_per_started_gpu=penalty, penalty_per_stopped_gpu=penalty)
        assert roles(table) == (["p", "d"], 0, 0)


def test_what_must_go_on_may_change_its_role_and_that_is_no_stop() -> None:
    held = frozenset({"r0", "r1", "r2"})
    assert roles(pair("p", "p", "d", held_replicas=held)) == (["p", "d", "d"], 0, 0)
    assert roles(pair("p", "p", "d", most_stopped=0)) == (["p", "d", "d"], 0, 0)


def test_a_limit_on_a_column_counts_what_changes_into_it() -> None:
    table = pair("p", "p", "d")
    table = replace(table, columns=(table.columns[0], replace(table.columns[1], max_count=1)))
    _, started, stopped = roles(table)
    assert (started, stopped) == (0, 1)  # one decodes; the second that prefills is not needed


def test_a_change_of_role_is_charged_a_share_of_a_move() -> None:
    table = pair("p", "p", "d")
    solution = solve_table(table, use_worker=False)
    price = {level.name: level.value for level in solution.levels}["price"]
    assert price == pytest.approx(3.0 + FLIP_SHARE * (0.5 + 0.5))
    wrong = tuple(replace(level, value=3.0) for level in solution.levels if level.name == "price")
    told = replace(solution, levels=(*solution.levels[:-1], *wrong))
    assert any("price" in complaint for complaint in check(table, told))


def test_a_replica_of_another_process_never_goes_on_as_something_else() -> None:
    table = pair("p", "p", "d")
    assert table.previous is not None
    stiff = tuple(replace(r, flips_to=()) for r in table.previous.replicas)
    other = replace(table, previous=replace(table.previous, replicas=stiff))
    assert roles(other)[1:] == (1, 1)
    flipped = solve_table(table, use_worker=False)
    assert any("is kept where it did not run" in complaint for complaint in check(other, flipped))


def test_without_such_columns_the_program_is_the_same_to_the_byte() -> None:
    for seed in range(60):
        table = tiny_table(seed)
        milp, index = formulate(table)
        assert not index.packing.flips and not any("flips" in name for name in index.row_names)
        if table.previous is None:
            continue
        absent = tuple(replace(r, flips_to=("nowhere",)) for r in table.previous.replicas)
        again, _ = formulate(replace(table, previous=replace(table.previous, replicas=absent)))
        for name in ("col_lower", "col_upper", "row_lower", "row_upper", "index", "value"):
            assert np.array_equal(getattr(milp, name), getattr(again, name)), name


def test_a_table_in_json_names_what_a_replica_may_go_on_as() -> None:
    table = replace(pair("p", "p", "d"), penalty_in_price=False)
    text = json.dumps(as_json(table))
    read = read_table(text)
    assert read.previous == table.previous
    assert sorted(p.column for p in solve_table(read, use_worker=False).placement) == [
        "d",
        "d",
        "p",
    ]
    with pytest.raises(SnapshotError, match="flips_to"):
        read_table(text.replace('"flips_to": ["d"]', '"flips_to": ["x"]', 1))
    document = json.loads(text)
    document["columns"][1]["price_usd_per_hour"] = 2.0
    with pytest.raises(SnapshotError, match="takes other GPUs, zone, price or model"):
        read_table(json.dumps(document))
