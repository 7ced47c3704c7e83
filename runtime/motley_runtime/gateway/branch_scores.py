"""How good a branch looks while it grows: from its log-probabilities, or asked of a reward pool.

A score is a number from 0 to 1, or None where nobody can say; a branch without one is never given
up. The windowed means are those of DeepConf (arXiv 2508.15260), of the sampled tokens'
log-probabilities.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Protocol

import orjson

from motley_planner.dispatch import BranchRule, Confidence, Reward
from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.metrics import Metrics
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.tracing import Trace
from motley_runtime.gateway.transcripts import Transcript
from motley_runtime.gateway.upstream import Call, Upstream

_REWARD_S = 5.0  # a judge slower than this costs more than the tokens that it saves


class Scored(Protocol):
    """What a score needs to know of its request."""

    @property
    def request(self) -> ParsedRequest: ...
    @property
    def request_id(self) -> str: ...
    @property
    def trust_zones(self) -> frozenset[str] | None: ...
    @property
    def trace(self) -> Trace: ...


class ConfidenceMeter:
    """exp of a mean log-probability, over all tokens or a window of them."""

    def __init__(self, how: Confidence) -> None:
        self._how = how
        self._sums = [0.0]
        self._least = math.inf

    def score(self, transcript: Transcript) -> float | None:
        """The score of what has come so far; None where a token's log-probability is missing."""
        sums, window = self._sums, self._how.tokens
        for value in transcript.logprobs[len(sums) - 1 :]:
            sums.append(sums[-1] + value)
            if len(sums) > window:
                self._least = min(self._least, (sums[-1] - sums[-1 - window]) / window)
        known = len(sums) - 1
        if not known or known < transcript.tokens:
            return None
        if self._how.over == "Mean" or known <= window:
            mean = sums[-1] / known
        elif self._how.over == "Tail":
            mean = (sums[-1] - sums[-1 - window]) / window
        else:
            mean = self._least
        return math.exp(min(0.0, mean))


class BranchScorer:
    """Scores one branch of one request."""

    def __init__(self, rule: BranchRule, judge: RewardPool) -> None:
        self._rule, self._judge = rule, judge
        how = rule.score
        self._meter = ConfidenceMeter(how) if isinstance(how, Confidence) else None

    async def score(self, job: Scored, transcript: Transcript) -> float | None:
        """The branch's score so far."""
        if self._meter is not None:
            return self._meter.score(transcript)
        assert isinstance(self._rule.score, Reward)
        return await self._judge.score(self._rule.score, job, transcript.text())


class RewardPool:
    """Asks a pool of a reward model; one that does not answer, or may not be asked, gives no score.

    It is sent the prompt and what was answered so far, so it has to be where these may go: in the
    trust zones of the gateway (`zones`; None: all) and in those of the request.
    """

    def __init__(
        self, upstream: Upstream, metrics: Metrics, zones: frozenset[str] | None = None
    ) -> None:
        self._upstream, self._metrics, self._zones = upstream, metrics, zones

    async def score(self, reward: Reward, job: Scored, text: str) -> float | None:
        """The reward of a partial answer, 0 to 1."""
        if any(
            z is not None and reward.trust_zone not in z for z in (self._zones, job.trust_zones)
        ):
            self._metrics.unscored_branches.inc()
            return None
        body = orjson.dumps(_question(reward, job.request, text))
        call = Call(reward.url + reward.path, body, job.request_id, job.trace.headers())
        try:
            async with asyncio.timeout(_REWARD_S):
                answer = await self._upstream.fetch(call)
            found = _reward(orjson.loads(answer.body)) if answer.status == 200 else None
        except (UpstreamError, TimeoutError, orjson.JSONDecodeError):
            found = None
        if found is None:
            self._metrics.unscored_branches.inc()
            return None
        if reward.scale == "Logit":
            return 1.0 / (1.0 + math.exp(-max(-500.0, min(500.0, found))))
        return max(0.0, min(1.0, found))


def _question(reward: Reward, request: ParsedRequest, text: str) -> dict[str, Any]:
    """What the pool is asked, as vLLM's pooling, classification and score endpoints read it."""
    body, asked = request.body, {"model": reward.model}
    given = body.get("prompt")
    prompt = given if isinstance(given, str) else ""  # tokens are not turned back into text
    if reward.path.endswith("/score"):
        prompt = _last_said(body["messages"]) if request.is_chat else prompt
        return {**asked, "text_1": prompt, "text_2": text}
    if request.is_chat:
        said = {"role": "assistant", "content": text}
        return {**asked, "messages": [*body["messages"], said]}
    return {**asked, "input": prompt + text}


def _last_said(messages: list[Any]) -> str:
    for message in reversed(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            return "".join(part for part in parts if isinstance(part, str))
    return ""


def _reward(answer: Any) -> float | None:
    """The last number of the first result: a score, a class's probability, or the last step's."""
    data = answer.get("data") if isinstance(answer, dict) else None
    value = data[0] if isinstance(data, list) and data else None
    if isinstance(value, dict):
        value = next((value[k] for k in ("score", "probs", "data") if k in value), None)
    while isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
