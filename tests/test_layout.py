"""The room `operator/` carries the name of a stdlib module; these four keep that harmless."""

from __future__ import annotations

import operator
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent


def is_stdlib(path: str) -> bool:
    """Whether a module's file lies in the standard library (and not in site-packages)."""
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    return stdlib in Path(path).resolve().parents and "site-packages" not in path


def test_the_operator_module_is_pythons_own() -> None:
    assert is_stdlib(operator.__file__)


def test_the_two_rooms_hold_no_loose_modules() -> None:
    loose = [p.name for room in ("operator", "planner") for p in (ROOT / room).glob("*.py")]
    assert loose == []


def test_no_package_file_lies_under_tests() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_a_process_started_at_the_root_finds_pythons_own_operator_module() -> None:
    code = "import operator; print(operator.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert is_stdlib(done.stdout.strip())


def folders_with(mark: str) -> set[str]:
    """Folders of tests that hold any with a mark."""
    tests = ROOT / "tests"
    return {
        path.relative_to(tests).parts[0]
        for path in tests.rglob("test_*.py")
        if f"mark.{mark}" in path.read_text() and path != Path(__file__)
    }


def unnamed(folders: set[str], *scripts: str) -> set[str]:
    """Folders of tests that no script names."""
    named = " ".join((ROOT / script).read_text() for script in scripts).split()
    return {folder for folder in folders if f"tests/{folder}" not in named}


def test_every_folder_with_slow_tests_is_run_by_a_target() -> None:
    """`make test` leaves them out, so a folder that no other script names would never be run."""
    slow = folders_with("slow")
    assert "e2e" in slow
    assert unnamed(slow, ".ci/faults", ".ci/long", "Makefile") == set()


def test_every_folder_with_end_to_end_tests_is_run_by_make_test() -> None:
    ends = folders_with("e2e")
    assert "e2e" in ends
    assert unnamed(ends, ".ci/test") == set()
