"""docs/faults.md names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+){3,})`")


def test_every_test_that_the_page_of_faults_names_exists() -> None:
    named = set(NAME.findall((ROOT / "docs" / "faults.md").read_text(encoding="utf-8")))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def test_(\w+)\(", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50 and named - there == set()
