"""`make demo` tells the truth: its story ends well, its figures are there, nothing is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.cluster import state

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One whole demo without a terminal, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "e2e.demo", "--state", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done, folder


def fact(text: str, what: str) -> str:
    """A figure of the summary."""
    found = re.search(
        rf"^\s+{re.escape(what)}\s\s+(.+)$", text[text.index("== Summary") :], re.MULTILINE
    )
    assert found is not None, f"no {what!r} in the summary"
    return found[1]


def test_every_expectation_of_the_story_held(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = demo
    assert "FAIL" not in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything held." in done.stdout


def test_no_surviving_pod_changed_its_uid(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    kept, _, all_survivors = fact(demo[0].stdout, "surviving pods that kept their UID").split(" ")
    assert kept == all_survivors
    assert int(kept) > 0


def test_the_new_plan_was_in_status_within_seconds(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    took = fact(demo[0].stdout, "node deleted -> new plan in status")
    assert 0 < float(took.removesuffix(" s")) < 12.0  # 3 on a machine that does nothing else


def test_it_took_less_than_two_minutes(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    assert float(fact(demo[0].stdout, "the whole demo").removesuffix(" s")) < 120.0


def test_it_leaves_nothing_running(
    demo: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, folder = demo
    assert state.load(folder / "cluster") is None
    assert not (folder / "operator.json").exists()
    mine = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in _read(p)]
    assert mine == []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it ended while we looked
        return ""


def test_a_demo_that_was_never_started_is_down_already(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "e2e.demo", "--down", "--state", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "nothing runs\n"
