"""What a resource is checked against: the catalog and what else is on the cluster or in the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from motley_operator.api.findings import Finding, Path
from motley_operator.api.fleet import FleetSpec, GpuEntry
from motley_planner.catalog import (
    ArchitectureRefusal,
    load_catalog,
    model_from_config,
    with_gpu,
    with_model,
)
from motley_planner.domain.hardware import Catalog
from motley_planner.errors import CatalogError

ConfigMaps = Mapping[tuple[str, str], Mapping[str, str]]
"""Data of ConfigMaps by (namespace, name)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a resource is checked against; without a Fleet the catalog is the built-in one."""

    catalog: Catalog = field(default_factory=load_catalog)
    config_maps: ConfigMaps = field(default_factory=dict)
    priority_classes: Mapping[str, int] | None = None  # None: not known here, so not checked
    allowed: frozenset[str] = frozenset()  # the Fleet's podTemplates.allow


def found(path: Path, rule: str, message: str, reason: str) -> Finding:
    """A mistake in meaning."""
    return Finding(path, rule, message, "semantic", reason)


def with_additions(catalog: Catalog, fleet: FleetSpec) -> tuple[Catalog, tuple[Finding, ...]]:
    """The catalog with the Fleet's own GPUs and models.

    An entry that cannot be used is left out and named.
    """
    findings: list[Finding] = []
    for i, gpu in enumerate(fleet.catalog.gpus):
        try:
            catalog = with_gpu(catalog, _gpu(gpu), f"GPU {gpu.id}")
        except CatalogError as error:
            findings.append(_wrong(("spec", "catalog", "gpus", i), error))
    for i, model in enumerate(fleet.catalog.models):
        at: Path = ("spec", "catalog", "models", i)
        read = model_from_config(model.id, model.architecture)
        if isinstance(read, ArchitectureRefusal):
            findings.append(architecture_finding(read, (*at, "architecture")))
            continue
        try:
            catalog = with_model(catalog, read, model.aliases, f"model {model.id}")
        except CatalogError as error:
            findings.append(_wrong(at, error))
    return catalog, tuple(findings)


def architecture_finding(refusal: ArchitectureRefusal, at: Path) -> Finding:
    """A config.json that cannot be priced."""
    other = refusal.field == "model_type"
    fix = "serve another model" if other else "copy it from the model's config.json"
    message = f"{refusal.field} {refusal.reason}: {fix}"
    return found((*at, refusal.field), "whole architecture", message, "UnknownModel")


def _wrong(path: Path, error: CatalogError) -> Finding:
    return found(path, "catalog entry", f"{error}: correct the entry", "InvalidSpec")


def _gpu(gpu: GpuEntry) -> dict[str, Any]:
    """A Fleet's GPU in the keys and units of catalog/gpus/*.toml."""
    # An owned GPU costs nothing, yet the catalog wants a price.
    price = (gpu.dollars_per_hour.usd if gpu.dollars_per_hour is not None else 0.0) or 1e-9
    link, fp8 = gpu.link_gigabytes_per_second, gpu.fp8_teraflops
    entry = {
        "name": gpu.id,
        "vendor": "nvidia",
        "arch": "custom",
        "product_labels": list(gpu.product_labels),
        "memory_gb": gpu.memory_gigabytes.value,
        "memory_bandwidth_tb_per_s": gpu.memory_gigabytes_per_second.value / 1e3,
        "bf16_dense_tflop_per_s": gpu.bf16_teraflops.value,
        "fp16_dense_tflop_per_s": gpu.bf16_teraflops.value,
        "fp8_dense_tflop_per_s": fp8.value if fp8 is not None else None,
        "link_gb_per_s": link.value if link is not None else 0.0,
        "link_gpus": 8 if link is not None else 1,
        "pcie_gb_per_s": 32.0,  # PCIe 4.0 x16, the least of current servers
        "price_usd_per_hour": price,
        "price_source": "Fleet",
        "spot_price_usd_per_hour": price,
        "spot_price_source": "Fleet",
        "source": "Fleet",
    }
    return {key: value for key, value in entry.items() if value is not None}
