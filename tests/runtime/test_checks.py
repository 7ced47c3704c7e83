"""Checks that need no judge."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from motley_runtime.checks import CheckError, parse_check
from motley_runtime.checks.checking import number_in

CHOICES = [
    ("Answer: B", True),
    ("The rest follows.\n**Answer: (B)**", True),
    ("answer is b.", True),
    ("So \\boxed{B}", True),
    ("B", True),
    ("B) 12 m", True),
    ("A would be too small, so it is B", True),
    ("Answer: A or B? No. Answer: C", False),
    ("Answer: Because of heat", False),
    ("Both are wrong", False),
    ("", False),
]


@pytest.mark.parametrize(("text", "right"), CHOICES)
async def test_the_letter_that_an_answer_ends_on_counts(text: str, right: bool) -> None:
    grader = parse_check({"type": "Choice", "answer": "B", "options": "ABCD"})
    assert await grader.passes(text) is right


NUMBERS = [
    ("Answer: 12.4", 12.4),
    ("Answer: 1,240.5 m", 1240.5),
    ("3 + 4 = 7. Answer: about 7 of 9", 7.0),
    ("It is 2.5e-3", 0.0025),
    ("Answer: 3.2 × 10^-5 rad/s", 3.2e-5),
    ("Answer: $3.2 \\times", 3.2),
    ("Answer: −4", -4.0),
    ("no number", None),
]


@pytest.mark.parametrize(("text", "number"), NUMBERS)
def test_the_number_after_the_last_answer_is_read(text: str, number: float | None) -> None:
    assert number_in(text) == (None if number is None else pytest.approx(number))


@pytest.mark.parametrize(("said", "right"), [(98.0, True), (102.0, True), (97.9, False)])
async def test_a_number_counts_within_its_tolerance(said: float, right: bool) -> None:
    grader = parse_check({"type": "Number", "answer": 100, "relativeTolerance": 0.02})
    assert await grader.passes(f"Answer: {said}") is right


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
OTHERS = [
    ({"type": "Exact", "answer": "Paris"}, " paris. ", True),
    ({"type": "Exact", "answer": "Paris"}, "Thinking.\nAnswer: **Paris**", True),
    ({"type": "Exact", "answer": "Paris"}, "Paris or Rome", False),
    ({"type": "Regex", "pattern": r"^\d{4}$"}, "1234", True),
    ({"type": "Regex", "pattern": r"^\d{4}$"}, "123", False),
    ({"type": "JsonSchema", "schema": SCHEMA}, '{"a": 1}', True),
    ({"type": "JsonSchema", "schema": SCHEMA}, 'Here:\n```json\n{"a": 1}\n```', True),
    ({"type": "JsonSchema", "schema": SCHEMA}, '{"a": "1"}', False),
    ({"type": "JsonSchema", "schema": SCHEMA}, "a: 1", False),
]


@pytest.mark.parametrize(("check", "text", "right"), OTHERS)
async def test_an_answer_is_checked_by_text_pattern_or_schema(
    check: dict[str, Any], text: str, right: bool
) -> None:
    assert await parse_check(check).passes(text) is right


WRONG = [
    None,
    {"type": "Magic"},
    {"type": "Choice", "answer": "E"},
    {"type": "Number", "answer": "12"},
    {"type": "Exact"},
    {"type": "Regex", "pattern": "("},
    {"type": "JsonSchema", "schema": {"type": "nothing"}},
    {"type": "Command", "argv": []},
    {"type": "Command", "argv": ["true"]},
]


@pytest.mark.parametrize("document", WRONG, ids=str)
def test_a_check_that_cannot_be_run_is_refused(document: object) -> None:
    with pytest.raises(CheckError):
        parse_check(document)


def program(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "check.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"type": "Command", "argv": ["check.sh"], "seconds": 1}


@pytest.mark.parametrize(
    ("script", "right"),
    [
        ("grep -q forty", True),
        ("grep -q fifty", False),
        ("sleep 30", False),
        ("dd if=/dev/zero of=big bs=1M count=3 2>/dev/null", False),
        ('test -z "$SECRET"', True),
    ],
)
async def test_a_program_judges_within_its_limits_and_without_our_environment(
    tmp_path: Path, script: str, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    grader = parse_check(program(tmp_path, script), tmp_path)
    assert await grader.passes("forty two") is right


def test_only_programs_of_the_named_folder_are_run(tmp_path: Path) -> None:
    for name in ("../check.sh", "/bin/true", "missing"):
        with pytest.raises(CheckError):
            parse_check({"type": "Command", "argv": [name]}, tmp_path)


async def test_a_program_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    grader = parse_check(program(tmp_path, f"sleep 60 & echo $! > {mark}; sleep 60"), tmp_path)
    assert not await grader.passes("x")
    pid = int(mark.read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                raise ProcessLookupError
            await asyncio.sleep(0.01)
