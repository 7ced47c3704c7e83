"""What is planned for, given what was in force and what was measured: noise changes nothing.

Upwards when the last steps' interval lies above the one in force; downwards when those of the last
steps and of the whole window lie below it and the cooldown is over; both by `BAND` at least. What
is in force comes from the status, so a restart settles nothing anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from motley_operator.api.quantities import Quantity
from motley_operator.api.status import DemandClass, DemandStatus
from motley_operator.api.traffic import RequestClass, Workload
from motley_operator.demand.histograms import count_of, deviation_of, mean_of
from motley_operator.demand.intervals import Rate
from motley_operator.demand.mixtures import shares_by_length
from motley_operator.demand.sources import BROKEN, Found, Reason
from motley_operator.demand.waking import HELD, after_word, wake_rate, woken
from motley_operator.domain.measurement import Measurement

BAND = (
    0.10  # relative change of a rate or a length, absolute change of a share, that is worth a plan
)
FEWEST = 100.0  # requests from which lengths and shares are told
SIGMAS = 2.576  # of a normal variable at 99 %


@dataclass(frozen=True, slots=True)
class Context:
    """What else settling depends on."""

    now: float  # Unix seconds
    cooldown_s: float
    split: bool  # whether lengths of engines are those of the requests (pools)
    held_at: str = ""  # the last word of gateways that hold requests


@dataclass(frozen=True, slots=True)
class Settled:
    """The demand in force, and what is said about its measurement."""

    demand: DemandStatus | None  # None: the spec's figures
    reason: Reason
    message: str
    unknown: bool = False  # nothing was measured ever: what runs may serve another rate than stated

    @property
    def status(self) -> str:
        """Whether demand is measured: True, False, or Unknown where it cannot be yet."""
        if self.reason in BROKEN:
            return "False"
        return "True" if self.reason in (Reason.MEASURED, Reason.IDLE) else "Unknown"


def settle(
    workload: Workload,
    before: DemandStatus | None,
    found: Found,
    measured: Measurement,
    context: Context,
) -> Settled:
    """The demand to plan for; `before` itself wherever the measurement is no reason to change it."""
    before = _fitting(before, workload)
    old = _in_force(before, workload)
    if woken(before, context.held_at, old.high):
        return Settled(_woken(workload, before, old, context), found.reason, found.message)
    kept = Settled(before, found.reason, found.message)
    if found.recent is None:
        return kept
    rate = _new_rate(old, found, _cools(before, context))
    classes = _new_classes(workload, before, found, measured, context)
    if rate is None and classes is None:
        return kept
    chosen = rate or old
    if classes is None:
        classes = before.classes if before is not None else _stated(workload)
    demand = DemandStatus(
        source=found.source,
        requests_per_second=_written(_bounded(chosen.high, workload)),
        low=_written(chosen.low),
        high=_written(chosen.high),
        classes=classes,
        time=_timestamp(context.now),
        held_at=context.held_at or (before.held_at if before is not None else None),
    )
    return Settled(demand, found.reason, found.message)


def _woken(
    workload: Workload, before: DemandStatus | None, old: Rate, context: Context
) -> DemandStatus:
    """Requests wait: what is planned for stays, or is a little where it was nothing."""
    rate = _written(wake_rate(workload)) if old.high == 0.0 else None
    nothing = _written(0.0)
    before = before or DemandStatus(
        source=HELD,
        requests_per_second=nothing,
        low=nothing,
        high=nothing,
        classes=_stated(workload),
        time=_timestamp(context.now),
    )
    return after_word(before, context.held_at, rate, _timestamp(context.now))


def planned(workload: Workload, demand: DemandStatus | None) -> Workload:
    """The workload with the figures in force instead of the stated ones."""
    if demand is None:
        return workload
    classes = tuple(RequestClass.model_validate(c.model_dump()) for c in demand.classes)
    rate = _written(_bounded(demand.high.value, workload))
    return workload.model_copy(update={"requests_per_second": rate, "classes": classes})


def _fitting(before: DemandStatus | None, workload: Workload) -> DemandStatus | None:
    """What was in force, unless somebody edited the classes since."""
    if before is None or {c.name for c in before.classes} != {c.name for c in workload.classes}:
        return None
    bounded = _written(_bounded(before.high.value, workload))
    by_name = {c.name: c for c in before.classes}
    ordered = tuple(by_name[c.name] for c in workload.classes)
    return before.model_copy(update={"requests_per_second": bounded, "classes": ordered})


def _in_force(before: DemandStatus | None, workload: Workload) -> Rate:
    if before is None:
        stated = workload.requests_per_second.per_second
        return Rate(stated, stated, stated)
    return Rate(before.high.value, before.low.value, before.high.value)


def _new_rate(old: Rate, found: Found, cools: bool) -> Rate | None:
    recent, whole = found.recent, found.whole
    assert recent is not None
    if recent.low > old.high and recent.high >= old.high * (1.0 + BAND):
        return recent
    if whole is None or cools:
        return None
    if found.reason is Reason.IDLE:  # a whole window without one; an interval never ends at zero
        return Rate(0.0, 0.0, 0.0) if old.high > 0.0 else None
    larger = max(recent, whole, key=lambda rate: rate.high)
    if larger.high < old.low and larger.high <= old.high * (1.0 - BAND):
        return larger
    return None


def _cools(before: DemandStatus | None, context: Context) -> bool:
    if before is None:
        return False
    try:
        since = datetime.fromisoformat(before.time).timestamp()
    except ValueError:
        return False
    return context.now - since < context.cooldown_s


def _new_classes(
    workload: Workload,
    before: DemandStatus | None,
    found: Found,
    measured: Measurement,
    context: Context,
) -> tuple[DemandClass, ...] | None:
    """Shares and lengths as measured where they moved by `BAND` and more than chance; else None."""
    if found.whole is None or _cools(before, context):
        return None
    old = before.classes if before is not None else _stated(workload)
    stated = _stated(workload)
    new = _with_shares(stated, old, workload, found, measured if context.split else None)
    if context.split:
        new = _with_lengths(new, stated, old, measured)
    return new if new != old else None


def _stated(workload: Workload) -> tuple[DemandClass, ...]:
    return tuple(DemandClass.model_validate(c.model_dump()) for c in workload.classes)


def _with_shares(
    stated: Sequence[DemandClass],
    old: Sequence[DemandClass],
    workload: Workload,
    found: Found,
    measured: Measurement | None,
) -> tuple[DemandClass, ...]:
    """The old classes with measured weights (thousandths) where shares moved."""
    counts = dict(found.shares)
    error = 0.0
    if not counts and measured is not None and count_of(measured.prompt) > 0.0:
        counts, error = shares_by_length(workload, measured.prompt)
    total = sum(counts.get(c.name, 0.0) for c in stated)
    if total < FEWEST or len(stated) == 1:
        return tuple(old)
    weights = sum(c.weight for c in old)
    moved = False
    for each in old:
        before, now = each.weight / weights, counts.get(each.name, 0.0) / total
        chance = SIGMAS * math.sqrt(max(before * (1.0 - before), 0.25 / total) / total)
        moved = moved or abs(now - before) > max(BAND, chance + error)
    if not moved:
        return tuple(old)
    return tuple(
        c.model_copy(update={"weight": max(1, round(1000 * counts.get(c.name, 0.0) / total))})
        for c in old
    )


def _with_lengths(
    new: Sequence[DemandClass],
    stated: Sequence[DemandClass],
    old: Sequence[DemandClass],
    measured: Measurement,
) -> tuple[DemandClass, ...]:
    """Classes scaled so that their mean lengths are the measured ones, where these moved."""
    lengths = {c.name: (c.prompt_tokens, c.output_tokens) for c in old}
    scales: list[float | None] = []
    for field, histogram in (
        ("prompt_tokens", measured.prompt),
        ("output_tokens", measured.output),
    ):
        mean = mean_of(histogram)
        if mean is None or count_of(histogram) < FEWEST or mean < 1.0:
            scales.append(None)
            continue
        in_force = _mean(new, field)
        # Both means were counted, so their difference varies by sqrt(2) of one's error.
        error = deviation_of(histogram) / math.sqrt(count_of(histogram))
        chance = math.sqrt(2.0) * SIGMAS * error
        moved = abs(mean - in_force) > max(BAND * in_force, chance)
        scales.append(mean / _mean(_reweighted(stated, new), field) if moved else None)
    made = []
    for each, base in zip(new, stated, strict=True):
        prompt, output = lengths[each.name]
        prompt = _scaled(base.prompt_tokens, scales[0]) if scales[0] else prompt
        output = _scaled(base.output_tokens, scales[1]) if scales[1] else output
        made.append(each.model_copy(update={"prompt_tokens": prompt, "output_tokens": output}))
    return tuple(made)


def _reweighted(
    stated: Sequence[DemandClass], new: Sequence[DemandClass]
) -> tuple[DemandClass, ...]:
    weights = {c.name: c.weight for c in new}
    return tuple(c.model_copy(update={"weight": weights[c.name]}) for c in stated)


def _mean(classes: Sequence[DemandClass], field: str) -> float:
    weights = sum(c.weight for c in classes)
    return float(sum(c.weight * getattr(c, field) for c in classes) / weights)


def _scaled(tokens: int, factor: float) -> int:
    return max(1, round(tokens * factor))


def _bounded(rate: float, workload: Workload) -> float:
    """The rate between the spec's bounds, which default to a tenth and ten times the stated rate."""
    stated = workload.requests_per_second.per_second
    least, most = workload.min_requests_per_second, workload.max_requests_per_second
    floor = least.per_second if least is not None else stated / 10.0
    ceiling = most.per_second if most is not None else stated * 10.0
    return min(max(rate, floor), max(ceiling, floor))


def _written(rate: float) -> Quantity:
    """Three significant digits: what is written is what is planned for."""
    if rate <= 0.0:
        return Quantity("0")
    decimals = max(0, 2 - math.floor(math.log10(rate)))
    return Quantity.of(rate, min(9, decimals))


def _timestamp(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
