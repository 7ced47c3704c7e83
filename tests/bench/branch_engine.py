"""A mock engine on virtual time: one token a step for every stream, lengths drawn.

The gateway's own branch executor, dispatcher and credits run on it; only the HTTP client is replaced.
The event loop's clock jumps to the next timer instead of waiting, so hundreds of requests of minutes
take seconds, and every run of a seed is the same.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import orjson

from motley_planner.costs.order_statistics import log_deviation
from motley_planner.dispatch import (
    BranchRule,
    Dispatcher,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
)
from motley_runtime.gateway.branch_scores import RewardPool
from motley_runtime.gateway.branches import Branches
from motley_runtime.gateway.calls import Caller
from motley_runtime.gateway.credits import Credits
from motley_runtime.gateway.job import Job
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import CHAT, ParsedRequest
from motley_runtime.gateway.options import Limits
from motley_runtime.gateway.upstream import Answer, Call, OpenStream

T = TypeVar("T")
STEP_S = 0.02


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: tells the loop how far its clock should go."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now_s += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop without waiting. Sockets of other programs do not belong on it."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now_s


def run_virtual(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work())


@dataclass(slots=True)
class Drawn:
    """One branch as the engine will make it: its tokens, and how sure of each."""

    tokens: int
    answer: str = "x"
    logprobs: list[float] | None = None


@dataclass
class StepEngine:
    """The HTTP client and the engines behind it. `draw` gives the next branch of a request."""

    draw: Callable[[str], Drawn]
    opened: int = 0
    whole: int = 0
    aborted: int = 0
    live: int = 0
    tokens: int = 0
    seen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def fetch(self, call: Call) -> Answer:
        """Not used here."""
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[OpenStream]:
        """A stream of one token a step; leaving it before its end is an abort."""
        body = orjson.loads(call.body)
        self.seen.append((call.url, body))
        drawn, is_whole = self.draw(call.request_id), False
        self.opened += 1
        self.live += 1

        async def rest() -> AsyncIterator[bytes]:
            nonlocal is_whole
            for at in range(1, drawn.tokens):
                await asyncio.sleep(STEP_S)
                self.tokens += 1
                yield _event(drawn, at)
            is_whole = True
            yield _end(drawn)

        try:
            await asyncio.sleep(STEP_S)
            self.tokens += 1
            yield OpenStream(200, "text/event-stream", _event(drawn, 0), rest())
        finally:
            self.live -= 1
            self.whole += is_whole
            self.aborted += not is_whole


_PLAIN = b'data: {"id":"b","choices":[{"index":0,"delta":{"content":"t "}}]}\n\n'


def _event(drawn: Drawn, at: int) -> bytes:
    if drawn.logprobs is None:
        return _PLAIN
    item = {"token": "t", "logprob": drawn.logprobs[at]}
    choice = {"index": 0, "delta": {"content": "t "}, "logprobs": {"content": [item]}}
    return b"data: " + orjson.dumps({"id": "b", "choices": [choice]}) + b"\n\n"


def _end(drawn: Drawn) -> bytes:
    said = {"content": f"\\boxed{{{drawn.answer}}}"}
    last: dict[str, Any] = {"index": 0, "delta": said, "finish_reason": "stop"}
    if drawn.logprobs is not None:
        last["logprobs"] = {"content": [{"token": "t", "logprob": drawn.logprobs[-1]}]}
    usage = {"prompt_tokens": 10, "completion_tokens": drawn.tokens}
    usage["total_tokens"] = 10 + drawn.tokens
    events = ({"choices": [last]}, {"choices": [], "usage": usage})
    return b"".join(b"data: " + orjson.dumps(e) + b"\n\n" for e in events) + b"data: [DONE]\n\n"


@dataclass
class Rig:
    """A gateway's branch executor in front of step engines."""

    engine: StepEngine
    rule: BranchRule
    replicas: int = 1
    kv_tokens: float = 0.0

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        made = tuple(
            Replica(f"r{i}", f"http://r{i}", {"a": 1.0}, {"a": 1.0}, kv_tokens=self.kv_tokens)
            for i in range(self.replicas)
        )
        self.stage = Stage("main", "m", made, branches=self.rule)
        ref = ResourceRef("ServingPool", "t", "p")
        classes = (RequestClass("a", 10, 100),)
        self.table = RoutingTable("h", ref, ("p",), classes, (self.stage,), ())
        self.dispatcher = Dispatcher(self.table)
        self.credits = Credits(self.metrics, 600.0)
        caller = Caller(self.engine, self.metrics, Limits(), self.credits)
        self.branches = Branches(caller, RewardPool(self.engine, self.metrics), self.metrics)

    def job(self, name: str, deadline_s: float | None = None, **fields: Any) -> Job:
        """One chat request."""
        body = {"messages": [{"role": "user", "content": "q"}], **fields}
        request = ParsedRequest(CHAT, body, False, False, None)
        return Job(request, name, self.dispatcher, "a", None, deadline_s=deadline_s)

    async def ask(self, job: Job) -> tuple[Any, float]:
        """The answer to a request, and the virtual seconds that it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await self.branches.answer(job, self.stage, self.rule)
        return answer, loop.time() - began


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over requests: seconds of an answer, and tokens of all its branches."""

    seconds: float
    tokens: float
    pruned: float
    aborted: int
    opened: int


def lengths(requests: int, samples: int, spread: float, mean: float, seed: int) -> Any:
    """Drawn branch lengths, requests x samples: log-normal, whole tokens of at least 1.

    A request's first branches are the same whatever `samples` is.
    """
    scale = log_deviation(spread)
    rows = [np.random.default_rng((seed, r)).standard_normal(samples) for r in range(requests)]
    drawn = mean * np.exp(scale * np.array(rows) - scale * scale / 2.0)
    return np.maximum(1, np.rint(drawn)).astype(int)


def measured(rule: BranchRule, drawn: Any, score: Callable[[int, int], float] | None) -> Measured:
    """Runs one request a row of `drawn`, one after the other.

    `score`: a branch's steady token log-probability by (request, branch); None: none are reported.
    """
    order: dict[str, int] = {}

    def draw(name: str) -> Drawn:
        branch = order[name] = order.get(name, -1) + 1
        tokens = int(drawn[int(name), branch])
        logprobs = None if score is None else [score(int(name), branch)] * tokens
        return Drawn(tokens, logprobs=logprobs)

    async def work() -> Measured:
        engine = StepEngine(draw)
        rig = Rig(engine, rule)
        seconds, pruned = 0.0, 0
        for request in range(len(drawn)):
            job = rig.job(str(request))
            seconds += (await rig.ask(job))[1]
            assert job.branched is not None
            pruned += job.branched[2]
        assert engine.live == 0 and rig.dispatcher.in_flight() == 0
        n = len(drawn)
        return Measured(seconds / n, engine.tokens / n, pruned / n, engine.aborted, engine.opened)

    return run_virtual(work)
