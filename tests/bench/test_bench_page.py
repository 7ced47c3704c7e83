"""The page of benchmarks has a place for every table, and keeps what stands around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench import page

MARKS = (
    "calibration", "fleets", "gateway", "goodput", "live-workflows", "prefix", "scale-1000",
    "scale-5000", "soak", "strategies", "workflows",
)  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
def test_every_table_has_its_place_and_something_in_it(mark: str) -> None:
    assert "|" in page.get(mark)


def test_a_table_is_replaced_and_the_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    page.PAGE.write_text("a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n")
    page.put("x", "| new |\n")
    assert page.PAGE.read_text() == "a\n<!-- bench:x -->\n| new |\n\n<!-- /bench:x -->\nb\n"
    assert page.get("x").strip() == "| new |"


@pytest.mark.parametrize("text", ["", "<!-- bench:x -->", "<!-- /bench:x --><!-- bench:x -->"])
def test_a_page_without_both_marks_is_left_alone(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    page.PAGE.write_text(text)
    with pytest.raises(ValueError, match="bench:x"):
        page.put("x", "| new |")
    assert page.PAGE.read_text() == text
