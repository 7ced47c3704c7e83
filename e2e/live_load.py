"""Load on a Service of the cluster, as kube-proxy would spread it, with every answer judged.

Arrivals are those of `live_arrivals.py`. Each request goes to one of the ready
endpoints of the Service at that moment; one that cannot even connect is tried on the next, as
a closed port is to a client of kube-proxy whose endpoints lag behind by a moment.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import aiohttp

from e2e.live_questions import QUESTIONS, body_of, is_right

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what became of it. Times in seconds since the load began."""

    sent_s: float
    took_s: float
    status: int  # 0: no answer at all
    is_stream: bool
    is_whole: bool
    is_right: bool
    stage: str
    plan: str
    path: str = ""  # stages called, each with its score
    said: str = ""

    @property
    def is_failed(self) -> bool:
        """Not answered as asked."""
        return self.status != 200 or not self.is_whole


async def run(
    endpoints: Callable[[], list[str]],
    model: str,
    arrivals: Iterator[tuple[int, float]],
    is_over: Callable[[], bool],
) -> list[Answer]:
    """Questions as they arrive until `is_over`; then waits for those under way."""
    began = time.monotonic()
    tasks: list[asyncio.Task[Answer]] = []
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while not is_over():
            (number, gap_s), is_stream = next(arrivals), len(tasks) % 2 == 1
            one = _one(session, endpoints, model, number, is_stream, began)
            tasks.append(asyncio.create_task(one))
            await asyncio.sleep(gap_s)
        return list(await asyncio.gather(*tasks))


async def _one(
    session: aiohttp.ClientSession,
    endpoints: Callable[[], list[str]],
    model: str,
    number: int,
    is_stream: bool,
    began: float,
) -> Answer:
    question, pattern = QUESTIONS[number]
    sent, status, whole, text, said = time.monotonic(), 0, False, "", ""
    stage = plan = path = ""
    for url in endpoints() or [""]:
        try:
            body = body_of(question, model, is_stream)
            async with session.post(f"{url}/v1/completions", json=body) as got:
                status, raw = got.status, await got.read()
                stage = got.headers.get("x-motley-stage", "")
                plan = got.headers.get("x-motley-plan", "")
                path = got.headers.get("x-motley-path", "")
                if status == 200:
                    text, whole = _text(raw, is_stream)
                else:
                    said = raw[:200].decode(errors="replace")
            break
        except aiohttp.ClientConnectorError as error:
            said = str(error)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            break
    took = time.monotonic() - sent
    right = whole and is_right(text, pattern)
    return Answer(sent - began, took, status, is_stream, whole, right, stage, plan, path, said)


def _text(raw: bytes, is_stream: bool) -> tuple[str, bool]:
    """The answer's text, and whether it came to its end."""
    if not is_stream:
        return str(json.loads(raw)["choices"][0]["text"]), True
    parts = [p.removeprefix(b"data: ") for p in raw.split(b"\n\n") if p.startswith(b"data: ")]
    if not parts or parts[-1].strip() != b"[DONE]":
        return "", False
    choices = [json.loads(part).get("choices") or [{}] for part in parts[:-1]]
    return "".join(c[0].get("text") or "" for c in choices), True
