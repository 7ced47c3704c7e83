"""RL jobs in the planner's words."""

from __future__ import annotations

from motley_operator.api import RLJob
from motley_operator.domain.names import ROLLOUT
from motley_operator.translate.parts import model_spec
from motley_operator.translate.serving import budget, placement
from motley_planner.domain.demand import RlDemand, StageDemand
from motley_planner.domain.hardware import Catalog


def job_demand(key: str, job: RLJob, catalog: Catalog, priority: int) -> RlDemand:
    """What a job asks for; an absent mean answer length is half of the longest."""
    spec = job.spec
    algorithm = spec.algorithm
    return RlDemand(
        key=key,
        tenant=job.metadata.namespace or "",
        rollout=StageDemand(
            name=ROLLOUT,
            model=model_spec(spec.model, catalog),
            precision=spec.model.precision,
            engine=spec.rollout.engine.name,
            placement=placement(catalog, spec.placement, spec.rollout.placement),
            max_tensor_parallel=spec.rollout.parallelism.max_tensor,
            min_replicas=spec.rollout.min_replicas,
        ),
        trainer_backend=spec.trainer.backend,
        trainer_placement=placement(catalog, spec.placement, spec.trainer.placement),
        batch_prompts=algorithm.batch_prompts,
        samples_per_prompt=algorithm.samples_per_prompt,
        max_prompt_tokens=algorithm.max_prompt_tokens,
        mean_new_tokens=algorithm.mean_new_tokens or max(1, algorithm.max_new_tokens // 2),
        max_new_tokens=algorithm.max_new_tokens,
        max_staleness=algorithm.max_staleness,
        steps=algorithm.steps,
        target_steps_per_second=_target(job),
        budget=budget(spec.budget),
        priority=priority,
        trainer_min_gpus=spec.trainer.min_gpus,
        trainer_max_gpus=spec.trainer.max_gpus,
        max_rollout_replicas=spec.rollout.max_replicas,
    )


def _target(job: RLJob) -> float | None:
    """Steps/s that end the job at its deadline; None without one: as fast as one gang trains."""
    deadline_s = job.spec.active_deadline_seconds
    return job.spec.algorithm.steps / deadline_s if deadline_s else None
