"""What a resource's text alone cannot show to be wrong: names that must be known, and templates.

`motley validate` and the condition Accepted say the same sentence because both ask here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from motley_operator.api import ModelCascade, Resource, RLJob, ServingPool
from motley_operator.api.common import EngineSpec, ModelRef, Placement
from motley_operator.translate.templates import template_refusals
from motley_planner.catalog import ArchitectureRefusal, model_from_config
from motley_planner.domain.hardware import Catalog, Gpu
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import Refusal


def check(resource: Resource, catalog: Catalog) -> tuple[Refusal, ...]:
    """Everything in a resource that the catalog does not know or the plan must decide itself."""
    return tuple(_refusals(resource, catalog))


def _refusals(resource: Resource, catalog: Catalog) -> Iterator[Refusal]:
    if isinstance(resource, ServingPool):
        yield from _stage("spec", resource.spec, catalog)
    elif isinstance(resource, ModelCascade):
        for index, stage in enumerate(resource.spec.stages):
            yield from _stage(f"spec.stages[{index}]", stage, catalog)
    elif isinstance(resource, RLJob):
        yield from _job(resource, catalog)


def _stage(path: str, spec: Any, catalog: Catalog) -> Iterator[Refusal]:
    yield from _model(f"{path}.model", spec.model, catalog)
    yield from _engine(f"{path}.engine", spec.engine, "serve", spec.model.precision, catalog)
    yield from _gpus(f"{path}.placement", spec.placement, catalog)
    yield from template_refusals(f"{path}.podTemplate", spec.pod_template)


def _job(job: RLJob, catalog: Catalog) -> Iterator[Refusal]:
    spec = job.spec
    yield from _model("spec.model", spec.model, catalog)
    engine = spec.rollout.engine
    yield from _engine("spec.rollout.engine", engine, "rollout", spec.model.precision, catalog)
    for path, placement in (
        ("spec.placement", spec.placement),
        ("spec.rollout.placement", spec.rollout.placement),
        ("spec.trainer.placement", spec.trainer.placement),
    ):
        yield from _gpus(path, placement, catalog)
    yield from template_refusals("spec.rollout.podTemplate", spec.rollout.pod_template)
    yield from template_refusals("spec.trainer.podTemplate", spec.trainer.pod_template)
    framework = catalog.frameworks.get(spec.framework.name)
    if framework is not None and not (spec.framework.image or framework.default_image):
        yield Refusal(
            "InvalidSpec",
            "spec.framework.image",
            f"{spec.framework.name} has no default image",
            "set spec.framework.image",
        )


def _model(path: str, ref: ModelRef, catalog: Catalog) -> Iterator[Refusal]:
    if ref.architecture is not None:
        read = model_from_config(ref.id, ref.architecture)
        if isinstance(read, ArchitectureRefusal):
            message = f"{read.field} {read.reason}"
            yield Refusal("InvalidSpec", f"{path}.architecture", message, f"correct {read.field}")
    elif catalog.model(ref.id) is None:
        near = catalog.nearest_models(ref.id, 1)
        hint = f"write {near[0]}, or " if near else ""
        yield Refusal(
            "UnknownModel",
            f"{path}.id",
            f"{ref.id} is not in the catalog",
            f"{hint}give {path}.architecture (the fields of the model's config.json)",
        )


def _engine(
    path: str, engine: EngineSpec, role: str, precision: str, catalog: Catalog
) -> Iterator[Refusal]:
    known = catalog.engines.get(engine.name)
    names = sorted(name for name, each in catalog.engines.items() if role in each.roles)
    if known is None or role not in known.roles or known.launch is None:
        message = f"{engine.name} is no engine of the catalog that can {role}"
        yield Refusal("UnknownEngine", f"{path}.name", message, f"use {' or '.join(names)}")
    elif precision not in known.precisions:
        message = f"{engine.name} does not run {precision} weights"
        lift = f"use {', '.join(known.precisions)}, or another engine"
        yield Refusal("InvalidSpec", f"{path}.name", message, lift)


def _gpus(path: str, placement: Placement, catalog: Catalog) -> Iterator[Refusal]:
    for index, product in enumerate(placement.gpu_products or ()):
        found = catalog.gpu_by_label(product)
        if not isinstance(found, Gpu):
            near = f"write {found.nearest[0]}, or " if found.nearest else ""
            yield Refusal(
                "UnknownGPU",
                f"{path}.gpuProducts[{index}]",
                f"{product}: {found.reason}",
                f"{near}add it to spec.catalog.gpus of the Fleet",
            )


def model_spec(ref: ModelRef, catalog: Catalog) -> ModelSpec:
    """The architecture that a checked reference names."""
    found = model_from_config(ref.id, ref.architecture) if ref.architecture is not None else None
    known = found or catalog.model(ref.id)
    assert isinstance(known, ModelSpec), f"{ref.id} was not checked"
    return known


def gpu_ids(placement: Placement, catalog: Catalog) -> frozenset[str]:
    """Catalog ids of the products that a checked placement allows; empty means all."""
    found = [catalog.gpu_by_label(product) for product in placement.gpu_products or ()]
    return frozenset(gpu.name for gpu in found if isinstance(gpu, Gpu))


def pod_tolerations(template: Mapping[str, Any] | None) -> tuple[Mapping[str, str], ...]:
    """Tolerations that a pod template adds."""
    spec = (template or {}).get("spec")
    found = spec.get("tolerations") if isinstance(spec, Mapping) else None
    return tuple(t for t in found or () if isinstance(t, Mapping))
