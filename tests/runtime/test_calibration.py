"""Asking stages: every question once, resumable, scored as the gateway scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from motley_runtime.calibration import (
    Endpoint,
    Journal,
    Pace,
    QuestionError,
    Run,
    ask_all,
    read_questions,
)
from motley_runtime.calibration.asking import AskingError
from motley_runtime.gateway.openai_api import CHAT, COMPLETIONS
from motley_runtime.gateway.scoring import features, features_of, score

LINES = [
    json.dumps({"id": f"q{i}", "prompt": f"question {i}", "reference": "forty two"})
    for i in range(6)
]
QUICK = Pace(concurrency=2, answer_s=2.0, attempts=3, pause_s=0.01)


def run_of(*endpoints: Endpoint, lines: list[str] = LINES, **fields: Any) -> Run:
    return Run(endpoints, read_questions(lines), fields, QUICK)


async def ask(run: Run, path: Path | None = None) -> tuple[list[Any], list[int]]:
    seen: list[int] = []
    with Journal(path) as journal:
        return await ask_all(run, journal, seen.append), seen


async def test_every_stage_answers_every_question_once(start_engine: Any) -> None:
    small = await start_engine("small", token_probability=0.8)
    large = await start_engine("large", text="exactly forty two")
    run = run_of(
        Endpoint("small", small.url, "org/small"), Endpoint("large", large.url, "l"), max_tokens=9
    )
    answers, progress = await ask(run)
    assert [(a.stage, a.question) for a in answers] == [
        (s, f"q{i}") for s in ("small", "large") for i in range(6)
    ]
    assert progress == list(range(1, 13))
    assert len(small.seen) == len(large.seen) == 6
    assert small.seen[0]["max_tokens"] == 9 and small.seen[0]["model"] == "org/small"
    assert [a.quality for a in answers] == [1.0] * 6 + [0.0] * 6
    assert answers[0].features == pytest.approx({"mean": 0.8, "least": 0.8, "tenth": 0.8})
    assert answers[0].output_tokens == 2 and answers[0].prompt_tokens == 10


async def test_models_that_only_go_on_with_a_text_are_asked_for_completions(
    start_engine: Any,
) -> None:
    """The prompt as it is; log-probabilities in that form of the API mean the same score."""
    chat, plain = [await start_engine(n, token_probability=0.8) for n in ("chat", "plain")]
    results = []
    for engine, path in ((chat, CHAT), (plain, COMPLETIONS)):
        ends = [Endpoint("s", engine.url, "s")]
        fields = {"max_tokens": 9, "stop": ["\n"]}
        results.append(
            (await ask(Run(ends, read_questions(LINES[:1]), fields, QUICK, path=path)))[0][0]
        )
    assert plain.seen[0]["prompt"] == "question 0" and "messages" not in plain.seen[0]
    assert plain.seen[0]["stop"] == ["\n"] and plain.seen[0]["logprobs"] >= 1
    by_chat, by_text = results
    assert by_text.text == by_chat.text and by_text.quality == by_chat.quality
    assert by_text.features["mean"] == pytest.approx(by_chat.features["mean"])
    assert by_text.mark != by_chat.mark


async def test_a_second_run_asks_only_what_is_missing(start_engine: Any, tmp_path: Path) -> None:
    engine = await start_engine("small")
    path = tmp_path / "run.jsonl"
    endpoint = Endpoint("small", engine.url, "m")
    await ask(run_of(endpoint, lines=LINES[:4]), path)
    first, _ = await ask(run_of(endpoint), path)
    assert len(engine.seen) == 6
    again, _ = await ask(run_of(endpoint), path)
    assert again == first and len(engine.seen) == 6
    await ask(run_of(endpoint, temperature=0.5), path)
    assert len(engine.seen) == 12, "other settings are other answers"


async def test_a_line_torn_by_a_crash_is_asked_again(start_engine: Any, tmp_path: Path) -> None:
    engine = await start_engine("small")
    path = tmp_path / "run.jsonl"
    run = run_of(Endpoint("small", engine.url, "m"))
    await ask(run, path)
    path.write_bytes(path.read_bytes()[:-20])
    await ask(run, path)
    assert len(engine.seen) == 7
    assert len(path.read_text().splitlines()) == 6


@pytest.mark.parametrize("kept_bytes", [1, 5, 60])
async def test_a_first_line_torn_by_a_crash_is_asked_again(
    start_engine: Any, tmp_path: Path, kept_bytes: int
) -> None:
    engine = await start_engine("small")
    path = tmp_path / "run.jsonl"
    run = run_of(Endpoint("small", engine.url, "m"))
    await ask(run, path)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    await ask(run, path)
    assert len(engine.seen) == 12
    assert len(path.read_text().splitlines()) == 6


async def test_a_last_answer_without_its_newline_is_kept(start_engine: Any, tmp_path: Path) -> None:
    engine = await start_engine("small")
    path = tmp_path / "run.jsonl"
    endpoint = Endpoint("small", engine.url, "m")
    await ask(run_of(endpoint, lines=LINES[:4]), path)
    path.write_bytes(path.read_bytes()[:-1])
    await ask(run_of(endpoint), path)
    await ask(run_of(endpoint), path)
    assert len(engine.seen) == 6, "nothing is asked twice"
    assert len(path.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}\n{"b": 2}\n',
        "a text of somebody's, without a newline",
        '{"stage": "small", and not as we write it',
        '{"a": 1}',
        "7",
        "\n\nnotes",
        (
            '{"stage":"a","question":"b","mark":"c","text":"","quality":"high","features":null,'
            '"wrong":null,"prompt_tokens":1,"output_tokens":1,"seconds":1.0}\n'
        ),
    ],
)
async def test_a_file_that_is_no_journal_is_refused_and_left_as_it_was(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.jsonl, line \d: is no journal"), Journal(path):
        pass
    assert path.read_text() == text


async def test_a_busy_engine_is_asked_again_and_a_hanging_one_counts_as_wrong(
    start_engine: Any,
) -> None:
    busy = await start_engine("busy", drops_connections=2)
    answers, _ = await ask(run_of(Endpoint("busy", busy.url, "m")))
    assert [a.wrong for a in answers] == [None] * 6
    slow = await start_engine("slow", delay_s=5.0)
    run = Run(
        [Endpoint("slow", slow.url, "m")],
        read_questions(LINES[:1]),
        {},
        Pace(answer_s=0.1, attempts=2, pause_s=0.01),
    )
    answers, _ = await ask(run)
    assert [(a.wrong, a.quality, a.features) for a in answers] == [("failed", 0.0, None)]


async def test_an_engine_that_refuses_or_is_not_there_stops_the_run(
    start_engine: Any, tmp_path: Path
) -> None:
    refusing = await start_engine("refusing", status=400)
    with pytest.raises(AskingError, match="says no"):
        await ask(run_of(Endpoint("refusing", refusing.url, "m")))
    with pytest.raises(AskingError, match="stage gone"):
        await ask(run_of(Endpoint("gone", "http://127.0.0.1:9", "m")))


@pytest.mark.parametrize(
    ("choice", "wrong"),
    [
        ({"finish_reason": "length"}, "truncated"),
        ({"finish_reason": "content_filter"}, "filtered"),
        ({"message": {"role": "assistant", "content": ""}}, "empty"),
    ],
)
async def test_what_the_gateway_always_escalates_is_wrong_and_has_no_score(
    start_engine: Any, choice: dict[str, Any], wrong: str
) -> None:
    engine = await start_engine("small", choice=choice)
    answers, _ = await ask(run_of(Endpoint("small", engine.url, "m"), lines=LINES[:1]))
    assert [(a.wrong, a.quality, a.features) for a in answers] == [(wrong, 0.0, None)]


WRONG = [
    ("{", "line 1"),
    ("[]", "object"),
    ('{"prompt": "x"}', "reference"),
    ('{"prompt": "x", "messages": [1], "reference": "y"}', "not both"),
    ('{"prompt": "x", "reference": "y", "answer": "z"}', "'answer'"),
    ('{"prompt": "x", "check": {"type": "Command", "argv": ["rm"]}}', "not allowed"),
    ("", "no question"),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_a_line_that_is_no_question_is_named(line: str, said: str) -> None:
    with pytest.raises(QuestionError, match=said):
        read_questions([line])


def test_an_id_may_be_there_once_and_classes_everywhere_or_nowhere() -> None:
    with pytest.raises(QuestionError, match="twice"):
        read_questions([LINES[0], LINES[0]])
    with pytest.raises(QuestionError, match="class"):
        read_questions([LINES[0], '{"prompt": "x", "reference": "y", "class": "a"}'])


def chat(*probabilities: float, seconds: list[float] | None = None) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"logprob": math.log(p)} for p in probabilities]
    for item, second in zip(content, seconds or [], strict=False):
        item["top_logprobs"] = [{"logprob": item["logprob"]}, {"logprob": math.log(second)}]
    return {"choices": [{"logprobs": {"content": content}}]}


def test_features_are_mean_least_tenth_and_margin_of_token_probabilities() -> None:
    probabilities = [0.9] * 18 + [0.5, 0.2]
    found = features(chat(*probabilities, seconds=[0.05] * 20))
    assert found is not None
    mean = math.exp(sum(map(math.log, probabilities)) / 20)
    expected = {"mean": mean, "least": 0.2, "tenth": 0.9, "margin": sum(probabilities) / 20 - 0.05}
    assert found == pytest.approx(expected)
    assert score(chat(*probabilities)) == pytest.approx(mean)
    assert features_of([]) is None


def test_of_several_choices_the_least_certain_counts_in_each_feature() -> None:
    both = chat(0.9, 0.4)
    both["choices"] += chat(0.6, 0.6)["choices"]
    found = features(both)
    assert found is not None
    assert found["least"] == pytest.approx(0.4) and found["mean"] == pytest.approx(0.6)
    both["choices"].append({"logprobs": None})
    assert features(both) is None
