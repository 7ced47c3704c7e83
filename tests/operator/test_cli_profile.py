"""`motley plan --profile` and `spec.profile`: measurements go before the model, and say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.nodes import make_mix

from motley_operator.cli.main import main

Capture = pytest.CaptureFixture[str]
HEADER = "model,gpu,tp,precision,prompt_tokens,output_tokens,batch,ttft_ms,tpot_ms"
ROWS = [
    f"Qwen/Qwen3-8B,{gpu},{tp},bf16,500,100,{batch},300,{9 + batch / 8}"
    for gpu in ("L40S", "H100-SXM5-80GB")
    for tp in (1, 2, 4, 8)
    for batch in (1, 4, 16, 64, 256)
]
TABLE = "\n".join([HEADER, *ROWS])


def files(tmp_path: Path, *, own: str | None = None) -> list[str]:
    """Arguments of `motley plan` for one pool on two node types."""
    spec: dict[str, Any] = {
        "model": {"id": "Qwen/Qwen3-8B", "precision": "bf16"},
        "workload": {
            "requestsPerSecond": 4,
            "classes": [{"name": "all", "promptTokens": 500, "outputTokens": 100}],
        },
    }
    documents: list[dict[str, Any]] = []
    if own is not None:
        spec["profile"] = {"configMapKeyRef": {"name": "measured", "key": "table.csv"}}
        meta = {"name": "measured", "namespace": "a"}
        data = {"table.csv": own}
        documents = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}]
    meta = {"name": "chat", "namespace": "a"}
    kind = {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool"}
    documents.append({**kind, "metadata": meta, "spec": spec})
    nodes = {"apiVersion": "v1", "items": make_mix((("l40s", 1),)), "kind": "List"}
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(nodes))
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump_all(documents))
    return ["-f", str(tmp_path / "pool.yaml"), "--nodes", str(tmp_path / "nodes.yaml"), "-q"]


def promises(capsys: Capture, *words: str) -> dict[str, tuple[float, str]]:
    assert main(["plan", *words, "-o", "json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["slices"]
    return {p["what"]: (p["value"], p["provenance"]) for p in part["promises"]}


def test_a_profile_goes_before_the_model_and_its_figures_are_marked(
    tmp_path: Path, capsys: Capture
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    modeled = promises(capsys, *files(tmp_path))
    measured = promises(capsys, *files(tmp_path), "--profile", str(table))
    assert {source for _, source in modeled.values()} == {"modeled"}
    assert {source for _, source in measured.values()} == {"profiled"}
    assert modeled != measured


def test_a_pools_own_profile_does_the_same(tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    given = promises(capsys, *files(tmp_path), "--profile", str(table))
    assert promises(capsys, *files(tmp_path, own=TABLE)) == given


def test_a_wrong_profile_is_named_by_file_line_and_column(tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "table.csv"
    table.write_text(TABLE.replace(",64,300,", ",64,fast,", 1))
    assert main(["plan", *files(tmp_path), "--profile", str(table)]) == 2
    told = capsys.readouterr().err
    assert "table.csv" in told and "line 5" in told and "ttft_ms" in told and "fast" in told
    assert main(["plan", *files(tmp_path), "--profile", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("own", "words"),
    [(TABLE.replace("tpot_ms", "tpot"), ["spec.profile", "line 1", "tpot"]), (None, [])],
)
def test_a_pool_with_a_wrong_profile_is_rejected_by_field(
    tmp_path: Path, capsys: Capture, own: str | None, words: list[str]
) -> None:
    arguments = [word for word in files(tmp_path, own=own) if word != "-q"]
    assert main(["plan", *arguments]) == (2 if own else 0)
    told = capsys.readouterr().err
    for word in words:
        assert word in told


def test_a_profile_without_its_configmap_is_named(tmp_path: Path, capsys: Capture) -> None:
    arguments = [word for word in files(tmp_path, own=TABLE) if word != "-q"]
    only = list(yaml.safe_load_all((tmp_path / "pool.yaml").read_text()))[1]
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(only))
    assert main(["plan", *arguments]) == 2
    assert "there is no ConfigMap measured" in capsys.readouterr().err
