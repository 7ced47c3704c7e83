"""The catalog against the data it was retyped from, where that data is on this machine."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from motley_planner.catalog import load_catalog
from motley_planner.costs.parameters import parameter_count
from motley_planner.domain.hardware import Gpu

CATALOG = load_catalog()
DATA = Path(__file__).parents[3] / "shared/data"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the data is not on this machine")
# In the data per card; a node lists each of its two dies as a GPU.
TWO_DIES = {"MI250X": 2.0}


def rows(name: str) -> list[dict[str, str]]:
    path = DATA / name
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def models() -> dict[str, dict[str, Any]]:
    path = DATA / "models/model_archs.json"
    return json.loads(path.read_text()) if path.exists() else {}


LABELED = [row for row in rows("gpu/gpu_specs.csv") if row["k8s_product_label"]]
PRICED = [row for row in rows("gpu/cloud_prices.csv") if not row["gpu"].startswith("Gaudi")]
VERIFIED = {name: model for name, model in models().items() if model.get("verified")}


@pytest.mark.parametrize("row", LABELED, ids=[row["id"] for row in LABELED])
def test_a_gpu_with_a_product_label_is_listed_with_its_numbers(row: dict[str, str]) -> None:
    for label in row["k8s_product_label"].rstrip("*").split("|"):
        found = CATALOG.gpu_by_label(label)
        assert isinstance(found, Gpu), label
        assert found.name == CATALOG.gpus[found.name].name
    gpu = CATALOG.gpu_by_label(row["id"])
    assert isinstance(gpu, Gpu)
    dies = TWO_DIES.get(gpu.name, 1.0)
    stated = {
        "mem_gb": gpu.hbm_bytes / 1e9 * dies,
        "mem_bw_gb_s": gpu.hbm_bytes_per_s / 1e9 * dies,
        # Cards without bf16 carry their fp16 peak in that column.
        "bf16_dense_tflops": gpu.flop_per_s["fp16"] / 1e12 * dies,
        "fp8_dense_tflops": gpu.flop_per_s.get("fp8", 0.0) / 1e12 * dies,
        "fp4_dense_tflops": gpu.flop_per_s.get("fp4", 0.0) / 1e12 * dies,
        "link_gb_s_per_dir": gpu.link_bytes_per_s / 1e9,
        "pcie_gb_s_per_dir": gpu.pcie_bytes_per_s / 1e9,
    }
    for column, value in stated.items():
        assert value == pytest.approx(float(row[column] or 0.0), rel=0.01), column


@pytest.mark.parametrize("name", VERIFIED)
def test_a_verified_model_is_listed_with_its_architecture(name: str) -> None:
    found, stated = CATALOG.model(name), VERIFIED[name]
    assert found is not None
    for ours, theirs in (
        ("layers", "num_hidden_layers"),
        ("hidden", "hidden_size"),
        ("heads", "num_attention_heads"),
        ("vocabulary", "vocab_size"),
        ("kv_lora_rank", "kv_lora_rank"),
        ("experts", "num_experts"),
    ):
        assert getattr(found, ours) == (stated.get(theirs) or 0), theirs
    if stated.get("params_b"):
        assert parameter_count(found) / 1e9 == pytest.approx(stated["params_b"], rel=0.01)


def test_every_node_that_clouds_sell_has_its_lowest_list_price() -> None:
    lowest: dict[tuple[str, str], float] = {}
    for row in PRICED:
        if row["ondemand_usd_h"]:
            key = (row["gpu"], row["instance_type"])
            lowest[key] = min(lowest.get(key, 1e9), float(row["ondemand_usd_h"]))
    assert len(lowest) == len({(row["gpu"], row["instance_type"]) for row in PRICED})
    for (gpu, instance_type), price in lowest.items():
        known = CATALOG.gpu_by_label(gpu)
        assert isinstance(known, Gpu)
        shape = known.node_shape(instance_type)
        assert shape is not None, instance_type
        assert shape.price_usd_per_hour == pytest.approx(price, rel=1e-3)


def test_the_spot_price_of_a_node_is_one_that_a_region_asks() -> None:
    spot: dict[str, list[float]] = {}
    for row in PRICED:
        if row["spot_usd_h"]:
            spot.setdefault(row["instance_type"], []).append(float(row["spot_usd_h"]))
    shapes = {s.instance_type: s for gpu in CATALOG.gpus.values() for s in gpu.node_shapes}
    assert spot or not PRICED
    for instance_type, prices in spot.items():
        price = shapes[instance_type].per_gpu_hour(spot=True)
        assert price is not None
        assert min(prices) <= price * shapes[instance_type].gpus <= max(prices)
