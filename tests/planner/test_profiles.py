"""A user's measured profile: read with every mistake named, and put before the cost model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motley_planner.candidates import Candidate, stage_candidates
from motley_planner.candidates.measured import Correction, Ratio, interpolated
from motley_planner.catalog import load_catalog
from motley_planner.domain.demand import Slo, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.measurements import ProfileKey
from motley_planner.profiles import ProfileError, read_profile

CATALOG = load_catalog()
HEADER = "model,gpu,tp,precision,prompt_tokens,output_tokens,batch,ttft_ms,tpot_ms"
KEY = "ServingPool/a/chat"
MODEL = CATALOG.models["Qwen/Qwen3-8B"]
STAGE = StageDemand("main", MODEL, "bf16", "vllm")
CHAT = WorkloadClass("chat", 1000, 200, 1)
FIFTY_MS = Slo(tpot_s={"p95": 0.05})
NODE = NodeClass("H100-SXM5-80GB", "z", "on-demand", "", 6.88)


def candidates(catalog: Catalog, slo: Slo = FIFTY_MS, key: str = KEY) -> list[Candidate]:
    found, _ = stage_candidates(STAGE, (CHAT,), slo, [NODE], catalog, headroom=0.0, key=key)
    return list(found)


def one_gpu(catalog: Catalog, slo: Slo = FIFTY_MS) -> Candidate:
    return max(
        (c for c in candidates(catalog, slo) if c.tensor_parallel == 1),
        key=lambda c: c.operating_batch,
    )


def profiled(*lines: str, header: str = HEADER) -> Catalog:
    text = "\n".join((header, *lines))
    return replace(CATALOG, profiles={"": read_profile(text, CATALOG)})


def row(batch: int, ttft_ms: float, tpot_ms: float) -> str:
    return f"Qwen/Qwen3-8B,NVIDIA-H100-80GB-HBM3,1,bf16,1000,200,{batch},{ttft_ms},{tpot_ms}"


def test_a_measured_point_is_promised_as_measured() -> None:
    batch = one_gpu(CATALOG).operating_batch
    made = one_gpu(profiled(row(batch, 900.0, 40.0)))
    assert made.operating_batch >= batch
    same = one_gpu(profiled(*(row(b, 900.0, 40.0) for b in (128, 192, 256))))
    assert same.provenance == "profiled"
    assert same.tpot_s["chat"] == pytest.approx(0.040)
    assert same.ttft_s["chat"] == pytest.approx(0.900)
    # A slot is held for its tokens; the next prompt comes in among them.
    assert same.capacity["chat"] == pytest.approx(same.operating_batch / (200 * 0.040), rel=0.05)


def test_a_slow_measurement_shrinks_the_batch_that_a_target_allows() -> None:
    tight = Slo(tpot_s={"p95": 0.030})
    slow = profiled(*(row(b, 200.0, 0.5 * b + 5.0) for b in (8, 16, 32, 64, 128, 256)))
    assert one_gpu(slow, tight).operating_batch < 0.5 * one_gpu(CATALOG, tight).operating_batch


def test_other_sizes_models_and_resources_stay_modeled() -> None:
    catalog = profiled(row(128, 900.0, 40.0))
    for c in candidates(catalog):
        assert (c.provenance == "profiled") == (c.tensor_parallel == 1 and c.operating_batch >= 64)
    own = replace(CATALOG, profiles={"ServingPool/b/other": catalog.profiles[""]})
    assert all(c.provenance == "modeled" for c in candidates(own))
    assert candidates(own) == candidates(CATALOG)


ratios = st.lists(
    st.builds(
        Ratio,
        st.floats(1, 500),
        st.floats(10, 10_000),
        st.floats(10, 10_000),
        st.floats(0.2, 5),
    ),
    min_size=1,
    max_size=6,
)


@given(ratios, st.floats(1, 500), st.floats(10, 10_000), st.floats(10, 10_000))
def test_a_ratio_lies_between_the_measured_ones_and_one(
    points: list[Ratio], batch: float, prompt: float, output: float
) -> None:
    found = interpolated(points, (batch, prompt, output))
    known = [p.ratio for p in points] + [1.0]
    assert min(known) * (1 - 1e-9) <= found <= max(known) * (1 + 1e-9)


@given(ratios)
def test_a_ratio_holds_at_its_own_point_and_not_far_away(points: list[Ratio]) -> None:
    first = points[0]
    alone = Correction((first,))
    at = (first.batch, first.prompt_tokens, first.output_tokens)
    assert alone.tpot_at(*at) == pytest.approx(first.ratio)
    assert alone.covers(*at)
    # Faster than modeled is believed near the measurement only, slower wherever one looks.
    assert alone.tpot_at(5 * first.batch, *at[1:]) == pytest.approx(max(1.0, first.ratio))
    assert not alone.covers(3 * first.batch, *at[1:])


def test_throughput_stands_in_for_tpot() -> None:
    header = "model,gpu,tp,precision,prompt_tokens,output_tokens,concurrency,ttft_ms,{}"
    line = "Qwen/Qwen3-8B,L4,2,fp8,100,50,8,500,{}"
    key = ProfileKey("Qwen/Qwen3-8B", "L4", 2, "fp8")
    for column, value in (("requests_per_second", 4), ("tokens_per_second", 200)):
        text = f"{header.format(column)}\n{line.format(value)}"
        (point,) = read_profile(text, CATALOG).points[key]
        assert point.tpot_s == pytest.approx((8 / 4 - 0.5) / 50)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, ["empty"]),
        ("model,gpu\n", 1, ["tp", "missing"]),
        (f"{HEADER},speed\n", 1, ["speed", "unknown column"]),
        (f"{HEADER},tp\n", 1, ["tp", "twice"]),
        (HEADER.replace(",batch", ""), 1, ["batch or concurrency"]),
        (f"{HEADER}\n{row(8, 10, 10)},1", 2, ["10 cells", "9"]),
        (f"{HEADER}\n{row(8, 10, 10)}\n{row(8, 11, 11)}", 3, ["earlier row"]),
        (f"{HEADER}\n" + row(8, 10, 10).replace("Qwen3-8B", "Qwen3-9B"), 2, ["model", "Qwen3-8B"]),
        (f"{HEADER}\n" + row(8, 10, 10).replace("H100-80GB-HBM3", "X9"), 2, ["gpu"]),
        (f"{HEADER}\n" + row(8, 10, float("nan")), 2, ["tpot_ms", "nan"]),
        (f"{HEADER}\n" + row(-8, 10, 10), 2, ["batch", "-8"]),
        (f"{HEADER}\n" + row(8, 10, 10).replace(",1,bf16", ",1.5,bf16"), 2, ["tp"]),
        (f'{HEADER}\n"{row(8, 10, 10)}', 2, ["quotes"]),
    ],
)
def test_a_wrong_table_is_named_with_line_column_and_fix(
    text: str, line: int, words: list[str]
) -> None:
    with pytest.raises(ProfileError) as caught:
        read_profile(text, CATALOG)
    assert caught.value.line == line
    for word in words:
        assert word in str(caught.value)
