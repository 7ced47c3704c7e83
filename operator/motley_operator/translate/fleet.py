"""The Fleet object: its spec, or the defaults where there is none or it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator.api import Fleet, FleetSpec, read
from motley_operator.api.fleet import GpuEntry
from motley_planner.catalog import with_gpu
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Refusal
from motley_planner.errors import CatalogError


def fleet_spec(document: Mapping[str, Any] | None) -> tuple[FleetSpec, tuple[Refusal, ...]]:
    """The Fleet's spec and what is wrong with it; a wrong one counts as absent."""
    if document is None:
        return FleetSpec(), ()
    fleet, findings = read(document)
    if isinstance(fleet, Fleet):
        return fleet.spec, ()
    return FleetSpec(), tuple(
        Refusal("InvalidSpec", finding.field, finding.message, "correct the field")
        for finding in findings
    )


def fleet_catalog(catalog: Catalog, fleet: FleetSpec) -> tuple[Catalog, tuple[Refusal, ...]]:
    """The catalog with the Fleet's own GPUs; an entry that cannot be used is left out and named."""
    refusals = []
    for index, entry in enumerate(fleet.catalog.gpus):
        try:
            catalog = with_gpu(catalog, _entry(entry), f"Fleet GPU {entry.id}")
        except CatalogError as error:
            field = f"spec.catalog.gpus[{index}]"
            refusals.append(Refusal("InvalidSpec", field, str(error), "correct the entry"))
    return catalog, tuple(refusals)


def _entry(gpu: GpuEntry) -> dict[str, Any]:
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
