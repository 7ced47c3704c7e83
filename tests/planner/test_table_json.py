"""Reading bare tables: what is accepted, and that every refusal names the entry and a fix."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from motley_planner.domain.solution import Level, Solution
from motley_planner.errors import SnapshotError
from motley_planner.formulations.fleet import solve_table
from motley_planner.solution_json import solution_to_dict
from motley_planner.table_json import read_table

# The table of docs/reference/solve.md with every field written out.
FULL: dict[str, Any] = {
    "nodes": [{"gpu": "H100", "zone": "z0", "gpus": 8, "count": 16, "price_usd_per_hour": None}],
    "classes": [
        {
            "name": "chat",
            "model": "70B",
            "requests_per_second": 12.5,
            "priority": 0,
            "weight": 1.0,
            "kv_bytes": 0,
        },
        {"name": "small-all", "model": "8B", "requests_per_second": 0},
        {"name": "large-all", "model": "70B", "requests_per_second": 0},
    ],
    "columns": [
        {
            "id": "c0",
            "model": "70B",
            "zone": "z0",
            "phase": "both",
            "fragments": [{"gpu": "H100", "tp": 4, "layers": 40}],
            "price_usd_per_hour": 12.0,
            "max_count": None,
            "kv_scale": 1.0,
            "nic_bytes_per_second": None,
            "requests_per_second": {"chat": 3.2},
        }
    ],
    "links": [{"from": "z0", "to": "z0", "bytes_per_second": 5e9}],
    "cascades": [
        {
            "name": "support",
            "requests_per_second": 10,
            "priority": 0,
            "weight": 1.0,
            "quality_floor": 0.9,
            "mixture": True,
            "policies": [
                {"id": "p0", "quality": 0.91, "load": {"small-all": 1.0, "large-all": 0.35}}
            ],
        }
    ],
    "objective": "max_min",
    "budget_usd_per_hour": None,
    "previous": {
        "nodes": [{"name": "n0", "gpu": "H100", "zone": "z0", "gpus": 8}],
        "replicas": [{"id": "r0", "column": "c0", "nodes": ["n0"]}],
    },
    "lost_nodes": ["n0"],
    "penalty_per_started_gpu": 0.0,
    "penalty_per_stopped_gpu": 0.0,
    "time_limit_s": 10,
    "relative_gap": 1e-4,
    "strategy": "exact",
}


def test_the_full_table_is_read() -> None:
    table = read_table(json.dumps(FULL))
    assert table.columns[0].fragments[0].tp == 4
    assert table.links[0].source == "z0"
    assert table.previous is not None and table.previous.replicas[0].nodes == ("n0",)
    assert table.lost_nodes == {"n0"}
    assert table.cascades[0].policies[0].load == {"small-all": 1.0, "large-all": 0.35}


def test_what_has_a_default_may_be_left_out() -> None:
    table = read_table(
        '{"nodes": [{"gpu": "A", "zone": "z", "gpus": 8, "count": null}],'
        ' "classes": [{"name": "k", "model": "m", "requests_per_second": 1}],'
        ' "columns": [{"id": "c", "model": "m", "zone": "z", "fragments": [{"gpu": "A", "tp": 1}],'
        ' "requests_per_second": {"k": 2}}], "objective": "goodput"}'
    )
    assert table.nodes[0].count is None and table.nodes[0].price_usd_per_hour is None
    assert (table.classes[0].weight, table.columns[0].phase) == (1.0, "both")
    assert (table.time_limit_s, table.relative_gap) == (10.0, 1e-4)
    assert table.previous is None and table.budget_usd_per_hour is None


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets one place of the table."""

    def change(table: dict[str, Any]) -> None:
        place: Any = table
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def double(*path: str) -> Callable[[dict[str, Any]], None]:
    """Writes the first entry of a list twice."""

    def change(table: dict[str, Any]) -> None:
        place: Any = table
        for step in path:
            place = place[step]
        place.append(copy.deepcopy(place[0]))

    return change


# What is wrong -> (the change, what the message must name).
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "unknown top field": (put("budgt", value=1), "budgt"),
    "unknown node field": (put("nodes", 0, "gpu_count", value=1), "nodes[0].gpu_count"),
    "unknown class field": (put("classes", 0, "rate", value=1), "classes[0].rate"),
    "unknown column field": (put("columns", 0, "tp", value=1), "columns[0].tp"),
    "unknown fragment field": (put("columns", 0, "fragments", 0, "pp", value=1), ".pp"),
    "unknown link field": (put("links", 0, "source", value="z0"), "links[0].source"),
    "unknown cascade field": (put("cascades", 0, "floor", value=1), "cascades[0].floor"),
    "unknown policy field": (put("cascades", 0, "policies", 0, "x", value=1), "policies[0].x"),
    "unknown previous field": (put("previous", "pods", value=[]), "previous.pods"),
    "unknown running field": (put("previous", "replicas", 0, "x", value=1), "replicas[0].x"),
    "negative rate": (put("classes", 0, "requests_per_second", value=-1), "requests_per_second"),
    "negative price": (put("columns", 0, "price_usd_per_hour", value=-1), "price_usd_per_hour"),
    "negative count": (put("nodes", 0, "count", value=-1), "nodes[0].count"),
    "negative capacity": (put("columns", 0, "requests_per_second", "chat", value=-1), "'chat'"),
    "negative budget": (put("budget_usd_per_hour", value=-1), "budget_usd_per_hour"),
    "negative penalty": (put("penalty_per_started_gpu", value=-1), "penalty_per_started_gpu"),
    "negative load": (
        put("cascades", 0, "policies", 0, "load", "small-all", value=-1),
        "small-all",
    ),
    "negative link": (put("links", 0, "bytes_per_second", value=-1), "bytes_per_second"),
    "negative time": (put("time_limit_s", value=-1), "time_limit_s"),
    "NaN": (put("classes", 0, "weight", value=float("nan")), "NaN"),
    "Infinity": (put("budget_usd_per_hour", value=float("inf")), "Infinity"),
    "half a GPU": (put("nodes", 0, "gpus", value=7.5), "nodes[0].gpus"),
    "a number as text": (put("nodes", 0, "gpus", value="8"), "nodes[0].gpus"),
    "true as a number": (put("nodes", 0, "gpus", value=True), "nodes[0].gpus"),
    "null where a number is due": (put("nodes", 0, "gpus", value=None), "nodes[0].gpus"),
    "a number as a name": (put("classes", 0, "name", value=3), "classes[0].name"),
    "a list for an object": (put("columns", 0, "requests_per_second", value=[]), "columns[0]"),
    "an object for a list": (put("nodes", value={}), "nodes"),
    "text for a flag": (put("cascades", 0, "mixture", value="yes"), "mixture"),
    "duplicate class": (double("classes"), "'chat'"),
    "duplicate column": (double("columns"), "'c0'"),
    "duplicate cascade": (double("cascades"), "'support'"),
    "duplicate policy": (
        put("cascades", 0, "policies", value=[{"id": "p", "quality": 1}] * 2),
        "'p'",
    ),
    "duplicate link": (double("links"), "links"),
    "duplicate node": (double("previous", "nodes"), "'n0'"),
    "duplicate replica": (double("previous", "replicas"), "'r0'"),
    "a cascade named as a class": (put("cascades", 0, "name", value="chat"), "'chat'"),
    "unknown class in a capacity": (
        put("columns", 0, "requests_per_second", value={"chta": 1}),
        "'chta'",
    ),
    "unknown class in a load": (put("cascades", 0, "policies", 0, "load", value={"x": 1}), "'x'"),
    "unknown zone in a link": (put("links", 0, "to", value="z9"), "'z9'"),
    "unknown column that runs": (put("previous", "replicas", 0, "column", value="c9"), "'c9'"),
    "unknown node of a replica": (put("previous", "replicas", 0, "nodes", value=["n9"]), "'n9'"),
    "unknown lost node": (put("lost_nodes", value=["n9"]), "'n9'"),
    "unknown objective": (put("objective", value="fast"), "'fast'"),
    "unknown phase": (put("columns", 0, "phase", value="rollout"), "'rollout'"),
    "unknown strategy": (put("strategy", value="magic"), "'magic'"),
    "capacity for another model": (
        put("columns", 0, "requests_per_second", value={"small-all": 1}),
        "'small-all'",
    ),
    "tp of 3": (put("columns", 0, "fragments", 0, "tp", value=3), "fragments[0].tp"),
    "tp of 0": (put("columns", 0, "fragments", 0, "tp", value=0), "fragments[0].tp"),
    "no policies": (put("cascades", 0, "policies", value=[]), "cascades[0].policies"),
    "no fragments": (put("columns", 0, "fragments", value=[]), "columns[0].fragments"),
    "too few nodes": (put("previous", "replicas", 0, "nodes", value=[]), "'r0'"),
    "a replica on the wrong GPU": (put("previous", "nodes", 0, "gpu", value="A100"), "'r0'"),
    "an overfull node": (put("previous", "nodes", 0, "gpus", value=2), "'n0'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_table_is_refused_by_name(name: str) -> None:
    change, named = REFUSED[name]
    table = copy.deepcopy(FULL)
    change(table)
    with pytest.raises(SnapshotError) as refusal:
        read_table(json.dumps(table))
    assert named in str(refusal.value)
    assert ";" in str(refusal.value) or "write " in str(refusal.value)  # the fix


@pytest.mark.parametrize("field", ["name", "model", "requests_per_second"])
def test_a_missing_field_is_named(field: str) -> None:
    table = copy.deepcopy(FULL)
    del table["classes"][0][field]
    with pytest.raises(SnapshotError, match=f"{field!r} is missing"):
        read_table(json.dumps(table))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '{"nodes": []} x', '{"objective": 1e999}', '{"a": 1, "a": 2}'],
)
def test_text_that_is_no_table_is_refused(text: str) -> None:
    with pytest.raises(SnapshotError):
        read_table(text)


def test_a_huge_number_is_not_infinity_in_disguise() -> None:
    with pytest.raises(SnapshotError, match="budget_usd_per_hour"):
        read_table('{"budget_usd_per_hour": 1e999}')


def test_an_answer_is_plain_json_without_infinities() -> None:
    table = read_table(json.dumps(FULL))
    answer = solution_to_dict(solve_table(table, use_worker=False))
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    wild = Solution(
        "feasible", float("nan"), float("inf"), None, (Level("x", 1.0, -float("inf"), 0),)
    )
    json.dumps(solution_to_dict(wild), allow_nan=False)


COLUMN = '{"columns": [{"id": "c", "model": "m", "zone": "z", "fragments": %s, %s}]}'
ONE = '[{"gpu": "A", "tp": 1}]'
RATES = '"requests_per_second": %s'
NO_JSON = {
    '{"classes": [{"name": "a", "model": "m", "requests_per_second": NaN}]}': (
        "classes[0].requests_per_second: NaN is not a number"
    ),
    '{"time_limit_s": Infinity}': "time_limit_s: Infinity is not a number",
    '{"objective": -Infinity}': "objective: -Infinity is not one of",
    COLUMN % ("[]", RATES % "{}"): "columns[0].fragments: is empty",
    COLUMN % (ONE, RATES % '{"a": NaN}'): "columns[0].requests_per_second['a']: NaN",
    COLUMN % (ONE, RATES % '{"a": 1, "a": 2}'): (
        "columns[0].requests_per_second: key 'a' occurs twice"
    ),
    '{"previous": {"nodes": [], "nodes": []}}': "previous: key 'nodes' occurs twice",
    COLUMN % (ONE, RATES % '{"a": 1}'): "list it among the classes",
}


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_is_refused_where_it_stands(text: str) -> None:
    with pytest.raises(SnapshotError) as refusal:
        read_table(text)
    assert NO_JSON[text] in str(refusal.value)
