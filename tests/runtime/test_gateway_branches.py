"""Branches of a request on real sockets: what engines see, what clients get, what is left behind."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

RULE = {"samples": 4, "stop_after": 2, "choose": "Vote", "extract": {"type": "Boxed"}}


@dataclass
class Plan:
    """What the engine makes of one stream."""

    tokens: int = 3
    answer: str = "1"
    p: float = 0.9
    step_s: float = 0.0
    dies_after: int | None = None
    status: int = 200
    reason: str = "stop"
    word: str = "so "


@dataclass
class BranchEngine:
    """Answers its streams by plans, in the order in which they come."""

    plans: list[Plan] = field(default_factory=list)
    default: Plan = field(default_factory=Plan)
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    rewards: Callable[[str], float] = lambda text: 0.5
    judged: list[dict[str, Any]] = field(default_factory=list)

    async def judge(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.judged.append(body)
        value = self.rewards(body["messages"][-1]["content"])
        return web.json_response({"data": [{"index": 0, "data": [[0.1], [value]]}]})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.bodies)
        self.bodies.append(body)
        plan = self.plans[number] if number < len(self.plans) else self.default
        try:
            return await self._stream(request, body, plan, number)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted.append(number)
            raise

    async def _stream(
        self, request: web.Request, body: dict[str, Any], plan: Plan, number: int
    ) -> web.StreamResponse:
        if plan.status != 200:
            error = {"error": {"message": "the engine says no", "code": "stub"}}
            return web.json_response(error, status=plan.status)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for at in range(plan.tokens):
            if at == plan.dies_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            words = f"\\boxed{{{plan.answer}}}" if at == plan.tokens - 1 else plan.word
            choice: dict[str, Any] = {"index": 0, "delta": {"content": words}}
            if body.get("logprobs"):
                scored = [{"token": "t", "logprob": math.log(plan.p)}]
                choice["logprobs"] = {"content": scored}
            await self._write(response, {"id": f"b{number}", "choices": [choice]})
            await asyncio.sleep(plan.step_s)
        last = {"index": 0, "delta": {}, "finish_reason": plan.reason}
        await self._write(response, {"choices": [last]})
        usage = {"prompt_tokens": 10, "completion_tokens": plan.tokens}
        usage["total_tokens"] = 10 + plan.tokens
        await self._write(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        self.ended.append(number)
        return response

    async def _write(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


SLOW = Plan(tokens=10_000, step_s=0.005)


@pytest.fixture
async def branched(serve_app: Any, start_gateway: Any, routing_of: Any) -> Any:
    """A gateway in front of one or more engines of a pool that branches."""
    async with AsyncExitStack() as stack:

        async def start(
            *engines: BranchEngine, rule: Any = RULE, replica: Any = None, **settings: Any
        ) -> Any:
            replicas = []
            for number, engine in enumerate(engines):
                app = web.Application()
                app.router.add_post("/v1/chat/completions", engine.handle)
                app.router.add_post("/pooling", engine.judge)
                engine.url = await stack.enter_async_context(serve_app(app))
                fields = {"rates": {"all": 1.0}, "capacity": {"all": 2.0}} | (replica or {})
                replicas.append({"name": f"r{number}", "url": engine.url, **fields})
            document = routing_of(("main", replicas))
            document["stages"][0]["branches"] = rule(engines[0]) if callable(rule) else rule
            return await start_gateway(document, **settings)

        yield start


def branch_tasks() -> list[Any]:
    """Tasks that still read a branch."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    return [name for name in names if "_Run" in name]


def in_flight(gateway: Any) -> int:
    return gateway.gateway.live.current.in_flight()


async def content(response: Any) -> str:
    return (await response.json())["choices"][0]["message"]["content"]


async def test_enough_branches_answer_and_the_engine_sees_the_others_aborted(
    branched: Any, eventually: Any
) -> None:
    engine = BranchEngine([SLOW, Plan(answer="7"), SLOW, Plan(5, "7")])
    gateway = await branched(engine)
    response = await gateway.chat()
    assert (response.status, response.headers["x-motley-branches"]) == (200, "4/2/0")
    assert (await content(response)).endswith("\\boxed{7}")
    await eventually(lambda: sorted(engine.aborted) == [0, 2])
    assert sorted(engine.ended) == [1, 3]
    assert in_flight(gateway) == 0
    assert gateway.gateway.share.at_work == 0
    assert not branch_tasks()
    line = 'motley_gateway_branches_total{outcome="%s",stage="main"}'
    assert await gateway.metric(line % "completed") == 2
    assert await gateway.metric(line % "stopped") == 2


async def test_usage_counts_every_branch_as_far_as_it_was_seen(branched: Any) -> None:
    engine = BranchEngine([SLOW, Plan(3, "7"), SLOW, Plan(5, "7")])
    gateway = await branched(engine)
    usage = (await (await gateway.chat()).json())["usage"]
    seen = usage["completion_tokens"] - 8
    assert 1 <= seen <= 40, "what came of the two that were closed"
    assert usage["prompt_tokens"] == 40 or (seen < 2 and usage["prompt_tokens"] == 30)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_all_branches_of_a_request_go_to_one_replica(branched: Any) -> None:
    engines = [BranchEngine() for _ in range(3)]
    gateway = await branched(*engines)
    for _ in range(12):
        assert (await gateway.chat()).status == 200
    counts = [len(engine.bodies) for engine in engines]
    assert sum(counts) == 48 and all(count % 4 == 0 for count in counts)
    assert max(counts) - min(counts) <= 8, "and the replicas still share the load"


async def test_the_others_start_when_the_first_has_begun_and_each_with_its_own_seed(
    branched: Any,
) -> None:
    engine = BranchEngine()
    gateway = await branched(engine)
    await gateway.chat(seed=5, temperature=1.0)
    assert [body["seed"] for body in engine.bodies] == [5, 6, 7, 8]
    assert all(body["stream"] and body["temperature"] == 1.0 for body in engine.bodies)
    refusing = BranchEngine(default=Plan(status=400))
    gateway = await branched(refusing)
    response = await gateway.chat()
    assert response.status == 400 and b"the engine says no" in await response.read()
    assert len(refusing.bodies) == 1, "one refusal is enough"


async def test_a_client_that_leaves_ends_every_branch(branched: Any, eventually: Any) -> None:
    engine = BranchEngine(default=SLOW)
    gateway = await branched(engine, replica={"kv_tokens": 100_000})
    asking = asyncio.create_task(gateway.chat())
    await eventually(lambda: len(engine.bodies) == 4)
    asking.cancel()
    await eventually(lambda: sorted(engine.aborted) == [0, 1, 2, 3])
    await eventually(lambda: in_flight(gateway) == 0 and not branch_tasks())
    assert gateway.gateway.share.at_work == 0
    credits = gateway.gateway._cascade._caller._credits
    assert credits.queues["r0"].used == 0.0


async def test_a_branch_that_dies_does_not_fail_the_request(branched: Any) -> None:
    engine = BranchEngine([Plan(5, "7"), Plan(9, dies_after=2), Plan(status=500), Plan(7, "7")])
    gateway = await branched(engine, rule={**RULE, "stop_after": 2})
    response = await gateway.chat()
    assert (response.status, response.headers["x-motley-branches"]) == (200, "4/2/0")
    assert await gateway.metric('motley_gateway_branches_total{outcome="failed"') == 2


async def test_fewer_answers_than_wanted_are_enough_when_the_rest_died(branched: Any) -> None:
    engine = BranchEngine([Plan(5, "7", step_s=0.01)], Plan(9, dies_after=2))
    gateway = await branched(engine, rule={**RULE, "stop_after": 3})
    response = await gateway.chat()
    assert response.headers["x-motley-branches"] == "4/1/0"
    assert "7" in await content(response)


async def test_a_replica_that_dies_with_all_branches_costs_a_second_run_elsewhere(
    branched: Any,
) -> None:
    dying, well = BranchEngine(default=Plan(9, dies_after=2)), BranchEngine()
    gateway = await branched(dying, well)
    for _ in range(4):
        response = await gateway.chat()
        assert response.status == 200 and "1" in await content(response)
    assert dying.bodies, "it was tried"
    alone = await branched(BranchEngine(default=Plan(9, dies_after=2)))
    response = await alone.chat()
    assert (response.status, (await response.json())["error"]["code"]) == (502, "upstream_failed")
    assert in_flight(alone) == 0


async def test_a_streaming_client_gets_the_chosen_answer_as_a_stream(branched: Any) -> None:
    engine = BranchEngine([Plan(3, "1"), Plan(4, "2"), Plan(4, "2")])
    gateway = await branched(engine, rule={**RULE, "samples": 3, "stop_after": 3})
    response = await gateway.chat(stream=True, stream_options={"include_usage": True})
    lines = (await response.read()).decode().split("\n\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert lines[-2] == "data: [DONE]" and response.headers["x-motley-branches"] == "3/3/0"
    said = "".join(c["delta"].get("content", "") for e in events for c in e["choices"])
    assert said.endswith("\\boxed{2}")
    assert events[-1]["usage"]["completion_tokens"] == 11


async def test_low_branches_are_given_up_first_and_then_all_below_the_first_answer(
    branched: Any, eventually: Any
) -> None:
    low, late = Plan(10_000, p=0.2, step_s=0.004), Plan(10_000, p=0.7, step_s=0.004)
    engine = BranchEngine([low, late, Plan(60, "7", p=0.9, step_s=0.004), low])
    prune = {"below": 0.5, "most": 1, "every_tokens": 8}
    rule = {"samples": 4, "stop_after": 2, "prune": prune, "choose": "Best"}
    gateway = await branched(engine, rule=rule)
    response = await gateway.chat()
    # One of the two low ones goes while all explore; the other and 0.7 once 0.9 has ended.
    assert response.headers["x-motley-branches"] == "4/1/3"
    assert "7" in await content(response)
    assert (await response.json())["choices"][0]["logprobs"] is None
    await eventually(lambda: sorted(engine.aborted) == [0, 1, 3])


async def test_a_reward_pool_scores_partial_answers(branched: Any, eventually: Any) -> None:
    plans = [Plan(4000, "3", step_s=0.004, word="no "), Plan(60, "7", step_s=0.004)]
    engine = BranchEngine(plans, rewards=lambda text: 0.9 if text.startswith("so") else 0.2)
    prune = {"below": 0.5, "most": 1, "every_tokens": 10}

    def rule(one: BranchEngine) -> Any:
        score = {"type": "Reward", "url": one.url, "model": "prm"}
        return {"samples": 2, "stop_after": 1, "prune": prune, "score": score}

    gateway = await branched(engine, rule=rule)
    response = await gateway.chat()
    assert response.headers["x-motley-branches"] == "2/1/1"
    asked = engine.judged[0]
    assert (asked["model"], asked["messages"][0]["content"]) == ("prm", "hello")
    assert asked["messages"][1]["role"] == "assistant"
    assert "logprobs" not in engine.bodies[0], "a reward needs none"
    await eventually(lambda: engine.aborted == [0])


async def test_a_reward_pool_that_does_not_answer_gives_no_branch_up(branched: Any) -> None:
    engine = BranchEngine(default=Plan(40))
    prune = {"below": 1.0, "most": 2, "every_tokens": 4}
    score = {"type": "Reward", "url": "http://127.0.0.1:9", "model": "prm"}
    rule = {"samples": 3, "stop_after": 3, "prune": prune, "score": score}
    gateway = await branched(engine, rule=rule)
    assert (await gateway.chat()).headers["x-motley-branches"] == "3/3/0"
    assert await gateway.metric("motley_gateway_unscored_branches_total") >= 3


async def test_a_plainly_wrong_answer_is_not_one_of_those_that_are_waited_for(
    branched: Any,
) -> None:
    cut = Plan(1, "9", reason="length")
    engine = BranchEngine([cut, cut, Plan(6, "7"), Plan(6, "7", step_s=0.01)])
    gateway = await branched(engine)
    response = await gateway.chat()
    assert response.headers["x-motley-branches"] == "4/2/0" and "7" in await content(response)
    assert "9" in await content(await (await branched(BranchEngine(default=cut))).chat())


async def test_a_deadline_takes_the_branches_that_have_ended(branched: Any) -> None:
    engine = BranchEngine([Plan(3, "7"), SLOW, SLOW, SLOW])
    gateway = await branched(engine, rule={**RULE, "stop_after": 3})
    response = await gateway.chat(headers={"x-motley-deadline-ms": "300"})
    assert (response.status, response.headers["x-motley-branches"]) == (200, "4/1/0")


@pytest.mark.parametrize(
    ("header", "body", "streams"),
    [("3/1", {}, 3), ("off", {}, 1), ("5", {}, 5), (None, {"samples": 2}, 2), (None, {}, 4)],
)
async def test_a_request_says_how_many_branches_it_wants(
    branched: Any, header: str | None, body: Any, streams: int
) -> None:
    engine = BranchEngine(default=Plan(6, step_s=0.01))
    gateway = await branched(engine)
    headers = {"x-motley-branches": header} if header else {}
    fields = {"motley_branches": body} if body else {}
    response = await gateway.chat(headers=headers, stream=header == "off", **fields)
    assert response.status == 200 and len(engine.bodies) == streams
    assert ("x-motley-branches" in response.headers) == (streams > 1)
    assert all("motley_branches" not in each for each in engine.bodies)


@pytest.mark.parametrize(
    ("header", "fields", "param"),
    [
        ("lots", {}, "x-motley-branches"),
        ("99", {}, "x-motley-branches"),
        ("9", {}, "x-motley-branches"),
        ("4/5", {}, "x-motley-branches"),
        ("4", {"n": 2}, "x-motley-branches"),
        (None, {"motley_branches": 3}, "motley_branches"),
        (None, {"motley_branches": {"samples": 0}}, "motley_branches.samples"),
        (None, {"motley_branches": {"choose": "Any"}}, "motley_branches.choose"),
        (
            None,
            {"motley_branches": {"prune": {"below": 2}}},
            "motley_branches.prune.below",
        ),
        (
            None,
            {"motley_branches": {"score": {"type": "Reward", "url": "http://x", "model": "m"}}},
            "motley_branches.score.type",
        ),
        (
            None,
            {"motley_branches": {"extract": {"type": "Regex", "pattern": "(a+)+$"}}},
            "motley_branches.extract.type",
        ),
        (None, {"motley_branches": {"samples": 2, "stopAfter": 1}}, "motley_branches.stopAfter"),
        ("2/1", {"motley_branches": {"prune": {"belo": 1}}}, "motley_branches.prune.belo"),
        (None, {"motley_branches": {"score": {"window": 1}}}, "motley_branches.score.window"),
    ],
)
async def test_what_a_request_may_not_ask_is_refused_by_name(
    branched: Any, header: str | None, fields: Any, param: str
) -> None:
    engine = BranchEngine()
    gateway = await branched(engine)
    response = await gateway.chat(headers={"x-motley-branches": header} if header else {}, **fields)
    error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, param)
    assert param in error["message"] and not engine.bodies


async def test_several_choices_are_the_clients_own_and_do_not_branch(branched: Any) -> None:
    engine = BranchEngine()
    gateway = await branched(engine)
    assert (await gateway.chat(n=2, stream=True)).status == 200
    assert len(engine.bodies) == 1


async def test_every_branch_counts_for_concurrency_and_credit(
    branched: Any, tmp_path: Any, eventually: Any
) -> None:
    (tmp_path / "a").write_text("key-a\nconcurrency=5\n")
    engine = BranchEngine(default=Plan(60, step_s=0.005))
    gateway = await branched(engine, api_keys_dir=tmp_path, replica={"kv_tokens": 700})
    key = {"authorization": "Bearer key-a"}
    asking = asyncio.create_task(gateway.chat(headers=key))
    await eventually(lambda: len(engine.bodies) == 3)
    credits = gateway.gateway._cascade._caller._credits
    assert 600 < credits.queues["r0"].used <= 700, "three branches of 220 tokens and the prompt"
    second = await gateway.chat(headers=key)
    assert second.status == 429
    assert "counts 4" in (await second.json())["error"]["message"]
    assert (await asking).status == 200
    assert credits.queues["r0"].used == 0.0 and gateway.gateway.share.at_work == 0


async def test_a_stage_before_the_last_is_scored_by_the_branch_it_chose(
    serve_app: Any, start_gateway: Any, routing_of: Any
) -> None:
    engine = BranchEngine([Plan(3, "1", p=0.3), Plan(3, "2", p=0.8), Plan(3, "1", p=0.4)])
    app = web.Application()
    app.router.add_post("/v1/chat/completions", engine.handle)
    async with serve_app(app) as url:
        one = {"url": url, "rates": {"all": 1.0}, "capacity": {"all": 2.0}}
        document = routing_of(("small", [{"name": "s", **one}]), ("large", [{"name": "l", **one}]))
        document["stages"][0]["branches"] = {"samples": 3, "stop_after": 3}
        gateway = await start_gateway(document)
        response = await gateway.chat(stream=True, headers={"x-motley-streaming": "optimistic"})
        assert response.headers["x-motley-path"] == "small:0.8000"
        assert response.headers["x-motley-branches"] == "3/3/0"
        raw = await response.read()
        assert b"boxed{2}" in raw and b"logprob" not in raw.replace(b'"logprobs":null', b"")


async def test_completions_and_tool_calls_are_put_together_again(branched: Any) -> None:
    from motley_runtime.gateway.openai_api import CHAT, COMPLETIONS, ParsedRequest
    from motley_runtime.gateway.transcripts import Transcript

    chat = Transcript(ParsedRequest(CHAT, {}, False, False, None))
    call = {"index": 0, "id": "c1", "type": "function"}
    parts = [
        {"role": "assistant", "tool_calls": [call | {"function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
        {"reasoning_content": "hm "},
    ]
    for part in parts:
        event = {"id": "x", "choices": [{"index": 0, "delta": part}]}
        line = b"data: " + json.dumps(event).encode() + b"\n\n"
        for piece in (line[:9], line[9:]):
            chat.feed(piece)
    message = chat.answer()["choices"][0]["message"]
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert message["reasoning_content"] == "hm " and chat.tokens == 4
    plain = Transcript(ParsedRequest(COMPLETIONS, {}, False, False, None))
    for text in ("a ", "b"):
        scored = {"tokens": [text], "token_logprobs": [-0.5]}
        event = {"choices": [{"index": 0, "text": text, "logprobs": scored}]}
        plain.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    choice = plain.answer()["choices"][0]
    assert choice["text"] == "a b" and choice["logprobs"]["token_logprobs"] == [-0.5, -0.5]


@pytest.mark.parametrize(
    ("seed", "counted"),
    [
        (2**63 - 2, [2**63 - 2, 2**63 - 1, 0, 1]),
        (2**64 - 1, [2**63 - 1, 0, 1, 2]),
        (-2, [-2, -1, 0, 1]),
    ],
)
async def test_seeds_are_counted_within_what_engines_take(
    branched: Any, seed: int, counted: list[int]
) -> None:
    engine = BranchEngine()
    gateway = await branched(engine)
    assert (await gateway.chat(seed=seed)).status == 200
    assert [body["seed"] for body in engine.bodies] == counted
