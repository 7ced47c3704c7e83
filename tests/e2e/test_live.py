"""Real language models behind the real gateway: the small engine, and the live demo."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e import live
from e2e.cluster.local import wait_for
from e2e.live_questions import QUESTIONS, body_of

from motley_planner.catalog import load_catalog

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
MODEL = "smollm2-135m"


@pytest.fixture(scope="module", autouse=True)
def _models() -> None:
    reason = live.missing()
    if reason:
        pytest.skip(f"no real model can run here: {reason}")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live.Engine(MODEL, tmp_path_factory.mktemp("engine") / "log") as url:
        yield url


def post(url: str, path: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def series(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    rows = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, _, value in rows}


def test_a_chat_is_answered_with_a_log_probability_for_each_token(engine: str) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"messages": messages, "max_tokens": 6, "logprobs": True}
    told = json.loads(post(engine, "/v1/chat/completions", body))
    tokens = told["choices"][0]["logprobs"]["content"]
    assert 1 <= len(tokens) <= 6
    assert all(token["logprob"] <= 0.0 for token in tokens)
    assert told["usage"]["completion_tokens"] >= len(tokens)


def test_a_stream_says_the_same_as_a_whole_answer(engine: str) -> None:
    body = body_of(QUESTIONS[0][0])
    whole = json.loads(post(engine, "/v1/completions", body))["choices"][0]["text"]
    raw = post(engine, "/v1/completions", {**body, "stream": True})
    parts = [p.removeprefix(b"data: ") for p in raw.split(b"\n\n") if p.startswith(b"data: ")]
    assert parts[-1].strip() == b"[DONE]"
    choices = [json.loads(part).get("choices") or [{}] for part in parts[:-1]]
    assert "".join(choice[0].get("text") or "" for choice in choices) == whole


def test_it_counts_under_the_names_that_vllm_uses(engine: str) -> None:
    before = series(engine)
    post(engine, "/v1/completions", body_of(QUESTIONS[1][0]))
    after = series(engine)
    names = load_catalog().engines["vllm"].metrics
    histograms = ("ttft", "tpot", "e2e", "prompt_length", "output_length")
    for quantity in ("running", "waiting", "prompt_tokens", "output_tokens"):
        assert names[quantity] in after, quantity
    for quantity in histograms:
        assert f"{names[quantity]}_bucket" in after, quantity
    count = f"{names['e2e']}_count"
    assert after[count] == before[count] + 1
    assert after[names["output_tokens"]] > before[names["output_tokens"]]


def test_a_client_that_leaves_ends_the_work(engine: str) -> None:
    """The slot is free again long before 4,000 tokens could have been made."""
    body = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    raw = json.dumps(body).encode()
    host, _, port = engine.removeprefix("http://").partition(":")
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + raw)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert series(engine)["vllm:num_requests_running"] == 1
    began = time.monotonic()
    wait_for(lambda: series(engine)["vllm:num_requests_running"] == 0, 5.0, "the slot to be free")
    post(engine, "/v1/completions", body_of(QUESTIONS[1][0]))  # and it answers others
    assert time.monotonic() - began < 20.0


# Threads that look after pods close their connections when they end, which nobody waits for.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_demo_of_real_models_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = live.run(tmp_path, 30.0, tmp_path / "live.svg")
    said = capsys.readouterr().out
    assert code == 0, said
    assert "Everything held." in said
    assert (tmp_path / "live.svg").read_text().count("<circle") > 20
