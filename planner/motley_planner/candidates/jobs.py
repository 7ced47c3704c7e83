"""Candidates of an RL job: rollout replicas and trainer gangs, both in training steps/s."""

from __future__ import annotations

from collections.abc import Sequence

from motley_planner.candidates.candidate import Candidate, Shape
from motley_planner.candidates.refusals import placement_refusal
from motley_planner.candidates.request import Request, is_allowed
from motley_planner.candidates.serving import list_candidates
from motley_planner.costs.training import TrainingStep, gang_of, training_step_s
from motley_planner.domain.demand import RlDemand, StageDemand, WorkloadClass
from motley_planner.domain.hardware import Catalog, NodeClass
from motley_planner.domain.plan import Refusal
from motley_planner.units import gigabytes

# (GPUs on each node, nodes)
GANGS = ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4))
LEAST_SPEEDUP = 1.02  # a larger gang must be this much faster than every smaller one


def rollout_request(job: RlDemand) -> Request:
    """What a job's rollout replicas do: samples of mean length, no latency targets."""
    sample = WorkloadClass("rollout", job.max_prompt_tokens, job.mean_new_tokens)
    return Request(
        key=job.key,
        role="rollout",
        stage=job.rollout,
        classes=(sample,),
        targets=(),
        headroom=0.0,
        per_unit=float(job.batch_prompts * job.samples_per_prompt),
    )


def rollout_candidates(
    job: RlDemand, node_classes: Sequence[NodeClass], catalog: Catalog
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    """Rollout replicas; capacity["rollout"] is training steps/s that their samples suffice for.

    steps/s = samples/s / (prompts x samples per prompt), every prompt at its maximum length.
    """
    return list_candidates(rollout_request(job), node_classes, catalog)


def trainer_stage(job: RlDemand) -> StageDemand:
    """The trainer as a stage, for placement and refusals."""
    return StageDemand(
        name="trainer",
        model=job.rollout.model,
        precision="bf16",
        engine=job.trainer_backend,
        placement=job.trainer_placement,
    )


def trainer_shape(job: RlDemand, gpu: str, gpus_per_node: int, nodes: int) -> Shape:
    """The shape of a trainer gang."""
    return Shape(
        key=job.key,
        stage="trainer",
        role="trainer",
        model=job.rollout.model.name,
        precision="bf16",
        engine=job.trainer_backend,
        gpu=gpu,
        tensor_parallel=gpus_per_node,
        fragments=nodes,
    )


def training_step_of(job: RlDemand) -> TrainingStep:
    """One optimizer step of a job."""
    return TrainingStep(
        samples=job.batch_prompts * job.samples_per_prompt,
        mean_tokens=job.max_prompt_tokens + job.mean_new_tokens,
        longest_tokens=job.max_prompt_tokens + job.max_new_tokens,
    )


def trainer_candidates(
    job: RlDemand, node_classes: Sequence[NodeClass], catalog: Catalog
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    """Trainer gangs on one GPU type; capacity["trainer"] is steps/s, weight sync included."""
    stage = trainer_stage(job)
    open_classes = [c for c in node_classes if job.key not in c.excluded_for]
    allowed = [c for c in open_classes if is_allowed(stage.placement, c)]
    if not allowed:
        return (), (placement_refusal(job.key, stage, open_classes, catalog),)
    rates = {gpu: _gang_rates(job, gpu, catalog) for gpu in dict.fromkeys(c.gpu for c in allowed)}
    found = tuple(
        trainer_shape(job, node_class.gpu, ranks, nodes).at(
            node_class, 1, {"trainer": rate}, {}, {}
        )
        for node_class in allowed
        for (ranks, nodes), rate in rates[node_class.gpu].items()
    )
    return found, () if found else (_no_gang(job, sorted(rates), catalog),)


def trainer_rate(job: RlDemand, gpu: str, gang: tuple[int, int], catalog: Catalog) -> float | str:
    """Training steps/s of one gang, or why it cannot train the model."""
    engine, efficiency = catalog.engines[job.trainer_backend], catalog.efficiency
    assert efficiency is not None, "load_catalog() always gives the factors"
    step = training_step_of(job)
    built = gang_of(job.rollout.model, catalog.gpus[gpu], gang, engine, efficiency)
    if isinstance(built, str):
        return built
    if built.free_bytes(step) < 0:
        return "memory"
    return 1.0 / training_step_s(built, step)


def _gangs(job: RlDemand) -> tuple[tuple[int, int], ...]:
    return tuple(gang for gang in GANGS if job.admits_gang(gang[0] * gang[1]))


def _gang_rates(job: RlDemand, gpu: str, catalog: Catalog) -> dict[tuple[int, int], float]:
    found: dict[tuple[int, int], float] = {}
    for gang in _gangs(job):
        rate = trainer_rate(job, gpu, gang, catalog)
        if isinstance(rate, str):
            continue
        if all(rate > LEAST_SPEEDUP * smaller for smaller in found.values()):
            found[gang] = rate
    return found


def _no_gang(job: RlDemand, gpus: Sequence[str], catalog: Catalog) -> Refusal:
    engine, efficiency = catalog.engines[job.trainer_backend], catalog.efficiency
    assert efficiency is not None, "load_catalog() always gives the factors"
    if not _gangs(job):
        return _no_size(job)
    model, largest = job.rollout.model, _gangs(job)[-1]
    reasons = []
    for gpu in gpus:
        built = gang_of(model, catalog.gpus[gpu], largest, engine, efficiency)
        if isinstance(built, str):
            reasons.append(built)
            continue
        need, have = built.needed_bytes(training_step_of(job)), built.usable_bytes
        reasons.append(
            f"{largest[0] * largest[1]} x {gpu} have {gigabytes(have)} each, "
            f"{gigabytes(need)} each are needed"
        )
    message = f"No trainer gang can hold {model.name}: {'; '.join(reasons)}."
    lift = "shorter algorithm.maxNewTokens, a smaller model, or GPUs with more memory"
    return Refusal("ModelDoesNotFit", "spec.trainer", message, lift)


def _no_size(job: RlDemand) -> Refusal:
    sizes = ", ".join(str(ranks * nodes) for ranks, nodes in GANGS)
    most = job.trainer_max_gpus
    asked = f"at least {job.trainer_min_gpus}" + (f" and at most {most}" if most else "")
    message = f"A trainer gang has {sizes} GPUs, and {asked} are asked for."
    lift = f"one of these sizes between spec.trainer.minGpus and maxGpus: {sizes}"
    return Refusal("ModelDoesNotFit", "spec.trainer.minGpus", message, lift)
