"""The image: what its Dockerfile says, and its build steps carried out without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from e2e.chart import shipped

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """The Dockerfile's instructions by stage; what stands before the first FROM is a stage too."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[list[Instruction]] = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


HEAD, BUILD, FINAL = stages()


def only(stage: list[Instruction], word: str) -> str:
    """The one instruction of this kind."""
    (found,) = (rest for instruction, rest in stage if instruction == word)
    return found


def test_the_base_is_pinned_to_a_patch_release() -> None:
    assert re.fullmatch(r"PYTHON=python:3\.\d+\.\d+-slim-\w+", only(HEAD, "ARG"))
    assert {only(BUILD, "FROM"), only(FINAL, "FROM")} == {"${PYTHON} AS build", "${PYTHON}"}


def test_the_image_runs_as_the_user_of_the_pods_and_as_the_last_thing_that_is_said() -> None:
    user = only(FINAL, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "runAsNonRoot needs a number"
    after = [word for word, _ in FINAL[FINAL.index(("USER", user)) + 1 :]]
    assert not {"RUN", "COPY", "ADD", "USER"} & set(after)
    (deployment,) = shipped("Deployment")
    context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_operator_and_gateway_start_by_the_entry_point() -> None:
    (script,) = PROJECT["scripts"]
    assert json.loads(only(FINAL, "ENTRYPOINT")) == [script] == ["motley"]
    assert json.loads(only(FINAL, "CMD")) == ["--help"]


def test_every_path_that_is_copied_exists_and_is_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*", "nothing is sent that is not named"
    named = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for word, rest in [*BUILD, *FINAL]
        if word in ("COPY", "ADD") and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == named
    assert all((ROOT / path).exists() for path in copied)


def test_the_labels_say_what_the_project_says() -> None:
    labels = dict(pair.split("=", 1) for pair in shlex.split(only(FINAL, "LABEL")))
    short = {key.removeprefix("org.opencontainers.image."): v for key, v in labels.items()}
    assert short["title"] == PROJECT["name"]
    assert short["licenses"] == PROJECT["license"]
    assert short["version"] == "${VERSION}"
    assert ("ARG", f"VERSION={PROJECT['version']}") in FINAL


def test_there_is_no_pip_at_run_time() -> None:
    assert any("pip uninstall" in rest for word, rest in FINAL if word == "RUN")
    assert any("venv --without-pip" in rest for word, rest in BUILD if word == "RUN")
    assert not any("pip install" in rest for word, rest in FINAL if word == "RUN")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment that the build stage's own commands make."""
    folder = tmp_path_factory.mktemp("image")
    context = folder / "src"
    context.mkdir()
    for word, rest in BUILD:
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copy(ROOT / source, context / (source if target == "./" else target))
    places = {"/dist": folder / "dist", "/opt/motley": folder / "opt"}
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for word, rest in BUILD:
        if word != "RUN":
            continue
        for inside, here in places.items():
            rest = rest.replace(inside, str(here))
        command = re.sub(r"^python\b", shlex.quote(sys.executable), rest)
        done = subprocess.run(
            ["sh", "-euc", command],
            cwd=context,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return folder / "opt"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy2(source, target)


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command with the image's environment and nothing else."""
    environment = dict(pair.split("=", 1) for pair in shlex.split(only(FINAL, "ENV")))
    environment["PATH"] = f"{installed}/bin"
    return subprocess.run(
        [str(installed / "bin" / "motley"), *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_built_environment_plans_and_writes_nothing_of_its_own(installed: Path) -> None:
    def files() -> set[tuple[str, float]]:
        return {(str(p), p.stat().st_mtime) for p in installed.rglob("*") if p.is_file()}

    before = files()
    assert not list(installed.glob("lib/*/site-packages/pip"))
    assert PROJECT["version"] in run(installed, "version").stdout
    nodes = ROOT / "e2e/cluster/nodes/demo.yaml"
    plan = ("plan", "-f", str(ROOT / "examples"), "--nodes", str(nodes), "-o", "json")
    done = run(installed, *plan, "--time-limit", "2s")
    assert done.returncode in (0, 1), done.stderr
    assert any(part["replicas"] for part in json.loads(done.stdout)["slices"])
    for verb in ("operator", "gateway"):
        assert run(installed, verb, "--help").returncode == 0
    assert files() == before
