"""What a gateway compares its traffic with, and what it may give up under load: frozen values.

`watch`: per stage before the last, how scores were spread on the calibration table among the
requests that reach it under the plan's mixture, and how good its accepted answers were there; and
what of them is labelled by a second answer. `relief`: policies that are certified like the plan's
and ask the later stages less, to be followed while those are busy, as far as the floor allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from motley_planner.dispatch.estimators import EstimatorError
from motley_planner.dispatch.policy import Policy
from motley_planner.dispatch.rules import compared

LABELS = ("LastStage", "Verdict", "Validator")
MOST_POINTS = 101
_MOST_RELIEF = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """One stage on the calibration table.

    `points` are (score, share of answers that score at most that), over `rows` answers. Of the
    `accepted` ones a share `quality` was right, and a share `agreement` right together with the
    last stage's.
    """

    points: tuple[tuple[float, float], ...]
    rows: int
    accepted: int
    quality: float
    agreement: float


@dataclass(frozen=True, slots=True)
class ShadowRule:
    """Which share of early answers is labelled and how, at most so many a minute."""

    share: float
    label: str = LABELS[0]
    compare: str = "Text"
    per_minute: float = 30.0


@dataclass(frozen=True, slots=True)
class WatchRule:
    """What a gateway watches; nothing where a table has none."""

    references: Mapping[str, Reference] = field(default_factory=dict)
    shadow: ShadowRule | None = None


@dataclass(frozen=True, slots=True)
class ReliefRule:
    """Policies (share 0) to follow while a later stage is busy, as far as `floor` allows.

    Busy: its least busy replica has more than `busy_s` seconds of work at its planned capacity. What the
    plan's own policies exceed the floor by is kept for `window_s` seconds of requests.
    """

    floor: float
    policies: tuple[Policy, ...]
    busy_s: float = 20.0
    window_s: float = 600.0


def watch_document(rule: WatchRule) -> dict[str, Any]:
    """The rule as JSON; `parse_watch` is its inverse."""
    document: dict[str, Any] = {
        "references": {
            name: {
                "points": [list(point) for point in each.points],
                "rows": each.rows,
                "accepted": each.accepted,
                "quality": each.quality,
                "agreement": each.agreement,
            }
            for name, each in rule.references.items()
        }
    }
    if rule.shadow is not None:
        document["shadow"] = {
            "share": rule.shadow.share,
            "label": rule.shadow.label,
            "compare": rule.shadow.compare,
            "per_minute": rule.shadow.per_minute,
        }
    return document


def relief_document(rule: ReliefRule) -> dict[str, Any]:
    """The rule as JSON; `parse_relief` is its inverse."""
    return {
        "floor": rule.floor,
        "busy_s": rule.busy_s,
        "window_s": rule.window_s,
        "policies": [
            {"id": each.id, "thresholds": dict(each.thresholds), "quality": each.quality}
            for each in rule.policies
        ],
    }


def parse_watch(value: object, stages: Sequence[str]) -> WatchRule | None:
    """The rule in a decoded document. Raises: EstimatorError with the field and the rule."""
    if value is None:
        return None
    item = _mapping(value, "watch")
    references = {}
    for name, each in _mapping(item.get("references", {}), "watch.references").items():
        if name not in stages[:-1]:
            raise EstimatorError(f"watch.references.{name}: is no stage before the last")
        references[name] = _reference(each, f"watch.references.{name}")
    return WatchRule(references, _shadow(item.get("shadow")))


def parse_relief(
    value: object, stages: Sequence[str], policies: Sequence[Policy]
) -> ReliefRule | None:
    """The rule in a decoded document. Raises: EstimatorError with the field and the rule."""
    if value is None:
        return None
    item = _mapping(value, "relief")
    if any(each.quality is None or each.classes for each in policies):
        raise EstimatorError("relief: every policy must have a quality and be for all classes")
    given = item.get("policies")
    if not isinstance(given, list) or len(given) > _MOST_RELIEF:
        raise EstimatorError(f"relief.policies: must be a list of at most {_MOST_RELIEF}")
    found = []
    for i, each in enumerate(given):
        at = f"relief.policies[{i}]"
        row = _mapping(each, at)
        limits = _mapping(row.get("thresholds"), f"{at}.thresholds")
        if set(limits) != set(stages[:-1]):
            raise EstimatorError(f"{at}.thresholds: must be of every stage before the last")
        thresholds = {
            name: _number(limits[name], f"{at}.thresholds.{name}", most=10.0) for name in limits
        }
        found.append(
            replace(
                Policy(str(row.get("id")), 0.0, thresholds),
                quality=_number(row.get("quality"), f"{at}.quality"),
            )
        )
    return ReliefRule(
        _number(item.get("floor"), "relief.floor"),
        tuple(found),
        _number(item.get("busy_s", 20.0), "relief.busy_s", most=86_400.0),
        _number(item.get("window_s", 600.0), "relief.window_s", most=86_400.0),
    )


def _reference(value: object, at: str) -> Reference:
    item = _mapping(value, at)
    points = item.get("points")
    if not isinstance(points, list) or not 1 <= len(points) <= MOST_POINTS:
        raise EstimatorError(f"{at}.points: must be 1 to {MOST_POINTS} pairs")
    pairs = []
    for each in points:
        if not isinstance(each, list) or len(each) != 2:
            raise EstimatorError(f"{at}.points: must be pairs")
        pairs.append((_number(each[0], f"{at}.points"), _number(each[1], f"{at}.points")))
    if not all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(pairs)):
        raise EstimatorError(f"{at}.points: must rise")
    rows = _number(item.get("rows"), f"{at}.rows", most=1e9)
    accepted = _number(item.get("accepted"), f"{at}.accepted", most=1e9)
    if rows < 1:
        raise EstimatorError(f"{at}.rows: must be at least 1")
    return Reference(
        tuple(pairs),
        int(rows),
        int(accepted),
        _number(item.get("quality"), f"{at}.quality"),
        _number(item.get("agreement"), f"{at}.agreement"),
    )


def _shadow(value: object) -> ShadowRule | None:
    if value is None:
        return None
    item = _mapping(value, "watch.shadow")
    label = item.get("label", LABELS[0])
    if label not in LABELS:
        raise EstimatorError(
            f"watch.shadow.label: must be one of {', '.join(LABELS)}, is {label!r}"
        )
    return ShadowRule(
        _number(item.get("share"), "watch.shadow.share"),
        label,
        compared(item.get("compare", "Text"), "watch.shadow.compare"),
        _number(item.get("per_minute", 30.0), "watch.shadow.per_minute", most=60_000.0),
    )


def _mapping(value: object, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise EstimatorError(f"{at}: must be an object")
    return value


def _number(value: object, at: str, most: float = 1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EstimatorError(f"{at}: must be a number")
    if not math.isfinite(value) or not 0.0 <= value <= most:
        raise EstimatorError(f"{at}: must be from 0 to {most:g}, is {value!r}")
    return float(value)
