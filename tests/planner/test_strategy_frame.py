"""Every strategy under its name: plans the checker accepts, clear refusals, the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from motley_operator.cli.main import main
from motley_planner import strategies
from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.domain.demand import ServingDemand, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.domain.solution import Solution
from motley_planner.domain.table import (
    Column,
    FleetTable,
    Fragment,
    Link,
    NodeGroup,
    RequestClass,
)
from motley_planner.errors import SnapshotError
from motley_planner.planning import plan
from motley_planner.strategies import STRATEGIES
from motley_planner.testing.corpus import (
    after_a_loss,
    cascade_fleet,
    cost_efficient_example,
    mixed_pool,
    tiny_cases,
)

NAMES = [s.name for s in STRATEGIES]
OTHERS = [name for name in NAMES if name != "exact"]

Capture = pytest.CaptureFixture[str]


def attempt(name: str, table: FleetTable) -> Solution | None:
    """The plan, or None where the strategy says that it does not apply."""
    try:
        return strategies.run(name, table)
    except SnapshotError as error:
        assert error.entry in ("strategy", "objective")
        return None


@pytest.mark.parametrize("name", OTHERS)
def test_the_same_table_gives_the_same_plan_again(name: str) -> None:
    for case in tiny_cases(40, 44):
        first, second = attempt(name, case.table), attempt(name, case.table)
        if first is not None and second is not None:
            assert replace(first, solve_seconds=0.0) == replace(second, solve_seconds=0.0)


def two_phases() -> FleetTable:
    """A zone that prefills well and a zone that decodes well."""
    speeds = {"A": (9.0, 2.0), "B": (3.0, 6.0)}
    columns = tuple(
        Column(f"{gpu}-{phase}", "m", gpu, (Fragment(gpu, 1),), {"k": speed}, phase)
        for gpu, pair in speeds.items()
        for phase, speed in zip(("prefill", "decode"), pair, strict=True)
    )
    return FleetTable(
        (RequestClass("k", "m", 20.0, kv_bytes=1.0),),
        columns,  # type: ignore[arg-type]
        tuple(NodeGroup(gpu, gpu, 4, 1) for gpu in speeds),
        (Link("A", "B", 18.0),),
        objective="max_min",
    )


STRUCTURED = {
    "exact": cost_efficient_example(),
    "repair": after_a_loss(0, "goodput", 2),
    "homogeneous": mixed_pool(0, "goodput", 1),
    "round-robin": mixed_pool(0, "max_min", 1),
    "cost-efficient": cost_efficient_example(),
    "cascadia": cascade_fleet(0, "min_cost", mixture=False),
    "hexgen": cost_efficient_example(),
    "hexgen2": two_phases(),
    "thunderserve": two_phases(),
    "melange": mixed_pool(1, "min_cost", 1),
    "greedy-regret": mixed_pool(1, "max_min", 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_made_for_the_strategy_gets_a_plan_that_serves(name: str) -> None:
    table = STRUCTURED[name]
    solution = strategies.run(name, table)
    assert check(table, solution) == ()
    assert solution.replicas and solution.rates
    assert solution.levels[0].value is not None
    if table.objective != "min_cost":
        assert solution.levels[0].value > 0


@pytest.mark.parametrize(
    ("name", "table", "needs"),
    [
        ("repair", mixed_pool(0, "goodput", 1), "previous"),
        ("cascadia", mixed_pool(0, "goodput", 1), "a cascade"),
        ("hexgen2", mixed_pool(0, "goodput", 1), "prefill and decode columns"),
        ("thunderserve", mixed_pool(0, "goodput", 1), "prefill and decode columns"),
        ("melange", mixed_pool(0, "max_min", 1), "min_cost or goodput"),
        ("melange", cascade_fleet(0, "goodput", mixture=True), "plain classes"),
        ("round-robin", replace(mixed_pool(0, "goodput", 1), columns=()), "a colocated column"),
        ("homogeneous", replace(mixed_pool(0, "goodput", 1), columns=()), "one GPU type"),
    ],
)
def test_a_strategy_that_does_not_apply_says_what_it_needs(
    name: str, table: FleetTable, needs: str
) -> None:
    with pytest.raises(SnapshotError, match=needs) as caught:
        strategies.run(name, table)
    assert caught.value.entry == "strategy"


@pytest.mark.parametrize("name", ["cost-efficient", "hexgen", "round-robin", "greedy-regret"])
def test_max_min_without_a_limit_is_refused_as_the_exact_planner_refuses_it(name: str) -> None:
    table = replace(cost_efficient_example(), budget_usd_per_hour=None)
    endless = replace(table, nodes=tuple(replace(n, count=None) for n in table.nodes))
    with pytest.raises(SnapshotError, match="unbounded"):
        strategies.run(name, endless)


def test_an_unknown_strategy_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SnapshotError, match="use one of exact, repair"):
        strategies.run("magic", cost_efficient_example())


def test_solve_plans_with_the_strategy_that_the_table_names(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "table.json"
    answers = {}
    for name in ("exact", "homogeneous"):
        path.write_text(json.dumps(example_json() | {"strategy": name}))
        assert main(["solve", str(path), "-o", "json"]) == 0
        answers[name] = json.loads(capsys.readouterr().out)
    assert answers["exact"]["status"] == "optimal"
    assert answers["homogeneous"]["status"] == "feasible"
    # A strategy proves nothing; its bound is that of the certificate, which holds for every plan.
    (proof,) = answers["homogeneous"]["certificates"]
    assert answers["homogeneous"]["bound"] == pytest.approx(proof["bound"])
    assert proof["bound"] >= answers["exact"]["objective"] * (1 - 1e-9)
    assert answers["homogeneous"]["objective"] < answers["exact"]["objective"]


def test_solve_says_why_a_strategy_does_not_apply(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(example_json() | {"strategy": "hexgen2"}))
    assert main(["solve", str(path)]) == 2
    assert "needs prefill and decode columns" in capsys.readouterr().err


def test_the_list_of_strategies_names_a_source_for_each(capsys: Capture) -> None:
    assert main(["strategies", "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == NAMES
    assert all(row["source"] and row["summary"] for row in listed)


def example_json() -> dict[str, object]:
    """The worked example of arXiv 2502.00722 as JSON."""
    table = cost_efficient_example()
    return {
        "objective": table.objective,
        "budget_usd_per_hour": table.budget_usd_per_hour,
        "nodes": [
            {"gpu": n.gpu, "zone": n.zone, "gpus": n.gpus, "count": n.count} for n in table.nodes
        ],
        "classes": [
            {"name": c.name, "model": c.model, "requests_per_second": c.requests_per_second}
            for c in table.classes
        ],
        "columns": [
            {
                "id": c.id,
                "model": c.model,
                "zone": c.zone,
                "fragments": [{"gpu": f.gpu, "tp": f.tp} for f in c.fragments],
                "price_usd_per_hour": c.price_usd_per_hour,
                "requests_per_second": dict(c.requests_per_second),
            }
            for c in table.columns
        ],
    }


def small_fleet() -> Snapshot:
    """Two node classes with a pool that one of them serves."""
    catalog = load_catalog()
    model = catalog.model("Qwen/Qwen3-8B")
    assert model is not None
    service = ServingDemand(
        key="ServingPool/team-a/chat",
        tenant="team-a",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=6.0,
    )
    nodes = tuple(
        Node(f"{gpu}-{i}", NodeClass(gpu, "az", "on-demand", "", price), 4, 10**6, 2**42, 110, 4)
        for gpu, price in (("L40S", 1.86), ("A100-SXM4-80GB", 3.43))
        for i in range(2)
    )
    return Snapshot(nodes, (service,))


@pytest.mark.parametrize("name", ["greedy-regret", "homogeneous", "cost-efficient"])
def test_the_fleet_planner_takes_a_strategy(name: str) -> None:
    made = plan(small_fleet(), use_worker=False, strategy=name)
    assert made.status == "feasible" and made.bound is None
    assert made.slices[0].served_requests_per_second == pytest.approx(6.0)
    assert made.slices[0].replicas and all(r.nodes for r in made.slices[0].replicas)


def test_the_fleet_planner_says_that_a_strategy_does_not_apply() -> None:
    with pytest.raises(SnapshotError, match="needs a cascade"):
        plan(small_fleet(), use_worker=False, strategy="cascadia")
