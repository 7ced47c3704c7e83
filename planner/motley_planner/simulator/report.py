"""What a simulation says about a plan: targets met, percentiles, utilisation, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from motley_planner.candidates.targets import Target, targets_of
from motley_planner.domain.demand import Slo
from motley_planner.simulator.requests import NOT_YET, Job
from motley_planner.simulator.world import Life, Run

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figures:
    """Latencies in seconds over the requests that were answered."""

    count: int
    mean_s: float | None
    p50_s: float | None
    p90_s: float | None
    p95_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class at one stage: TTFT and TPOT of its visits; `e2e` of whole requests, first stage only."""

    stage: str
    name: str
    requests: int
    unanswered: int
    ttft: Figures
    tpot: Figures
    e2e: Figures | None


@dataclass(frozen=True, slots=True)
class Attainment:
    """One target for one class: the share of requests within it, unanswered ones counted as misses.

    `is_kept`: that share is at least the target's quantile less the margin; of a mean, the mean holds.
    """

    stage: str
    name: str
    what: str  # ttft | tpot | e2e
    percentile: str
    limit_s: float
    wanted: float  # share, 0..1; 0 for a mean
    share: float | None  # None: no request of this kind was seen
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Use:
    """Replicas of one hop on equal engines: shares of their time and of their slots in use."""

    stage: str
    replicas: int
    busy_share: float
    slot_share: float
    preemptions: int


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one simulated resource."""

    resource: str
    seconds: float
    requests: int
    answered: int
    refused: int
    requests_per_second: float
    is_kept: bool
    attainment: tuple[Attainment, ...]
    classes: tuple[ClassFigures, ...]
    use: tuple[Use, ...]
    usd: float
    usd_per_hour: float
    usd_per_thousand_answers: float | None
    mean_quality: float | None
    policies: Mapping[str, float]
    not_admitted: int = 0  # refused by their deadline, which counts as a miss of every target
    in_deadline: float | None = None  # share of all requests answered by it; None without one


@dataclass(frozen=True, slots=True)
class Terms:
    """By what a run is judged; `margin` is the share by which a target may be missed."""

    slo: Slo = field(default_factory=Slo)
    warm_up_s: float = 0.0
    margin: float = 0.01
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Latencies of one class at one stage; `missing` were never answered. Seconds."""

    stage: str
    name: str
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats | None
    missing: int
    missing_e2e: int


def samples_of(run: Run, stages: Sequence[str], warm_up_s: float = 0.0) -> tuple[Sample, ...]:
    """The latencies of a run by stage and class, without requests of the warm-up."""
    jobs = [job for job in run.jobs if job.arrival_s >= warm_up_s]
    names = {job.class_index: job.class_name for job in run.jobs}
    visits = run.visits
    stage, kind = np.asarray(visits.stage), np.asarray(visits.class_index)
    late = np.asarray(visits.arrival_s) >= warm_up_s
    ttft, tpot = np.asarray(visits.ttft_s), np.asarray(visits.tpot_s)
    found = []
    for index, stage_name in enumerate(stages):
        for class_index, class_name in sorted(names.items()):
            rows = (stage == index) & (kind == class_index) & late
            mine = [job for job in jobs if job.class_index == class_index]
            open_jobs = [job for job in mine if job.answered_s == NOT_YET]
            each = tpot[rows]
            whole = [job.answered_s - job.arrival_s for job in mine if job.answered_s != NOT_YET]
            found.append(
                Sample(
                    stage=stage_name,
                    name=class_name,
                    ttft_s=ttft[rows],
                    tpot_s=each[~np.isnan(each)],
                    e2e_s=np.array(whole) if index == 0 else None,
                    missing=sum(job.stage == index for job in open_jobs),
                    missing_e2e=len(open_jobs),
                )
            )
    return tuple(found)


def attainment_of(samples: Sequence[Sample], slo: Slo, margin: float) -> tuple[Attainment, ...]:
    """Every target for every class: TTFT and TPOT at each stage, E2E over the whole request."""
    return tuple(
        _attained(sample, target, margin)
        for sample in samples
        for target in targets_of(slo)
        if target.what != "e2e" or sample.e2e_s is not None
    )


def _attained(sample: Sample, target: Target, margin: float) -> Attainment:
    values = {"ttft": sample.ttft_s, "tpot": sample.tpot_s}.get(target.what, sample.e2e_s)
    assert values is not None
    missing = sample.missing_e2e if target.what == "e2e" else sample.missing
    seen = len(values) + missing
    share = float((values <= target.limit_s).sum()) / seen if seen else None
    if target.quantile > 0.0:
        is_kept = share is None or share >= target.quantile - margin
    else:
        is_kept = not missing and (not len(values) or float(values.mean()) <= target.limit_s)
    return Attainment(
        sample.stage,
        sample.name,
        target.what,
        target.percentile,
        target.limit_s,
        target.quantile,
        share,
        is_kept,
    )


def report_of(run: Run, resource: str, stages: Sequence[str], terms: Terms) -> Report:
    """Sums a run up."""
    samples = samples_of(run, stages, terms.warm_up_s)
    attained = attainment_of(samples, terms.slo, terms.margin)
    jobs = [job for job in run.jobs if job.arrival_s >= terms.warm_up_s]
    answered = sum(job.answered_s != NOT_YET for job in jobs)
    lives = [life for each in run.lives.values() for life in each]
    usd = sum(_usd(life) for life in lives)
    drawn = sum(run.policies.values())
    seconds = max(run.end_s, 1e-9)
    return Report(
        resource=resource,
        seconds=run.end_s,
        requests=len(jobs),
        answered=answered,
        refused=run.refused,
        requests_per_second=len(run.jobs) / seconds,
        is_kept=all(each.is_kept for each in attained) and not run.refused,
        attainment=attained,
        classes=tuple(_class_figures(sample) for sample in samples),
        use=_use(run, stages),
        usd=usd,
        usd_per_hour=usd / seconds * 3600.0,
        usd_per_thousand_answers=usd / answered * 1000.0 if answered else None,
        mean_quality=float(np.mean(np.asarray(run.quality))) if run.quality else None,
        policies={name: count / drawn for name, count in sorted(run.policies.items())},
        not_admitted=sum(not job.is_let_in for job in jobs),
        in_deadline=_in_deadline(jobs, terms.deadline_s),
    )


def _in_deadline(jobs: Sequence[Job], deadline_s: float | None) -> float | None:
    if deadline_s is None or not jobs:
        return None
    answered = (job for job in jobs if job.answered_s != NOT_YET)
    return sum(job.answered_s - job.arrival_s <= deadline_s for job in answered) / len(jobs)


def _usd(life: Life) -> float:
    return life.spec.price_usd_per_hour * max(0.0, life.end_s - life.start_s) / 3600.0


def _class_figures(sample: Sample) -> ClassFigures:
    return ClassFigures(
        stage=sample.stage,
        name=sample.name,
        requests=len(sample.ttft_s) + sample.missing,
        unanswered=sample.missing,
        ttft=_figures(sample.ttft_s),
        tpot=_figures(sample.tpot_s),
        e2e=None if sample.e2e_s is None else _figures(sample.e2e_s),
    )


def _figures(values: Floats) -> Figures:
    if not len(values):
        return Figures(0, None, None, None, None, None)
    cuts = [float(value) for value in np.percentile(values, PERCENTILES)]
    return Figures(len(values), float(values.mean()), *cuts)


def _use(run: Run, stages: Sequence[str]) -> tuple[Use, ...]:
    places = {stage: place for place, stage in enumerate(stages)}
    groups: dict[tuple[str, int], list[Life]] = {}
    for (hop, _), lives in run.lives.items():
        for life in lives:
            groups.setdefault((hop, id(life.spec.times)), []).append(life)
    found = []
    for (hop, _), members in groups.items():
        paid = sum(max(0.0, life.end_s - life.start_s) for life in members) or 1.0
        slots = sum(max(0.0, m.end_s - m.start_s) * m.spec.max_batch for m in members) or 1.0
        found.append(
            Use(
                stage=hop,
                replicas=len(members),
                busy_share=sum(life.server.busy_s for life in members) / paid,
                slot_share=sum(life.server.slot_s for life in members) / slots,
                preemptions=sum(life.server.preemptions for life in members),
            )
        )
    return tuple(sorted(found, key=lambda use: places.get(use.stage.partition("/")[0], 0)))
