"""`motley plan` on pipelines and on prefill and decode apart: what it prints, and reads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from e2e.cluster.nodes import make_mix

from motley_operator.cli import plan_file
from motley_operator.cli.diff import difference
from motley_operator.cli.diff import render as render_difference
from motley_operator.cli.main import main
from motley_operator.cli.plan_file import read_plan
from motley_operator.cli.plan_table import render

Capture = pytest.CaptureFixture[str]


def files(folder: Path, nodes: list[tuple[str, int]], **spec: Any) -> list[str]:
    """Words of a command that plans one pool on these nodes."""
    listed = {"apiVersion": "v1", "items": make_mix(nodes), "kind": "List"}
    (folder / "nodes.yaml").write_text(yaml.safe_dump(listed))
    document = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": "rag", "namespace": "team-a"},
        "spec": spec,
    }
    (folder / "pool.yaml").write_text(yaml.safe_dump(document))
    return ["-f", str(folder / "pool.yaml"), "--nodes", str(folder / "nodes.yaml")]


def workload(rate: str, prompt: int = 6000, output: int = 300) -> dict[str, Any]:
    classes = [{"name": "rag", "promptTokens": prompt, "outputTokens": output}]
    return {"requestsPerSecond": rate, "classes": classes}


def made(capsys: Capture, path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and plan of `motley plan`, written to a file as well."""
    status = main(["plan", *words, "-o", "json", "-q", "--time-limit", "4s"])
    text = capsys.readouterr().out
    path.write_text(text)
    document: dict[str, Any] = json.loads(text)
    return status, document


def test_a_pipeline_is_planned_printed_and_kept(tmp_path: Path, capsys: Capture) -> None:
    words = files(
        tmp_path,
        [("a100-80", 4)],
        model={"id": "meta-llama/Llama-3.1-405B-Instruct", "precision": "bf16"},
        parallelism={"maxPipeline": 2},
        workload=workload("0.05"),
    )
    status, document = made(capsys, tmp_path / "plan.json", *words)
    assert status == 0
    jsonschema.validate(document, plan_file.schema())
    (replica,) = document["slices"][0]["replicas"]
    assert [part["tensor_parallel"] for part in replica["pipeline"]] == [8, 8]
    assert sum(part["layers"] for part in replica["pipeline"]) == 126
    content = read_plan(tmp_path / "plan.json")
    assert content.plan.gpus_used == 16 and sum(row.used for row in content.inventory) == 16
    layers = "/".join(str(part["layers"]) for part in replica["pipeline"])
    assert f"1 x TP8/8 layers {layers}" in render(content)
    previous = ["--previous", str(tmp_path / "plan.json")]
    again = made(capsys, tmp_path / "again.json", *words, *previous)[1]
    assert again["kept"] == 1 and not again["moves"]
    found = difference(content, read_plan(tmp_path / "again.json"))
    assert (found.kept, found.changes) == (1, ())


def test_a_difference_names_both_sides_of_a_pipeline(tmp_path: Path, capsys: Capture) -> None:
    words = files(
        tmp_path,
        [("a100-80", 4)],
        model={"id": "meta-llama/Llama-3.1-405B-Instruct", "precision": "bf16"},
        parallelism={"maxPipeline": 2},
        workload=workload("0.05"),
    )
    made(capsys, tmp_path / "one.json", *words)
    document = json.loads((tmp_path / "one.json").read_text())
    document["slices"][0]["replicas"] = []
    (tmp_path / "none.json").write_text(json.dumps(document))
    found = difference(read_plan(tmp_path / "none.json"), read_plan(tmp_path / "one.json"))
    text = render_difference(found)
    assert "TP8/8 layers 63/63 A100-SXM4-80GB + A100-SXM4-80GB" in text


RAG: dict[str, Any] = {
    "model": {"id": "meta-llama/Llama-3.1-70B-Instruct", "precision": "fp8"},
    "workload": workload("3"),
    "slo": {"ttft": {"p95": "2s"}, "tpot": {"p95": "30ms"}},
}
MIX = [("h100", 1), ("a100-80", 1)]


def test_phases_are_apart_only_where_the_command_allows_it(tmp_path: Path, capsys: Capture) -> None:
    words = files(tmp_path, MIX, **RAG)
    served = []
    for more in ((), ("--allow-disaggregation",)):
        document = made(capsys, tmp_path / f"{len(more)}.json", *words, *more)[1]
        part = document["slices"][0]
        phases = {replica["phase"] for replica in part["replicas"]}
        assert {"prefill", "decode"} <= phases if more else phases == {"both"}
        assert bool(part["flows"]) == bool(more)
        served.append(part["served_requests_per_second"])
    assert served[1] > served[0]
    jsonschema.validate(json.loads((tmp_path / "1.json").read_text()), plan_file.schema())
    text = render(read_plan(tmp_path / "1.json"))
    assert "main (prefill)" in text and "main (decode)" in text
    assert "main rag: KV caches" in text and "GB/s" in text


def test_compression_needs_phases_apart_and_is_never_silent(
    tmp_path: Path, capsys: Capture
) -> None:
    words = files(tmp_path, MIX, **RAG)
    assert main(["plan", *words, "--allow-kv-compression"]) == 2
    assert "--allow-disaggregation" in capsys.readouterr().err
    both = ["--allow-disaggregation", "--allow-kv-compression"]
    document = made(capsys, tmp_path / "kv.json", *words, *both)[1]
    part = document["slices"][0]
    packed = any(replica["kv_scale"] < 1.0 for replica in part["replicas"])
    assert packed == bool(part["caveats"])
    assert packed == ("4 bits" in render(read_plan(tmp_path / "kv.json")))


def test_always_needs_no_flag_and_never_goes_before_it(tmp_path: Path, capsys: Capture) -> None:
    for mode, phases in (("Always", {"prefill", "decode"}), ("Never", {"both"})):
        words = files(tmp_path, MIX, **{**RAG, "disaggregation": mode})
        flag = ["--allow-disaggregation"] if mode == "Never" else []
        document = made(capsys, tmp_path / "plan.json", *words, *flag)[1]
        assert {r["phase"] for r in document["slices"][0]["replicas"]} == phases
