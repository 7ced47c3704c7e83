"""Engines whose answers are JSON and nonsense: each costs its stage, or its branch, and never the request."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

MARK = "PROMPT-MARK-78"
SURE = {"content": [{"token": "x", "logprob": -0.1}]}
UNSURE = {"content": [{"token": "x", "logprob": -5}]}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def said(message: Any = None, usage: Any = None, **choice: Any) -> dict[str, Any]:
    """An answer that is right but for what is given."""
    spoken = {"role": "assistant", "content": "x"} if message is None else message
    whole = {"index": 0, "message": spoken, "finish_reason": "stop", "logprobs": SURE} | choice
    return {"id": "h", "created": 1, "model": "m", "choices": [whole], "usage": usage}


def scored(*logprobs: Any) -> dict[str, Any]:
    content = [{"token": "x", "logprob": value} for value in logprobs]
    return said(logprobs={"content": content})


def calling(calls: Any) -> dict[str, Any]:
    return said({"content": "x", "tool_calls": calls})


HUGE = {"prompt_tokens": 2**63, "completion_tokens": 2**63, "total_tokens": 2**64 - 1}
NO_ANSWER: dict[str, Any] = {  # where a later stage has to answer
    "no choices": {"choices": []},
    "an empty choice": {"choices": [{}]},
    "a choice that is null": {"choices": [None]},
    "choices that are an object": {"choices": {"0": 1}},
    "a message that is a number": said(5),
    "content that is a list": said({"content": ["x"]}),
    "content that is a number": said({"content": 7}),
    "calls that are a number": calling(7),
    "calls that are a text": calling("abc"),
    "calls that are an object": calling({"function": {"name": "f"}}),
    "a call that is a number": calling([1]),
    "a call of a number": calling([{"function": 5}]),
    "a list": [1, 2, 3],
    "a text": "str",
    "nothing": None,
    "log-probabilities without end": scored(-1e308, -1e308, -1e308),
    "log-probabilities that are texts": scored("a"),
    "log-probabilities that are null": scored(None),
    "log-probabilities in a number": said(logprobs={"content": 5}),
    "log-probabilities in a list": said(logprobs=[1, 2]),
}
AN_ANSWER: dict[str, Any] = {  # of which something is odd
    "a form that cannot be written": said(extra=nested(300)),
    "a log-probability above 0": scored(5.0),
    "a log-probability of 1e308": scored(1e308),
    "odd alternatives": said(
        logprobs={
            "content": [{"token": "x", "logprob": -0.1, "top_logprobs": [1, {"logprob": "a"}]}]
        }
    ),
    "an index that is a text": said(index="0"),
    "a reason that is a list": said(finish_reason=[3]),
    "a name that is a number": calling([{"function": {"name": 5, "arguments": 7.5}}]),
    "usage that is a text": said(usage="lots"),
    "usage of texts": said(usage={"prompt_tokens": "few", "completion_tokens": "many"}),
    "usage below 0": said(usage={"completion_tokens": -5, "total_tokens": 1e308}),
    "usage beyond 64 bits": said(usage=HUGE),
    "usage that is nested": said(usage={"completion_tokens": 2, "details": {"a": {"b": [1]}}}),
}
EVERY = NO_ANSWER | AN_ANSWER
EVENTS: dict[str, bytes] = {  # of streams, beside those made of the answers above
    "an empty event": b"data: \n\n",
    "a number": b"data: 5\n\n",
    "a list": b"data: []\n\n",
    "choices that are a number": b'data: {"choices":5}\n\n',
    "choices that are a text": b'data: {"choices":"abc"}\n\n',
    "a choice that is a number": b'data: {"choices":[5]}\n\n',
    "a delta that is a number": b'data: {"choices":[{"delta":5}]}\n\n',
    "calls that are a number": b'data: {"choices":[{"delta":{"tool_calls":7}}]}\n\n',
    "a call in two forms": b'data: {"choices":[{"delta":{"tool_calls":[{"function":"f"}]}}]}\n\n'
    b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"name":"f"}}]}}]}\n\n',
    "usage that is a number": b'data: {"choices":[],"usage":5}\n\n',
    "an event that is nested": b'data: {"choices":[],"a":' + b"[" * 900 + b"]" * 900 + b"}\n\n",
    "an error": b'data: {"error":{"message":"boom"}}\n\n',
    "nothing but its end": b"data: [DONE]\n\n",
}


def stream_of(answer: Any) -> bytes:
    """An answer as events, as wrong as it is."""
    if not isinstance(answer, dict):
        return b"data: " + json.dumps(answer).encode() + b"\n\n"
    event = dict(answer)
    choices = event.get("choices")
    if isinstance(choices, list):
        event["choices"] = [_delta(choice) for choice in choices]
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _delta(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    return {"delta" if key == "message" else key: value for key, value in choice.items()}


class Hostile:
    """An engine that says one thing only."""

    url = ""

    def __init__(self) -> None:
        self.answer: Any = None
        self.events = b""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return web.json_response(self.answer)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(self.events)
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
async def hostile(serve_app: Any) -> Any:
    async with AsyncExitStack() as stack:
        engine = Hostile()
        app = web.Application()
        app.router.add_post("/v1/chat/completions", engine.handle)
        engine.url = await stack.enter_async_context(serve_app(app))
        yield engine


def entry(name: str, url: str) -> dict[str, Any]:
    return {"name": name, "url": url, "rates": {"all": 1.0}, "capacity": {"all": 2.0}}


BRANCHES = {"samples": 3, "stop_after": 2, "prune": {"below": 0.1, "most": 2, "every_tokens": 1}}
VOTES = {"samples": 3, "stop_after": 2, "choose": "Vote"}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # fields of the stage, of the request
    "whole": ({}, {}),
    "as a stream": ({}, {"stream": True, "stream_options": {"include_usage": True}}),
    "optimistic": ({}, {"stream": True, "headers": {"x-motley-streaming": "optimistic"}}),
    "branches": ({"branches": BRANCHES}, {}),
    "branches that vote": ({"branches": VOTES}, {"stream": True}),
}


def quiet(gateway: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left at work, nothing went wrong inside, and no log line has a prompt."""
    app = gateway.gateway
    assert (app.share.at_work, app.live.current.in_flight()) == (0, 0)
    records = "\n".join(str(vars(record)) for record in caplog.records)
    assert "unexpected error" not in records and MARK not in records


async def text_of(response: Any) -> str:
    async with asyncio.timeout(5):
        return str(await response.text())


async def asked(gateway: Any, engine: Hostile, what: Any, fields: dict[str, Any]) -> Any:
    """What a client gets where an engine answers so; `what`: an answer, or raw events."""
    engine.answer = None if isinstance(what, bytes) else what
    engine.events = what if isinstance(what, bytes) else stream_of(what)
    response = await gateway.chat(MARK, **fields)
    return response, await text_of(response)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("estimator", ["LogProb", "SelfVerify", "SelfConsistency"])
async def test_nonsense_of_an_early_stage_costs_the_stage_and_not_the_request(
    hostile: Hostile,
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    form: str,
    estimator: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "motley.gateway")
    stage, request = FORMS[form]
    large = await start_engine("large", text="the last word", chunks=2)
    rule = {"type": estimator} | ({"samples": 2} if estimator == "SelfConsistency" else {})
    stages = ("small", [entry("r0", hostile.url)]), ("large", [replica_of(large)])
    document = routing_of(*stages, estimator=rule)
    document["stages"][0] |= stage
    gateway = await start_gateway(document, optimistic_tokens=3)
    wrong = {}
    every = EVERY if form == "whole" else EVERY | EVENTS
    for name, what in every.items():
        if isinstance(what, bytes) and form in ("as a stream",):
            continue  # it is asked for a whole answer
        before = len(large.seen)
        response, text = await asked(gateway, hostile, what, request)
        escalated = len(large.seen) > before
        if response.status != 200:
            wrong[name] = (response.status, text[:200])
        elif name in NO_ANSWER and estimator != "SelfVerify" and not escalated:
            if not (estimator == "SelfConsistency" and "log-prob" in name):
                wrong[name] = (response.headers["x-motley-path"], text[:200])
        elif request.get("stream") and not text.endswith("data: [DONE]\n\n"):
            wrong[name] = ("cut", text[-200:])
    assert not wrong
    quiet(gateway, caplog)


@pytest.mark.parametrize("form", FORMS)
async def test_nonsense_of_the_last_stage_is_relayed_or_refused(
    hostile: Hostile,
    start_engine: Any,
    start_gateway: Any,
    routing_of: Any,
    replica_of: Any,
    form: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "motley.gateway")
    stage, request = FORMS[form]
    for is_pool in (True, False):
        small = await start_engine("small", token_probability=0.01)
        last = ("large", [entry("r1", hostile.url)])
        document = routing_of(*([] if is_pool else [("small", [replica_of(small)])]), last)
        document["stages"][-1] |= stage
        gateway = await start_gateway(document, optimistic_tokens=3)
        for name, what in (EVERY | EVENTS).items():
            response, text = await asked(gateway, hostile, what, request)
            assert response.status in (200, 502), (name, text[:200])
            if response.status == 200 and not request.get("stream"):
                json.loads(text)
        quiet(gateway, caplog)


async def test_an_answer_whose_sum_cannot_be_told_is_relayed_and_sums_end_at_63_bits(
    hostile: Hostile, start_engine: Any, start_gateway: Any, routing_of: Any, replica_of: Any
) -> None:
    small = await start_engine("small", token_probability=0.01)
    stages = ("small", [replica_of(small)]), ("large", [entry("r1", hostile.url)])
    gateway = await start_gateway(routing_of(*stages))
    _, text = await asked(gateway, hostile, said(usage=HUGE), {})
    usage = json.loads(text)["usage"]
    assert usage["completion_tokens"] == 2**63 - 1 and usage["total_tokens"] == 2**63 - 1
    what = said(usage={"completion_tokens": 2}, extra=nested(300))
    response, text = await asked(gateway, hostile, what, {})
    assert response.status == 200 and json.loads(text) == what, "as it came, without the sum"


async def test_a_branch_of_nonsense_is_one_branch_less(
    serve_app: Any, start_gateway: Any, routing_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    turn = iter(range(100))

    async def handle(request: web.Request) -> web.StreamResponse:
        number = next(turn)
        await asyncio.sleep(0.02 * number)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        right = said(message={"content": f"from {number}"})
        events = EVENTS["choices that are a number"] if number == 1 else stream_of(right)
        await response.write(events + b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    async with serve_app(app) as url:
        document = routing_of(("main", [entry("r0", url)]))
        document["stages"][0]["branches"] = {"samples": 3, "stop_after": 2}
        gateway = await start_gateway(document)
        response = await gateway.chat(MARK)
        assert response.status == 200
        assert response.headers["x-motley-branches"] == "3/2/0"
        failed = 'motley_gateway_branches_total{outcome="failed",stage="main"}'
        assert await gateway.metric(failed) == 1.0
        quiet(gateway, caplog)
