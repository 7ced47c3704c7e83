"""`motley plan`, `explain` and `diff` on files: what is planned, said, compared and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from e2e.cluster.nodes import make_mix

from motley_operator.cli import plan_file, plan_table
from motley_operator.cli.diff import Difference, difference, render
from motley_operator.cli.main import main
from motley_operator.cli.plan import seconds
from motley_operator.cli.plan_file import PlanFile, read_plan
from motley_planner.domain.moves import flip_of
from motley_planner.domain.plan import PolicyChoice

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = str(ROOT / "examples")

Capture = pytest.CaptureFixture[str]


def write_nodes(path: Path, *mix: tuple[str, int]) -> str:
    """A nodes file as kubectl prints it."""
    listed = {"apiVersion": "v1", "items": make_mix(mix), "kind": "List"}
    path.write_text(yaml.safe_dump(listed))
    return str(path)


def pool(path: Path, **spec: Any) -> str:
    """A file with one small pool."""
    document = {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "ServingPool",
        "metadata": {"name": "chat", "namespace": "team-a"},
        "spec": {
            "model": {"id": "Qwen/Qwen3-8B", "precision": "bf16"},
            "workload": {
                "requestsPerSecond": 4,
                "classes": [{"name": "all", "promptTokens": 500, "outputTokens": 100}],
            },
        }
        | spec,
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


def run_json(capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of one command."""
    status = main([*words, "-o", "json", "-q"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, document


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PLAN.json of a pool on three L40S nodes."""
    folder = tmp_path_factory.mktemp("plan")
    nodes = write_nodes(folder / "nodes.yaml", ("l40s", 3))
    command = ["plan", "-f", pool(folder / "pool.yaml"), "--nodes", nodes, "-o", "json", "-q"]
    code = "import sys; from motley_operator.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    (folder / "plan.json").write_text(done.stdout)
    return folder


def test_a_plan_file_reads_back_as_it_was_written(planned: Path) -> None:
    text = (planned / "plan.json").read_text()
    assert plan_file.to_document(read_plan(planned / "plan.json")) == json.loads(text)


@pytest.mark.parametrize("number", ["1" + "0" * 5000, "1" + "0" * 400, "1e400", "NaN"])
def test_a_number_that_nothing_holds_is_refused_by_its_place(
    planned: Path, tmp_path: Path, capsys: Capture, number: str
) -> None:
    document = json.loads((planned / "plan.json").read_text())
    document["problem"]["snapshot"]["time_limit_s"] = "here"
    (tmp_path / "odd.json").write_text(json.dumps(document).replace('"here"', number))
    assert main(["explain", str(tmp_path / "odd.json"), "--no-worth"]) == 2
    assert "odd.json: problem.snapshot.time_limit_s: " in capsys.readouterr().err


def test_a_manifest_with_an_integer_of_thousands_of_digits_is_refused_with_its_line(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text("kind: ServingPool\nspec:\n  budget: 1" + "0" * 5000 + "\n")
    (tmp_path / "nodes.yaml").write_text("")
    assert main(["plan", "-f", str(path), "--nodes", str(tmp_path / "nodes.yaml")]) == 2
    assert "pool.yaml: line 3: cannot be read (a number of 5001 digits)" in capsys.readouterr().err
    assert main(["validate", "-f", str(path), "-o", "json"]) == 2
    assert "cannot be read (a number of 5001 digits)" in capsys.readouterr().out


def test_a_small_fleet_carries_its_proofs_even_where_the_search_takes_all_the_time(
    tmp_path: Path, capsys: Capture
) -> None:
    nodes = write_nodes(tmp_path / "n.yaml", ("h100", 2), ("a100-80", 1), ("l40s", 2), ("l4", 1))
    _, found = run_json(capsys, "plan", "-f", EXAMPLES, "--nodes", nodes, "--time-limit", "1s")
    assert found["no_certificates"] == ""
    proved = {one["level"]: one["bound"] for one in found["certificates"]}
    names = {level["name"] for level in found["levels"]}
    assert names - {"tolerance"} == set(proved)
    told = {level["name"]: level["certified_bound"] for level in found["levels"]}
    assert {name: told[name] for name in proved} == proved


def test_a_plan_file_fits_the_schema_that_the_command_offers(planned: Path) -> None:
    schema = plan_file.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((planned / "plan.json").read_text()), schema)


def test_the_inventory_counts_what_the_replicas_hold(planned: Path) -> None:
    content = read_plan(planned / "plan.json")
    held = sum(len(r.nodes) * r.tensor_parallel for s in content.plan.slices for r in s.replicas)
    assert held == sum(row.used for row in content.inventory) == content.plan.gpus_used > 0
    assert sum(row.total for row in content.inventory) == content.plan.gpus
    assert all(row.used + row.free + row.foreign == row.total for row in content.inventory)


def test_planning_again_on_the_plan_itself_moves_nothing(planned: Path, capsys: Capture) -> None:
    status, document = run_json(
        capsys,
        "plan",
        *("-f", str(planned / "pool.yaml"), "--nodes", str(planned / "nodes.yaml")),
        *("--previous", str(planned / "plan.json")),
    )
    assert status == 0
    assert document["moves"] == []
    assert document["kept"] == len(document["slices"][0]["replicas"])


def test_on_fewer_nodes_only_what_was_lost_moves(
    planned: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = read_plan(planned / "plan.json").plan.slices[0].replicas
    lost = before[0].nodes[0]
    listed = yaml.safe_load((planned / "nodes.yaml").read_text())
    listed["items"] = [n for n in listed["items"] if n["metadata"]["name"] != lost]
    (tmp_path / "fewer.yaml").write_text(yaml.safe_dump(listed))
    _, document = run_json(
        capsys,
        "plan",
        *("-f", str(planned / "pool.yaml"), "--nodes", str(tmp_path / "fewer.yaml")),
        *("--previous", str(planned / "plan.json")),
    )
    staying = {f"ServingPool/team-a/chat/{r.name}" for r in before if lost not in r.nodes}
    kept = {r["kept"] for r in document["slices"][0]["replicas"]} - {None}
    assert kept == staying
    assert all(lost not in r["nodes"] for r in document["slices"][0]["replicas"])


def test_a_pool_in_preview_is_planned_as_it_would_be_proposed(
    tmp_path: Path, capsys: Capture
) -> None:
    nodes = write_nodes(tmp_path / "nodes.yaml", ("l40s", 1))
    found = []
    for mode in ("Auto", "Preview"):
        file = pool(tmp_path / f"{mode}.yaml", replan={"mode": mode})
        status, document = run_json(capsys, "plan", "-f", file, "--nodes", nodes)
        assert status == 0
        (part,) = document["slices"]
        found.append([(r["name"], r["nodes"]) for r in part["replicas"]])
    assert found[0] == found[1] != []


def test_pods_of_others_take_room(tmp_path: Path, capsys: Capture) -> None:
    nodes = write_nodes(tmp_path / "nodes.yaml", ("l40s", 1))
    limits = {"resources": {"limits": {"nvidia.com/gpu": "8"}}}
    foreign = {
        "kind": "Pod",
        "metadata": {"name": "other", "namespace": "x"},
        "spec": {"nodeName": "l40s-1", "containers": [{"name": "c", **limits}]},
        "status": {"phase": "Running"},
    }
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump({"kind": "List", "items": [foreign]}))
    words = ("plan", "-f", pool(tmp_path / "p.yaml"), "--nodes", nodes)
    assert run_json(capsys, *words)[0] == 0
    status, document = run_json(capsys, *words, "--pods", str(tmp_path / "pods.yaml"))
    assert status == 1
    assert document["gpus_used"] == 0
    (refusal,) = document["slices"][0]["refusals"]
    assert refusal["reason"] == "InsufficientGPUs"


def test_a_resource_that_makes_no_sense_is_exit_2_and_the_others_are_planned(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "resources"
    folder.mkdir()
    pool(folder / "good.yaml")
    text = Path(pool(folder / "bad.yaml", model={"id": "Qwen/Qwen3-9B"})).read_text()
    (folder / "bad.yaml").write_text(text.replace("name: chat", "name: odd"))
    nodes = write_nodes(tmp_path / "nodes.yaml", ("l40s", 1))
    status = main(["plan", "-f", str(folder), "--nodes", nodes, "-o", "json"])
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert status == 2
    assert [entry["key"] for entry in document["rejected"]] == ["ServingPool/team-a/odd"]
    assert "ServingPool/team-a/odd: spec.model.id" in printed.err
    assert [part["key"] for part in document["slices"]] == ["ServingPool/team-a/chat"]
    assert document["slices"][0]["replicas"]


def test_the_table_names_every_resource_node_shape_and_refusal(
    tmp_path: Path, capsys: Capture
) -> None:
    nodes = write_nodes(tmp_path / "nodes.yaml", ("l40s", 1))
    many = {
        "requestsPerSecond": 4000,
        "classes": [{"name": "a", "promptTokens": 500, "outputTokens": 100}],
    }
    status = main(
        ["plan", "-f", pool(tmp_path / "p.yaml", workload=many), "--nodes", nodes, "-o", "table"]
    )
    text = capsys.readouterr().out
    assert status == 1
    for words in ("FLEET  1 node, 8 GPUs", "L40S", "ServingPool/team-a/chat", "l40s-1", "!"):
        assert words in text
    assert "would help:" in text
    assert "MOVES" not in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["plan"], "give -f FILE and --nodes"),
        (["plan", "-f", "absent.yaml", "--nodes", "absent.yaml"], "absent.yaml: no such file"),
        (["explain", "absent.json"], "absent.json"),
        (["explain", "{nodes}"], "not JSON"),
        (["explain", "{other}"], 'no "version"'),
        (["diff", "{newer}", "{newer}"], "this motley reads 1"),
        (["diff", "{short}", "{short}"], "Field required"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_2(
    words: list[str], complaint: str, tmp_path: Path, capsys: Capture
) -> None:
    files = {
        "nodes": write_nodes(tmp_path / "nodes.yaml", ("l4", 1)),
        "other": "{}",
        "newer": '{"version": 2}',
        "short": '{"version": 1}',
    }
    for name in ("other", "newer", "short"):
        (tmp_path / f"{name}.json").write_text(files[name])
        files[name] = str(tmp_path / f"{name}.json")
    assert main([word.format(**files) for word in words]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("text", "value"), [("10s", 10.0), ("500ms", 0.5), ("2m", 120.0), ("3", 3.0), ("1.5s", 1.5)]
)
def test_a_time_limit_is_a_time(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0s", "-1s", "10x", "s", "1e3", "nan", "inf"])
def test_what_is_no_time_above_zero_is_refused(text: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", f"--time-limit={text}"])
    assert ended.value.code == 2


def placed(content: PlanFile) -> Counter[tuple[str, tuple[str, ...]]]:
    """How many replicas a resource has on which nodes."""
    return Counter((s.key, r.nodes) for s in content.plan.slices for r in s.replicas)


def test_a_difference_turns_the_old_placement_into_the_new_one(
    planned: Path, tmp_path: Path, capsys: Capture
) -> None:
    more = {
        "requestsPerSecond": 40,
        "classes": [{"name": "a", "promptTokens": 500, "outputTokens": 100}],
    }
    _, document = run_json(
        capsys,
        "plan",
        *("-f", pool(tmp_path / "p.yaml", workload=more), "--nodes", str(planned / "nodes.yaml")),
    )
    (tmp_path / "new.json").write_text(json.dumps(document))
    old, new = read_plan(planned / "plan.json"), read_plan(tmp_path / "new.json")
    found = difference(old, new)
    assert found.changes
    assert applied(found, placed(old)) == placed(new)
    backwards = difference(new, old)
    assert (backwards.count("start"), backwards.count("stop")) == (
        found.count("stop"),
        found.count("start"),
    )
    assert (
        main(["diff", str(planned / "plan.json"), str(tmp_path / "new.json"), "-o", "table"]) == 0
    )
    assert f"{found.count('start')} started" in capsys.readouterr().out


def applied(
    found: Difference, seats: Counter[tuple[str, tuple[str, ...]]]
) -> Counter[tuple[str, tuple[str, ...]]]:
    """The seats after the changes."""
    after = seats.copy()
    for change in found.changes:
        if change.before:
            after[change.key, change.before] -= 1
        if change.after:
            after[change.key, change.after] += 1
    return +after


def test_a_plan_does_not_differ_from_itself(planned: Path) -> None:
    content = read_plan(planned / "plan.json")
    found = difference(content, content)
    assert found.changes == ()
    assert found.kept == len(content.plan.slices[0].replicas)


def in_role(content: PlanFile, phase: str) -> PlanFile:
    """The plan with its first replica in a role."""
    (part, *others) = content.plan.slices
    first = replace(part.replicas[0], phase=phase, column=f"{phase[:4]}0000")
    part = replace(part, replicas=(first, *part.replicas[1:]))
    return replace(content, plan=replace(content.plan, slices=(part, *others)))


def test_a_change_of_role_is_neither_a_stop_nor_a_start(planned: Path) -> None:
    content = read_plan(planned / "plan.json")
    found = difference(in_role(content, "prefill"), in_role(content, "decode"))
    (change,) = found.changes
    assert change.action == "flip" and change.before == change.after and "decode" in change.what
    assert found.kept == len(content.plan.slices[0].replicas) - 1
    assert "0 started, 0 stopped, 0 moved, 1 change role" in render(found)
    part = in_role(content, "decode").plan.slices[0]
    told = plan_table.moves((flip_of(part.key, part.replicas[0], "PhaseShifted"),), kept=1)
    assert "1 kept, 0 started, 0 stopped, 1 change role" in told
    assert "prompts and answers shifted" in told


def test_the_explanation_has_every_level_and_resource(planned: Path, capsys: Capture) -> None:
    status, document = run_json(capsys, "explain", str(planned / "plan.json"), "--no-worth")
    content = read_plan(planned / "plan.json")
    assert status == 0
    assert [level["name"] for level in document["levels"]] == [v.name for v in content.plan.levels]
    assert [part["key"] for part in document["resources"]] == ["ServingPool/team-a/chat"]


def test_a_plan_file_carries_proofs_of_its_bounds_unasked(planned: Path) -> None:
    plan = read_plan(planned / "plan.json").plan
    assert plan.no_certificates == ""
    assert [proof.level for proof in plan.certificates] == [level.name for level in plan.levels]


def test_policies_that_hardly_any_request_follows_are_no_lines(planned: Path) -> None:
    content = read_plan(planned / "plan.json")
    shares = {"much": 0.9, "little": 2e-5, "none": 9e-6}
    policies = tuple(PolicyChoice(n, s, {"small": s}, {"small": 1.0}) for n, s in shares.items())
    part = replace(content.plan.slices[0], policies=policies)
    shown = plan_table.render(replace(content, plan=replace(content.plan, slices=(part,))))
    told = [line.split()[1] for line in shown.splitlines() if line.split()[:1] == ["policy"]]
    assert told == ["90", "0.002"]
