"""Learned corrections on the command line: given in a file or read of a Fleet, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.nodes import make_mix

from motley_operator.cli.main import main

Capture = pytest.CaptureFixture[str]
ROW: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B", "gpu": "L40S", "tensorParallel": 1, "precision": "bf16",
    "engine": "vllm", "value": 1.5,
}  # fmt: skip
MEASURED = {"measured": 1.52, "low": 1.4, "high": 1.6, "samples": 9000}
ROWS = [
    {**ROW, **MEASURED, "tensorParallel": tp, "since": "2026-01-01T00:00:00Z"}
    for tp in (1, 2, 4, 8)
]
FLEET = {"apiVersion": "motley.dev/v1alpha1", "kind": "Fleet", "metadata": {"name": "default"}}


def fleet(learn: str) -> dict[str, Any]:
    source = {"url": "http://prometheus:9090", "learn": learn}
    return {**FLEET, "spec": {"prometheus": source}, "status": {"corrections": ROWS}}


def files(tmp_path: Path, *more: dict[str, Any]) -> list[str]:
    """Arguments of `motley plan` for one pool on one node type."""
    spec = {
        "model": {"id": "Qwen/Qwen3-8B", "precision": "bf16"},
        "workload": {
            "requestsPerSecond": 4,
            "classes": [{"name": "all", "promptTokens": 500, "outputTokens": 100}],
        },
    }
    meta = {"name": "chat", "namespace": "a"}
    kind = {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool"}
    documents = [*more, {**kind, "metadata": meta, "spec": spec}]
    nodes = {"apiVersion": "v1", "items": make_mix((("l40s", 1),)), "kind": "List"}
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(nodes))
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump_all(documents))
    return ["-f", str(tmp_path / "pool.yaml"), "--nodes", str(tmp_path / "nodes.yaml"), "-q"]


def planned(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main(["plan", *words, "-o", "json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def promises(document: dict[str, Any]) -> dict[str, tuple[float, str]]:
    (part,) = document["slices"]
    return {p["what"]: (p["value"], p["provenance"]) for p in part["promises"]}


def test_a_fleets_corrections_are_planned_with_where_it_says_so(
    tmp_path: Path, capsys: Capture
) -> None:
    modeled = promises(planned(capsys, *files(tmp_path)))
    assert promises(planned(capsys, *files(tmp_path, fleet("Report")))) == modeled
    applied = promises(planned(capsys, *files(tmp_path, fleet("Apply"))))
    assert {source for _, source in applied.values()} == {"learned"}
    assert applied["tpot_s main all"][0] > modeled["tpot_s main all"][0]


@pytest.mark.parametrize(
    "document", [fleet("Off"), {"corrections": ROWS}], ids=["of a Fleet", "a list"]
)
def test_a_file_of_corrections_is_planned_with_whatever_the_fleet_says(
    tmp_path: Path, capsys: Capture, document: dict[str, Any]
) -> None:
    path = tmp_path / "learned.yaml"
    path.write_text(yaml.safe_dump(document))
    given = planned(capsys, *files(tmp_path, fleet("Report")), "--corrections", str(path))
    applied = planned(capsys, *files(tmp_path, fleet("Apply")))
    assert promises(given) == promises(applied)
    assert len(given["problem"]["learned"]) == len(ROWS)


def test_explain_shows_what_was_learned_and_what_if_plans_with_it(
    tmp_path: Path, capsys: Capture
) -> None:
    document = planned(capsys, *files(tmp_path, fleet("Apply")))
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    assert main(["explain", str(path), "--no-worth", "-o", "table"]) == 0
    text = capsys.readouterr().out
    assert "x 1.5" in text and "1.4 to 1.6" in text and "learned)" in text
    assert main(["explain", str(path), "--no-worth", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["learned"]
    assert {(row["key"]["tensor_parallel"], row["value"]) for row in told} == {
        (tp, 1.5) for tp in (1, 2, 4, 8)
    }
    assert main(["what-if", str(path), "--change", "chat rate +1%", "-o", "json"]) == 0
    changed = json.loads(capsys.readouterr().out)
    assert promises(changed)["tpot_s main all"] == promises(document)["tpot_s main all"]
    assert changed["problem"]["learned"] == document["problem"]["learned"]


def test_a_row_written_by_hand_needs_no_interval_and_takes_any_name_of_the_catalog(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "learned.yaml"
    rows = [{**ROW, "gpu": "NVIDIA-L40S", "tensorParallel": tp} for tp in (1, 2, 4, 8)]
    path.write_text(yaml.safe_dump({"corrections": rows}))
    found = planned(capsys, *files(tmp_path), "--corrections", str(path))
    assert {source for _, source in promises(found).values()} == {"learned"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"corrections": [{**ROW, "value": 3.0}]}, "corrections[0].value"),
        ({"corrections": [ROW, {"model": "m"}]}, "corrections[1]."),
        ({"corrections": ["row"]}, "corrections[0]: is no mapping"),
        ({**FLEET, "status": {"corrections": [{**ROW, "value": "fast"}]}}, "status.corrections[0]"),
        (FLEET, "holds no corrections"),
        ({"corrections": []}, "holds no corrections"),
    ],
)
def test_a_wrong_file_of_corrections_is_named_by_row_and_field(
    tmp_path: Path, capsys: Capture, document: dict[str, Any], words: str
) -> None:
    path = tmp_path / "learned.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["plan", *files(tmp_path), "--corrections", str(path)]) == 2
    assert words in capsys.readouterr().err
    assert main(["plan", *files(tmp_path), "--corrections", str(tmp_path / "none.yaml")]) == 2
