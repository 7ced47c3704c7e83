"""Workflows on real engines: four llama.cpp servers that differ in speed, behind the real gateway.

Every engine is a process of `e2e.engines.llamacpp` with the same small model (SmolLM2-135M, 4 bits) on one
thread. They are made unequal by what a pod's `limits.cpu` does: a cgroup holds each to a part of a
core, in the proportion of the published seconds of two A100, an A6000 and an L40S (their largest step).
So prefill, decode, batches and HTTP all get slower by one factor, and nothing is slept away; together
they have 1.4 of two cores, which leaves room for gateway and load.

The queries are those of tests/bench/live_workflows.py with prompts and answers scaled down (`PROMPT`,
`ANSWER`), the same calls in the same stages; answers have exactly their tokens (`ignore_eos`), prompts
are not cached. What the gateway is told of an engine, its seconds alone for each step, is measured on it
at the start, from the engine's own timings. Alpha is the default: nothing is tuned.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from e2e.engines.models import path_of
from tests.bench.cpu_limit import limited
from tests.bench.gateway_rig import free_port
from tests.bench.live_workflows import (
    HEAD,
    ROUND_ROBIN,
    TRACE,
    Policy,
    Rig,
    prompt_of,
    rows,
    run,
)
from tests.bench.workflows import SLO_SCALE, Sample, sample_of

from motley_planner.dispatch import DispatchRule
from motley_planner.simulator.workflow_traces import ALONE_S, LENGTHS, Call, Query
from motley_planner.simulator.workflows import GPUS, Fleet, WorkflowRun

MODEL = "smollm2-135m"
FASTEST = 0.45  # of a core
PROMPT, ANSWER = 1 / 64, 1 / 16
PARALLEL, CONTEXT = 8, 4096
KV_TOKENS = 512.0  # at work in an engine under the order of urgency: some 2 to 8 calls
SEEDS, QUERIES, PATH = 3, 10, "/v1/completions"
LOADS = (3.0,)  # times what the engines do one call at a time
_START_S, _CALL_S = 120.0, 300.0
_LARGEST = tuple(LENGTHS).index("generate")


@dataclass(frozen=True, slots=True)
class Profile:
    """Measured seconds of a prompt's and of an answer's token, alone."""

    prefill_s: float
    decode_s: float


def share_of(gpu: str) -> float:
    """The part of a core that stands for a GPU."""
    return FASTEST * ALONE_S["A100"][_LARGEST] / ALONE_S[gpu][_LARGEST]


def names() -> tuple[str, ...]:
    """The engines' names, which tell two of a kind apart."""
    return tuple(f"{gpu}-like-{number}" for number, gpu in enumerate(GPUS))


def body_of(call: Call, serial: int) -> dict[str, Any]:
    """A call as the engines are asked it: its tokens, no template around them, and no cache."""
    text, most = prompt_of(serial, call.prompt_tokens), round(call.output_tokens)
    asked = {"prompt": text, "max_tokens": most, "ignore_eos": True}
    return asked | {"cache_prompt": False, "temperature": 0.0}


def scaled(call: Call) -> Call:
    """A call of a size that a CPU does in about a second."""
    prompt = max(1.0, round(PROMPT * call.prompt_tokens))
    return Call(call.step, prompt, max(1.0, round(ANSWER * call.output_tokens)))


def sample_for(profiles: Sequence[Profile], load: float, seed: int, queries: int) -> Sample:
    """The first queries of a draw, scaled; arrivals at `load` times `serial_rate`."""
    rate = load * serial_rate(profiles)
    drawn = sample_of(TRACE, 1.0, seed)
    small: list[Query] = [
        tuple(tuple(map(scaled, stage)) for stage in query) for query in drawn.queries[:queries]
    ]
    arrival_s = [when / rate for when in drawn.arrival_s[:queries]]
    base_s = statistics.fmean(query_s(query, each) for query in small for each in profiles)
    return Sample(small, arrival_s, [SLO_SCALE * base_s] * queries)


def query_s(query: Query, profile: Profile) -> float:
    """Seconds of a query's calls one after another on an engine."""
    calls = [call for stage in query for call in stage]
    prompts, answers = (
        sum(getattr(c, n) for c in calls) for n in ("prompt_tokens", "output_tokens")
    )
    return float(prompts * profile.prefill_s + answers * profile.decode_s)


def serial_rate(profiles: Sequence[Profile]) -> float:
    """Queries/s of all engines where each does one call at a time."""
    drawn = [
        tuple(tuple(map(scaled, stage)) for stage in query)
        for query in sample_of(TRACE, 1.0, 0).queries
    ]
    return sum(1.0 / statistics.fmean(query_s(query, each) for query in drawn) for each in profiles)


def rig_of(profiles: Sequence[Profile], urls: Sequence[str]) -> Rig:
    """What the bench knows of the engines; lengths of steps stay the published ones, scaled here."""
    by_name = dict(zip(names(), profiles, strict=True))

    def seconds_per_token(name: str) -> tuple[float, float]:
        return PROMPT * by_name[name].prefill_s, ANSWER * by_name[name].decode_s

    @asynccontextmanager
    async def running() -> AsyncIterator[list[str]]:
        yield list(urls)

    fleet = Fleet(names(), seconds_per_token)
    return Rig(fleet, dict.fromkeys(names(), KV_TOKENS), 1.0, body_of, running, PATH)


@asynccontextmanager
async def llamacpp_engines() -> AsyncIterator[list[str]]:
    """The URLs of the engines, each held to its part of a core. Raises: NoLimitError."""
    processes, urls = [], []
    with ExitStack() as limits:
        try:
            for _ in GPUS:
                port = free_port()
                argv = ["-m", "e2e.engines.llamacpp", "--model", str(path_of(MODEL)), "--alias"]
                argv += ["m", "--port", str(port), "--parallel", str(PARALLEL)]
                argv += ["--ctx-size", str(CONTEXT), "--threads", "1"]
                processes.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable,
                        *argv,
                        stdout=asyncio.subprocess.DEVNULL,
                        stderr=asyncio.subprocess.DEVNULL,
                        preexec_fn=partial(os.sched_setaffinity, 0, range(os.cpu_count() or 1)),
                    )
                )
                urls.append(f"http://127.0.0.1:{port}")
            await asyncio.gather(*map(_ready, urls))
            for process, gpu in zip(processes, GPUS, strict=True):
                limits.enter_context(limited(process.pid, share_of(gpu)))
            yield urls
        finally:
            for process in processes:
                process.kill()
                await process.wait()


async def _ready(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(_START_S):
        while True:
            try:
                async with session.get(f"{url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.2)


async def profiles_of(urls: Sequence[str]) -> list[Profile]:
    """The engines' profiles, each taken while the others rest."""
    return [await profile_of(url) for url in urls]


async def profile_of(url: str, rounds: int = 2) -> Profile:
    """The engine's own timings of a long prompt and of an answer; the best of some rounds."""
    call, found = Call("", 200.0, 32.0), []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_CALL_S)) as session:
        for number in range(rounds):
            asked = body_of(call, number)
            async with session.post(url + PATH, json=asked) as answer:
                told = (await answer.json())["timings"]
            prefill_s = told["prompt_ms"] / told["prompt_n"] / 1e3
            found.append((prefill_s, told["predicted_per_token_ms"] / 1e3))
    return Profile(*map(min, zip(*found, strict=True)))


async def compared(
    rig: Rig, profiles: Sequence[Profile], load: float, seeds: int, queries: int
) -> dict[str, list[WorkflowRun]]:
    """Both policies on the same draws, in turns; which one begins changes from draw to draw."""
    ours = DispatchRule("hexgen")
    policies = {
        ROUND_ROBIN: Policy(DispatchRule("roundRobin"), by_step=False),
        f"hexgen, alpha {ours.alpha:.1f}, urgency": Policy(ours),
    }
    runs: dict[str, list[WorkflowRun]] = {name: [] for name in policies}
    for seed in range(seeds):
        sample = sample_for(profiles, load, seed, queries)
        order = list(policies) if seed % 2 == 0 else list(reversed(policies))
        for name in order:
            done = await run(sample, policies[name], rig)
            print(
                f"load {load:g}, seed {seed}, {name}: P95 {done.p95_s:.1f} s, "
                f"{done.answered_per_s:.3f}/s, {done.in_time:.0%} in time",
                file=sys.stderr,
                flush=True,
            )
            runs[name].append(done)
    return runs


async def table(seeds: int, queries: int, loads: Sequence[float] = LOADS) -> str:
    """What the engines are, and what became of the queries, as the page holds it."""
    async with llamacpp_engines() as urls:
        profiles = await profiles_of(urls)
        rig = rig_of(profiles, urls)
        lines = ["| engine | core | prompt tokens/s | tokens/s |", "|---|---|---|---|"]
        for name, gpu, each in zip(names(), GPUS, profiles, strict=True):
            paces = f"{1 / each.prefill_s:.0f} | {1 / each.decode_s:.1f}"
            lines.append(f"| {name} | {share_of(gpu):.2f} | {paces} |")
        lines += ["", HEAD]
        for load in loads:
            runs = await compared(rig, profiles, load, seeds, queries)
            lines += rows(load * serial_rate(profiles), runs)
    return "\n".join(lines)
