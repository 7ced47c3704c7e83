"""Our own images have what the Dockerfile's has, and start as it says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from e2e.chart import shipped
from e2e.cluster import image_contents, image_store
from e2e.cluster.image_contents import PACKAGES, PREFIX, Dockerfile
from e2e.cluster.images import Entry, Layer, config_of

from motley_planner.catalog import load_catalog

ROOT = Path(__file__).parents[2]
LAYER = Layer(Path("none"), "sha256:0", 0)


def paths(entries: list[Entry]) -> set[str]:
    return {entry.path for entry in entries}


def test_the_operators_image_starts_as_the_dockerfile_says_and_as_the_pods_user() -> None:
    config = json.loads(config_of(image_store.motley_image([LAYER])))["config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["motley"], ["--help"])
    assert config["WorkingDir"] == "/tmp"
    assert set(config["ExposedPorts"]) == {"8000/tcp", "8081/tcp", "9090/tcp"}
    environment = dict(one.split("=", 1) for one in config["Env"])
    assert environment["PATH"].startswith(f"{PREFIX}/bin:/usr/local/sbin:")
    assert (environment["HOME"], environment["PYTHONDONTWRITEBYTECODE"]) == ("/tmp", "1")
    (deployment,) = shipped("Deployment")
    pod = deployment["spec"]["template"]["spec"]["securityContext"]
    assert config["User"] == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert config["Labels"]["org.opencontainers.image.version"] == version


def test_the_engines_image_starts_by_the_catalogs_command_and_not_as_root() -> None:
    config = json.loads(config_of(image_store.engine_image([LAYER])))["config"]
    launch = load_catalog().engines["llamacpp"].launch
    assert launch is not None
    assert config["Entrypoint"] == list(launch.command)
    assert launch.command[0] in paths(image_contents.engine())
    assert not config["User"].startswith("0")


def test_arguments_and_continued_lines_of_a_dockerfile_are_filled_in() -> None:
    said = Dockerfile(
        "ARG BASE=x\nFROM ${BASE} AS a\nENV A=1\nFROM ${BASE}\n# no\nARG V=2\n"
        'LABEL one="of two" \\\n  two=${V}\nENV PATH=/here:$PATH\nENTRYPOINT ["a", "b"]\n'
    )
    assert said.pairs("LABEL") == {"one": "of two", "two": "2"}
    assert said.pairs("ENV") == {"PATH": f"/here:{image_contents.SYSTEM_PATH}"}
    assert said.words("ENTRYPOINT") == ("a", "b")


def test_the_projects_packages_and_its_command_are_in_its_layer() -> None:
    found = paths(image_contents.project())
    assert f"{PREFIX}/bin/motley" in found
    for package in ("motley_operator", "motley_planner", "motley_runtime"):
        assert f"{PACKAGES}/{package}/__init__.py" in found
    assert f"{PACKAGES}/motley_planner/catalog/engines/llamacpp.toml" in found
    assert not any("/tests/" in path or path.endswith(".pyc.pyc") for path in found)


def test_dependencies_are_those_of_the_project_and_theirs_without_what_only_develops() -> None:
    found = {
        one.metadata["Name"].lower().replace("_", "-")
        for one in image_contents.distributions(image_contents.requirements())
    }
    assert {"kopf", "highspy", "uvicorn", "opentelemetry-sdk"} <= found
    assert {"yarl", "numpy"} <= found, "what aiohttp and scipy ask for"
    assert not found & {"pytest", "mypy", "hypothesis", "grpcio", "motley"}


def test_bytecode_in_an_image_is_used_whatever_the_time_of_its_source_is(tmp_path: Path) -> None:
    source = tmp_path / "thing.py"
    source.write_text("VALUE = 7\n")
    (code,) = (e for e in image_contents._with_code(source, "/x/thing.py") if e.render)
    assert code.path == importlib.util.cache_from_source("/x/thing.py")
    assert code.render is not None
    data = code.render(source)
    assert data is not None and data == code.render(source)
    target = Path(importlib.util.cache_from_source(str(source)))
    target.parent.mkdir()
    target.write_bytes(data)
    os.utime(source, (0, 0))
    # The unchecked bytecode speaks, not a source that says something else by now.
    source.write_text("VALUE = 8\n")
    argv = [sys.executable, "-B", "-c", "import thing; print(thing.VALUE, thing.__file__)"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", str(source)]


@pytest.mark.parametrize("text", ["def broken(:\n", "\0"])
def test_a_file_that_is_no_python_has_no_bytecode(tmp_path: Path, text: str) -> None:
    source = tmp_path / "thing.py"
    source.write_text(text)
    (code,) = (e for e in image_contents._with_code(source, "/x/thing.py") if e.render)
    assert code.render is not None and code.render(source) is None


def test_a_layer_is_kept_until_one_of_its_files_changes(tmp_path: Path) -> None:
    source, store = tmp_path / "file", tmp_path / "store"
    store.mkdir()
    source.write_text("one")
    entries = [Entry("/file", source=source)]
    first = image_store._listed(store, "some", entries)
    assert image_store._listed(store, "some", entries) == first
    source.write_text("other")
    second = image_store._listed(store, "some", entries)
    assert second.digest != first.digest
    image_store._remove_all_but(store, {second.path})
    assert sorted(store.iterdir()) == sorted([second.path, second.path.with_suffix(".json")])
