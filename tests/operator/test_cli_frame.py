"""The command's frame: exit statuses, forms of output, and nothing but sentences for mistakes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import yaml

from motley_operator.cli import main as frame
from motley_operator.cli import output
from motley_planner.errors import SnapshotError, SolverError


def verb(run: Callable[[argparse.Namespace], int]) -> SimpleNamespace:
    """A module of the frame's kind whose verb is `version`."""

    def add_parser(subparsers: frame.Subparsers) -> None:
        subparsers.add_parser("version")

    return SimpleNamespace(add_parser=add_parser, run=run)


def run_with(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int], *options: str
) -> int:
    """The exit status of a verb that does `run`."""
    monkeypatch.setattr(frame, "import_module", lambda name: verb(run))
    return frame.main(["version", *options])


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    """A verb that fails."""

    def run(args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SnapshotError("nodes[0]", "is there twice"), 2),
        (output.InputError("a.yaml: spec.model", "is missing"), 2),
        (FileNotFoundError(2, "No such file or directory", "a.yaml"), 2),
        (SolverError("kTimeLimit", 1.0, 10, 10), 3),
    ],
    ids=["bad snapshot", "bad file", "no file", "no plan in time"],
)
def test_an_error_is_one_line_on_stderr_and_its_exit_status(
    error: Exception,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(monkeypatch, raising(error)) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"motley: {error}\n"


def test_an_interrupt_ends_like_an_interrupted_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_with(monkeypatch, raising(KeyboardInterrupt())) == 130


def test_a_mistake_in_motley_itself_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_with(monkeypatch, raising(ZeroDivisionError()))


def test_a_verbs_exit_status_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_with(monkeypatch, lambda args: 1) == 1


def test_every_verb_gets_an_output_option_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []
    run_with(monkeypatch, lambda args: seen.append(args) or 0, "-o", "yaml", "--quiet")  # type: ignore[func-returns-value]
    assert (seen[0].output, seen[0].quiet) == ("yaml", True)


def test_an_unknown_verb_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        frame.main(["paln"])
    assert ended.value.code == 2
    assert "invalid choice: 'paln'" in capsys.readouterr().err


def test_no_verb_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main([]) == 0
    assert "exit status:" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name, _, _ in frame.VERBS])
def test_every_verb_of_the_list_has_a_module_and_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        frame.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: motley {name}" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_result_reads_back_from_its_form(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["strategies", "-o", form]) == 0
    text = capsys.readouterr().out
    value = json.loads(text) if form == "json" else yaml.safe_load(text)
    assert "exact" in [row["name"] for row in value]


def test_without_a_terminal_the_result_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["version"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"motley", "python"}


def test_what_json_cannot_say_is_null() -> None:
    assert output.plain({"gap": float("nan"), "bound": float("inf"), "rest": (1, {"b"})}) == {
        "gap": None,
        "bound": None,
        "rest": [1, ["b"]],
    }


def test_a_reader_that_goes_away_is_no_mistake() -> None:
    code = "import sys; from motley_operator.cli.main import main; sys.exit(main(['strategies']))"
    done = subprocess.run(
        ["/bin/sh", "-c", f'("$0" -c "{code}"; echo "status $?" >&2) | true', sys.executable],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
