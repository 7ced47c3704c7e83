"""Files that somebody names and that cannot be read end every command with 2 and a sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from motley_operator.api.nesting import too_deep_at
from motley_operator.cli.main import main
from motley_operator.cli.output import InputError
from motley_operator.cli.texts import read_text

EXAMPLES = Path(__file__).parents[2] / "examples"
Capture = pytest.CaptureFixture[str]
TABLE = b"question_id,s:score,s:quality,l:quality\n" + b"1,0.5,1,1\n" * 3000
PACKED = gzip.compress(TABLE)
TORN_INSIDE = PACKED[:12] + bytes(255 - each for each in PACKED[12:40]) + PACKED[40:]
BROKEN = {
    "no UTF-8": (b"\xff\xfe" + TABLE, "t.csv", "not UTF-8 text"),
    "cut off": (PACKED[: len(PACKED) // 2], "t.csv.gz", "cut off"),
    "changed": (TORN_INSIDE, "t.csv.gz", "sound gzip"),
    "no gzip": (TABLE, "t.csv.gz", "sound gzip"),
}
COMMANDS = {
    "calibrate": ("calibrate", "--stage", "s", "--stage", "l", "--floor", "50%", "--replay"),
    "predict": ("predict",),
    "solve": ("solve",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: Capture, command: str, broken: str
) -> None:
    content, name, said = BROKEN[broken]
    path = tmp_path / name
    path.write_bytes(content)
    assert main([*COMMANDS[command], str(path)]) == 2
    assert f"{path}: " in (err := capsys.readouterr().err) and said in err


def test_a_packed_file_is_read_under_any_name(tmp_path: Path) -> None:
    for name in ("t.csv", "t.csv.gz"):
        (tmp_path / name).write_bytes(PACKED)
        assert read_text(str(tmp_path / name)) == TABLE.decode()
    with pytest.raises(InputError, match="name a readable file"):
        read_text(str(tmp_path / "none"))


@pytest.mark.parametrize("command", [("simulate", "--trace", "poisson"), ("explain",)])
def test_a_plan_nested_too_deeply_is_refused(
    tmp_path: Path, capsys: Capture, command: tuple[str, ...]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    assert main([*command, str(path)]) == 2
    assert f"{path}: nested too deeply" in capsys.readouterr().err


def test_an_estimator_nested_too_deeply_is_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "judge.yaml"
    path.write_text("[" * 20_000 + "]" * 20_000)
    stages = ("--stage", "s=http://127.0.0.1:1", "--stage", "l=http://127.0.0.1:1")
    words = ["calibrate", "--templates", "1", *stages, "--floor", "50%", "--by", str(path)]
    assert main(words) == 2
    assert "--by: " in (err := capsys.readouterr().err) and "nested deeper than 200 levels" in err


DEEP = {
    "flow": "a: " + "[" * 100_000 + "]" * 100_000 + "\n",
    "blocks": "- " * 100_000 + "a\n",
    "maps": "".join(" " * i + "a:\n" for i in range(3000)),
    "json": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "second document": "a: 1\n---\nb: " + "[" * 5000 + "]" * 5000 + "\n",
}


@pytest.mark.parametrize("form", DEEP)
@pytest.mark.parametrize("command", [["plan", "-f"], ["validate", "-f"], ["plan", "--nodes"]])
def test_manifests_nested_without_end_are_refused_by_their_line(
    form: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(DEEP[form])
    more = ["-f", str(EXAMPLES)] if command[-1] == "--nodes" else []
    assert main([*command, str(path), *more]) in (1, 2)
    told = capsys.readouterr()
    assert "nested" in told.out + told.err and str(path) in told.out + told.err


def test_manifests_with_many_brackets_side_by_side_are_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text("a: [" + "[], " * 5000 + "]\nb: " + "[" * 200 + "]" * 200 + "\n")
    assert too_deep_at(path.read_text()) == 2
    path.write_text("a: [" + "[], " * 5000 + "]\nb: " + "[" * 190 + "]" * 190 + "\n")
    assert too_deep_at(path.read_text()) is None
