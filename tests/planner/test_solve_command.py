"""`motley solve`: answers, exit statuses and the time limit; those of the process through a real one."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from motley_operator.cli.main import main
from motley_planner.testing.tables import as_json, large_table

FIELDS = {
    "status", "objective", "bound", "gap", "levels", "solve_seconds", "price_usd_per_hour",
    "replicas", "rates", "policies", "flows", "unserved", "placement", "started", "stopped",
    "started_gpus", "stopped_gpus", "shortfalls",
}  # fmt: skip


def table(**changes: Any) -> dict[str, Any]:
    """One class on one kind of node."""
    return {
        "nodes": [{"gpu": "A", "zone": "z", "gpus": 8, "count": 2}],
        "classes": [{"name": "k", "model": "m", "requests_per_second": 5.0}],
        "columns": [
            {
                "id": "c",
                "model": "m",
                "zone": "z",
                "fragments": [{"gpu": "A", "tp": 4}],
                "price_usd_per_hour": 3.0,
                "requests_per_second": {"k": 2.0},
            }
        ],
        "objective": "goodput",
        **changes,
    }


def motley(path: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "motley_operator.cli.main", "solve", str(path), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def solve(tmp_path: Path, value: object, *options: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "table.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return motley(path, *options)


@dataclass
class Said:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


Tell = Callable[..., Said]


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tell:
    """The command in this process, for what is not a matter of the process."""

    def tell(value: object, *options: str) -> Said:
        path = tmp_path / "table.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        status = main(["solve", str(path), *options])
        return Said(status, *capsys.readouterr())

    return tell


def test_a_plan_that_serves_all_exits_0(tmp_path: Path) -> None:
    done = solve(tmp_path, table())
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert set(answer) == FIELDS | {"certificates"}
    assert [c["level"] for c in answer["certificates"]] == ["goodput[0]", "price"]
    assert (answer["status"], answer["objective"]) == ("optimal", 1.0)
    assert answer["replicas"] == [{"column": "c", "count": 3}]
    assert answer["price_usd_per_hour"] == 9.0
    assert answer["unserved"] == {"k": 0.0}
    assert answer["placement"] == []
    assert (answer["started"], answer["started_gpus"]) == (3, 12)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"budget_usd_per_hour": 6}, "optimal", 1),  # goodput leaves demand unserved
        ({"budget_usd_per_hour": 0}, "optimal", 1),
        ({"budget_usd_per_hour": 6, "objective": "max_min"}, "optimal", 0),
        ({"budget_usd_per_hour": 6, "objective": "min_cost"}, "infeasible", 1),
        ({"objective": "min_cost"}, "optimal", 0),
    ],
)
def test_exit_status_says_how_it_ended(
    told: Tell, changes: dict[str, Any], status: str, code: int
) -> None:
    done = told(table(**changes))
    answer = json.loads(done.stdout)
    assert (answer["status"], done.returncode) == (status, code)


def test_min_cost_that_cannot_serve_all_gives_the_best_max_min_plan(told: Tell) -> None:
    done = told(table(budget_usd_per_hour=6, objective="min_cost"))
    answer = json.loads(done.stdout)
    assert (answer["objective"], answer["bound"], answer["gap"]) == (None, None, None)
    assert answer["replicas"] == [{"column": "c", "count": 2}]
    assert answer["unserved"] == {"k": pytest.approx(1.0)}
    assert answer["shortfalls"] == [
        {"what": "k", "how_much": pytest.approx(1.0), "binding": "budget"}
    ]


@pytest.mark.parametrize(
    "value",
    [
        "{",
        table(nonsense=1),
        table(objective="max_min", classes=[]),
        table(
            objective="max_min",
            nodes=[{"gpu": "A", "zone": "z", "gpus": 8, "count": None}],
        ),
        '{"budget_usd_per_hour": NaN}',
    ],
)
def test_bad_input_exits_2_with_a_sentence(told: Tell, value: object) -> None:
    done = told(value)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "table.json" in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_not_there_exits_2(tmp_path: Path) -> None:
    done = motley(tmp_path / "nothing.json")
    assert done.returncode == 2
    assert "nothing.json" in done.stderr and "Traceback" not in done.stderr


def test_a_person_can_read_it(told: Tell) -> None:
    done = told(table(budget_usd_per_hour=6), "-o", "table")
    assert "$6.00/h" in done.stdout
    assert "short of k by 1: budget" in done.stdout


def test_no_plan_in_time_exits_3(tmp_path: Path) -> None:
    """A table that has plans (the last line), of a kind that the first plan does not try."""
    hard = as_json(large_table(20_000, 5_000)) | {"objective": "min_cost", "time_limit_s": 1e-6}
    for group in hard["nodes"]:
        group["price_usd_per_hour"] = 1.0
    for class_ in hard["classes"]:
        class_["requests_per_second"] *= 0.01
    phases = {column["model"]: cycle(("prefill", "decode")) for column in hard["columns"]}
    for column in hard["columns"]:
        column["phase"] = next(phases[column["model"]])
        column["zone"] = hard["nodes"][0]["zone"]
    done = solve(tmp_path, hard)
    answer = json.loads(done.stdout)
    assert (answer["status"], done.returncode) == ("no_solution", 3)
    assert (answer["objective"], answer["bound"], answer["replicas"]) == (None, None, [])
    assert solve(tmp_path, hard | {"time_limit_s": 5.0}).returncode == 0


@pytest.mark.parametrize("objective", ["max_min", "min_cost"])
def test_the_process_ends_within_a_second_of_its_limit(tmp_path: Path, objective: str) -> None:
    """In seconds of CPU, the worker's too; in those of the wall: tests/bench/test_bench_solver.py."""
    hard = as_json(large_table(256, 800)) | {"objective": objective, "time_limit_s": 2.0}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = solve(tmp_path, hard)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s < 2.0 + 1.0
    answer = json.loads(done.stdout)
    assert answer["status"] in ("feasible", "optimal")
    assert answer["gap"] is not None and answer["gap"] < 0.5


def test_an_integer_of_thousands_of_digits_is_bad_input(told: Tell) -> None:
    text = json.dumps(table(time_limit_s=12345.0)).replace("12345.0", "1" + "0" * 5000)
    done = told(text)
    assert (done.returncode, done.stdout) == (2, "")
    assert "time_limit_s: a number of 5001 digits is out of range" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gpu_or_zone_that_no_node_has_is_warned_of(told: Tell) -> None:
    assert told(table()).stderr == ""
    more = table()
    column = more["columns"][0]
    fragments = [{"gpu": "A", "tp": 1}, {"gpu": "AX", "tp": 4}]
    more["columns"] += [column | {"id": f"d{i}", "fragments": fragments} for i in range(3)]
    more["columns"] += [column | {"id": "e", "zone": "y"}]
    done = told(more)
    assert done.returncode in (0, 1)
    assert "columns['d0']: no node has GPU 'AX' in zone 'z', nor for 2 more columns" in done.stderr
    assert "columns['e']: no node has GPU 'A' in zone 'y'" in done.stderr
    assert told(more, "-q").stderr == ""


def test_each_level_says_which_bound_is_certified(told: Tell) -> None:
    done = told(table(), "-o", "json")
    (served, price) = json.loads(done.stdout)["levels"]
    assert served["certified_bound"] == pytest.approx(served["bound"])
    assert served["bound_proof"] == "proved by a certificate"
    assert price["certified_bound"] < price["bound"]  # parts of replicas would cost less
    assert price["bound_proof"] == "not proved by a certificate"
    shown = told(table(), "-o", "table").stdout
    assert "price: the bound 9 is not proved by a certificate" in shown
