"""What a measurement says about a resource's demand, or why it says nothing.

An empty series is a state: with every target up and its presence gauge there it means that nobody
asks; otherwise that nobody looks. Only the first may lower what is planned for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from motley_operator.demand.intervals import Rate, dispersion_of, rate_of
from motley_operator.domain.measurement import Measurement, Reading, Steps, Targets

GATEWAYS, ENGINES = "Gateways", "Engines"
RECENT = 2  # steps that a rise is told from


class Reason(StrEnum):
    """Whether demand is measured, and why not."""

    MEASURED = "Measured"
    IDLE = "Idle"
    WARMING_UP = "WarmingUp"
    NOT_RUNNING = "NotRunning"
    NO_PROMETHEUS = "NoPrometheus"
    PROMETHEUS_UNREACHABLE = "PrometheusUnreachable"
    NO_TARGETS = "NoTargets"
    TARGETS_DOWN = "TargetsDown"
    SERIES_ABSENT = "SeriesAbsent"
    STALE_SAMPLES = "StaleSamples"


BROKEN = frozenset(
    {
        Reason.NO_PROMETHEUS,
        Reason.PROMETHEUS_UNREACHABLE,
        Reason.NO_TARGETS,
        Reason.TARGETS_DOWN,
        Reason.SERIES_ABSENT,
        Reason.STALE_SAMPLES,
    }
)


@dataclass(frozen=True, slots=True)
class Ready:
    """Pods of a resource that answer, and so should be scraped."""

    gateways: int
    engines: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a measurement tells; without `recent` nothing, without `whole` no fall."""

    reason: Reason
    message: str
    source: str = ""  # Gateways | Engines
    recent: Rate | None = None  # over the last steps
    whole: Rate | None = None  # over the window
    shares: tuple[tuple[str, float], ...] = ()  # requests by class, counted at gateways

    @property
    def requests(self) -> float:
        """Requests behind the shares."""
        return sum(count for _, count in self.shares)


def unread(reading: Reading | None, now: float, stale_s: float) -> Found | None:
    """Why there is no reading to judge; None where there is one."""
    if reading is None:
        return Found(Reason.WARMING_UP, "Prometheus has not been read yet")
    if reading.error:
        return Found(Reason.PROMETHEUS_UNREACHABLE, reading.error)
    if now - reading.at > stale_s:
        return Found(Reason.PROMETHEUS_UNREACHABLE, "the last reading is older than staleAfter")
    return None


def judge(
    measured: Measurement, ready: Ready, times: tuple[float, float], counted: tuple[bool, str]
) -> Found:
    """What the figures of one resource say; gateways' go before engines'.

    `times` are a step's seconds and the age from which samples are stale; `counted` is whether
    engines may be counted at all (a cascade's do what its stages do, not what was asked), and
    where the demand in force was counted: once that was at gateways, their loss is no reason to
    take engines' counts, which hide what waits or was refused.
    """
    (step_s, stale_s), (may_engines, before) = times, counted
    if measured.gateways.seen or before == GATEWAYS or not may_engines:
        counts = _summed(list(measured.arrived.values()), len(measured.gateways.alive))
        found = _source(GATEWAYS, measured.gateways, (ready.gateways, stale_s), counts, step_s)
        shares = tuple((k, sum(n or 0.0 for n in s)) for k, s in sorted(measured.arrived.items()))
        return replace(found, shares=shares) if found.recent else found
    counts = measured.finished
    found = _source(ENGINES, measured.engines, (ready.engines, stale_s), counts, step_s)
    # A queue says that more is asked than finishes.
    return replace(found, whole=None) if measured.waiting else found


def _source(
    name: str, targets: Targets, expected: tuple[int, float], counts: Steps, step_s: float
) -> Found:
    ready, stale_s = expected
    if not ready and not targets.up:
        return Found(Reason.NOT_RUNNING, f"no {_one(name)} is ready, so there is none to ask")
    if not targets.seen:
        return Found(Reason.NO_TARGETS, f"Prometheus scrapes none of {ready} ready {name.lower()}")
    if not targets.up:
        return Found(Reason.TARGETS_DOWN, f"all {targets.seen} {name.lower()} are down (up == 0)")
    if targets.oldest_s > stale_s:
        words = f"the newest samples of {name.lower()} are older than staleAfter"
        return Found(Reason.STALE_SAMPLES, words)
    covered = _covered(targets.alive, counts)
    last = covered[-RECENT:]
    if not last or last[-1] is None:
        return Found(
            Reason.SERIES_ABSENT, f"{name.lower()} are up but show no series that Motley knows"
        )
    spread = dispersion_of([n for n in covered if n is not None])
    recent = _rate(last, step_s, spread)
    whole = _rate(_complete(targets.alive, covered), step_s, spread)
    missing = ready - targets.up
    if missing > 0:
        words = f"{missing} of {ready} ready {name.lower()} are not scraped"
        return Found(Reason.TARGETS_DOWN, words, name, recent, None)
    if recent is None or whole is None:
        words = "not every step of the window has been counted at every target"
        return Found(Reason.WARMING_UP, words, name, recent, None)
    if whole.value == 0.0:
        return Found(Reason.IDLE, "every target is up and no request came", name, recent, whole)
    return Found(Reason.MEASURED, f"counted at {name.lower()}", name, recent, whole)


def _one(name: str) -> str:
    return name.lower().removesuffix("s")


def _covered(alive: Steps, counts: Steps) -> Steps:
    """Counts by step: zero where a target showed itself without a count, None where none did."""
    padded = counts or (None,) * len(alive)
    return tuple((n or 0.0) if up else None for up, n in zip(alive, padded, strict=True))


def _complete(alive: Steps, covered: Steps) -> Steps:
    """Counts where at least as many targets showed themselves as in the last step.

    A step in which one of them was away is too small a count, and must not lower anything.
    """
    last = alive[-1] if alive and alive[-1] is not None else 0.0
    return tuple(n if (up or 0.0) >= last else None for up, n in zip(alive, covered, strict=True))


def _summed(series: Sequence[Steps], steps: int) -> Steps:
    """Counts of several series by step."""
    return tuple(sum(s[i] or 0.0 for s in series) for i in range(steps))


def _rate(counts: Steps, step_s: float, dispersion: float) -> Rate | None:
    """The rate over steps; None where one of them was not scraped."""
    known = [n for n in counts if n is not None]
    if len(known) < len(counts) or not known:
        return None
    return rate_of(sum(known), step_s * len(known), dispersion)
