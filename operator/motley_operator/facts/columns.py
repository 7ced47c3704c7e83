"""What Prometheus is asked about each column of replicas, so that its speed can be told.

A fixed number of queries, as in `queries`; targets must carry `motley_dev_column` beside the labels
that demand needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from motley_operator.domain.measurement import EngineSteps
from motley_operator.facts.queries import Answers, aggregate, series_names, steps_by
from motley_planner.domain.hardware import Catalog

COLUMN = "motley_dev_column"
_OF = f'{{{COLUMN}!=""}}'
_COUNTED = {  # field: (quantity of the engine, which part of its histogram)
    "requests": ("e2e", "count"),
    "prompt": ("prompt_length", "sum"),
    "output": ("output_length", "sum"),
    "tpot_total_s": ("tpot", "sum"),
    "tpot_count": ("tpot", "count"),
    "ttft_total_s": ("ttft", "sum"),
    "ttft_count": ("ttft", "count"),
}


def column_queries(catalog: Catalog, step_s: int) -> dict[str, str]:
    """Asked at the end of each step of the window; two samples make a target alive."""
    step = f"[{step_s}s]"
    running = series_names(catalog, "running")
    queries = {
        "alive": aggregate(
            "sum", (f"(count_over_time({{n}}{_OF}{step}) >= bool 2)", running), COLUMN
        ),
        "up": aggregate("sum", (f"min_over_time({{n}}{_OF}{step})", ["up"]), COLUMN),
        "running": aggregate("sum", (f"avg_over_time({{n}}{_OF}{step})", running), COLUMN),
        "kv_usage": aggregate(
            "max", (f"max_over_time({{n}}{_OF}{step})", series_names(catalog, "kv_usage")), COLUMN
        ),
    }
    for field, (quantity, part) in _COUNTED.items():
        series = [f"{name}_{part}" for name in series_names(catalog, quantity)]
        queries[field] = aggregate("sum", (f"increase({{n}}{_OF}{step})", series), COLUMN)
    return {f"column_{field}": query for field, query in queries.items()}


def engine_steps(answers: Answers, times: list[int]) -> dict[str, Mapping[str, EngineSteps]]:
    """Steps by resource and column; `times` are the steps' ends."""
    found = {
        name.removeprefix("column_"): steps_by(answer, times, COLUMN)
        for name, answer in answers.items()
        if name.startswith("column_")
    }
    made: dict[str, Mapping[str, EngineSteps]] = {}
    for key, columns in found.get("alive", {}).items():
        made[key] = {
            column: EngineSteps(
                **{field: by_key.get(key, {}).get(column, ()) for field, by_key in found.items()}
            )
            for column in sorted(columns)
        }
    return made
