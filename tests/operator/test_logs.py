"""Lines of the log: one JSON object each, with the cycle in which it was written."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from motley_operator import cycle as cycle_module
from motley_operator.cycle import Cycle
from motley_operator.domain.facts import ClusterFacts
from motley_operator.logs import JsonFormatter, configure_logging, cycle_id
from motley_operator.metrics import Metrics
from motley_operator.remembering import RememberingPlanner
from motley_operator.settings import Settings
from motley_planner.domain.hardware import Catalog

NAME = "motley.test"


class Lines(logging.Handler):
    """What a logger says, as the operator writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    def read(self) -> list[dict[str, Any]]:
        """Each line as the object that it is."""
        assert all("\n" not in line for line in self.written)
        return [json.loads(line) for line in self.written]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


async def test_each_line_of_a_cycle_has_its_id_and_no_other_line_any(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the thread that decides, too; two cycles have two ids."""

    def decide(*_: Any) -> None:
        logging.getLogger(NAME).info("deciding")
        raise RuntimeError("a fault of the test")

    monkeypatch.setattr(cycle_module, "decide", decide)
    cycle = Cycle(
        lambda: ClusterFacts(now=1000.0, nodes=(), pods=(), resources=()),
        None,  # type: ignore[arg-type]
        RememberingPlanner(lambda snapshot, catalog: None),  # type: ignore[arg-type,return-value]
        Catalog({}),
        (Settings(), Metrics()),
    )
    for turn in range(2):
        logging.getLogger(NAME).info("before %d", turn)
        await cycle.once()
    ids: dict[str, list[str]] = {}
    for line in lines.read():
        kind = line["message"].partition(" ")[0].rstrip(",")
        ids.setdefault(kind, []).append(line.get("cycle", ""))
    assert ids.pop("before") == ["", ""]
    assert len(set(ids["deciding"])) == 2 and "" not in ids["deciding"]
    others = [told for kind, told in ids.items() if kind != "deciding"]
    assert others and all(told == ids["deciding"] for told in others)


async def test_tasks_of_a_cycle_say_its_id(lines: Lines) -> None:
    async def work() -> None:
        logging.getLogger(NAME).info("at work")

    token = cycle_id.set("0a1b2c3d")
    task = asyncio.create_task(work())
    cycle_id.reset(token)
    await task
    (line,) = lines.read()
    assert line["cycle"] == "0a1b2c3d"


def test_a_line_says_what_was_given_beside_the_message_and_carries_no_objects(
    lines: Lines,
) -> None:
    beside = {"plan_usd_per_hour": 2.5, "kept": 3, "body": {"kind": "Pod"}, "settings": "no"}
    try:
        raise ValueError('a "quoted" word\nand a second line')
    except ValueError:
        logging.getLogger(NAME).exception("it failed: %s", "twice", extra=beside)
    (line,) = lines.read()
    trace = line.pop("exception")
    assert trace.startswith("Traceback") and trace.endswith("and a second line")
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "error",
        "logger": NAME,
        "message": "it failed: twice",
        "plan_usd_per_hour": 2.5,
        "kept": 3,
    }


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("text", False)])
def test_the_form_that_is_asked_for_is_written_to_stderr(
    form: str, is_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    root.handlers.clear()
    try:
        configure_logging(form, "warning")
        assert root.handlers[0].stream is sys.stderr  # type: ignore[attr-defined]
        logging.getLogger(NAME).info("not asked for")
        logging.getLogger(NAME).warning("told")
        written = capsys.readouterr()
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    assert not written.out and written.err.count("\n") == 1
    assert written.err.startswith("{") == is_json and "told" in written.err
