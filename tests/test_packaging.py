"""The distribution holds what it needs and nothing that is only of the repository."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_console_script_is_the_commands_main() -> None:
    assert PROJECT["project"]["scripts"] == {"motley": "motley_operator.cli.main:main"}


def test_the_wheel_is_the_three_packages() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(Path(package).name for package in packages) == [
        "motley_operator",
        "motley_planner",
        "motley_runtime",
    ]


@pytest.mark.parametrize("package", ["motley_operator", "motley_planner", "motley_runtime"])
def test_a_package_says_that_it_is_typed(package: str) -> None:
    room = package.removeprefix("motley_")
    assert (ROOT / room / package / "py.typed").is_file()


def test_the_version_is_the_charts() -> None:
    chart = (ROOT / "charts" / "motley" / "Chart.yaml").read_text()
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in chart
    assert f"\nappVersion: {version}\n" in chart


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0] == "## Unreleased"


@pytest.mark.parametrize(
    ("verb", "unneeded"),
    [
        ("version", ("pydantic", "numpy", "yaml", "kubernetes", "aiohttp", "highspy")),
        ("strategies", ("pydantic", "numpy", "yaml", "kubernetes", "aiohttp", "highspy")),
    ],
)
def test_a_small_verb_imports_none_of_the_heavy_libraries(
    verb: str, unneeded: tuple[str, ...]
) -> None:
    code = (
        "import sys; from motley_operator.cli.main import main; "
        f"status = main([{verb!r}, '-o', 'json']); "
        f"print(status, sorted(set({unneeded!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "0 []"
