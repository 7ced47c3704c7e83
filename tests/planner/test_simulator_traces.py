"""Arrivals: traces read, drawn, stretched and levelled."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motley_planner.errors import SnapshotError
from motley_planner.simulator import Kind, drawn, like_trace, read_trace
from motley_planner.simulator.arrivals import nearest_class
from motley_planner.simulator.traces import drawn_from_rates, is_rate_table, read_rates

SHARED = Path(__file__).parents[2] / "../shared/data/traces"
KINDS = (Kind("short", 3.0, 200.0, 50.0), Kind("long", 1.0, 4000.0, 300.0))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_azure_rows_with_seven_digits_of_a_second_start_at_zero(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
    )
    found = read_trace(written(tmp_path / "azure.csv", text))
    assert found.time_s.tolist() == pytest.approx([0.0, 4.314579], abs=1e-5)
    assert found.prompt_tokens.tolist() == [374.0, 396.0]
    assert found.output_tokens.tolist() == [44.0, 109.0]
    assert found.classes == ("",)


def test_mooncake_lines_are_milliseconds_and_their_first_block_is_the_prefix(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.jsonl.gz"
    with gzip.open(path, "wt") as text:
        text.write(
            '{"timestamp": 1000, "input_length": 10, "output_length": 5, "hash_ids": [7, 8]}\n'
        )
        text.write('{"timestamp": 3500, "input_length": 20, "output_length": 0}\n')
    found = read_trace(path)
    assert found.time_s.tolist() == [0.0, 2.5]
    assert found.output_tokens.tolist() == [5.0, 1.0], "every answer has a token"
    assert found.prefix is not None and found.prefix.tolist() == [7, -1]


def test_a_trace_of_your_own_may_name_classes_and_need_not_be_in_order(tmp_path: Path) -> None:
    text = "time_s,prompt_tokens,output_tokens,class\n5,10,1,b\n2,20,2,a\n"
    found = read_trace(written(tmp_path / "own.csv", text))
    assert found.time_s.tolist() == [0.0, 3.0]
    assert [found.classes[i] for i in found.class_index] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a,b,c\n1,2,3\n", "line 1"),
        ("time_s,prompt_tokens,output_tokens\n1,x,3\n", "line 2, column prompt_tokens"),
        ("time_s,prompt_tokens,output_tokens\n1,2,3\n1,-2,3\n", "line 3, column prompt_tokens"),
        ("time_s,prompt_tokens,output_tokens\n1,2,nan\n", "line 2, column output_tokens"),
        ("time_s,prompt_tokens,output_tokens\n1,2\n", "line 2, column output_tokens"),
        ("time_s,prompt_tokens,output_tokens\n", "holds no request"),
        ("", "line 1"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "line 2"),
        ('{"timestamp": 1}\n', "line 1, column input_length"),
        ('{"timestamp": 1\n', "line 1"),
    ],
)
def test_a_wrong_trace_is_refused_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(SnapshotError, match=place):
        read_trace(written(tmp_path / "wrong.csv", text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(b"not gzip at all")
    with pytest.raises(SnapshotError, match="cannot be read"):
        read_trace(path)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), cv=st.sampled_from([0.3, 1.0, 3.0]))
def test_drawn_requests_have_the_rate_the_variation_and_the_shares_asked(
    seed: int, cv: float
) -> None:
    found = drawn(KINDS, 4000, seed=seed, variation=cv)
    gaps = np.diff(found.time_s)
    assert found.rate == pytest.approx(4.0, rel=0.06 * max(1.0, cv) * 1.5)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.25)
    assert (found.class_index == 0).mean() == pytest.approx(0.75, abs=0.05)


def test_length_variation_keeps_the_mean() -> None:
    found = drawn(KINDS, 50_000, seed=1, length_variation=0.5)
    long = found.prompt_tokens[found.class_index == 1]
    assert long.mean() == pytest.approx(4000.0, rel=0.02)
    assert long.std() / long.mean() == pytest.approx(0.5, rel=0.05)


def test_stretching_keeps_the_pattern_and_levelling_takes_the_drift_out() -> None:
    rng = np.random.default_rng(2)
    slow = np.sort(rng.uniform(0.0, 1000.0, 1000))
    fast = np.sort(rng.uniform(1000.0, 2000.0, 3000))
    trace = drawn(KINDS, 4000, seed=1)
    from dataclasses import replace

    drifting = replace(trace, time_s=np.concatenate([slow, fast]))
    twice = drifting.at_rate(2 * drifting.rate)
    assert np.diff(twice.time_s) == pytest.approx(np.diff(drifting.time_s) / 2.0)
    level = drifting.leveled(500.0)
    counts, _ = np.histogram(level.time_s, np.linspace(0.0, level.time_s[-1], 5))
    assert counts.max() / counts.min() < 1.1
    assert (np.diff(level.time_s) >= 0).all()
    like = like_trace(KINDS, drifting, seed=3)
    assert like.rate == pytest.approx(4.0)


def test_requests_go_to_the_class_of_the_nearest_prompt_length() -> None:
    lengths = {"short": (100.0, 10.0), "long": (10_000.0, 10.0)}
    assert nearest_class(lengths, np.array([1.0, 900.0, 1100.0, 9e4])).tolist() == [0, 0, 1, 1]


def test_a_table_of_rates_is_drawn_window_by_window(tmp_path: Path) -> None:
    path = written(tmp_path / "rates.csv", "t_s,m,n\n0,1,\n600,0,\n1200,4,\n")
    assert is_rate_table(path)
    starts, rates = read_rates(path, "m")
    found = drawn_from_rates(KINDS, starts, rates, seed=1, most=10**6)
    counts, _ = np.histogram(found.time_s, [0.0, 600.0, 1200.0, 1800.0])
    assert counts[1] == 0
    assert counts[0] == pytest.approx(600, rel=0.2) and counts[2] == pytest.approx(2400, rel=0.1)
    with pytest.raises(SnapshotError, match="use one of m, n"):
        read_rates(path, "o")
    with pytest.raises(SnapshotError, match="fewer than 2"):
        read_rates(path, "n")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("azure2023_conv.csv.gz", 19_366),
        ("azure2023_code.csv.gz", 8_819),
        ("mooncake_conversation.jsonl.gz", 12_031),
    ],
)
def test_the_published_traces_are_read_whole(name: str, rows: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip("no traces beside the project")
    found = read_trace(SHARED / name)
    assert len(found) == rows
    assert 2500 < found.time_s[-1] < 3700


@pytest.mark.parametrize("digits", [401, 5001])
def test_a_number_that_no_float_holds_is_refused_by_its_line_and_column(
    tmp_path: Path, digits: int
) -> None:
    number = "1" + "0" * (digits - 1)
    line = f'{{"timestamp": {number}, "input_length": 3, "output_length": 4}}\n'
    with pytest.raises(SnapshotError, match="line 1, column timestamp"):
        read_trace(written(tmp_path / "odd.jsonl", line))
    line = '{"timestamp": 1, "input_length": 3, "output_length": 4, "hash_ids": [1e3]}\n'
    line = line.replace("1e3", str(2**63))
    with pytest.raises(SnapshotError, match="line 1, column hash_ids"):
        read_trace(written(tmp_path / "odd.jsonl", line))
