"""What a schema cannot see: names that must be known, and statements that contradict each other.

`semantic_findings` is the only place that says so. `motley validate` prints its findings and the
operator's translation turns them into conditions, so that a file and a cluster say one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator

from motley_operator.api.branching import branch_findings
from motley_operator.api.checkpoints import checkpoint_findings
from motley_operator.api.findings import Finding, Path
from motley_operator.api.fleet import Fleet
from motley_operator.api.frame import Resource
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.parts import (
    adapter_findings,
    disjoint_findings,
    engine_findings,
    gpu_findings,
    model_findings,
    placement_findings,
    slo_findings,
    workload_findings,
)
from motley_operator.api.podtemplates import template_findings
from motley_operator.api.profiles import profile_findings
from motley_operator.api.quality import quality_findings
from motley_operator.api.rljob import RLJob
from motley_operator.api.servingpool import ServingPool
from motley_operator.api.surroundings import Surroundings, found, with_additions
from motley_planner.domain.hardware import Catalog


def semantic_findings(
    resource: Resource, around: Surroundings | None = None
) -> tuple[Finding, ...]:
    """Everything about a valid resource that cannot work, each with its field and its fix."""
    around = around or Surroundings()
    if isinstance(resource, ServingPool):
        return (*_pool(resource, around), *_priority(resource, around))
    if isinstance(resource, ModelCascade):
        return (*_cascade(resource, around), *_priority(resource, around))
    if isinstance(resource, RLJob):
        return (*_job(resource, around), *_priority(resource, around))
    assert isinstance(resource, Fleet)
    return tuple(_fleet(resource, around.catalog))


def _priority(
    resource: ServingPool | ModelCascade | RLJob, around: Surroundings
) -> Iterator[Finding]:
    """Pods that name an unknown class would be refused one by one."""
    name, known = resource.spec.priority_class_name, around.priority_classes
    if name is not None and known is not None and name not in known:
        yield found(
            ("spec", "priorityClassName"), "priority class",
            f"there is no PriorityClass {name}: create it or name another", "PriorityClassMissing",
        )  # fmt: skip


def _disaggregation(mode: str, engine: str, at: Path, catalog: Catalog) -> Iterator[Finding]:
    known = catalog.engines.get(engine)
    launch = known.launch if known is not None else None
    if mode == "Always" and launch is not None and launch.phases is None:
        able = (n for n, e in catalog.engines.items() if e.launch is not None and e.launch.phases)
        yield found(
            (*at, "disaggregation"), "engine phases",
            f"{engine} cannot hand a KV cache from a prefill to a decode replica: set "
            f"disaggregation to Auto or Never, or take one of {', '.join(sorted(able))}",
            "InvalidSpec",
        )  # fmt: skip


def _pool(pool: ServingPool, around: Surroundings) -> Iterator[Finding]:
    spec, catalog, at = pool.spec, around.catalog, ("spec",)
    yield from model_findings(spec.model, (*at, "model"), catalog, spec.workload)
    yield from engine_findings(spec.engine, (*at, "engine"), catalog, ("serve", spec.model))
    names = (pool.metadata.name, spec.model.id)
    yield from adapter_findings(spec.adapters, spec.engine.name, names, catalog)
    yield from placement_findings(spec.placement, (*at, "placement"), catalog)
    yield from slo_findings(spec.slo, (*at, "slo"))
    yield from workload_findings(spec.workload, (*at, "workload"))
    yield from template_findings(spec.pod_template, (*at, "podTemplate"), around.allowed)
    yield from _disaggregation(spec.disaggregation, spec.engine.name, at, catalog)
    yield from branch_findings(spec.branches, spec.disaggregation, spec.placement, at)
    yield from profile_findings(pool, catalog, around.config_maps)


def _cascade(cascade: ModelCascade, around: Surroundings) -> Iterator[Finding]:
    spec, catalog = cascade.spec, around.catalog
    for i, stage in enumerate(spec.stages):
        at: Path = ("spec", "stages", i)
        yield from model_findings(stage.model, (*at, "model"), catalog, spec.workload)
        yield from engine_findings(stage.engine, (*at, "engine"), catalog, ("serve", stage.model))
        yield from placement_findings(stage.placement, (*at, "placement"), catalog)
        yield from template_findings(stage.pod_template, (*at, "podTemplate"), around.allowed)
        yield from _disaggregation(stage.disaggregation, stage.engine.name, at, catalog)
        yield from branch_findings(stage.branches, stage.disaggregation, stage.placement, at)
    yield from slo_findings(spec.slo, ("spec", "slo"))
    yield from workload_findings(spec.workload, ("spec", "workload"))
    yield from quality_findings(cascade, around.config_maps)
    yield from profile_findings(cascade, catalog, around.config_maps)


def _job(job: RLJob, around: Surroundings) -> Iterator[Finding]:
    spec, catalog, at = job.spec, around.catalog, ("spec",)
    engine = spec.rollout.engine
    yield from model_findings(spec.model, (*at, "model"), catalog, None)
    yield from engine_findings(engine, (*at, "rollout", "engine"), catalog, ("rollout", spec.model))
    yield from placement_findings(spec.placement, (*at, "placement"), catalog)
    for role, part in (("rollout", spec.rollout), ("trainer", spec.trainer)):
        below = (*at, role, "placement")
        yield from placement_findings(part.placement, below, catalog)
        yield from disjoint_findings(spec.placement, part.placement, below, catalog)
        yield from template_findings(part.pod_template, (*at, role, "podTemplate"), around.allowed)
    yield from _framework(job, catalog)
    yield from checkpoint_findings(spec, at)
    needed = spec.rollout.min_replicas + spec.trainer.min_gpus
    if spec.budget and spec.budget.gpus is not None and spec.budget.gpus < needed:
        yield found(
            (*at, "budget", "gpus"), "smallest job",
            f"the smallest job needs {needed} GPUs (rollout.minReplicas + trainer.minGpus) and the "
            f"budget allows {spec.budget.gpus}: raise budget.gpus to {needed} or lower the minima",
            "BudgetTooLow",
        )  # fmt: skip


def _framework(job: RLJob, catalog: Catalog) -> Iterator[Finding]:
    asked = job.spec.framework
    known = catalog.frameworks.get(asked.name)
    if known is not None and not (asked.image or known.default_image):
        yield found(
            ("spec", "framework", "image"), "framework image",
            f"{asked.name} has no default image: set framework.image", "InvalidSpec",
        )  # fmt: skip


def _fleet(fleet: Fleet, catalog: Catalog) -> Iterator[Finding]:
    catalog, findings = with_additions(catalog, fleet.spec)
    yield from findings
    for i, shape in enumerate(fleet.spec.shapes):
        yield from gpu_findings(shape.gpu_product, ("spec", "shapes", i, "gpuProduct"), catalog)
    for i, price in enumerate(fleet.spec.prices.gpus):
        yield from gpu_findings(price.gpu, ("spec", "prices", "gpus", i, "gpu"), catalog)
