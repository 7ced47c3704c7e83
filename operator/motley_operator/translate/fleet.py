"""The Fleet object: its spec, or the defaults where there is none or it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator.api import Fleet, FleetSpec, read
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
            catalog = with_gpu(catalog, _entry(entry.model_dump()), f"Fleet GPU {entry.id}")
        except CatalogError as error:
            field = f"spec.catalog.gpus[{index}]"
            refusals.append(Refusal("InvalidSpec", field, str(error), "correct the entry"))
    return catalog, tuple(refusals)


def _entry(written: Mapping[str, Any]) -> dict[str, Any]:
    """A Fleet's GPU in the keys and units of catalog/gpus/*.toml."""
    number = {k: v.value for k, v in written.items() if v is not None and hasattr(v, "value")}
    price = number.get("dollars_per_hour") or 1e-9  # owned: free, yet the catalog wants a price
    entry = {
        "name": written["id"],
        "vendor": "nvidia",
        "arch": "custom",
        "product_labels": list(written["product_labels"]),
        "memory_gb": number["memory_gigabytes"],
        "memory_bandwidth_tb_per_s": number["memory_gigabytes_per_second"] / 1e3,
        "bf16_dense_tflop_per_s": number["bf16_teraflops"],
        "fp16_dense_tflop_per_s": number["bf16_teraflops"],
        "fp8_dense_tflop_per_s": number.get("fp8_teraflops"),
        "link_gb_per_s": number.get("link_gigabytes_per_second", 0.0),
        "pcie_gb_per_s": 32.0,  # PCIe 4.0 x16, the least of current servers
        "price_usd_per_hour": price,
        "price_source": "Fleet",
        "spot_price_usd_per_hour": price,
        "spot_price_source": "Fleet",
        "source": "Fleet",
    }
    return {key: value for key, value in entry.items() if value is not None}
