"""`motley plan --route-by-class`: a cascade whose classes go their own ways, from files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from e2e.cluster.nodes import make_mix

from motley_operator.cli import plan_file
from motley_operator.cli.main import main
from motley_operator.cli.plan_file import read_plan
from motley_operator.cli.plan_table import render

CASCADE = """
apiVersion: motley.dev/v1alpha1
kind: ModelCascade
metadata: {name: support, namespace: team-a}
spec:
  stages:
    - {name: small, model: {id: Qwen/Qwen3-8B, precision: bf16}}
    - {name: large, model: {id: Qwen/Qwen3-32B, precision: fp8}}
  quality:
    floor: 83%
    confidence: 95%
    calibration: {configMapKeyRef: {name: calibration, key: table.csv}}
  workload:
    requestsPerSecond: 60
    classes:
      - {name: chat, promptTokens: 900, outputTokens: 220, weight: 3}
      - {name: math, promptTokens: 1500, outputTokens: 260}
  slo: {e2e: {p95: 14s}}
"""
RIGHT = {"chat": 0.92, "math": 0.25}  # how often the small model is


def calibration() -> dict[str, Any]:
    draw = random.Random(3)
    lines = ["question_id,class,small:score,small:quality,large:score,large:quality"]
    for number in range(600):
        name = "chat" if draw.random() < 0.75 else "math"
        small, large = draw.random() < RIGHT[name], draw.random() < 0.93
        lines.append(f"q{number},{name},{draw.random():.3f},{small:d},0.9,{large:d}")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "calibration", "namespace": "team-a"},
        "data": {"table.csv": "\n".join(lines) + "\n"},
    }


def planned(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    (folder / "cascade.yaml").write_text(
        yaml.safe_dump_all([calibration(), yaml.safe_load(CASCADE)])
    )
    nodes = {"apiVersion": "v1", "kind": "List", "items": make_mix([("h100", 3)])}
    (folder / "nodes.yaml").write_text(yaml.safe_dump(nodes))
    words = ["-f", str(folder / "cascade.yaml"), "--nodes", str(folder / "nodes.yaml")]
    assert main(["plan", *words, *more, "-o", "json", "-q"]) == 0
    text = capsys.readouterr().out
    (folder / "plan.json").write_text(text)
    return json.loads(text)


def test_classes_go_their_own_ways_only_where_the_command_asks_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = planned(tmp_path, capsys)
    assert not any(p["classes"] for p in alike["slices"][0]["policies"])
    assert ", all math" not in render(read_plan(tmp_path / "plan.json"))
    apart = planned(tmp_path, capsys, "--route-by-class")
    jsonschema.validate(apart, plan_file.schema())
    assert {"math"} in [{*p["classes"]} for p in apart["slices"][0]["policies"]]
    assert apart["price_usd_per_hour"] < alike["price_usd_per_hour"]
    text = render(read_plan(tmp_path / "plan.json"))
    assert "of requests, all math: keep an answer when small >= 1.01" in text


def test_a_plan_after_a_change_still_sends_each_class_its_own_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = planned(tmp_path, capsys, "--route-by-class")
    words = ["what-if", str(tmp_path / "plan.json"), "--change", "+1 H100", "-o", "json", "-q"]
    assert main(words) == 0
    after = json.loads(capsys.readouterr().out)
    assert {"math"} in [{*p["classes"]} for p in after["slices"][0]["policies"]]
    assert after["price_usd_per_hour"] <= before["price_usd_per_hour"] + 1e-6
