"""`motley what-if`, the worth in `motley explain`, and `motley draw`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.cluster.nodes import make_mix

from motley_operator.cli.main import main
from motley_operator.cli.plan_file import read_plan

SVG = "{http://www.w3.org/2000/svg}"
Capture = pytest.CaptureFixture[str]


def pool(rate: float, slo: dict[str, Any] | None = None) -> dict[str, Any]:
    classes = [{"name": "all", "promptTokens": 500, "outputTokens": 100}]
    told = {} if slo is None else {"slo": slo, "budget": {"dollarsPerHour": 60, "gpus": 8}}
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": "chat", "namespace": "team-a"},
        "spec": {
            "model": {"id": "Qwen/Qwen3-8B", "precision": "bf16"},
            "workload": {"requestsPerSecond": rate, "classes": classes},
            **told,
        },
    }


@pytest.fixture
def planned(tmp_path: Path, capsys: Capture) -> str:
    """PLAN.json of a pool that takes more than its one L4 node."""
    return written(tmp_path, capsys, pool(50))


@pytest.fixture
def promised(tmp_path: Path, capsys: Capture) -> str:
    """The same with every latency target and every budget."""
    slo = {"ttft": {"p95": "2s"}, "tpot": {"p95": "150ms"}, "e2e": {"p95": "30s"}}
    return written(tmp_path, capsys, pool(50, slo))


def written(tmp_path: Path, capsys: Capture, resource: dict[str, Any]) -> str:
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(resource))
    nodes = {"apiVersion": "v1", "items": make_mix((("l4", 1),)), "kind": "List"}
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump(nodes))
    words = ["-f", str(tmp_path / "pool.yaml"), "--nodes", str(tmp_path / "nodes.yaml")]
    assert main(["plan", *words, "-o", "json", "-q", "--time-limit", "3s"]) == 1
    (tmp_path / "plan.json").write_text(capsys.readouterr().out)
    return str(tmp_path / "plan.json")


def test_a_node_more_serves_more_and_stops_nothing(planned: str, capsys: Capture) -> None:
    assert main(["what-if", planned, "--change", "+1 L4-node", "-o", "json"]) == 1
    after = json.loads(capsys.readouterr().out)
    (before,) = read_plan(planned).plan.slices
    assert after["slices"][0]["served_requests_per_second"] == pytest.approx(
        2 * before.served_requests_per_second, rel=0.05
    )
    assert after["kept"] == len(before.replicas)
    assert {n["name"] for n in after["problem"]["snapshot"]["nodes"]} >= {"new-1"}


def test_its_answer_is_a_plan_that_can_be_asked_again(
    planned: str, tmp_path: Path, capsys: Capture
) -> None:
    main(["what-if", planned, "--change", "chat rate =1", "-o", "json"])
    (tmp_path / "next.json").write_text(capsys.readouterr().out)
    assert main(["what-if", str(tmp_path / "next.json"), "--change", "chat rate +1"]) == 0
    capsys.readouterr()
    assert main(["diff", planned, str(tmp_path / "next.json"), "-o", "json"]) == 0


def test_the_table_shows_before_and_after(planned: str, capsys: Capture) -> None:
    main(["what-if", planned, "--change", "+1 L4", "-o", "table"])
    text = capsys.readouterr().out
    assert "ServingPool/team-a/chat" in text
    assert " kept, " in text


def test_planning_again_without_the_change_is_said_beside_it(planned: str, capsys: Capture) -> None:
    (before,) = read_plan(planned).plan.slices
    main(["what-if", planned, "--change", "+1 L4", "-o", "json"])
    alone = json.loads(capsys.readouterr().out)["unchanged"]
    assert (alone["started"], alone["stopped"]) == (0, 0)
    assert alone["served_requests_per_second"] == {
        "ServingPool/team-a/chat": pytest.approx(before.served_requests_per_second)
    }
    main(["what-if", planned, "--change", "+1 L4", "-o", "table"])
    assert "planning again without the change" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["nonsense", "+1 H100", "gone rate +1"])
def test_a_change_that_cannot_be_is_bad_input(planned: str, capsys: Capture, change: str) -> None:
    assert main(["what-if", planned, "--change", change]) == 2
    assert f"change '{change}'" in capsys.readouterr().err


@pytest.mark.parametrize("beyond", ["=0ms", "=0", "-40s", "-100%", "-250%"])
@pytest.mark.parametrize("field", ["ttft", "tpot", "e2e"])
def test_a_latency_target_of_nothing_is_refused(
    promised: str, capsys: Capture, field: str, beyond: str
) -> None:
    assert main(["what-if", promised, "--change", f"chat {field} {beyond}"]) == 2
    assert "a target must be above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        f"chat {field} {to}"
        for field in ("rate", "budget", "gpus", "headroom")
        for to in ("=0", "-99")
    ]
    + ["budget =0", "chat headroom +99", "chat tpot =1ms", "-1 L4"],
)
def test_every_other_quantity_may_be_nothing(promised: str, capsys: Capture, change: str) -> None:
    asked = ["what-if", promised, "--change", change, "-o", "json", "--time-limit", "1s"]
    assert main(asked) in (0, 1)
    (part,) = json.loads(capsys.readouterr().out)["slices"]
    if change.split()[-1] in ("=0", "-99") and "headroom" not in change or change == "-1 L4":
        assert part["replicas"] == []


@pytest.mark.parametrize(
    "change", ["+" + "9" * 5000 + " L4", "chat gpus =" + "9" * 400, "budget =" + "9" * 5000]
)
def test_a_change_beyond_all_measure_is_refused(
    promised: str, capsys: Capture, change: str
) -> None:
    assert main(["what-if", promised, "--change", change]) == 2
    assert "; write " in capsys.readouterr().err


def test_a_plan_without_its_problem_is_refused_with_the_fix(
    planned: str, tmp_path: Path, capsys: Capture
) -> None:
    document = json.loads(Path(planned).read_text())
    del document["problem"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert main(["what-if", str(tmp_path / "old.json"), "--change", "+1 L4"]) == 2
    assert "write the plan again" in capsys.readouterr().err


def test_explain_says_what_a_node_is_worth_where_gpus_are_short(
    planned: str, capsys: Capture
) -> None:
    assert main(["explain", planned, "-o", "json", "-q"]) == 0
    (worth,) = json.loads(capsys.readouterr().out)["worth"]
    (before,) = read_plan(planned).plan.slices
    assert worth["change"] == "+1 L4"
    gained = worth["gained"]["ServingPool/team-a/chat"]
    assert gained == pytest.approx(before.served_requests_per_second, rel=0.05)


def test_a_picture_has_a_box_for_every_replica(planned: str, capsys: Capture) -> None:
    assert main(["draw", planned]) == 0
    picture = ET.fromstring(capsys.readouterr().out)
    labels = [text.text for text in picture.iter(f"{SVG}text")]
    (part,) = read_plan(planned).plan.slices
    assert labels.count("main") == len(part.replicas)
    assert any((text or "").startswith("main: ") for text in labels)


def test_a_picture_goes_to_a_file(planned: str, tmp_path: Path) -> None:
    assert main(["draw", planned, "--file", str(tmp_path / "plan.svg")]) == 0
    assert ET.parse(tmp_path / "plan.svg").getroot().tag == f"{SVG}svg"
