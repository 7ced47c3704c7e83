"""`motley predict`: the rows come back in order with predictions, and bad files are named."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import jsonschema
import pytest

from motley_operator.api.fileschemas import file_schema
from motley_operator.cli.main import main
from motley_operator.cli.predict import ADDED

HEADER = "model,system,precision,isl,osl,concurrency,tp_size,pp_size,note"
GOOD = "Qwen/Qwen3-8B,h100_sxm,bf16,1000,200,8,1,1,mine"


def table(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_rows_come_back_in_order_with_six_columns_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [GOOD, GOOD.replace("Qwen3-8B", "Qwen3-9B"), GOOD.replace(",8,1,1", ",64,1,1")]
    assert main(["predict", table(tmp_path, HEADER, *lines)]) == 0
    printed = capsys.readouterr()
    found = list(csv.DictReader(io.StringIO(printed.out)))
    assert list(found[0]) == [*HEADER.split(","), *ADDED]
    assert [row["concurrency"] for row in found] == ["8", "8", "64"]
    assert found[0]["note"] == "mine" and found[0]["refused"] == ""
    assert float(found[0]["tpot_low_ms"]) < float(found[0]["predicted_tpot_ms"])
    assert float(found[2]["predicted_tpot_ms"]) > float(found[0]["predicted_tpot_ms"])
    assert "unknown model" in found[1]["refused"] and found[1]["predicted_tpot_ms"] == ""
    assert "1 of 3 rows refused" in printed.err


def test_throughput_is_that_of_the_requests_in_flight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", table(tmp_path, HEADER, GOOD), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, file_schema("predict-result"))
    (row,) = found
    seconds = (row["predicted_ttft_ms"] + 200 * row["predicted_tpot_ms"]) / 1e3
    assert row["predicted_tokens_per_s_per_gpu"] == pytest.approx(8 * 200 / seconds, rel=1e-5)


def test_a_packed_file_and_a_second_run_give_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = table(tmp_path, HEADER, GOOD)
    assert main(["predict", plain]) == 0
    first = capsys.readouterr().out
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(first.encode()))
    assert main(["predict", str(packed)]) == 0
    assert capsys.readouterr().out == first


def test_an_impossible_value_refuses_its_row_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [GOOD.replace(",1000,", ",nan,"), GOOD.replace(",8,1,1", ",-8,1,1"), GOOD]
    assert main(["predict", table(tmp_path, HEADER, *lines), "--quiet"]) == 0
    printed = capsys.readouterr()
    refused = [row["refused"] for row in csv.DictReader(io.StringIO(printed.out))]
    assert "isl" in refused[0] and "concurrency" in refused[1] and refused[2] == ""
    assert printed.err == ""


def test_a_header_alone_is_a_table_without_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", table(tmp_path, HEADER)]) == 0
    assert capsys.readouterr().out.strip() == ",".join([*HEADER.split(","), *ADDED])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty", "header"]),
        (b"model,system\n", ["rows.csv:1", "isl", "missing"]),
        (f"{HEADER},isl\n".encode(), ["isl occurs twice"]),
        (f"{HEADER}\n{GOOD},7\n".encode(), ["rows.csv:2", "10 cells", "9"]),
        (f"{HEADER}\n{GOOD}\nQwen/Qwen3-8B,h100_sxm\n".encode(), ["rows.csv:3", "2 cells"]),
        (f"{HEADER}\n{GOOD.replace(',200,', ',many,')}\n".encode(), ["rows.csv:2", "osl", "many"]),
        (f'{HEADER}\n{GOOD}"\n'.encode() + b'"open,1\n', ["rows.csv", "quote"]),
        (b"\xff\xfe\x00m", ["UTF-8"]),
        (gzip.compress(HEADER.encode())[:-9], ["gzip", "cut off"]),
    ],
    ids=["empty", "columns", "twice", "long", "short", "text", "quotes", "encoding", "gzip"],
)
def test_a_broken_file_is_named_with_line_column_and_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: list[str]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert main(["predict", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "Traceback" not in printed.err
    for word in words:
        assert word in printed.err


def test_a_missing_file_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_one_output_token_leaves_the_columns_of_tpot_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table(tmp_path, HEADER, GOOD.replace(",200,", ",1,"))
    assert main(["predict", rows]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["predicted_tpot_ms"] == row["tpot_low_ms"] == row["tpot_high_ms"] == ""
    assert float(row["predicted_ttft_ms"]) > 0 and row["refused"] == ""
    assert main(["predict", rows, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, file_schema("predict-result"))
    assert found[0]["predicted_tpot_ms"] is None
