"""How sure a stage was of its answer, from the token log-probabilities it reports.

Estimator `LogProb`: score = exp(mean log p(token)) over the answer's tokens, the geometric mean
of the token probabilities, in (0, 1]. Of several choices the least certain one counts. An answer
without log-probabilities has no score.
"""

from __future__ import annotations

import math
from typing import Any


def with_logprobs(body: dict[str, Any], is_chat: bool) -> dict[str, Any]:
    """The request of a stage whose answer will be scored: whole, with log-probabilities."""
    asked = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    if is_chat:
        asked["logprobs"] = True
    elif not wants_logprobs(body):
        asked["logprobs"] = 1
    return asked


def wants_logprobs(body: dict[str, Any]) -> bool:
    """Whether the client itself asked for log-probabilities."""
    return body.get("logprobs") not in (None, False)


def strip_logprobs(answer: dict[str, Any]) -> None:
    """Takes out of an answer what only the gateway asked for."""
    for choice in answer.get("choices", ()):
        if "logprobs" in choice:
            choice["logprobs"] = None


def score(answer: dict[str, Any]) -> float | None:
    """The geometric mean token probability of an answer; None where it cannot be told."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    scores = [_choice_score(choice) for choice in choices]
    known = [each for each in scores if each is not None]
    return min(known) if len(known) == len(scores) else None


def _choice_score(choice: Any) -> float | None:
    logprobs = choice.get("logprobs") if isinstance(choice, dict) else None
    if not isinstance(logprobs, dict):
        return None
    if isinstance(logprobs.get("content"), list):
        values = [item.get("logprob") for item in logprobs["content"] if isinstance(item, dict)]
    elif isinstance(logprobs.get("token_logprobs"), list):
        values = logprobs["token_logprobs"]
    else:
        return None
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if not numbers:
        return None
    return min(1.0, math.exp(math.fsum(numbers) / len(numbers)))
