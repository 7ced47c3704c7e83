"""Checks of the parts that resources share: model, engine, placement, latency targets."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator

from motley_operator.api.adapters import Adapter
from motley_operator.api.common import EngineSpec, Placement
from motley_operator.api.findings import Finding, Path
from motley_operator.api.models import ModelRef
from motley_operator.api.surroundings import architecture_finding, found
from motley_operator.api.traffic import Percentiles, Slo, Workload
from motley_planner.catalog import ArchitectureRefusal, model_from_config
from motley_planner.domain.hardware import Catalog, Gpu
from motley_planner.domain.models import ModelSpec

_PLANNED_ARGS = (
    "--tensor-parallel-size", "--pipeline-parallel-size", "--tp-size", "--tp", "--pp-size", "-tp",
    "-pp", "--model", "--model-path", "--served-model-name", "--port", "--host",
)  # fmt: skip
_ZONE = "topology.kubernetes.io/zone"
_PRODUCT = "nvidia.com/gpu.product"
_CAPACITY = "karpenter.sh/capacity-type"


def model_of(ref: ModelRef, catalog: Catalog) -> ModelSpec | ArchitectureRefusal | None:
    """The architecture that a reference names; None where the catalog does not know the id."""
    if ref.architecture is not None:
        return model_from_config(ref.id, ref.architecture)
    return catalog.model(ref.id)


def model_findings(
    ref: ModelRef, at: Path, catalog: Catalog, load: Workload | None
) -> Iterator[Finding]:
    """An unknown model, an architecture that cannot be priced, requests longer than the context."""
    model = model_of(ref, catalog)
    if model is None:
        hint = _near(ref.id, (*catalog.models, *(m.name for m in catalog.models.values())))
        yield found(
            (*at, "id"), "known model",
            f"the catalog does not know the model {ref.id}: "
            f"{hint + ' Or give' if hint else 'give'} model.architecture "
            "(the fields of its config.json)", "UnknownModel",
        )  # fmt: skip
    elif isinstance(model, ArchitectureRefusal):
        yield architecture_finding(model, (*at, "architecture"))
    elif load is not None:
        yield from _context(model, load)


def _context(model: ModelSpec, load: Workload) -> Iterator[Finding]:
    for i, row in enumerate(load.classes):
        length = row.prompt_tokens + row.output_tokens
        if length > model.max_context_tokens:
            yield found(
                ("spec", "workload", "classes", i), "context length",
                f"class {row.name} needs {length} tokens and {model.name} reads "
                f"{model.max_context_tokens}: shorten the class or take a model with a longer "
                "context", "ContextTooLong",
            )  # fmt: skip


def engine_findings(
    engine: EngineSpec, at: Path, catalog: Catalog, use: tuple[str, ModelRef]
) -> Iterator[Finding]:
    """An engine that is unknown or cannot do it; `use` is (serve | rollout, the model)."""
    role, model = use
    known = catalog.engines.get(engine.name)
    able = {n: e for n, e in catalog.engines.items() if role in e.roles and e.launch is not None}
    if known is None:
        yield found(
            (*at, "name"), "known engine",
            f"the catalog does not know the engine {engine.name}: use one of "
            f"{', '.join(sorted(able))}", "UnknownEngine",
        )  # fmt: skip
    elif engine.name not in able:
        yield found(
            (*at, "name"), "engine role",
            f"{engine.name} cannot {role}: use one of {', '.join(sorted(able))}", "UnknownEngine",
        )  # fmt: skip
    elif model.precision not in known.precisions:
        yield found(
            (*at, "name"), "engine precision",
            f"{engine.name} does not run {model.precision} weights: set model.precision to one of "
            f"{', '.join(known.precisions)}, or take another engine", "InvalidSpec",
        )  # fmt: skip
    elif engine.priority and (known.launch is None or known.launch.priority is None):
        orders = (n for n, e in able.items() if e.launch is not None and e.launch.priority)
        yield found(
            (*at, "priority"), "engine priority",
            f"{engine.name} orders no requests by priority: drop priority, or take one of "
            f"{', '.join(sorted(orders))}", "InvalidSpec",
        )  # fmt: skip
    for i, argument in enumerate(engine.extra_args):
        if (flag := argument.split("=", 1)[0].strip()) in _PLANNED_ARGS:
            yield found(
                (*at, "extraArgs", i), "planned argument",
                f"the plan sets {flag}: remove it (parallelism and gateway.port steer it)",
                "ArgumentRefused",
            )  # fmt: skip


def adapter_findings(
    adapters: tuple[Adapter, ...], engine: str, taken: Collection[str], catalog: Catalog
) -> Iterator[Finding]:
    """Adapters on an engine that serves none by name, or under a name that the model has."""
    known = catalog.engines.get(engine)
    at: Path = ("spec", "adapters")
    if adapters and known is not None and known.launch is not None and not known.launch.adapters:
        able = (n for n, e in catalog.engines.items() if e.launch is not None and e.launch.adapters)
        yield found(
            at, "engine adapters",
            f"{engine} serves no adapters by name: drop adapters, or take one of "
            f"{', '.join(sorted(able))}", "InvalidSpec",
        )  # fmt: skip
    for i, adapter in enumerate(adapters):
        if adapter.name in taken:
            yield found(
                (*at, i, "name"), "adapter name",
                f"{adapter.name} is the model's own name here: give the adapter another",
                "InvalidSpec",
            )  # fmt: skip


def gpu_findings(name: str, at: Path, catalog: Catalog) -> Iterator[Finding]:
    """A GPU that the catalog does not know, or a part of one."""
    gpu = catalog.gpu_by_label(name)
    if isinstance(gpu, Gpu):
        return
    labels = (label for known in catalog.gpus.values() for label in known.product_labels)
    hint = _near(name, (*catalog.gpus, *labels))
    hint = hint or "write the label nvidia.com/gpu.product of the nodes,"
    if name.endswith("-SHARED") or "-MIG-" in name:
        message = f"{name} cannot be used: {gpu.reason}"
    else:
        message = (
            f"the catalog does not know the GPU {name}: {hint} or add it to the Fleet's "
            "spec.catalog.gpus"
        )
    yield found(at, "known GPU", message, "UnknownGPU")


def gpu_names(names: Iterable[str] | None, catalog: Catalog) -> frozenset[str] | None:
    """Catalog ids of products, however they are written; an unknown one stands for itself."""
    if names is None:
        return None
    known = {name: catalog.gpu_by_label(name) for name in names}
    return frozenset(gpu.name if isinstance(gpu, Gpu) else name for name, gpu in known.items())


def placement_findings(placement: Placement, at: Path, catalog: Catalog) -> Iterator[Finding]:
    """Unknown GPUs, and a nodeSelector against the lists beside it."""
    for i, product in enumerate(placement.gpu_products or ()):
        yield from gpu_findings(product, (*at, "gpuProducts", i), catalog)
    lists = (
        (_ZONE, "zones", placement.zones),
        (_PRODUCT, "gpuProducts", placement.gpu_products),
        (_CAPACITY, "capacityTypes", placement.capacity_types),
        ("motley.dev/trust-zone", "trustZones", placement.trust_zones),
    )
    for label, name, listed in lists:
        wanted = placement.node_selector.get(label)
        if wanted is None or listed is None:
            continue
        allowed, asked = frozenset(listed), frozenset((wanted,))
        if name == "gpuProducts":
            allowed, asked = (
                gpu_names(allowed, catalog) or allowed,
                gpu_names(asked, catalog) or asked,
            )
        if not asked <= allowed:
            yield found(
                (*at, "nodeSelector", label), "placement",
                f"nodeSelector asks for {label}={wanted} and {name} does not allow it: add {wanted} "
                f"to {name} or drop the selector", "PlacementContradiction",
            )  # fmt: skip


def disjoint_findings(
    outer: Placement, inner: Placement, at: Path, catalog: Catalog
) -> Iterator[Finding]:
    """A part of a job that may be nowhere where the job may be."""
    outside_gpus = gpu_names(outer.gpu_products, catalog)
    inside_gpus = gpu_names(inner.gpu_products, catalog)
    for name, outside, inside in (
        ("gpuProducts", outside_gpus, inside_gpus),
        ("zones", outer.zones, inner.zones),
        ("capacityTypes", outer.capacity_types, inner.capacity_types),
        ("trustZones", outer.trust_zones, inner.trust_zones),
    ):
        if outside is not None and inside is not None and not set(outside) & set(inside):
            yield found(
                (*at, name), "placement",
                f"{name} has nothing in common with spec.placement.{name}: widen one of them",
                "PlacementContradiction",
            )  # fmt: skip


def slo_findings(slo: Slo, at: Path) -> Iterator[Finding]:
    """A first token that may come later than the whole answer."""
    first, whole = slo.ttft or Percentiles(), slo.e2e or Percentiles()
    for name in ("p50", "p90", "p95", "p99"):
        ttft, e2e = getattr(first, name), getattr(whole, name)
        if ttft is not None and e2e is not None and ttft.seconds > e2e.seconds:
            yield found(
                (*at, "ttft", name), "latency targets",
                f"ttft.{name} of {ttft} is above e2e.{name} of {e2e}, which contains it: lower ttft "
                "or raise e2e", "SLOContradiction",
            )  # fmt: skip


def workload_findings(workload: Workload, at: Path) -> Iterator[Finding]:
    """Bounds of measured demand that leave nothing between them."""
    least, most = workload.min_requests_per_second, workload.max_requests_per_second
    if least is not None and most is not None and least.per_second > most.per_second:
        yield found(
            (*at, "minRequestsPerSecond"), "demand bounds",
            f"minRequestsPerSecond of {least} is above maxRequestsPerSecond of {most}: lower it or "
            "raise the other", "DemandContradiction",
        )  # fmt: skip


def _near(name: str, known: Iterable[str]) -> str:
    by_lower: dict[str, str] = {}
    for spelling in sorted(known):  # capitals sort first, so the maker's spelling wins
        by_lower.setdefault(spelling.lower(), spelling)
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]}?" if near else ""
