"""`motley simulate`: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml

from motley_operator.cli import plan_file
from motley_operator.cli.main import main
from motley_operator.cli.plan_file import Problem
from motley_operator.cli.schema import schema_of
from motley_operator.cli.simulate_table import Tuned, render_tuned
from motley_planner.catalog import load_catalog
from motley_planner.costs.order_statistics import branch_tokens
from motley_planner.domain.demand import (
    Branching,
    RoutingPolicy,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import Node, NodeClass
from motley_planner.domain.snapshot import Snapshot
from motley_planner.planning import plan

Capture = pytest.CaptureFixture[str]
CATALOG = load_catalog()
POOL, CASCADE = "ServingPool/team-a/chat", "ModelCascade/team-a/support"


def stage(name: str, model: str, precision: str = "bf16") -> StageDemand:
    spec = CATALOG.model(model)
    assert spec is not None
    return StageDemand(name, spec, precision, "vllm")


def service(key: str, rate: float = 6.0, **changes: Any) -> ServingDemand:
    base = ServingDemand(
        key=key,
        tenant="team-a",
        stages=(stage("main", "Qwen/Qwen3-8B"),),
        classes=(WorkloadClass("chat", 900, 200, 3), WorkloadClass("rag", 3000, 150, 1)),
        requests_per_second=rate,
        slo=Slo(ttft_s={"p95": 1.0}, tpot_s={"p95": 0.06}),
    )
    return replace(base, **changes)


def cascade() -> ServingDemand:
    return service(
        CASCADE,
        stages=(stage("small", "Qwen/Qwen3-8B"), stage("large", "Qwen/Qwen3-32B", "fp8")),
        classes=(WorkloadClass("all", 900, 220),),
        slo=Slo(e2e_s={"p95": 20.0}),
        policies=(
            RoutingPolicy("never", {"small": 0.0}, 0.7, 0.7, {"small": 1.0, "large": 0.0}),
            RoutingPolicy("half", {"small": 0.5}, 0.9, 0.9, {"small": 1.0, "large": 0.5}),
        ),
        quality_floor=0.9,
    )


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plan.json (a pool and a cascade), small.json and large.json (the pool alone)."""
    folder = tmp_path_factory.mktemp("plans")
    kind = NodeClass("H100-SXM5-80GB", "z", "on-demand", "", 6.88)
    nodes = tuple(Node(f"n{i}", kind, 8, 192_000, 2**41, 110, 8) for i in range(4))
    for name, services in {
        "plan": (service(POOL), cascade()),
        "small": (service(POOL, 40.0),),
        "large": (service(POOL, 80.0),),
        "none": (service(POOL, slo=Slo(ttft_s={"p95": 0.001})),),
    }.items():
        snapshot = Snapshot(nodes, services=services, time_limit_s=5)
        made = plan(snapshot, CATALOG, use_worker=False)
        content = plan_file.plan_file(made, Problem(snapshot), {}, ())
        (folder / f"{name}.json").write_text(json.dumps(plan_file.to_document(content)))
    return folder


def run_json(capsys: Capture, *words: object) -> tuple[int, list[dict[str, Any]]]:
    status = main(["simulate", *map(str, words), "-o", "json", "-q"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["resources"]
    return status, found


def test_a_plan_that_holds_ends_with_0_and_reports_every_target(
    plans: Path, capsys: Capture
) -> None:
    status, (pool, support) = run_json(
        capsys, plans / "plan.json", "--trace", "poisson", "--requests", 1500
    )
    assert status == 0
    for each in (pool, support):
        jsonschema.validate(each, schema_of("simulation"))
    assert pool["resource"] == POOL and support["resource"] == CASCADE
    assert {(a["name"], a["what"]) for a in pool["attainment"]} == {
        (name, what) for name in ("chat", "rag") for what in ("ttft", "tpot")
    }
    assert all(a["is_kept"] and a["share"] >= 0.94 for a in pool["attainment"])
    assert pool["requests_per_second"] == pytest.approx(6.0, rel=0.1)
    assert pool["usd_per_hour"] > 0 and pool["use"][0]["busy_share"] > 0.1
    assert [c["stage"] for c in support["classes"]] == ["small", "large"]
    assert support["classes"][1]["requests"] / support["classes"][0]["requests"] == pytest.approx(
        0.5, abs=0.06
    )


def test_branches_of_the_spec_are_simulated_and_take_what_the_plan_counts_for_them(
    tmp_path: Path, capsys: Capture
) -> None:
    """A replica that only just serves single requests is overloaded by eight branches of each."""
    rule, busy = Branching("main", 8, 4, 0.5), {}
    for name, branching, per in (
        ("plain", None, 1.0),
        ("counted", rule, branch_tokens(8, 4, 0.5)),
        ("forgotten", rule, 1.0),
    ):
        main_stage = replace(
            stage("main", "Qwen/Qwen3-8B"), branching=branching, sequences_per_request=per
        )
        kind = NodeClass("H100-SXM5-80GB", "z", "on-demand", "", 6.88)
        nodes = tuple(Node(f"n{i}", kind, 8, 192_000, 2**41, 110, 8) for i in range(2))
        asked = service(POOL, 40.0, stages=(main_stage,))
        snapshot = Snapshot(nodes, services=(asked,), time_limit_s=5)
        made = plan(snapshot, CATALOG, use_worker=False)
        content = plan_file.plan_file(made, Problem(snapshot), {}, ())
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(plan_file.to_document(content)))
        assert plan_file.read_plan(str(path)).plan.slices[0].branching == (
            (rule,) if branching else ()
        )
        words = (path, "--trace", "poisson", "--requests", 800)
        status, (found,) = run_json(capsys, *words)
        use = found["use"][0]
        busy[name] = use["replicas"], use["slot_share"], status
    (plain, _, fine), (counted, share, kept), (same, full, late) = busy.values()
    assert counted > plain == same, busy
    assert fine == kept == 0, busy
    assert late == 1 and full > 1.5 * share, busy


def test_an_overloaded_plan_ends_with_1(plans: Path, capsys: Capture) -> None:
    words = (plans / "small.json", "--trace", "poisson", "--load", "3", "--requests", "6000")
    status, (pool,) = run_json(capsys, *words)
    assert status == 1 and not pool["is_kept"]


def test_a_deadline_refuses_what_cannot_be_in_time_and_more_are_in_time_for_it(
    plans: Path, capsys: Capture
) -> None:
    """At five times the rate everything queues; at a tenth of it nothing is refused."""
    words = [plans / "small.json", "--trace", "poisson", "--requests", 4000]
    loaded = [*words, "--load", 5]
    _, [free] = run_json(capsys, *loaded)
    status, [kept] = run_json(capsys, *loaded, "--deadline", "20s")
    assert (free["not_admitted"], free["in_deadline"], status) == (0, None, 1)
    assert 0 < kept["not_admitted"] < kept["requests"]
    assert kept["answered"] + kept["not_admitted"] <= kept["requests"]
    _, [late] = run_json(capsys, *loaded, "--deadline", "1h")
    assert late["not_admitted"] == 0 and late["in_deadline"] == free["answered"] / free["requests"]
    e2e = [max(c["e2e"]["p50_s"] for c in each["classes"]) for each in (free, kept)]
    assert e2e[1] < e2e[0]
    _, [calm] = run_json(capsys, *words, "--load", 0.1, "--deadline", "20s")
    assert (calm["not_admitted"], calm["in_deadline"]) == (0, 1.0)


def test_a_resource_without_replicas_ends_with_1_and_says_so(plans: Path, capsys: Capture) -> None:
    assert main(["simulate", str(plans / "none.json"), "--trace", "poisson"]) == 1
    assert "has no replicas in this plan" in capsys.readouterr().err


def test_table_and_yaml_say_the_same(plans: Path, capsys: Capture) -> None:
    words = ["simulate", str(plans / "plan.json"), "--resource", POOL, "--trace", "gamma:2"]
    words += ["--requests", "300"]
    main([*words, "-o", "table"])
    shown = capsys.readouterr()
    assert POOL in shown.out and "ttft p95 <= 1 s" in shown.out and "BUSY" in shown.out
    assert "300 requests" in shown.err
    main([*words, "-o", "yaml", "-q"])
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["resources"][0]["resource"] == POOL
    assert not shown.err


def test_a_trace_of_requests_is_sorted_into_the_plans_classes(
    plans: Path, capsys: Capture, tmp_path: Path
) -> None:
    trace = tmp_path / "t.csv"
    rows = [f"{i},{900 if i % 4 else 3000},100" for i in range(200)]
    trace.write_text("\n".join(["time_s,prompt_tokens,output_tokens", *rows]))
    words = (plans / "plan.json", "--resource", POOL, "--trace", trace, "--warm-up", "0")
    status, (pool,) = run_json(capsys, *words)
    assert status == 0
    assert {c["name"]: c["requests"] for c in pool["classes"]} == {"chat": 150, "rag": 50}
    _, (stretched,) = run_json(capsys, *words, "--rate", "planned")
    assert stretched["seconds"] < pool["seconds"] / 3


def test_a_calibration_table_decides_escalation_and_gives_the_quality(
    plans: Path, capsys: Capture, tmp_path: Path
) -> None:
    table = tmp_path / "c.csv"
    rows = [f"q{i},{i / 100},{int(i >= 50)},1" for i in range(100)]
    table.write_text("\n".join(["question_id,small:score,small:quality,large:quality", *rows]))
    words = (plans / "plan.json", "--resource", CASCADE, "--trace", "poisson", "--requests", 800)
    _, (support,) = run_json(capsys, *words, "--calibration", table)
    assert support["mean_quality"] == pytest.approx(1.0, abs=0.01)


def test_a_re_plan_adds_replicas_when_they_have_loaded(plans: Path, capsys: Capture) -> None:
    words = (plans / "small.json", "--trace", "poisson", "--requests", 3000, "--load", "1.5")
    _, (before,) = run_json(capsys, *words)
    change = f"10s={plans / 'large.json'}"
    _, (after,) = run_json(capsys, *words, "--replan", change, "--start-delay", "5s")
    assert sum(u["replicas"] for u in after["use"]) > sum(u["replicas"] for u in before["use"])
    assert after["usd_per_hour"] > before["usd_per_hour"]


def test_the_picture_is_written_one_file_a_resource(
    plans: Path, capsys: Capture, tmp_path: Path
) -> None:
    words = (
        plans / "plan.json",
        "--trace",
        "poisson",
        "--requests",
        200,
        "--svg",
        tmp_path / "p.svg",
    )
    run_json(capsys, *words)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["p-chat.svg", "p-support.svg"]
    for name in written:
        ElementTree.fromstring((tmp_path / name).read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trace", "nowhere.csv"), "nowhere.csv: No such file"),
        (("--trace", "gamma:x"), "coefficient of variation"),
        (("--trace", "poisson", "--rate", "fast"), "`planned` or `recorded`"),
        (("--trace", "poisson", "--resource", "ServingPool/x/y"), "has no pool or cascade"),
        (("--trace", "poisson", "--rate", "1e308"), "at most 1e9"),
        (("--trace", "poisson", "--replan", "soon"), "write T=PLAN.json"),
        (("--trace", "poisson", "--replan", "x=plan.json"), "No such file"),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(
    plans: Path, capsys: Capture, words: tuple[str, ...], said: str
) -> None:
    assert main(["simulate", str(plans / "plan.json"), *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seed", "-1"), "is not a whole number of 0"),
        (("--requests", "9" * 30), "from 1 to 5,000,000"),
        (("--load", "nan"), "is not a number above 0"),
        (("--load", "1e300"), "at most 1e9"),
    ],
)
def test_a_number_that_cannot_be_ends_with_2(
    plans: Path, capsys: Capture, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", str(plans / "plan.json"), "--trace", "poisson", *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time_s,prompt_tokens,output_tokens\n0,1,1\n1,1e300,1\n", "line 3, column prompt"),
        ("time_s,prompt_tokens,output_tokens\n0,1," + "9" * 200_000, "field limit"),
        ('{"timestamp":' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: not JSON"),
        ("t_s,a\n5,1\n0,1\n", "line 3: t_s: is not above"),
    ],
    ids=["a number too large", "a field too long", "too deep", "time that goes back"],
)
def test_a_trace_that_cannot_be_ends_with_2(
    plans: Path, capsys: Capture, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    words = ["simulate", str(plans / "plan.json"), "--trace", str(path), "--column", "a"]
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_alpha_is_tuned_by_replay_and_the_field_is_named(plans: Path, capsys: Capture) -> None:
    words = ["simulate", str(plans / "plan.json"), "--resource", POOL, "--trace", "poisson"]
    words += ["--requests", "300", "--load", "3", "-q"]
    assert main([*words, "--tune-alpha", "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["resources"]
    tried = {float(a): s for a, s in found["p95_s_by_alpha"].items()}
    assert set(tried) == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6}
    assert found["resource"] == POOL and found["p95_s"] == tried[found["alpha"]]
    assert found["p95_s"] == min(tried.values())
    main([*words, "--tune-alpha", "-o", "table"])
    shown = capsys.readouterr().out
    assert f"{POOL}: alpha {found['alpha']:g}" in shown and "EarliestFinish (default)" in shown
    is_better = found["p95_s"] < found["earliest_finish_p95_s"]
    assert ("set spec.gateway.dispatch: {rule: Hexgen" in shown) == is_better


def test_a_tuned_alpha_that_gains_nothing_is_not_to_be_set() -> None:
    gains = Tuned(POOL, 0.3, 1.0, {0.3: 1.0, 0.6: float("inf")}, 2.0)
    assert "set spec.gateway.dispatch: {rule: Hexgen, alpha: 30%}" in render_tuned(gains)
    assert "never" in render_tuned(gains)
    assert "keep it" in render_tuned(replace(gains, earliest_finish_p95_s=1.0))


def test_a_plan_without_classes_is_refused(plans: Path, capsys: Capture, tmp_path: Path) -> None:
    document = json.loads((plans / "small.json").read_text())
    for part in document["slices"]:
        del part["classes"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(document))
    assert main(["simulate", str(old), "--trace", "poisson"]) == 2
    assert "plan it again" in capsys.readouterr().err


def test_a_model_outside_the_catalog_runs_at_its_promised_times(
    plans: Path, capsys: Capture, tmp_path: Path
) -> None:
    document = json.loads((plans / "small.json").read_text())
    for replica in document["slices"][0]["replicas"]:
        replica["model"] = "acme/own-8b"
    path = tmp_path / "own.json"
    path.write_text(json.dumps(document))
    _, (pool,) = run_json(capsys, path, "--trace", "poisson", "--requests", 500)
    promised = {p["what"]: p["value"] for p in document["slices"][0]["promises"]}
    assert pool["classes"][0]["tpot"]["p50_s"] == pytest.approx(
        max(v for k, v in promised.items() if k.startswith("tpot")), rel=0.05
    )
