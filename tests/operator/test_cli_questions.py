"""`motley questions`."""

from __future__ import annotations

import json

import pytest

from motley_operator.cli.main import main


def test_questions_are_printed_a_line_each_and_the_same_for_the_same_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["questions", "--seed", "3", "--count", "5", "-o", "jsonl"]) == 0
    first = capsys.readouterr().out
    lines = [json.loads(line) for line in first.splitlines()]
    assert len(lines) == 5
    assert set(lines[0]) == {"id", "class", "prompt", "check"}
    assert main(["questions", "--seed", "3", "--count", "5"]) == 0
    assert capsys.readouterr().out == first


def test_only_questions_of_a_field_that_is_asked_for_are_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["questions", "--count", "6", "--field", "hydrology", "--form", "number"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["class"] for line in lines} == {"hydrology"}
    assert {line["check"]["type"] for line in lines} == {"Number"}


def test_an_unknown_field_is_named_with_those_that_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["questions", "--field", "alchemy"]) == 2
    assert "oceanography" in capsys.readouterr().err


def test_templates_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["questions", "--list", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) >= 40
