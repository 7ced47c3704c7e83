"""Malformed and odd tables: an error that names the entry, or a plan that the checker passes."""

from __future__ import annotations

import copy
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motley_planner.checker import check
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import FleetTable
from motley_planner.errors import SnapshotError
from motley_planner.formulations.fleet import solve_table
from motley_planner.table_json import read_table
from motley_planner.testing.oracle import Unbounded, best_value
from motley_planner.testing.tables import as_json, tiny_table

CASES = 5000  # in the default run; most are refused in 1 ms, a plan takes about 10
BLOCKS, TABLES = 4, 152  # in which they come, and how many tables all blocks change
ODD: tuple[Any, ...] = (
    None, True, "", "x", [], {}, [1], {"a": 1}, math.nan, math.inf, -1, -1e-9, 0, 1e-9, 1e-59, 1e-300, 0.5,
    3, 7, 1e9, 1e17, 1e308, 10**400, "NaN", "m", "k0", "c0", "z0", "A", "n0",
    "<5,001 digits>",
)  # fmt: skip
LONG = "1" + "0" * 5000  # written as a number where ODD[-1] stands: Python writes no such integer
FIELDS = frozenset(field.name for field in fields(FleetTable))
NO_NUMBERS = (
    "table: NaN",
    "table: Infinity",
    "table: -Infinity",
)  # refused before any field is read
MOST_GPUS = 14  # of a table whose plans are all tried
Path = tuple[str | int, ...]


@cache
def good(seed: int) -> dict[str, Any]:
    """A tiny table as the JSON value that `motley solve` reads."""
    return dict(as_json(tiny_table(seed)), time_limit_s=2.0)


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 10**300)


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where anything is in a JSON value."""
    if at:
        yield at
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in inside:
            yield from paths(part, (*at, key))


def changed(seed: int, changes: list[tuple[int, int, Any]]) -> dict[str, Any]:
    """A good table with entries replaced, scaled, removed, doubled or renamed."""
    table: Any = copy.deepcopy(good(seed))
    for where, kind, odd in changes:
        places = list(paths(table))
        if not places:
            break
        *head, last = places[where % len(places)]
        holder = table
        for key in head:
            holder = holder[key]
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{last}x"] = holder.pop(last)
        elif kind == 3 and _is_number(holder[last]) and type(odd) is float:
            holder[last] *= odd if math.isfinite(odd) and odd > 0 else 1e6
        else:
            holder[last] = copy.deepcopy(odd)
    return dict(table) if isinstance(table, dict) else {}


def written(value: dict[str, Any]) -> str:
    """The table as JSON, with an integer of 5,001 digits wherever its name stands for it."""
    return json.dumps(value).replace(json.dumps(ODD[-1]), LONG)


def names_an_entry(message: str, value: dict[str, Any]) -> bool:
    """Whether a refusal begins with a field of the table, or says which one is missing or unknown.

    What is wrong inside a list is named by its place ("classes[0]") or by its name.
    """
    if message.startswith(NO_NUMBERS):
        return True
    place = message.partition(":")[0]
    field = re.match(r"[a-z_]+", place)
    if field is None:
        return False
    if field[0] in value or field[0] in FIELDS:
        return True
    return field[0] == "table" and any(repr(name) in message for name in {*value, *FIELDS})


def is_enumerable(table: FleetTable) -> bool:
    """Whether every plan of the table can be tried in a few milliseconds."""
    if table.previous is None:
        sizes = [g.gpus * (g.count if g.count is not None else 99) for g in table.nodes]
    else:
        sizes = [n.gpus for n in table.previous.nodes]
    rates = [c.requests_per_second for c in (*table.classes, *table.cascades)]
    speeds = [v for c in table.columns for v in c.requests_per_second.values()]
    usual = all(1e-4 <= v <= 1e4 for v in (*rates, *speeds) if v > 0)
    return usual and sum(sizes) <= MOST_GPUS and len(table.columns) <= 4


def bounds_hold(table: FleetTable, solution: Solution) -> bool:
    """Whether no plan beats the first level's bound, and the plan's own value is no better than any."""
    try:
        best = best_value(table)
    except Unbounded:
        return False
    if best is None:
        return solution.status == "infeasible"
    first = solution.levels[0]
    assert first.value is not None
    sign = -1.0 if first.name == "price" else 1.0
    slack = 1e-6 * max(1.0, abs(best[0]))
    holds = first.bound is None or sign * first.bound >= best[0] - slack
    return holds and sign * first.value <= best[0] + slack


def answered(value: dict[str, Any], *, enumerates: bool = False) -> str:
    """What became of a table; fails unless it is a refusal of an entry or a plan that checks.

    With `enumerates` every plan of a tiny table is tried, too.
    """
    begin = time.process_time()
    try:
        table = read_table(written(value))
        solution = solve_table(table, use_worker=False)
    except SnapshotError as error:
        assert names_an_entry(str(error), value), str(error)
        return "refused"
    assert check(table, solution) == ()
    if enumerates and is_enumerable(table):
        assert bounds_hold(table, solution)
    assert time.process_time() - begin < 5.0
    return solution.status


changes = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 7), st.sampled_from(ODD)), min_size=1, max_size=3
)


@pytest.mark.parametrize("block", range(BLOCKS))
@settings(max_examples=CASES // BLOCKS, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, TABLES // BLOCKS - 1), list_of_changes=changes)
def test_a_changed_table_is_refused_by_name_or_planned(
    block: int, seed: int, list_of_changes: list[tuple[int, int, Any]]
) -> None:
    """Each block changes tables of its own, so that they may run beside each other."""
    answered(changed(block * (TABLES // BLOCKS) + seed, list_of_changes))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=20 * CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 5000), list_of_changes=changes)
def test_many_more_changed_tables_are_refused_by_name_or_planned(
    seed: int, list_of_changes: list[tuple[int, int, Any]]
) -> None:
    answered(changed(seed, list_of_changes))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 150),
    where=st.integers(0, 400),
    factor=st.sampled_from((0.0, 1e-6, 1e-3, 0.3, 3.0, 1e3)),
)
def test_no_plan_beats_the_bound_of_a_table_with_a_number_far_from_the_others(
    seed: int, where: int, factor: float
) -> None:
    table: Any = copy.deepcopy(good(seed))
    places = []
    for path in paths(table):
        holder = table
        for key in path[:-1]:
            holder = holder[key]
        if type(holder[path[-1]]) is float and path[-1] not in ("time_limit_s", "relative_gap"):
            places.append((holder, path[-1]))
    if places:
        holder, last = places[where % len(places)]
        holder[last] *= factor
    answered(table, enumerates=True)


@pytest.mark.parametrize(
    ("seed", "list_of_changes"),
    [
        (2, [(4, 1, 1e-09)]),
        (122, [(227, 1, 1e17)]),
        (122, [(198, 5, 1e9), (5, 7, 1e9)]),
        (2787, [(18, 1, 1e9), (57, 1, 1e-300)]),
        (94, [(4, 1, 1e17)]),  # a scale of 0, but for rounding
        (14, [(243, 1, 1e-09), (351, 3, 1e-300)]),  # a cost without end ...
        (4462, [(4, 3, 1e-12), (355, 3, 1e-300)]),  # ... and a ratio, ...
        (469, [(46, 3, 1e-300), (194, 4, 1e17)]),  # ... counts, ...
        (3119, [(329, 3, 1e-300), (47, 1, 1e17)]),  # ... products
        (3876, [(208, 0, None)]),  # two limits that are worth next to nothing
        (14, [(243, 1, 1e-09), (351, 3, 1e-59)]),  # as far apart as may be
    ],
)
def test_tables_that_once_broke_it(seed: int, list_of_changes: list[tuple[int, int, Any]]) -> None:
    answered(changed(seed, list_of_changes))


@pytest.mark.parametrize("seed", range(20))
def test_the_tables_are_good_before_they_are_changed(seed: int) -> None:
    table = read_table(json.dumps(good(seed)))
    assert table.columns == tiny_table(seed).columns
    assert table.previous == tiny_table(seed).previous


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"objective": "best"}, "objective"),
        ({"classes": [{"name": "k0", "model": "m", "requests_per_second": -1}]}, "classes[0]"),
        ({"lost_nodes": ["nowhere"]}, "lost_nodes"),
        ({"links": [{"from": "z0", "to": "nowhere", "bytes_per_second": 1}]}, "links[0]"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_refusal_names_the_entry(change: dict[str, Any], named: str) -> None:
    value = good(1) | change
    with pytest.raises(SnapshotError, match=named.replace("[", r"\[").replace("]", r"\]")):
        read_table(json.dumps(value))


@pytest.mark.parametrize("digits", [LONG, "-" + LONG, "1" + "0" * 400])
@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("classes", 0, "requests_per_second"), "classes[0].requests_per_second: a number of"),
        (("columns", 0, "requests_per_second", "k0"), "columns[0].requests_per_second['k0']: a n"),
        (("columns", 0, "max_count"), "columns[0].max_count: a number of"),
        (("time_limit_s",), "time_limit_s: a number of"),
        (("columns", 0, "id"), "columns[0].id: write a string"),
    ],
)
def test_an_integer_of_thousands_of_digits_is_refused_by_its_path(
    path: Path, named: str, digits: str
) -> None:
    value = copy.deepcopy(good(1))
    holder: Any = value
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = ODD[-1]
    with pytest.raises(SnapshotError, match=re.escape(named)):
        read_table(written(value).replace(LONG, digits))


def test_a_plan_too_long_to_be_listed_is_refused() -> None:
    with pytest.raises(SnapshotError, match=r"nodes: the plan starts \d+ parts of replicas"):
        solve_table(
            read_table(json.dumps(changed(122, [(198, 5, 1e9), (5, 7, 1e9)]))), use_worker=False
        )


def test_a_hundred_thousand_replicas_on_one_node_are_placed_in_time() -> None:
    """Each leaves the node with another number of free GPUs: none of them may be remembered."""
    table = {
        "classes": [{"name": "all", "model": "m", "requests_per_second": 100_000}],
        "nodes": [],
        "previous": {
            "nodes": [{"name": "n", "gpu": "a", "zone": "z", "gpus": 200_000}],
            "replicas": [],
        },
        "columns": [
            {
                "id": "one",
                "model": "m",
                "zone": "z",
                "price_usd_per_hour": 1.0,
                "fragments": [{"gpu": "a", "tp": 1}],
                "requests_per_second": {"all": 1.0},
            }
        ],
        "objective": "goodput",
    }
    assert answered(table) == "optimal"


def test_empty_fleets_and_tables_are_answered() -> None:
    value = good(3) | {"nodes": [], "columns": []}
    value.pop("previous", None)
    for objective in ("max_min", "goodput", "min_cost"):
        assert answered(value | {"objective": objective, "classes": [], "cascades": []})
        assert answered(value | {"objective": objective, "lost_nodes": []})
