"""Branch rules as JSON: in a routing file's stage, and in what a request asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from motley_planner.dispatch.branching import (
    CHOICES,
    EXTRACTORS,
    MEASURES,
    MOST_SAMPLES,
    REWARD_SCALES,
    BranchRule,
    Confidence,
    Extraction,
    Pruning,
    Reward,
)
from motley_planner.dispatch.fields import RoutingError

MOST_TOKENS = 1_000_000
MOST_PATTERN = 256
FIELDS: Mapping[str, Collection[str]] = {  # of a rule, and of what is in it
    "": ("samples", "stop_after", "prune", "score", "choose", "extract"),
    "prune": ("below", "most", "every_tokens"),
    "score": ("type", "over", "tokens", "url", "model", "path", "scale", "trust_zone"),
    "extract": ("type", "pattern"),
}


def branch_document(rule: BranchRule) -> dict[str, Any]:
    """The rule as JSON; `parse_branches` is its inverse."""
    document: dict[str, Any] = {
        "samples": rule.samples,
        "stop_after": rule.stop_after,
        "choose": rule.choose,
    }
    if rule.prune is not None:
        prune = rule.prune
        document["prune"] = {
            "below": prune.below,
            "most": prune.most,
            "every_tokens": prune.every_tokens,
        }
    if isinstance(rule.score, Reward):
        score = rule.score
        document["score"] = {"type": "Reward", "url": score.url, "model": score.model}
        document["score"] |= {"path": score.path, "scale": score.scale}
        if score.trust_zone:
            document["score"]["trust_zone"] = score.trust_zone
    else:
        over, tokens = rule.score.over, rule.score.tokens
        document["score"] = {"type": "Confidence", "over": over, "tokens": tokens}
    if rule.choose == "Vote":
        document["extract"] = {"type": rule.extract.type}
        if rule.extract.pattern:
            document["extract"]["pattern"] = rule.extract.pattern
    return document


def parse_branches(value: object, at: str, base: BranchRule | None = None) -> BranchRule:
    """The rule in a decoded document; what it leaves out is `base`'s, else the default.

    Defaults: half of the samples (rounded up) end it; pruning off; confidence of the last 256 tokens.
    Unknown fields are ignored, as in the rest of a routing file.
    Raises: RoutingError naming the field.
    """
    item = _mapping(value, at)
    samples = base.samples if base else None
    if "samples" in item or samples is None:
        samples = _whole(item.get("samples"), f"{at}.samples", 1, MOST_SAMPLES)
    stop = base.stop_after if base and base.samples == samples else math.ceil(samples / 2)
    if "stop_after" in item:
        stop = _whole(item["stop_after"], f"{at}.stop_after", 1, samples)
    prune = base.prune if base else None
    if "prune" in item:
        prune = _pruning(item["prune"], f"{at}.prune", samples, stop)
    elif prune is not None and base is not None and base.samples != samples:
        prune = Pruning(prune.below, min(prune.most, samples - 1), prune.every_tokens)
    score = base.score if base else Confidence()
    if "score" in item:
        score = _score(item["score"], f"{at}.score")
    choose = _one_of(item.get("choose", base.choose if base else "Best"), f"{at}.choose", CHOICES)
    extract = base.extract if base else Extraction()
    if "extract" in item:
        extract = _extraction(item["extract"], f"{at}.extract")
    return BranchRule(samples, stop, prune, score, choose, extract)


def unknown_field(value: Mapping[str, Any]) -> str | None:
    """The path of a field that no rule has; None where there is none such."""
    for part, known in FIELDS.items():
        inner = value.get(part) if part else value
        for name in inner if isinstance(inner, Mapping) else ():
            if name not in known:
                return f"{part}.{name}" if part else str(name)
    return None


def _pruning(value: object, at: str, samples: int, stop: int) -> Pruning | None:
    if value is None:
        return None
    item = _mapping(value, at)
    most = max(0, min(samples - stop, samples - 1))
    return Pruning(
        _share(item.get("below", 0.5), f"{at}.below"),
        _whole(item.get("most", most), f"{at}.most", 0, max(0, samples - 1)),
        _whole(item.get("every_tokens", 400), f"{at}.every_tokens", 1, MOST_TOKENS),
    )


def _score(value: object, at: str) -> Confidence | Reward:
    item = _mapping(value, at)
    kind = _one_of(item.get("type", "Confidence"), f"{at}.type", ("Confidence", "Reward"))
    if kind == "Confidence":
        return Confidence(
            _one_of(item.get("over", "Tail"), f"{at}.over", MEASURES),
            _whole(item.get("tokens", 256), f"{at}.tokens", 1, MOST_TOKENS),
        )
    url = _text(item.get("url"), f"{at}.url").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise RoutingError(f"{at}.url", f"must be an http(s) URL, is {url!r}")
    path = _text(item.get("path", "/pooling"), f"{at}.path")
    if not path.startswith("/"):
        raise RoutingError(f"{at}.path", f"must begin with a slash, is {path!r}")
    model = _text(item.get("model"), f"{at}.model")
    scale = _one_of(item.get("scale", "Probability"), f"{at}.scale", REWARD_SCALES)
    zone = item.get("trust_zone", "")
    if not isinstance(zone, str):
        raise RoutingError(f"{at}.trust_zone", "must be a string")
    return Reward(url, model, path, scale, zone)


def _extraction(value: object, at: str) -> Extraction:
    item = _mapping(value, at)
    kind = _one_of(item.get("type"), f"{at}.type", EXTRACTORS)
    if kind != "Regex":
        return Extraction(kind)
    pattern = _text(item.get("pattern"), f"{at}.pattern")
    if len(pattern) > MOST_PATTERN:
        raise RoutingError(f"{at}.pattern", f"must have at most {MOST_PATTERN} characters")
    try:
        re.compile(pattern)
    except re.error as error:
        raise RoutingError(f"{at}.pattern", f"is no regular expression: {error}") from error
    return Extraction(kind, pattern)


def _mapping(value: object, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RoutingError(at, "must be an object")
    return value


def _whole(value: object, at: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RoutingError(at, f"must be a whole number from {least} to {most}, is {value!r}")
    return value


def _share(value: object, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RoutingError(at, f"must be a number from 0 to 1, is {value!r}")
    return float(value)


def _one_of(value: object, at: str, allowed: Collection[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise RoutingError(at, f"must be one of {', '.join(allowed)}, is {value!r}")
    return value


def _text(value: object, at: str) -> str:
    if not isinstance(value, str) or not value:
        raise RoutingError(at, "must be a non-empty string")
    return value
