"""Asks the stages: bounded, with time limits, again where an engine was busy or gone.

Answers are scored by the gateway's own code, whatever the estimator, and judged by the checks; what the gateway would always
escalate counts as wrong and has no score.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from motley_planner.dispatch import EstimatorRule, estimator_document
from motley_runtime.calibration.journal import Answer, Journal
from motley_runtime.calibration.questions import Asked
from motley_runtime.gateway.estimators import Estimate, Estimator, graders_of
from motley_runtime.gateway.hard_failures import hard_failure
from motley_runtime.gateway.openai_api import CHAT, ParsedRequest
from motley_runtime.gateway.relay import completion_tokens

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A stage's OpenAI-compatible endpoint: `url` up to but without `/v1`."""

    stage: str
    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard to ask: requests at a time by stage, seconds an answer, attempts, first pause."""

    concurrency: int = 8
    answer_s: float = 300.0
    attempts: int = 4
    pause_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """Whom to ask what, with which fields in every request (`max_tokens`, `temperature`, ...).

    `path` is CHAT, or COMPLETIONS for models that go on with a prompt and were not taught to chat.
    """

    endpoints: Sequence[Endpoint]
    questions: Sequence[Asked]
    fields: Mapping[str, Any]
    pace: Pace = Pace()
    estimating: Estimating = field(default_factory=lambda: Estimating())
    path: str = CHAT

    def mark(self, endpoint: Endpoint, question: Asked) -> str:
        """Changes with the question, the model or the settings."""
        settings: list[Any] = [question.mark, endpoint.model, dict(self.fields)]
        rule = self.rule_of(endpoint)
        if rule != EstimatorRule():
            settings.append(estimator_document(rule))
            settings.append(sorted(self.estimating.features))
        if self.path != CHAT:
            settings.append(self.path)
        return hashlib.sha256(orjson.dumps(settings)).hexdigest()[:16]

    def rule_of(self, endpoint: Endpoint) -> EstimatorRule:
        """How a stage's answers are scored; the last one's are always returned, so as it is cheap."""
        is_last = endpoint.stage == self.endpoints[-1].stage
        return EstimatorRule() if is_last else self.estimating.rule


@dataclass(frozen=True, slots=True)
class Estimating:
    """How answers are scored, and which features are wanted of them beside the estimator's own."""

    rule: EstimatorRule = field(default_factory=EstimatorRule)
    features: tuple[str, ...] = ()
    commands_dir: Path | None = None


class AskingError(Exception):
    """A stage that cannot be asked at all."""


async def ask_all(run: Run, journal: Journal, progress: Callable[[int], None]) -> list[Answer]:
    """Every stage's answer to every question, stage by stage in order.

    `progress` is told how many are there. Raises: AskingError where an endpoint refuses requests.
    """
    done = 0
    results: dict[tuple[str, str], Answer] = {}

    def take(answer: Answer) -> None:
        nonlocal done
        done += 1
        results[answer.stage, answer.question] = answer
        progress(done)

    timeout = aiohttp.ClientTimeout(total=run.pace.answer_s)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        try:
            async with asyncio.TaskGroup() as group:
                for endpoint in run.endpoints:
                    group.create_task(_stage(run, endpoint, journal, http, take))
        except* AskingError as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):  # one of the stage's, in all stages'
                first = first.exceptions[0]
            raise first from None
    return [results[e.stage, q.id] for e in run.endpoints for q in run.questions]


async def _stage(
    run: Run,
    endpoint: Endpoint,
    journal: Journal,
    http: aiohttp.ClientSession,
    take: Callable[[Answer], None],
) -> None:
    """One stage: so many workers share one list of what is left."""
    left = []
    for question in run.questions:
        known = journal.get((endpoint.stage, question.id, run.mark(endpoint, question)))
        if known is not None:
            take(known)
        else:
            left.append(question)
    left.reverse()

    async def work() -> None:
        while left:
            question = left.pop()
            answer = await _answer(run, endpoint, question, http)
            journal.add(answer)
            take(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(run.pace.concurrency, len(left))):
            group.create_task(work())


async def _answer(
    run: Run, endpoint: Endpoint, question: Asked, http: aiohttp.ClientSession
) -> Answer:
    asked = {"messages": question.messages} if run.path == CHAT else {"prompt": question.prompt}
    request = ParsedRequest(run.path, {**run.fields, **asked}, False, False, endpoint.model)
    began_s = time.monotonic()
    found = await _estimated(run, endpoint, request, http)
    seconds = time.monotonic() - began_s
    wrong = "failed" if found is None else found.wrong
    text = "" if found is None else _text(found.answer)
    usage = {} if found is None else found.spent
    prompt = usage.get("prompt_tokens")
    passed = wrong is None and await question.grader.passes(text)
    return Answer(
        stage=endpoint.stage,
        question=question.id,
        mark=run.mark(endpoint, question),
        text=text,
        quality=float(passed),
        features=None if wrong or found is None else found.features,
        wrong=wrong,
        prompt_tokens=prompt if isinstance(prompt, int) else 0,
        output_tokens=completion_tokens(usage),
        seconds=round(seconds, 4),
    )


async def _estimated(
    run: Run, endpoint: Endpoint, request: ParsedRequest, http: aiohttp.ClientSession
) -> Estimate | None:
    """A stage's answer and features, by the code that the gateway runs."""
    rule = run.rule_of(endpoint)
    estimator = Estimator(rule, graders_of(rule, run.estimating.commands_dir), _wrong)
    # All that log-probabilities tell is kept where they are asked for, so that a fit may choose.
    by_tokens = ("mean", "margin") if rule.type == "LogProb" else ()

    async def ask(stage: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        target = next(each for each in run.endpoints if each.stage == stage)
        raw = orjson.dumps({**body, "model": target.model})
        return await _fetch(run.pace, target, path, raw, http)

    wanted = {*run.estimating.features, *by_tokens, rule.feature}
    return await estimator.judged(request, endpoint.stage, ask, wanted)


async def _fetch(
    pace: Pace, endpoint: Endpoint, path: str, body: bytes, http: aiohttp.ClientSession
) -> dict[str, Any] | None:
    """The decoded answer; None where none came at last."""
    headers = {"content-type": "application/json"}
    if endpoint.api_key:
        headers["authorization"] = f"Bearer {endpoint.api_key}"
    trouble = ""
    for attempt in range(pace.attempts):
        if attempt:
            await asyncio.sleep(pace.pause_s * 2 ** (attempt - 1))
        try:
            async with http.post(endpoint.url + path, data=body, headers=headers) as response:
                raw = await response.read()
                status = response.status
        except TimeoutError:
            trouble = ""  # a model that does not come to an end: its answer is wrong
            continue
        except aiohttp.ClientError as error:
            trouble = str(error) or type(error).__name__
            continue
        if status in _AGAIN:
            trouble = ""
            continue
        if status != 200:
            said = raw[:300].decode(errors="replace")
            raise AskingError(
                f"stage {endpoint.stage}: {endpoint.url}{path}: HTTP {status}: {said}"
            )
        return _decoded(raw)
    if not trouble:
        return None
    raise AskingError(f"stage {endpoint.stage}: {endpoint.url}{path}: {trouble}")


def _decoded(raw: bytes) -> dict[str, Any] | None:
    try:
        answer = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        return None
    return dict(answer)


def _wrong(request: ParsedRequest, answer: dict[str, Any]) -> str | None:
    """A hard failure; here a cut-off counts whoever set the limit, for it left no answer."""
    if any(choice.get("finish_reason") == "length" for choice in answer["choices"]):
        return "truncated"
    return hard_failure(request, answer)


def _text(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0] if answer["choices"] else {}
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    return content if isinstance(content, str) else ""
