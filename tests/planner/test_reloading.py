"""Large models take longer to start, so moving them has to save more."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.checker import check
from motley_planner.costs.memory import weight_bytes
from motley_planner.domain.demand import MovePrice, ServingDemand, Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.errors import SnapshotError
from motley_planner.formulations.fleet import solve_table
from motley_planner.planning import plan
from motley_planner.planning.worth import running_units
from motley_planner.testing.oracle import Unbounded, best_value
from motley_planner.testing.tables import tiny_table

CATALOG = load_catalog()
SMALL, MIDDLE, LARGE = (
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen3-8B",
    "meta-llama/Llama-3.1-70B-Instruct",
)
NO_DEADLINE = MovePrice(most_hours=1.0)


def hours(name: str, move: MovePrice = NO_DEADLINE) -> float:
    model = CATALOG.model(name)
    assert model is not None
    return move.reload_hours(weight_bytes(model, "bf16"))


def test_a_start_takes_as_long_as_its_weights_do() -> None:
    assert hours(MIDDLE) == pytest.approx(0.1, rel=0.01)
    assert 0.06 < hours(SMALL) < 0.08
    assert hours(LARGE) == pytest.approx(0.065 + 141.1e9 / (125 * 2**20) / 3600.0, rel=0.01)
    assert hours(LARGE, MovePrice()) == pytest.approx(10.0 / 60.0)


def node(name: str, dollars_per_hour: float) -> Node:
    kind = NodeClass("H100-SXM5-80GB", "az-1", "on-demand", "", dollars_per_hour)
    return Node(name, kind, 8, 192_000, 2**41, 110, 8)


def moves(name: str, move: MovePrice) -> bool:
    """Whether a service of the model leaves its node for one that costs a sixth less."""
    model = CATALOG.model(name)
    assert model is not None
    service = ServingDemand(
        key="ServingPool/a/chat",
        tenant="a",
        stages=(StageDemand("main", model, "bf16", "vllm"),),
        classes=(WorkloadClass("chat", 900, 200),),
        requests_per_second=1.0,
        slo=Slo(tpot_s={"p95": 0.08}),
    )
    dear = (node("dear", 3.0),)
    first = plan(Snapshot(dear, (service,)), CATALOG, use_worker=False)
    joined = Snapshot(
        (*dear, node("less", 2.4)), (service,), running=running_units(first), move_price=move
    )
    return bool(plan(joined, CATALOG, use_worker=False).moves)


def test_a_large_model_moves_only_for_more() -> None:
    assert moves(MIDDLE, MovePrice())
    assert not moves(LARGE, MovePrice())
    assert moves(LARGE, MovePrice(load_bytes_per_hour=7e9 * 3600.0))  # from a local disk
    assert not moves(MIDDLE, MovePrice(start_hours=0.3, most_hours=0.3))


def test_the_search_weighs_starts_as_enumeration_does() -> None:
    compared = 0
    for seed in range(60):
        draw, table = Random(seed), tiny_table(seed)
        table = replace(
            table,
            columns=tuple(replace(c, reload=draw.choice((0.5, 1.0, 4.0))) for c in table.columns),
            penalty_per_started_gpu=0.1,
        )
        try:
            solution, best = solve_table(table, use_worker=False), best_value(table)
        except (SnapshotError, Unbounded):
            continue
        if best is None:
            continue
        assert check(table, solution) == ()
        found = [-(v.value or 0.0) if v.name == "price" else v.value for v in solution.levels]
        assert found == pytest.approx(best, rel=1e-6, abs=1e-6)
        compared += 1
    assert compared > 20
