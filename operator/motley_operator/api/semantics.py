"""What a schema cannot see: names that must be known, and statements that contradict each other.

`semantic_findings` is used by `motley validate` and by the operator's cycle, so that a file and a
condition say the same sentence. The catalog is handed in as names; nothing here imports it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from motley_operator.api.calibration import best_quality, read_calibration
from motley_operator.api.common import EngineSpec, ModelRef, Placement
from motley_operator.api.findings import Finding, Path
from motley_operator.api.fleet import Fleet
from motley_operator.api.frame import Resource
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.podtemplates import template_findings
from motley_operator.api.rljob import RLJob
from motley_operator.api.servingpool import ServingPool
from motley_operator.api.traffic import Percentiles, Slo, Workload

ConfigMaps = Mapping[tuple[str, str], Mapping[str, str]]
"""Data of ConfigMaps by (namespace, name)."""


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What the catalog knows; an empty set switches the checks that need it off."""

    models: frozenset[str] = frozenset()
    engines: frozenset[str] = frozenset()
    gpus: frozenset[str] = frozenset()  # catalog ids and product labels

    def with_fleet(self, fleet: Fleet) -> KnownNames:
        """These names and the additions of a Fleet."""
        extra = fleet.spec.catalog
        models = {i for m in extra.models for i in (m.id, *m.aliases)}
        gpus = {i for g in extra.gpus for i in (g.id, *g.product_labels)}
        return KnownNames(
            self.models | models if self.models else self.models,
            self.engines,
            self.gpus | gpus if self.gpus else self.gpus,
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a resource is checked against."""

    known: KnownNames = KnownNames()
    config_maps: ConfigMaps = field(default_factory=dict)


_ARCHITECTURE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_PLANNED_ARGS = (
    "--tensor-parallel-size", "--pipeline-parallel-size", "--tp-size", "--tp", "--pp-size", "-tp",
    "-pp", "--model", "--model-path", "--served-model-name", "--port", "--host",
)  # fmt: skip
_ZONE = "topology.kubernetes.io/zone"
_PRODUCT = "nvidia.com/gpu.product"
_CAPACITY = "karpenter.sh/capacity-type"


def semantic_findings(
    resource: Resource, around: Surroundings | None = None
) -> tuple[Finding, ...]:
    """Everything about a valid resource that cannot work, each with its field and its fix."""
    around = around or Surroundings()
    if isinstance(resource, ServingPool):
        found = _pool(resource, around)
    elif isinstance(resource, ModelCascade):
        found = _cascade(resource, around)
    elif isinstance(resource, RLJob):
        found = _job(resource, around)
    elif isinstance(resource, Fleet):
        found = _fleet(resource, around.known)
    else:
        found = iter(())
    return tuple(found)


def _found(path: Path, rule: str, message: str, reason: str) -> Finding:
    return Finding(path, rule, message, "semantic", reason)


def _pool(pool: ServingPool, around: Surroundings) -> Iterator[Finding]:
    spec, at = pool.spec, ("spec",)
    yield from _model(spec.model, (*at, "model"), around.known, spec.workload)
    yield from _engine(spec.engine, (*at, "engine"), around.known)
    yield from _placement(spec.placement, (*at, "placement"), around.known)
    yield from _slo(spec.slo, (*at, "slo"))
    yield from template_findings(spec.pod_template, (*at, "podTemplate"))
    gpus = spec.budget.gpus if spec.budget else None
    if spec.disaggregation == "Always" and gpus is not None and gpus < 2:
        yield _found(
            (*at, "budget", "gpus"), "two phases",
            f"disaggregation: Always needs a GPU for each phase and the budget allows {gpus}: "
            "raise budget.gpus to 2 or set disaggregation to Auto", "BudgetTooLow",
        )  # fmt: skip


def _cascade(cascade: ModelCascade, around: Surroundings) -> Iterator[Finding]:
    spec = cascade.spec
    for i, stage in enumerate(spec.stages):
        at: Path = ("spec", "stages", i)
        yield from _model(stage.model, (*at, "model"), around.known, spec.workload)
        yield from _engine(stage.engine, (*at, "engine"), around.known)
        yield from _placement(stage.placement, (*at, "placement"), around.known)
        yield from template_findings(stage.pod_template, (*at, "podTemplate"))
    yield from _slo(spec.slo, ("spec", "slo"))
    yield from _quality(cascade, around.config_maps)


def _job(job: RLJob, around: Surroundings) -> Iterator[Finding]:
    spec, at = job.spec, ("spec",)
    yield from _model(spec.model, (*at, "model"), around.known, None)
    yield from _engine(spec.rollout.engine, (*at, "rollout", "engine"), around.known)
    yield from _placement(spec.placement, (*at, "placement"), around.known)
    for role, part in (("rollout", spec.rollout), ("trainer", spec.trainer)):
        yield from _placement(part.placement, (*at, role, "placement"), around.known)
        yield from _disjoint(spec.placement, part.placement, (*at, role, "placement"))
        yield from template_findings(part.pod_template, (*at, role, "podTemplate"))
    needed = spec.rollout.min_replicas + spec.trainer.min_gpus
    if spec.budget and spec.budget.gpus is not None and spec.budget.gpus < needed:
        yield _found(
            (*at, "budget", "gpus"), "smallest job",
            f"the smallest job needs {needed} GPUs (rollout.minReplicas + trainer.minGpus) and the "
            f"budget allows {spec.budget.gpus}: raise budget.gpus to {needed} or lower the minima",
            "BudgetTooLow",
        )  # fmt: skip


def _fleet(fleet: Fleet, known: KnownNames) -> Iterator[Finding]:
    known = known.with_fleet(fleet)
    for i, shape in enumerate(fleet.spec.shapes):
        yield from _gpu(shape.gpu_product, ("spec", "shapes", i, "gpuProduct"), known)
    for i, price in enumerate(fleet.spec.prices.gpus):
        yield from _gpu(price.gpu, ("spec", "prices", "gpus", i, "gpu"), known)


def _knows(names: Iterable[str], name: str) -> bool:
    return name.casefold() in {known.casefold() for known in names}


def _near(name: str, known: Iterable[str]) -> str:
    by_lower: dict[str, str] = {}
    for spelling in sorted(known):  # capitals sort first, so the maker's spelling wins
        by_lower.setdefault(spelling.lower(), spelling)
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]}?" if near else ""


def _model(
    model: ModelRef, at: Path, known: KnownNames, load: Workload | None
) -> Iterator[Finding]:
    if model.architecture is None:
        if known.models and not _knows(known.models, model.id):
            hint = _near(model.id, known.models)
            yield _found(
                (*at, "id"), "known model",
                f"the catalog does not know the model {model.id}: "
                f"{hint + ' Or give' if hint else 'give'} model.architecture "
                "(the fields of its config.json)", "UnknownModel",
            )  # fmt: skip
        return
    numbers = model.architecture
    for name in _ARCHITECTURE:
        value = numbers.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            yield _found(
                (*at, "architecture", name), "whole architecture",
                f"model.architecture needs {name} as a positive whole number: copy it from the "
                "model's config.json", "UnknownModel",
            )  # fmt: skip
    limit = numbers.get("max_position_embeddings")
    if load is None or not isinstance(limit, int):
        return
    for row in load.classes:
        length = row.prompt_tokens + row.output_tokens
        if length > limit:
            yield _found(
                (*at, "architecture", "max_position_embeddings"), "context length",
                f"class {row.name} needs {length} tokens and the model reads {limit}: shorten the "
                "class or take a model with a longer context", "ContextTooLong",
            )  # fmt: skip


def _engine(engine: EngineSpec, at: Path, known: KnownNames) -> Iterator[Finding]:
    if known.engines and not _knows(known.engines, engine.name):
        names = ", ".join(sorted(known.engines))
        yield _found(
            (*at, "name"), "known engine",
            f"the catalog does not know the engine {engine.name}: use one of {names}",
            "UnknownEngine",
        )  # fmt: skip
    for i, argument in enumerate(engine.extra_args):
        if (flag := argument.split("=", 1)[0].strip()) in _PLANNED_ARGS:
            yield _found(
                (*at, "extraArgs", i), "planned argument",
                f"the plan sets {flag}: remove it (parallelism and gateway.port steer it)",
                "ArgumentRefused",
            )  # fmt: skip


def _gpu(name: str, at: Path, known: KnownNames) -> Iterator[Finding]:
    if known.gpus and not _knows(known.gpus, name):
        hint = _near(name, known.gpus) or "write the label nvidia.com/gpu.product of the nodes,"
        yield _found(
            at, "known GPU",
            f"the catalog does not know the GPU {name}: {hint} or add it to the Fleet's "
            "spec.catalog.gpus", "UnknownGPU",
        )  # fmt: skip


def _placement(placement: Placement, at: Path, known: KnownNames) -> Iterator[Finding]:
    for i, product in enumerate(placement.gpu_products or ()):
        yield from _gpu(product, (*at, "gpuProducts", i), known)
    lists = (
        (_ZONE, "zones", placement.zones),
        (_PRODUCT, "gpuProducts", placement.gpu_products),
        (_CAPACITY, "capacityTypes", placement.capacity_types),
        ("motley.dev/trust-zone", "trustZones", placement.trust_zones),
    )
    for label, name, allowed in lists:
        wanted = placement.node_selector.get(label)
        if wanted is not None and allowed is not None and wanted not in allowed:
            yield _found(
                (*at, "nodeSelector", label), "placement",
                f"nodeSelector asks for {label}={wanted} and {name} does not allow it: add {wanted} "
                f"to {name} or drop the selector", "PlacementContradiction",
            )  # fmt: skip


def _disjoint(outer: Placement, inner: Placement, at: Path) -> Iterator[Finding]:
    for name, outside, inside in (
        ("gpuProducts", outer.gpu_products, inner.gpu_products),
        ("zones", outer.zones, inner.zones),
        ("capacityTypes", outer.capacity_types, inner.capacity_types),
        ("trustZones", outer.trust_zones, inner.trust_zones),
    ):
        if outside is not None and inside is not None and not set(outside) & set(inside):
            yield _found(
                (*at, name), "placement",
                f"{name} has nothing in common with spec.placement.{name}: widen one of them",
                "PlacementContradiction",
            )  # fmt: skip


def _slo(slo: Slo, at: Path) -> Iterator[Finding]:
    first, whole = slo.ttft or Percentiles(), slo.e2e or Percentiles()
    for name in ("p50", "p90", "p95", "p99"):
        ttft, e2e = getattr(first, name), getattr(whole, name)
        if ttft is not None and e2e is not None and ttft.seconds > e2e.seconds:
            yield _found(
                (*at, "ttft", name), "latency targets",
                f"ttft.{name} of {ttft} is above e2e.{name} of {e2e}, which contains it: lower ttft "
                "or raise e2e", "SLOContradiction",
            )  # fmt: skip


def _quality(cascade: ModelCascade, config_maps: ConfigMaps) -> Iterator[Finding]:
    quality = cascade.spec.quality
    ref, at = quality.calibration.config_map_key_ref, ("spec", "quality", "calibration")
    data = config_maps.get((cascade.metadata.namespace or "", ref.name))
    if data is None:
        return
    if ref.key not in data:
        keys = ", ".join(sorted(data)) or "none"
        yield _found(
            (*at, "configMapKeyRef", "key"), "calibration",
            f"ConfigMap {ref.name} has no key {ref.key}: use one of its keys ({keys})",
            "CalibrationInvalid",
        )  # fmt: skip
        return
    stages = [stage.name for stage in cascade.spec.stages]
    table, errors = read_calibration(data[ref.key], stages)
    for error in errors:
        yield _found(at, "calibration", error.message, "CalibrationInvalid")
    if table is None:
        return
    best, _ = best_quality(table, stages)
    if best < quality.floor.fraction - 1e-9:
        yield _found(
            ("spec", "quality", "floor"), "reachable floor",
            f"the best thresholds reach {best:.1%} on the calibration table, below the floor of "
            f"{quality.floor}: lower quality.floor to {best:.1%} or add a stronger stage",
            "QualityUnreachable",
        )  # fmt: skip
