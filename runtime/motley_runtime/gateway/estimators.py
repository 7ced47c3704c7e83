"""Asks a stage and scores its answer, by the estimator that the plan names.

- LogProb: token log-probabilities of the answer (scoring.py).
- Validator: the share of checks that the answer passes; of several choices the worst counts.
- SelfConsistency: so many answers are sampled; the first of the most frequent ones is taken, and
  the share of the samples that say the same is its score. Samples that are plainly wrong, or
  did not come, say nothing, so that they lower it.
- SelfVerify: a stage is asked whether the answer is right. The score is P(yes) / (P(yes) + P(no))
  of its first token that is either; of an engine without log-probabilities the bare verdict.

The gateway and `motley calibrate` run this same code: only `ask`, which carries a request to a
stage, differs. So thresholds mean the same in both.
Source: Wang et al. 2022 (self-consistency); Aggarwal et al. 2023, AutoMix (self-verification).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from motley_planner.dispatch import LOGPROB_FEATURES, EstimatorRule, RoutingError, RoutingTable
from motley_runtime.checks import CheckError, Grader, parse_check
from motley_runtime.gateway.comparing import key_of, text_of
from motley_runtime.gateway.errors import GatewayError, UpstreamError
from motley_runtime.gateway.hard_failures import hard_failure
from motley_runtime.gateway.openai_api import CHAT, ParsedRequest, add_usage, seed_of, usage_of
from motley_runtime.gateway.scoring import features, with_logprobs, with_top_logprobs
from motley_runtime.gateway.verdicts import verified, verify_body

Ask = Callable[[str, str, dict[str, Any]], Awaitable[dict[str, Any] | None]]
"""Stage, path and body (without model) to the decoded answer; None where it has no choices."""
Wrong = Callable[[ParsedRequest, dict[str, Any]], str | None]

_CHECK_S = 60.0  # of all checks of one answer; each has limits of its own
_WHOLE = ("stream", "stream_options")
_SAMPLED = ("n", "best_of", "seed")


@dataclass(slots=True)
class Estimate:
    """An answer and what is known of it: what is plainly `wrong`, else its features.

    `spent` is the usage of all calls, `extra` stage and completion tokens of those beside the
    answer's own.
    """

    answer: dict[str, Any]
    wrong: str | None = None
    features: dict[str, float] | None = None
    spent: Mapping[str, Any] = field(default_factory=dict)
    extra: list[tuple[str, int]] = field(default_factory=list)


class Estimator:
    """One rule, ready to run."""

    def __init__(
        self, rule: EstimatorRule, graders: tuple[Grader, ...] = (), wrong: Wrong = hard_failure
    ) -> None:
        self.rule, self.graders, self._wrong = rule, graders, wrong

    async def judged(
        self, request: ParsedRequest, stage: str, ask: Ask, fitted: Collection[str] = ()
    ) -> Estimate | None:
        """A stage's answer with the features `fitted` (default: the estimator's own).

        None where no answer came. Raises: what `ask` does.
        """
        rule = self.rule
        body = _body(request, fitted or (rule.feature,))
        if rule.type == "SelfConsistency":
            return await self._agreed(request, stage, ask, body)
        answer = await ask(stage, request.path, body)
        if answer is None:
            return None
        found = Estimate(answer, self._wrong(request, answer), spent=usage_of(answer))
        if found.wrong is None:
            found.features = features(answer)
            if rule.type == "Validator":
                found.features = _with(found.features, "passed", await self._passed(answer))
            elif rule.type == "SelfVerify":
                await self._verify(request, stage, ask, found)
        return found

    async def _agreed(
        self, request: ParsedRequest, stage: str, ask: Ask, body: dict[str, Any]
    ) -> Estimate | None:
        rule = self.rule
        bodies = [_sample(body, request.body.get("seed"), i, rule) for i in range(rule.samples)]
        came = await asyncio.gather(
            *(ask(stage, request.path, each) for each in bodies), return_exceptions=True
        )
        for each in came:
            if isinstance(each, BaseException) and not isinstance(
                each, GatewayError | UpstreamError
            ):
                raise each
        answers = [each for each in came if isinstance(each, dict)]
        if not answers:
            failed = next((each for each in came if isinstance(each, BaseException)), None)
            if failed is not None:
                raise failed
            return None
        wrongs = [self._wrong(request, each) for each in answers]
        votes = [
            None if wrong else key_of(each, rule.compare)
            for each, wrong in zip(answers, wrongs, strict=True)
        ]
        counts = Counter(vote for vote in votes if vote is not None)
        best, agreeing = counts.most_common(1)[0] if counts else (None, 0)
        index = votes.index(best) if best is not None else 0
        found = Estimate(answers[index], wrongs[index])
        for i, each in enumerate(answers):
            usage = usage_of(each)
            found.spent = add_usage(found.spent, usage)
            if i != index:
                found.extra.append((stage, _completion_tokens(usage)))
        if found.wrong is None:
            share = agreeing / rule.samples
            found.features = _with(features(found.answer), "agreement", share)
        return found

    async def _verify(self, request: ParsedRequest, stage: str, ask: Ask, found: Estimate) -> None:
        """Adds the verdict; without one the answer stays unscored."""
        verifier = self.rule.verifier or stage
        try:
            verdict = await ask(verifier, CHAT, verify_body(request, found.answer))
        except (GatewayError, UpstreamError):
            verdict = None
        if verdict is not None:
            usage = usage_of(verdict)
            found.spent = add_usage(found.spent, usage)
            found.extra.append((verifier, _completion_tokens(usage)))
        chance = None if verdict is None else verified(verdict)
        found.features = _with(found.features, "verified", chance)

    async def _passed(self, answer: dict[str, Any]) -> float:
        return await passed_share(self.graders, answer)


async def passed_share(graders: Collection[Grader], answer: dict[str, Any]) -> float:
    """The share (0..1) of the checks that an answer passes; of several choices the worst counts."""
    worst = 1.0
    try:
        async with asyncio.timeout(_CHECK_S):
            for choice in answer["choices"]:
                text = text_of(choice)
                passed = [await grader.passes(text) for grader in graders]
                worst = min(worst, sum(passed) / len(passed))
    except TimeoutError:
        return 0.0
    return worst


def _with(found: dict[str, float] | None, name: str, value: float | None) -> dict[str, float]:
    return (found or {}) | ({} if value is None else {name: value})


def _body(request: ParsedRequest, wanted: Collection[str]) -> dict[str, Any]:
    """A request for a whole answer, with log-probabilities where a feature needs them."""
    if not any(name in LOGPROB_FEATURES for name in wanted):
        return {key: value for key, value in request.body.items() if key not in _WHOLE}
    body = with_logprobs(request.body, request.is_chat)
    return with_top_logprobs(body, request.is_chat) if "margin" in wanted else body


def _sample(body: dict[str, Any], seed: Any, index: int, rule: EstimatorRule) -> dict[str, Any]:
    """One of several samples: never the same seed twice, and one choice each."""
    sample = {key: value for key, value in body.items() if key not in _SAMPLED}
    sample["temperature"] = rule.temperature
    if isinstance(seed, int):
        sample["seed"] = seed_of(seed, index)
    return sample


def _completion_tokens(usage: Mapping[str, Any]) -> int:
    count = usage.get("completion_tokens")
    return count if isinstance(count, int) and count > 0 else 0


@lru_cache(maxsize=32)
def estimator_of(rule: EstimatorRule, commands_dir: Path | None = None) -> Estimator:
    """The estimator of a rule. Raises: CheckError."""
    return Estimator(rule, graders_of(rule, commands_dir))


def graders_of(rule: EstimatorRule, commands_dir: Path | None) -> tuple[Grader, ...]:
    """The checks of a rule. Raises: CheckError."""
    return tuple(parse_check(orjson.loads(each), commands_dir) for each in rule.checks)


def check_rules(table: RoutingTable, commands_dir: Path | None = None) -> None:
    """Refuses a table whose checks cannot be run here. Raises: RoutingError."""
    for index, each in enumerate(table.estimator.checks):
        try:
            parse_check(orjson.loads(each), commands_dir)
        except CheckError as error:
            text = str(error).removeprefix("check.").removeprefix("check: ")
            raise RoutingError(f"estimator.checks[{index}]", text) from error
