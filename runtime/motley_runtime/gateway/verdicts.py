"""Asks a model whether an answer is right, and reads its chance of yes."""

from __future__ import annotations

import math
import re
from typing import Any

from motley_runtime.gateway.comparing import text_of
from motley_runtime.gateway.openai_api import ParsedRequest

QUESTION = "Is the answer above right? Reply with the single word Yes or No."
_VERDICT_TOKENS, _ALTERNATIVES = 8, 5
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def verify_body(request: ParsedRequest, answer: dict[str, Any]) -> dict[str, Any]:
    """The request that asks whether an answer is right.

    The conversation comes first and unchanged, so that a replica that has it in its cache need not
    read it again.
    """
    given = request.body
    asked = given["messages"] if request.is_chat else [{"role": "user", "content": given["prompt"]}]
    said = {"role": "assistant", "content": text_of(answer["choices"][0])}
    return {
        "messages": [*asked, said, {"role": "user", "content": QUESTION}],
        "max_tokens": _VERDICT_TOKENS,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": _ALTERNATIVES,
    }


def verified(verdict: dict[str, Any]) -> float | None:
    """The chance (0..1) of "yes" that a verdict states; None where it is neither."""
    choices = verdict["choices"]
    if not choices:
        return None
    logprobs = choices[0].get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    for token in tokens if isinstance(tokens, list) else ():
        if isinstance(token, dict) and _word(token) is not None:
            return _chance(token)
    found = _VERDICT.search(text_of(choices[0]))
    return None if found is None else float(found.group().lower() == "yes")


def _chance(token: dict[str, Any]) -> float | None:
    listed = token.get("top_logprobs")
    others = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    if len(others) < 2:  # nothing is known of the other word but what is left
        own = _probability(token)
        return own if _word(token) == "yes" else 1.0 - own
    mass = {"yes": 0.0, "no": 0.0}
    for each in others:
        word = _word(each)
        if word is not None:
            mass[word] += _probability(each)
    total = mass["yes"] + mass["no"]
    return mass["yes"] / total if total > 0.0 else None


def _word(token: dict[str, Any]) -> str | None:
    text = str(token.get("token", "")).strip(" \t\n.,!*\"'\u0120\u2581").lower()
    return text if text in ("yes", "no") else None


def _probability(token: dict[str, Any]) -> float:
    value = token.get("logprob")
    return math.exp(min(0.0, value)) if isinstance(value, int | float) else 0.0
