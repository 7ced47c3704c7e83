"""`python -m tests.bench.live_workflows [--admission] [--write]`: workflows through the gateway process.

The queries, arrivals and engines of tests/bench/workflows.py ("milder"), but on the clock: a gateway
process on core 0 gets every call over HTTP, with `x-motley-workflow-id`, `x-motley-step` and a deadline,
and sends it to one of four unequal engines. These are mocks in the process of the load: the
simulator's servers with continuous batching and constant steps, driven by the real clock, `SPEED` times
faster than the GPUs whose published seconds they take. No GPU and no model is involved; what is real is the
gateway: its dispatch, its learned deadlines, its credits, its HTTP. Seconds in the table are the
engines'. Ratios as in tests/bench/workflows.py.

`--engines llamacpp`: on real engines (tests/bench/llamacpp_workflows.py), with a table of its own.

`--admission`: a usual load, then overload, with and without admission of workflows by their deadline.
Clients say which call is a workflow's first and which its last, and do not come back when refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from tests.bench import page
from tests.bench.gateway_rig import CHUNKS, PACE, Connection, answer_of, framed, gateway_on, pinned
from tests.bench.workflows import RATES, SLO_SCALE, Sample, alpha_of, ratio_of, sample_of

from motley_planner.dispatch import DispatchRule, WorkflowRule, routing_document
from motley_planner.dispatch.routing import ADMISSIONS
from motley_planner.simulator.requests import Job
from motley_planner.simulator.server import Server
from motley_planner.simulator.workflow_traces import (
    TRACES,
    Call,
    drawn_queries,
    poisson_arrivals,
    standard_slo_s,
)
from motley_planner.simulator.workflows import (
    GPUS,
    KV_TOKENS,
    MILDER,
    Fleet,
    WorkflowRun,
    table_of,
)

SPEED = 30.0
QUERIES, SEEDS, TRACE = 60, 5, "trace1"
OVERLOAD, OVERLOAD_QUERIES, OVERLOAD_SEEDS = (0.25, 0.5), 150, 3
USUAL, USUAL_QUERIES, FIRST_OVERLOAD_SEED = 0.1, 40, 100  # before it; the rule was tuned on 0 to 5
MAX_BATCH = 256
PATIENT = [w for name in ("wait", "first-byte", "answer") for w in (f"--{name}-seconds", "900")]
ROUND_ROBIN = "round robin, FCFS"


class Engine(asyncio.Protocol):
    """One connection to a replica; requests tell their prompt's tokens as `seed`."""

    answer = framed(answer_of(0))

    def __init__(self, replica: Replica) -> None:
        self._replica, self._pending = replica, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        head, found, body = self._pending.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._pending = body[length:]
        prompt, output = PACE.search(body), CHUNKS.search(body)
        assert prompt is not None and output is not None
        self._replica.begin(self, float(prompt[1]), float(output[1]))


class Replica:
    """A simulated server on the real clock: its events happen when they are due."""

    def __init__(self, server: Server, began_s: float) -> None:
        self._server, self._began_s = server, began_s
        self._at_work: dict[Job, Engine] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, engine: Engine, prompt: float, output: float) -> None:
        """Takes a request in."""
        now = self._until_now()
        job = Job(now, 0, "", prompt, output)
        self._at_work[job] = engine
        self._server.accept(job, now)
        self._wait()

    def _until_now(self) -> float:
        """Carries out what is due; the time in seconds of the engine."""
        now = (asyncio.get_running_loop().time() - self._began_s) * SPEED
        while self._server.queue or self._at_work:
            if self._server.due_s > now:
                break
            self._server.advance()
            ended, self._server.ended = self._server.ended, []
            for job in ended:
                self._at_work.pop(job).transport.write(Engine.answer)
        return now

    def _on_time(self) -> None:
        self._until_now()
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._at_work:
            at = self._began_s + self._server.due_s / SPEED
            self._timer = asyncio.get_running_loop().call_at(at, self._on_time)


@dataclass(frozen=True, slots=True)
class Rig:
    """Engines, what is known of them, how much faster their clock goes, and how a call is asked."""

    fleet: Fleet
    kv_tokens: Mapping[str, float]
    speed: float
    body: Callable[[Call, int], dict[str, Any]]
    engines: Callable[[], AbstractAsyncContextManager[list[str]]]
    path: str = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Policy:
    """How the gateway is told to serve workflows: a rule, and whether it sees steps and credits.

    `admission` is in force where clients say which call is the first and the last; None: they don't.
    """

    rule: DispatchRule
    by_step: bool = True
    admission: WorkflowRule | None = None

    def document(self, rig: Rig, urls: Sequence[str]) -> dict[str, Any]:
        """The routing file; credits are what fits into each engine's cache."""
        table = table_of(rig.fleet, self.rule, self.by_step)
        stage = table.stages[0]
        replicas = [
            replace(r, url=url, kv_tokens=rig.kv_tokens[gpu] if self.by_step else 0.0)
            for r, url, gpu in zip(stage.replicas, urls, rig.fleet.gpus, strict=True)
        ]
        stages = (replace(stage, replicas=tuple(replicas)),)
        workflows = self.admission or WorkflowRule()
        return routing_document(replace(table, stages=stages, workflows=workflows))


@asynccontextmanager
async def engines() -> AsyncIterator[list[str]]:
    """The URLs of four unequal engines."""
    loop = asyncio.get_running_loop()
    servers, urls = [], []
    for gpu in MILDER.gpus:
        replica = Replica(Server(gpu, MILDER.engine_of(gpu), MAX_BATCH), loop.time())
        made = await loop.create_server(
            lambda replica=replica: Engine(replica), "127.0.0.1", 0, backlog=1024
        )
        servers.append(made)
        urls.append(f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}")
    try:
        yield urls
    finally:
        for made in servers:
            made.close()


def prompt_of(serial: int, words: float) -> str:
    """So many words; no two begin alike, or prefixes would decide where they go."""
    return f"{serial} " + "word " * round(words)


def mock_body(call: Call, serial: int) -> dict[str, Any]:
    """A call of the mock engines, which are told their prompt's tokens."""
    message = {"role": "user", "content": prompt_of(serial, 0.8 * call.prompt_tokens)}
    body = {"messages": [message], "max_tokens": round(call.output_tokens)}
    return body | {"seed": round(call.prompt_tokens)}


MOCKS = Rig(MILDER, KV_TOKENS, SPEED, mock_body, engines)


class Refused(Exception):
    """The gateway did not let a workflow in."""


class Client:
    """Sends workflows; connections are kept."""

    def __init__(self, port: int, policy: Policy, rig: Rig) -> None:
        self._port, self._policy, self._rig = port, policy, rig
        self._free: list[Connection] = []
        self._serial = count()

    async def workflow(self, name: str, sample: Sample, number: int) -> float:
        """Runs one query at its arrival; its latency in seconds of the engines, NaN where refused."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(sample.arrival_s[number] / self._rig.speed)
        began, stages = loop.time(), sample.queries[number]
        for index, stage in enumerate(stages):
            slo_s = sample.slo_s[number] if index == 0 else None
            said = "first" if index == 0 else "last" if index == len(stages) - 1 else "later"
            told = [self._headers(name, call, slo_s, said) for call in stage]
            try:
                await asyncio.gather(*map(self._call, stage, told))
            except Refused:
                assert index == 0, "a later step was refused"
                return math.nan
        return (loop.time() - began) * self._rig.speed

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._free:
            connection.close()

    def _headers(self, name: str, call: Call, slo_s: float | None, said: str) -> str:
        if not self._policy.by_step:
            return ""
        lines = [f"x-motley-class: {call.step}", f"x-motley-workflow-id: {name}"]
        lines += [f"x-motley-step: {call.step}"]
        if self._policy.admission is not None:
            lines += [f"x-motley-workflow-call: {said}"]
        if slo_s is not None:
            lines += [f"x-motley-deadline-ms: {1000 * slo_s / self._rig.speed:.0f}"]
        return "".join(f"{line}\r\n" for line in lines)

    async def _call(self, call: Call, headers: str) -> None:
        connection = self._free.pop() if self._free else await Connection.to(self._port)
        body = self._rig.body(call, next(self._serial))
        raw = json.dumps(body, separators=(",", ":")).encode()
        head = f"POST {self._rig.path} HTTP/1.1\r\nhost: x\r\n{headers}"
        asked = f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw
        status = await connection.status(asked)
        self._free.append(connection)
        if status == 429:
            raise Refused
        assert status == 200, f"a call failed: {status}"


async def run(sample: Sample, policy: Policy, rig: Rig = MOCKS) -> WorkflowRun:
    """All queries of a draw through one gateway."""
    async with (
        rig.engines() as urls,
        gateway_on(policy.document(rig, urls), *PATIENT) as (_, port),
    ):
        client = Client(port, policy, rig)
        numbers = range(len(sample.queries))
        taken = await asyncio.gather(*(client.workflow(f"w{n}", sample, n) for n in numbers))
        client.close()
    return WorkflowRun(tuple(sample.arrival_s), tuple(taken), tuple(sample.slo_s))


def sample_for(rate: float, seed: int, queries: int) -> Sample:
    """The first queries of a draw."""
    drawn = sample_of(TRACE, rate, seed)
    return Sample(drawn.queries[:queries], drawn.arrival_s[:queries], drawn.slo_s[:queries])


def overload_of(rate: float, seed: int, queries: int) -> Sample:
    """A usual load, from which the gateway learns, and then as many queries at another rate."""
    rng = np.random.default_rng(seed)
    drawn = drawn_queries(TRACES[TRACE], rng, USUAL_QUERIES + queries)
    usual = poisson_arrivals(USUAL_QUERIES, USUAL, rng).tolist()
    after = poisson_arrivals(queries, rate, rng) + usual[-1]
    slo_s = [SLO_SCALE * standard_slo_s(GPUS)] * len(drawn)
    return Sample(drawn, [*usual, *after.tolist()], slo_s)


def overloaded(sample: Sample, policy: Policy) -> WorkflowRun:
    """What became of the queries after the usual load."""
    whole = asyncio.run(run(sample, policy))
    parts = (each[USUAL_QUERIES:] for each in (whole.arrival_s, whole.latency_s, whole.slo_s))
    return WorkflowRun(*parts)


def admission_table(seeds: int, queries: int) -> str:
    """Overload with and without admission, as the page holds it; the same rule of dispatch."""
    lines = [
        "| queries/s | admission | refused | in time, of all | in time, of those let in | P95 of those let in, s | answered in time/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in OVERLOAD:
        rule = DispatchRule("hexgen", alpha_of(TRACE, rate, MILDER))
        for name in ADMISSIONS:
            policy = Policy(rule, admission=WorkflowRule(name))
            drawn = range(FIRST_OVERLOAD_SEED, FIRST_OVERLOAD_SEED + seeds)
            runs = [overloaded(overload_of(rate, seed, queries), policy) for seed in drawn]
            cells = [_spread([r.refused for r in runs], "{:.0%}")]
            cells += [_spread([r.in_time for r in runs], "{:.0%}")]
            cells += [_spread([r.in_time / (1.0 - r.refused) for r in runs], "{:.0%}")]
            cells += [_spread([r.p95_s for r in runs], "{:.0f}")]
            cells += [_spread([r.in_time_per_s for r in runs], "{:.3f}")]
            lines.append(f"| {rate:g} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], form: str) -> str:
    """The mean and, in brackets, the least and the most of the seeds."""
    low, high = min(values), max(values)
    return f"{form.format(statistics.fmean(values))} ({form.format(low)}-{form.format(high)})"


def compared(rate: float, seeds: Sequence[int], queries: int) -> dict[str, list[WorkflowRun]]:
    """Both policies on the same draws, in turns; alpha is tuned by replay of other draws."""
    alpha = alpha_of(TRACE, rate, MILDER)
    policies = {
        ROUND_ROBIN: Policy(DispatchRule("roundRobin"), by_step=False),
        f"hexgen, alpha {alpha:.1f}, urgency": Policy(DispatchRule("hexgen", alpha)),
    }
    runs: dict[str, list[WorkflowRun]] = {name: [] for name in policies}
    for seed in seeds:
        sample = sample_for(rate, seed, queries)
        for name, policy in policies.items():
            runs[name].append(asyncio.run(run(sample, policy)))
    return runs


HEAD = (
    "| queries/s | policy | P95, s | answered/s | P95 better, x (95 % CI) | throughput, x (95 % CI) "
    "| in time |\n|---|---|---|---|---|---|---|"
)


def rows(rate: float, runs: Mapping[str, Sequence[WorkflowRun]]) -> list[str]:
    """A rate's lines; the first policy is what the others are compared with."""
    base, lines = next(iter(runs.values())), []
    for name, ours in runs.items():
        p95_s = statistics.fmean(r.p95_s for r in ours)
        more = statistics.fmean(r.answered_per_s for r in ours)
        in_time = statistics.fmean(r.in_time for r in ours)
        ratios = ("1", "1")
        if ours is not base:
            faster = ratio_of([r.p95_s for r in ours], [r.p95_s for r in base])
            pace = [1 / r.answered_per_s for r in ours], [1 / r.answered_per_s for r in base]
            ratios = str(faster), str(ratio_of(*pace))
        lines.append(
            f"| {rate:.2g} | {name} | {p95_s:.0f} | {more:.3f} | {' | '.join(ratios)} | {in_time:.0%} |"
        )
    return lines


def table(seeds: int, queries: int) -> str:
    """The table, as the page holds it."""
    lines = [HEAD]
    for rate in RATES:
        lines += rows(rate, compared(rate, range(seeds), queries))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, and writes it where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    parser.add_argument("--engines", choices=("mock", "llamacpp"), default="mock")
    parser.add_argument("--admission", action="store_true", help="overload, with and without")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--queries", type=int)
    args = parser.parse_args(arguments)
    pinned(max(os.sched_getaffinity(0)))
    if args.engines == "llamacpp":
        from tests.bench import llamacpp_workflows as real

        name = "llamacpp-workflows"
        made = asyncio.run(real.table(args.seeds or real.SEEDS, args.queries or real.QUERIES))
    elif args.admission:
        name = "live-admission"
        made = admission_table(args.seeds or OVERLOAD_SEEDS, args.queries or OVERLOAD_QUERIES)
    else:
        name, made = "live-workflows", table(args.seeds or SEEDS, args.queries or QUERIES)
    print(made)
    if args.write:
        page.put(name, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
