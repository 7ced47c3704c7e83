"""How sure a stage was of its answer, from the token log-probabilities it reports.

Estimator `LogProb`: score = exp(mean log p(token)) over the answer's tokens, the geometric mean
of the token probabilities, in (0, 1]. Of several choices the least certain one counts. An answer
without log-probabilities has no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from motley_planner.dispatch import RoutingTable

MAX_SCORE = 1.0  # of the LogProb estimator; a threshold above it skips the stage


_LEAST_LOGPROB = -1e9  # its probability is 0; sums of any number of these are finite


def logprob_of(value: float) -> float:
    """A log-probability as it can be summed: at most 0, and finite."""
    return max(_LEAST_LOGPROB, min(0.0, float(value)))


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
    found = features(answer)
    return None if found is None else found["mean"]


def features(answer: dict[str, Any]) -> dict[str, float] | None:
    """What an answer's log-probabilities say, each 0..1; None where it cannot be told.

    `mean`: geometric mean of the token probabilities; `least` and `tenth`: their minimum and 10 %
    quantile; `margin`: mean lead of a token over the next likely one, where the engine names both.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    found = [_choice_features(choice) for choice in choices]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    shared = set.intersection(*(set(each) for each in known))
    return {name: min(each[name] for each in known) for name in shared}


def features_of(logprobs: list[float]) -> dict[str, float] | None:
    """As `features`, of a list of `logprob_of`s of tokens; without `margin`."""
    if not logprobs:
        return None
    mean = math.exp(math.fsum(logprobs) / len(logprobs))
    tenth = sorted(logprobs)[len(logprobs) // 10]
    return {"mean": mean, "least": _probability(min(logprobs)), "tenth": _probability(tenth)}


def score_by(table: RoutingTable, stage: str, found: Mapping[str, float] | None) -> float | None:
    """The score that thresholds are about: fitted where the plan says so; None where unknown."""
    if found is None:
        return None
    fitted = table.calibrators.get(stage)
    return found.get(table.estimator.feature) if fitted is None else fitted.score(found)


def with_top_logprobs(asked: dict[str, Any], is_chat: bool) -> dict[str, Any]:
    """A scored request that also asks for each token's runner-up, which `margin` needs."""
    if is_chat:
        top = asked.get("top_logprobs")
        return asked if isinstance(top, int) and top >= 2 else {**asked, "top_logprobs": 2}
    known = asked.get("logprobs")
    return asked if isinstance(known, int) and known >= 2 else {**asked, "logprobs": 2}


def _choice_features(choice: Any) -> dict[str, float] | None:
    logprobs = choice.get("logprobs") if isinstance(choice, dict) else None
    if not isinstance(logprobs, dict):
        return None
    if isinstance(logprobs.get("content"), list):
        items = [item for item in logprobs["content"] if isinstance(item, dict)]
        values = [item.get("logprob") for item in items]
        tops = [_listed(item.get("top_logprobs")) for item in items]
    elif isinstance(logprobs.get("token_logprobs"), list):
        values = logprobs["token_logprobs"]
        given = logprobs.get("top_logprobs")
        tops = [_listed(each) for each in given] if isinstance(given, list) else []
    else:
        return None
    found = features_of([logprob_of(value) for value in values if isinstance(value, int | float)])
    if found is not None and tops and all(len(top) > 1 for top in tops):
        leads = [_probability(top[0]) - _probability(top[1]) for top in tops]
        found["margin"] = math.fsum(leads) / len(leads)
    return found


def _listed(top: Any) -> list[float]:
    """The log-probabilities of one token's candidates, likeliest first."""
    if isinstance(top, dict):
        values = list(top.values())
    elif isinstance(top, list):
        values = [each.get("logprob") for each in top if isinstance(each, dict)]
    else:
        return []
    return sorted((float(v) for v in values if isinstance(v, int | float)), reverse=True)


def _probability(logprob: float) -> float:
    return min(1.0, math.exp(min(0.0, logprob)))
