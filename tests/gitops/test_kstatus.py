"""How the real kstatus library reads our statuses: e2e/kstatus, built with the Go of PATH."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from e2e import goprogram
from tests.gitops.states import State, states

pytestmark = pytest.mark.slow  # the first build takes about a minute

STATES = states()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    try:
        return goprogram.build("kstatus", tmp_path_factory.mktemp("kstatus"))
    except goprogram.GoError as error:
        pytest.skip(str(error))


def read(program: Path, documents: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What kstatus says of each document."""
    done = subprocess.run(
        [program], input=json.dumps(documents), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def readings(program: Path) -> dict[str, dict[str, str]]:
    """What kstatus says of every state, by name."""
    found = read(program, [state.document for state in STATES])
    return {state.name: reading for state, reading in zip(STATES, found, strict=True)}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_kstatus_reads_every_state_as_it_is(
    state: State, readings: dict[str, dict[str, str]]
) -> None:
    assert readings[state.name]["status"] == state.kstatus, state.document["status"]


def test_without_the_default_of_the_crds_a_new_resource_would_read_as_done(program: Path) -> None:
    document = next(s.document for s in STATES if s.name == "ServingPool: new")
    bare = {key: value for key, value in document.items() if key != "status"}
    assert [r["status"] for r in read(program, [bare, document])] == ["Current", "InProgress"]
