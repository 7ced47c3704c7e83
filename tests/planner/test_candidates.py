"""Candidates: only what fits and meets its targets, all that is useful, and reasons for the rest."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from motley_planner.candidates import (
    Candidate,
    candidate_for_unit,
    rollout_candidates,
    stage_candidates,
    trainer_candidates,
)
from motley_planner.candidates.targets import quantile_of
from motley_planner.catalog import load_catalog
from motley_planner.costs.memory import weight_bytes
from motley_planner.domain.demand import (
    Placement,
    RlDemand,
    RunningUnit,
    ServingDemand,
    Slo,
    StageDemand,
    WorkloadClass,
)
from motley_planner.domain.hardware import NodeClass
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import Refusal

CATALOG = load_catalog()
KEY = "ServingPool/team-a/chat"
CHAT, RAG = WorkloadClass("chat", 1200, 300, 7), WorkloadClass("rag", 6000, 250, 3)
PRICES = {"H100-SXM5-80GB": 6.88, "A100-SXM4-80GB": 3.43, "L40S": 1.86, "L4": 0.70}


def model(name: str) -> ModelSpec:
    found = CATALOG.model(name)
    assert found is not None
    return found


def node_class(gpu: str, zone: str = "az-1", kind: str = "on-demand") -> NodeClass:
    return NodeClass(gpu, zone, kind, "", PRICES.get(gpu, 1.0))


FLEET = [
    node_class(g, z, k) for g in PRICES for z in ("az-1", "az-2") for k in ("on-demand", "spot")
]
POOL = StageDemand("main", model("meta-llama/Llama-3.1-70B-Instruct"), "fp8", "vllm")
SLO = Slo(ttft_s={"p95": 1.0}, tpot_s={"p95": 0.060})
JOB = RlDemand(
    key="RLJob/research/math",
    tenant="research",
    rollout=StageDemand("rollout", model("Qwen/Qwen2.5-7B-Instruct"), "bf16", "sglang"),
    trainer_backend="fsdp",
    trainer_placement=Placement(),
    batch_prompts=256,
    samples_per_prompt=8,
    max_prompt_tokens=1024,
    mean_new_tokens=3000,
    max_new_tokens=8192,
    max_staleness=4,
    steps=300,
)


def listed(
    stage: StageDemand = POOL,
    slo: Slo = SLO,
    classes: tuple[WorkloadClass, ...] = (CHAT, RAG),
    fleet: list[NodeClass] = FLEET,
    headroom: float = 0.15,
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    return stage_candidates(stage, classes, slo, fleet, CATALOG, headroom=headroom, key=KEY)


def test_every_class_is_served_and_every_candidate_fits_and_meets_its_targets() -> None:
    found, refusals = listed()
    assert not refusals
    assert {name for c in found for name in c.capacity} == {"chat", "rag"}
    for c in found:
        room = c.gpus * CATALOG.gpus[c.gpu].hbm_bytes
        assert weight_bytes(POOL.model, "fp8") < room
        assert all(rate > 0 for rate in c.capacity.values())
        assert all(value <= 0.060 for value in c.tpot_s.values())
        assert all(value <= 1.0 for value in c.ttft_s.values())
        assert c.price_usd_per_hour == pytest.approx(c.gpus * PRICES[c.gpu])


def test_ids_are_unique_and_two_listings_are_equal() -> None:
    first, second = listed()[0], listed()[0]
    assert first == second
    assert len({c.id for c in first}) == len(first)


def test_the_column_hash_ignores_zone_and_price_but_not_the_batch() -> None:
    by_column: dict[str, set[tuple[object, ...]]] = {}
    for c in listed()[0]:
        by_column.setdefault(c.column, set()).add((c.gpu, c.tensor_parallel, c.operating_batch))
    assert all(len(configurations) == 1 for configurations in by_column.values())
    assert len(by_column) * 4 == len(listed()[0])  # two zones, two capacity types


def test_the_id_says_what_the_candidate_is() -> None:
    c = listed(fleet=[node_class("H100-SXM5-80GB")])[0][0]
    assert c.id.startswith(f"{KEY}/main|both|H100-SXM5-80GB|az-1|on-demand|")
    assert c.id.endswith(f"|tp{c.tensor_parallel}|b{c.operating_batch}")


def test_a_tighter_target_never_adds_capacity() -> None:
    best = []
    for limit in (0.2, 0.1, 0.06, 0.04):
        found, _ = listed(slo=Slo(tpot_s={"p95": limit}), fleet=[node_class("H100-SXM5-80GB")])
        per_gpu = [c.capacity.get("chat", 0.0) / c.gpus for c in found]
        best.append(max(per_gpu, default=0.0))
    assert best == sorted(best, reverse=True) and best[0] > best[-1] > 0


def test_headroom_takes_its_share_of_the_capacity() -> None:
    fleet = [node_class("H100-SXM5-80GB")]
    full = {c.id: c for c in listed(slo=Slo(), fleet=fleet, headroom=0.01)[0]}
    less = {c.id: c for c in listed(slo=Slo(), fleet=fleet, headroom=0.31)[0]}
    common = full.keys() & less.keys()
    assert common
    for key in common:
        for name, rate in less[key].capacity.items():
            assert rate <= full[key].capacity[name]


def test_a_dearer_percentile_is_stricter() -> None:
    def total(percentile: str) -> float:
        found, _ = listed(slo=Slo(tpot_s={percentile: 0.04}))
        return max(c.capacity.get("chat", 0.0) for c in found)

    assert total("p50") >= total("p95") >= total("p99")
    assert quantile_of("p95") == 0.95 and quantile_of("p99.9") == 0.999


def test_tensor_parallelism_keeps_to_the_limit_and_divides_the_heads() -> None:
    odd = replace(POOL, model=model("Qwen/Qwen2.5-7B-Instruct"), max_tensor_parallel=2)
    found, _ = listed(stage=odd, slo=Slo())
    assert {c.tensor_parallel for c in found} <= {1, 2}
    heads28 = replace(odd, max_tensor_parallel=8, precision="bf16")
    assert all(28 % c.tensor_parallel == 0 for c in listed(stage=heads28, slo=Slo())[0])


def test_an_unreachable_latency_names_the_field_and_a_value_that_lifts_it() -> None:
    found, refusals = listed(slo=Slo(tpot_s={"p95": 0.005}), classes=(CHAT,))
    assert not found
    (refusal,) = refusals
    assert (refusal.reason, refusal.field) == ("LatencyUnreachable", "spec.slo.tpot.p95")
    asked = float(refusal.lift.rpartition("-> ")[2].split()[0]) / 1e3
    assert listed(slo=Slo(tpot_s={"p95": asked}), classes=(CHAT,))[0]


def test_only_the_class_that_cannot_be_served_is_refused() -> None:
    found, refusals = listed(slo=Slo(ttft_s={"p95": 0.25}))
    assert {name for c in found for name in c.capacity} == {"chat"}
    assert [r.reason for r in refusals] == ["LatencyUnreachable"]
    assert "rag" in refusals[0].message and refusals[0].field == "spec.slo.ttft.p95"


def test_a_model_larger_than_every_node_is_refused_with_its_size() -> None:
    huge = replace(POOL, model=model("deepseek-ai/DeepSeek-V3"))
    found, refusals = listed(stage=huge, fleet=[node_class("L40S"), node_class("L4")])
    assert not found
    assert [(r.reason, r.field) for r in refusals] == [("ModelDoesNotFit", "spec.model")]
    assert "671 GB" in refusals[0].message and "8 x L40S" in refusals[0].message


def test_a_request_longer_than_the_context_is_refused_by_class() -> None:
    long = WorkloadClass("books", 500_000, 100)
    found, refusals = listed(classes=(CHAT, long), slo=Slo())
    assert found
    assert [r.field for r in refusals] == ["spec.workload.classes[books]"]


def test_a_precision_no_allowed_gpu_runs_is_refused() -> None:
    found, refusals = listed(fleet=[node_class("T4")])
    assert not found
    assert refusals[0].field == "spec.model.precision" and "T4" in refusals[0].message


@pytest.mark.parametrize(
    ("placement", "field"),
    [
        (Placement(gpus=frozenset({"B200-SXM-180GB"})), "spec.placement.gpuProducts"),
        (Placement(zones=frozenset({"mars"})), "spec.placement.zones"),
        (Placement(capacity_types=frozenset({"reserved"})), "spec.placement.capacityTypes"),
    ],
)
def test_a_placement_that_matches_no_node_names_its_rule(placement: Placement, field: str) -> None:
    found, refusals = listed(stage=replace(POOL, placement=placement))
    assert not found
    assert (refusals[0].reason, refusals[0].field) == ("PlacementUnsatisfiable", field)


def test_a_placement_whose_rules_only_fail_together_names_them_all() -> None:
    fleet = [node_class("L4", "az-1"), node_class("H100-SXM5-80GB", "az-2")]
    both = Placement(gpus=frozenset({"H100-SXM5-80GB"}), zones=frozenset({"az-1"}))
    _, (refusal,) = listed(stage=replace(POOL, placement=both), fleet=fleet)
    assert refusal.field == "spec.placement"
    assert "gpuProducts" in refusal.message and "zones" in refusal.message


def test_a_node_class_that_excludes_the_resource_is_not_used() -> None:
    closed = replace(node_class("H100-SXM5-80GB"), excluded_for=frozenset({KEY}))
    found, refusals = listed(fleet=[closed])
    assert not found and refusals[0].reason == "InsufficientGPUs"


def test_a_cascades_stage_is_named_in_its_refusals() -> None:
    stage = replace(POOL, name="large", placement=Placement(zones=frozenset({"mars"})))
    _, (refusal,) = stage_candidates(
        stage, (CHAT,), SLO, FLEET, CATALOG, headroom=0.1, key="ModelCascade/team-a/support"
    )
    assert refusal.field == "spec.stages[large].placement.zones"


def _unit(c: Candidate, **changes: object) -> RunningUnit:
    unit = RunningUnit(
        id="r0",
        key=c.key,
        stage=c.stage,
        role=c.role,
        gpu=c.gpu,
        tensor_parallel=c.tensor_parallel,
        operating_batch=c.operating_batch,
        model=c.model,
        precision=c.precision,
        nodes=tuple(f"n{i}" for i in range(c.fragments)),
    )
    return replace(unit, **changes)  # type: ignore[arg-type]


SERVICE = ServingDemand(
    key=KEY,
    tenant="team-a",
    stages=(POOL,),
    classes=(CHAT, RAG),
    requests_per_second=10,
    slo=SLO,
)


def test_a_running_replica_is_the_candidate_it_was_planned_as() -> None:
    for c in listed()[0]:
        assert candidate_for_unit(_unit(c), SERVICE, c.node_class, CATALOG) == c


def test_a_running_replica_of_a_pruned_size_stays_describable() -> None:
    c = next(c for c in listed()[0] if c.gpu == "H100-SXM5-80GB" and "chat" in c.capacity)
    odd = _unit(c, operating_batch=max(1, c.operating_batch - 1))
    found = candidate_for_unit(odd, SERVICE, c.node_class, CATALOG)
    assert found is not None and found.operating_batch == odd.operating_batch
    assert found.column != c.column and found.capacity


@pytest.mark.parametrize(
    "changes",
    [{"model": "Qwen/Qwen3-8B"}, {"precision": "bf16"}, {"stage": "gone"}, {"gpu": "L4"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_replica_that_is_no_longer_asked_for_has_no_candidate(changes: dict[str, str]) -> None:
    c = listed()[0][0]
    assert candidate_for_unit(_unit(c, **changes), SERVICE, c.node_class, CATALOG) is None


def test_a_running_replica_whose_targets_no_longer_hold_has_no_candidate() -> None:
    c = next(c for c in listed()[0] if c.operating_batch >= 8)
    strict = replace(SERVICE, slo=Slo(tpot_s={"p95": 0.012}))
    assert candidate_for_unit(_unit(c), strict, c.node_class, CATALOG) is None


def test_a_jobs_rollout_and_trainer_come_in_training_steps_a_second() -> None:
    rollout, none = rollout_candidates(JOB, FLEET, CATALOG)
    trainers, neither = trainer_candidates(JOB, FLEET, CATALOG)
    assert not none and not neither
    assert {c.role for c in rollout} == {"rollout"} and {c.role for c in trainers} == {"trainer"}
    for c in rollout:
        samples = c.capacity["rollout"] * 256 * 8
        assert samples == pytest.approx(
            c.operating_batch / (c.ttft_s["rollout"] + 3000 * c.tpot_s["rollout"])
        )
    assert all(set(c.capacity) == {"trainer"} for c in trainers)
    assert {(c.tensor_parallel, c.fragments) for c in trainers} >= {(8, 1)}
    for c in (*rollout, *trainers):
        assert candidate_for_unit(_unit(c), JOB, c.node_class, CATALOG) == c


def test_a_model_no_gang_can_hold_is_refused_with_sizes() -> None:
    big = replace(JOB, rollout=replace(JOB.rollout, model=model("deepseek-ai/DeepSeek-V3")))
    found, (refusal,) = trainer_candidates(big, [node_class("L4")], CATALOG)
    assert not found
    assert (refusal.reason, refusal.field) == ("ModelDoesNotFit", "spec.trainer")
    assert "32 x L4" in refusal.message


def test_three_resources_are_listed_in_a_tenth_of_a_second() -> None:
    begin = time.process_time()
    for _ in range(3):
        listed()
    assert time.process_time() - begin < 0.1
