"""What engines taught: corrections in force, kept by the Fleet's status, and why others are not.

Replicas on one node that serve whole requests are learned from; of prefill or decode alone, over
several nodes, and of jobs' rollouts nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motley_operator.api import FleetSpec
from motley_operator.api.fleetstatus import MOST_CORRECTIONS, Correction
from motley_operator.demand.corrections import Learning, key_of, settled
from motley_operator.demand.histograms import deviation_of, mean_of
from motley_operator.demand.learning import Judged, Source, Verdict, judge_speed
from motley_operator.demand.sources import unread
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.measurement import EngineSteps, Measurement, Reading
from motley_operator.domain.names import COLUMN, RANK, SERVE
from motley_operator.translate.running import pods_by_key, read_unit
from motley_planner.costs.replica import Replica, replica_of
from motley_planner.domain.demand import RlDemand, ServingDemand, StageDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.measurements import LearnedKey

Demands = Mapping[str, ServingDemand | RlDemand]


def learn(facts: ClusterFacts, fleet: FleetSpec, demands: Demands, catalog: Catalog) -> Learning:
    """The corrections from now on; those of the status where nothing speaks against them."""
    source = fleet.prometheus
    if source is None or source.learn == "Off":
        return Learning()
    applied = source.learn == "Apply"
    before = {key_of(one): one for one in _kept(facts)}
    found = _sources(facts, demands)
    if unread(facts.reading, facts.now, source.stale_after.seconds) is not None:
        judged = {key: Judged(Verdict.UNREAD) for key in found}
        return Learning(tuple(before.values()), judged, applied)
    assert facts.reading is not None
    judged = {}
    now = dict(before)
    for key in sorted(found, key=repr):
        judged[key] = _judged(found[key], key, facts.reading, catalog)
        seen = judged[key].estimate
        made = settled(key, before.get(key), seen, facts.now, source.window.seconds)
        if made is not None:
            now[key] = made
    return Learning(_fewer(now, found), judged, applied)


@dataclass(slots=True)
class _Replicas:
    """Ready replicas of one column of one resource."""

    key: str
    column: str
    stage: StageDemand
    slots: int
    count: int = 0


def _kept(facts: ClusterFacts) -> list[Correction]:
    """What the Fleet's status keeps; rows that nobody could have written are left out."""
    status = (facts.fleet or {}).get("status") or {}
    rows = status.get("corrections") if isinstance(status, Mapping) else None
    kept = []
    for row in rows if isinstance(rows, list) else ():
        try:
            kept.append(Correction.model_validate(row))
        except ValueError:
            continue
    return kept[:MOST_CORRECTIONS]


def _sources(facts: ClusterFacts, demands: Demands) -> dict[LearnedKey, list[_Replicas]]:
    """The columns that run, by configuration."""
    found: dict[LearnedKey, dict[tuple[str, str], _Replicas]] = {}
    for owner, pods in sorted(pods_by_key(facts).items()):
        demand = demands.get(owner)
        if not isinstance(demand, ServingDemand):
            continue
        stages = {stage.name: stage for stage in demand.stages}
        for pod in pods:
            known = _configuration(pod, stages)
            if known is None:
                continue
            key, stage, slots = known
            column = pod.labels.get(COLUMN, "")
            each = found.setdefault(key, {}).setdefault(
                (owner, column), _Replicas(owner, column, stage, slots)
            )
            each.count += pod.ready and not pod.deleting
    return {key: list(columns.values()) for key, columns in found.items()}


def _configuration(
    pod: PodFacts, stages: Mapping[str, StageDemand]
) -> tuple[LearnedKey, StageDemand, int] | None:
    """What a pod runs and how many requests at once; None for what is not learned from."""
    unit = read_unit(pod.annotations)
    if unit is None or pod.terminal or pod.labels.get(RANK, "0") != "0":
        return None
    stage = stages.get(unit["stage"])
    alone = unit["fragments"] == 1 and not unit["pipeline"] and unit.get("phase", "both") == "both"
    if stage is None or not alone or unit["role"] != SERVE:
        return None
    if (unit["model"], unit["precision"]) != (stage.model.name, stage.precision):
        return None  # as it was before an edit
    size = unit["gpu"], unit["tensor_parallel"]
    key = LearnedKey(stage.model.name, *size, stage.precision, stage.engine)
    return key, stage, max(1, unit["operating_batch"])


def _judged(
    columns: list[_Replicas], key: LearnedKey, reading: Reading, catalog: Catalog
) -> Judged:
    replica = _replica(columns[0].stage, key, catalog)
    if replica is None:
        return Judged(Verdict.UNMODELED)
    sources = []
    for one in columns:
        steps = reading.columns.get(one.key, {}).get(one.column, EngineSteps())
        measured = reading.measurements.get(one.key, Measurement())
        sources.append(Source(steps, one.count, one.slots, _variation(measured)))
    return judge_speed(replica, sources, reading.step_s)


def _replica(stage: StageDemand, key: LearnedKey, catalog: Catalog) -> Replica | None:
    gpu, engine = catalog.gpus.get(key.gpu), catalog.engines.get(key.engine)
    if gpu is None or engine is None or catalog.efficiency is None:
        return None
    model, efficiency = stage.model, catalog.efficiency
    made = replica_of(model, key.precision, gpu, key.tensor_parallel, engine, efficiency)
    return None if isinstance(made, str) else made


def _variation(measured: Measurement) -> float:
    """Squared coefficient of variation of output lengths; that of exponential ones if unknown."""
    mean = mean_of(measured.output)
    return (deviation_of(measured.output) / mean) ** 2 if mean else 1.0


def _fewer(
    now: Mapping[LearnedKey, Correction], running: Mapping[LearnedKey, object]
) -> tuple[Correction, ...]:
    """The corrections in a stable order; where they are too many, the oldest that nothing runs go."""
    kept = sorted(now.items(), key=lambda item: repr(item[0]))
    if len(kept) > MOST_CORRECTIONS:
        by_worth = sorted(kept, key=lambda item: (item[0] in running, item[1].since), reverse=True)
        chosen = {key for key, _ in by_worth[:MOST_CORRECTIONS]}
        kept = [item for item in kept if item[0] in chosen]
    return tuple(one for _, one in kept)
