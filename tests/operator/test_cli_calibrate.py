"""`motley calibrate` on tables and on stub engines."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from motley_operator.cli.main import main
from motley_planner.candidates.calibration import read_calibration
from motley_planner.candidates.policies import routing_policies

PROMPTS = 120


class Engine(BaseHTTPRequestHandler):
    """Knows the answers with a chance that it also reports as its confidence."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = int(body["messages"][0]["content"].split()[-1])
        draw = random.Random(f"{body['model']} {number}")
        sure = draw.random()
        chance = sure if body["model"] == "weak" else 0.95
        text = f"Answer: {number if draw.random() < chance else -1}"
        logprobs = {"content": [{"logprob": -1.5 * (1.001 - sure)}]}
        choice = {"message": {"content": text}, "finish_reason": "stop", "logprobs": logprobs}
        usage = {"prompt_tokens": 8, "completion_tokens": 3}
        raw = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def engine() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def asked(engine: str, tmp_path: Path) -> list[str]:
    lines = [
        {"prompt": f"say {i}", "check": {"type": "Number", "answer": i}} for i in range(PROMPTS)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    stages = ["--stage", f"weak={engine}/v1", "--stage", f"strong={engine}"]
    return ["calibrate", "--questions", str(path), *stages, "-o", "json"]


@pytest.mark.parametrize("fit", ["none", "logistic", "isotonic"])
def test_a_run_writes_the_table_that_the_planner_reads(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], fit: str
) -> None:
    table, estimator = tmp_path / "table.csv", tmp_path / "estimator.json"
    outs = ["--table", str(table), "--estimator", str(estimator), "--fit", fit]
    prices = ["--price", "weak=0.1/0.2", "--price", "strong=1/4"]
    assert main([*asked, *outs, *prices, "--floor", "60%", "--confidence", "80%"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["verdict"]["reason"] == "Worthwhile"
    assert report["questions"] == PROMPTS
    assert report["judged"] == (PROMPTS if fit != "isotonic" else 80)
    assert report["stages"][1]["usd_per_question"] == pytest.approx((8 * 1 + 3 * 4) / 1e6)
    assert f"{2 * PROMPTS} of {2 * PROMPTS}" in printed.err
    read = read_calibration(table.read_text(), ("weak", "strong"))
    assert routing_policies(read, 0.8)
    document = json.loads(estimator.read_text())
    assert set(document["calibrators"]) == ({"weak"} if fit != "none" else set())


def test_a_journal_lets_a_second_run_ask_nothing(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--floor", "60%", "--confidence", "80%", "--journal", str(tmp_path / "run.jsonl")]
    main([*asked, *more, "-q"])
    first = capsys.readouterr().out
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert len(lines) == 2 * PROMPTS
    main([*asked, *more, "-q"])
    assert capsys.readouterr().out == first
    assert (tmp_path / "run.jsonl").read_text().splitlines() == lines


def rows(path: Path, gain: bool) -> str:
    lines = ["question_id,s:score,s:quality,l:quality"]
    for i in range(400):
        score = (i * 37 % 400) / 400
        right = int((i * 61 % 400) / 400 < score)
        lines.append(f"{i},{score},{right},{int(i % 20 > 0) if gain else right}")
    path.write_text("\n".join(lines))
    return str(path)


def test_a_table_is_replayed_without_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, svg = rows(tmp_path / "t.csv", gain=True), tmp_path / "a.svg"
    words = ["calibrate", "--replay", table, "--stage", "s", "--stage", "l", "--floor", "75%"]
    prices = ["--price", "s=0.1", "--price", "l=2"]
    assert main([*words, *prices, "--svg", str(svg), "-o", "table"]) == 0
    out = capsys.readouterr().out
    assert "Cascade (Worthwhile)" in out and "thresholds: s " in out
    assert svg.read_text().startswith("<svg")


def test_a_worthless_cascade_is_refused_with_the_reason_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows(tmp_path / "t.csv", gain=False)
    words = ["calibrate", "--replay", table, "--stage", "s", "--stage", "l", "--floor", "60%"]
    assert main([*words, "-o", "table"]) == 1
    assert "Do not cascade (NoGain): on the " in capsys.readouterr().out


WRONG = [
    (["--stage", "s"], "at least two"),
    (["--stage", "s", "--stage", "s"], "each name once"),
    (["--stage", "s", "--stage", "x"], "x:quality"),
    (["--stage", "s", "--stage", "l", "--price", "s=1"], "give one for l"),
    (["--stage", "s", "--stage", "l", "--price", "s=1/2", "--price", "l=x"], "--price"),
    (["--stage", "s", "--stage", "l", "--price", "s=nan", "--price", "l=2"], "s=nan"),
    (["--stage", "s", "--stage", "l", "--price", "s=1/nan", "--price", "l=2/3"], "s=1/nan"),
    (["--stage", "s", "--stage", "l", "--population", "10"], "400"),
    (["--stage", "s", "--stage", "l", "--svg", "x.svg"], "--price"),
    (["--stage", "s", "--stage", "l", "--score", "s=magic"], "magic"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_a_wrong_word_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    table = rows(tmp_path / "t.csv", gain=True)
    assert main(["calibrate", "--replay", table, "--floor", "75%", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-5", "nan", "inf", "warm"])
def test_a_temperature_that_is_none_is_refused_before_anything_is_asked(
    asked: list[str], capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--floor", "60%", "--temperature", value])
    assert ended.value.code == 2 and f"'{value}' is not a temp" in capsys.readouterr().err


def test_a_file_that_is_no_journal_ends_the_command_and_stays(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("what I must not forget")
    assert main([*asked, "--floor", "60%", "--journal", str(notes)]) == 2
    assert f"{notes}, line 1: is no journal" in capsys.readouterr().err
    assert notes.read_text() == "what I must not forget"


def test_a_live_stage_needs_its_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", "--templates", "3", "--stage", "a=1", "--stage", "b", "--floor", "50%"]
    assert main(words) == 2
    assert "http://HOST:PORT" in capsys.readouterr().err


def test_the_guides_example_prints_what_the_guide_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = Path(__file__).parents[2]
    words = ["--stage", "small", "--stage", "large", "--floor", "80%", "-o", "table"]
    prices = ["--price", "small=0.05/0.20", "--price", "large=0.60/2.40"]
    table = root / "docs" / "guides" / "calibration.csv"
    assert main(["calibrate", "--replay", str(table), *words, *prices]) == 0
    guide = (root / "docs" / "guides" / "calibration.md").read_text()
    shown = [line.strip() for line in guide.splitlines()]
    for line in capsys.readouterr().out.splitlines():
        assert line.strip() in shown


def test_samples_are_scored_by_their_agreement_and_the_estimator_says_so(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "judge.yaml"
    votes = "{samples: 2, temperature: 1, compare: Number}"
    spec.write_text(f"estimator: {{type: SelfConsistency, selfConsistency: {votes}}}\n")
    out = tmp_path / "estimator.json"
    main([*asked, "--floor", "60%", "--by", str(spec), "--estimator", str(out), "-q"])
    document = json.loads(out.read_text())
    assert (document["type"], document["samples"], document["compare"]) == (
        "SelfConsistency",
        2,
        "Number",
    )
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"]["reason"] != "Worthwhile", "this engine always agrees with itself"


BY = [
    ("Validator", "validator"),
    ("Guess", "none of LogProb"),
    ("{type: SelfVerify, selfVerify: {stage: tiny}}", "selfVerify.stage: tiny is no stage"),
    ("{type: SelfConsistency, selfConsistency: {samples: 99}}", "selfConsistency.samples"),
]


@pytest.mark.parametrize(("text", "said"), BY, ids=[said for _, said in BY])
def test_an_estimator_that_cannot_be_run_is_named_with_its_field(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    if text.startswith("{"):
        path = tmp_path / "judge.yaml"
        path.write_text(text)
        text = str(path)
    assert main([*asked, "--floor", "60%", "--by", text]) == 2
    assert said in capsys.readouterr().err
