"""The simulated engine against the cost model it is built from, and against measured rows."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.catalog import load_catalog
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.costs.steps import closed_loop_tpot_s, decode_step_s, prefill_s
from motley_planner.simulator import CostedSteps
from motley_planner.simulator.requests import Job
from motley_planner.simulator.server import Server

CATALOG = load_catalog()
ROWS = Path(__file__).parents[2] / "../shared/data/perf/e2e_agg_dev.csv.gz"
SYSTEMS = {
    "h100_sxm": "H100-SXM5-80GB",
    "h200_sxm": "H200-SXM-141GB",
    "b200_sxm": "B200-SXM-180GB",
}
MODELS = ("Qwen/Qwen3-8B", "openai/gpt-oss-120b", "meta-llama/Llama-3.1-70B-Instruct")
WARM, MEASURED = 1.0, 2.0  # rounds of all slots


def replica(
    name: str, precision: str, gpu: str, ranks: int, engine: str = "vllm"
) -> Replica | None:
    """The cost model's replica, or None where it refuses."""
    model, where = CATALOG.model(name), CATALOG.gpus.get(SYSTEMS.get(gpu, gpu))
    if model is None or where is None or engine not in CATALOG.engines:
        return None
    assert CATALOG.efficiency is not None
    kind = CATALOG.engines[engine]
    made = replica_of(model, precision, where, ranks, kind, CATALOG.efficiency)
    return None if isinstance(made, str) else made


def closed_loop_s(one: Replica, batch: int, prompt: float, output: float) -> float:
    """Simulated mean TPOT when `batch` equal requests always run; NaN where the cache is full."""
    server = Server("r", CostedSteps(one), batch)
    if batch * (prompt + output) > server.kv_room:
        return float("nan")
    for place in range(batch):  # the first ones end one after the other
        first = Job(0.0, 0, "a", prompt, max(2.0, output * (place + 1) // batch))
        server.accept(first, 0.0)
    ended, tpot = 0, []
    while ended < (WARM + MEASURED) * batch:
        now = server.due_s
        server.advance()
        for job in server.ended:
            ended += 1
            if ended > WARM * batch and job.output == output:
                tpot.append((now - job.first_s) / (output - 1.0))
            server.accept(Job(now, 0, "a", prompt, output), now)
        server.ended.clear()
    delay = server.times.first_token_delay_s(prompt)
    return float(np.mean(tpot)) + delay / (output - 1.0)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    batch=st.integers(1, 256),
    context=st.floats(1.0, 30_000.0),
    prompt=st.integers(1, 20_000),
)
def test_the_simulated_engine_has_the_cost_models_steps(
    name: str, batch: int, context: float, prompt: int
) -> None:
    one = replica(name, "bf16" if "8B" in name else "fp8", "h100_sxm", 4)
    one = one or replica(name, "fp4", "b200_sxm", 4)
    assert one is not None
    times = CostedSteps(one)
    base, slope = times.decode(batch, context)
    assert base + slope * context == pytest.approx(decode_step_s(one, batch, context), rel=1e-3)
    assert times.prefill_s(float(prompt)) == prefill_s(one, prompt)


@pytest.mark.parametrize("batch", [1, 4, 16, 64])
def test_a_closed_loop_runs_at_the_cost_models_tpot(batch: int) -> None:
    one = replica("Qwen/Qwen3-8B", "bf16", "h100_sxm", 1)
    assert one is not None
    for prompt, output in ((1000.0, 300.0), (4000.0, 100.0)):
        found = closed_loop_s(one, batch, prompt, output)
        assert found == pytest.approx(closed_loop_tpot_s(one, batch, prompt, output), rel=0.05)


def measured_rows(step: int) -> list[tuple[Replica, int, float, float, float]]:
    """Every `step`-th usable row: replica, concurrency, prompt, output tokens, measured TPOT (s)."""
    found = []
    with gzip.open(ROWS, "rt", encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if not row["flags"]]
    for row in rows[::step]:
        tensor = float(row["tp_size"] or 1)
        if float(row["attention_dp"] or 1) > 1 or float(row["pp_size"] or 1) > 1 or tensor > 8:
            continue
        name, precision = row["model"].replace("Meta-Llama-3.1", "Llama-3.1"), row["precision"]
        one = replica(name, precision or "bf16", row["system"], int(tensor), row["backend"])
        if one is not None and row["tpot_ms"]:
            sizes = float(row["isl"]), float(row["osl"])
            found.append((one, int(float(row["concurrency"])), *sizes, float(row["tpot_ms"]) / 1e3))
    return found


@pytest.mark.parametrize("step", [16, pytest.param(2, marks=pytest.mark.slow)])
def test_simulated_tpot_errs_no_more_than_five_points_beyond_the_cost_model(step: int) -> None:
    if not ROWS.exists():
        pytest.skip("no measured rows beside the project")
    simulated, modelled = [], []
    for one, batch, prompt, output, measured in measured_rows(step):
        found = closed_loop_s(one, batch, prompt, output)
        if np.isnan(found):
            continue
        simulated.append(abs(found / measured - 1.0))
        modelled.append(abs(closed_loop_tpot_s(one, batch, prompt, output) / measured - 1.0))
    print(
        f"{len(simulated)} rows: {np.mean(simulated):.1%} simulated, {np.mean(modelled):.1%} modelled"
    )
    assert len(simulated) >= 20
    assert abs(np.mean(simulated) - np.mean(modelled)) <= 0.05
