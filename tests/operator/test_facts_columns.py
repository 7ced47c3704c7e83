"""Counts by column out of Prometheus' answers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from motley_operator.domain.measurement import EngineSteps
from motley_operator.facts.columns import column_queries, engine_steps
from motley_operator.facts.queries import STEPS
from motley_planner.catalog import load_catalog

CATALOG = load_catalog()
END, STEP_S = 1_800_000_000, 90
TIMES = [END - STEP_S * i for i in reversed(range(STEPS))]
OWNER = {"namespace": "team-a", "motley_dev_kind": "ServingPool", "motley_dev_resource": "chat"}


def row(column: str, *values: float | str | None) -> dict[str, Any]:
    pairs = [[t, str(v)] for t, v in zip(TIMES, values, strict=True) if v is not None]
    return {"metric": {**OWNER, "motley_dev_column": column}, "values": pairs}


def test_every_field_of_a_column_has_a_query_whatever_the_size_of_the_fleet() -> None:
    names = {f"column_{field.name}" for field in fields(EngineSteps)}
    assert set(column_queries(CATALOG, STEP_S)) == names


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_engine_that_is_measured_is_asked_under_its_own_names(engine: str) -> None:
    metrics = CATALOG.engines[engine].metrics
    asked = " ".join(column_queries(CATALOG, STEP_S).values())
    for name in ("tpot", "ttft", "e2e", "running", "kv_usage", "prompt_length", "output_length"):
        assert metrics[name] in asked


def test_answers_become_steps_by_resource_and_column() -> None:
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in column_queries(CATALOG, 90)}
    answers["arrived"] = [row("a", *(5.0,) * STEPS)]  # of another reader
    answers["column_alive"] = [row("a", *(2,) * STEPS), row("b", None, *(1,) * (STEPS - 1))]
    answers["column_tpot_total_s"] = [row("a", "NaN", *(3.5,) * (STEPS - 1))]
    found = engine_steps(answers, TIMES)
    assert list(found) == ["ServingPool/team-a/chat"]
    columns = found["ServingPool/team-a/chat"]
    assert sorted(columns) == ["a", "b"]
    assert columns["a"].alive == (2.0,) * STEPS
    assert columns["a"].tpot_total_s == (None, *(3.5,) * (STEPS - 1))
    assert columns["b"].alive == (None, *(1.0,) * (STEPS - 1))
    assert columns["b"].tpot_total_s == ()
    assert engine_steps({}, TIMES) == {}
