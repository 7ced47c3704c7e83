"""The catalog folders: every file is right, and names are found the way clusters write them."""

from __future__ import annotations

import math
import time

import pytest

from motley_planner.catalog import (
    ArchitectureRefusal,
    load_catalog,
    loading,
    model_from_config,
    with_gpu,
)
from motley_planner.catalog.schema import GpuEntry
from motley_planner.domain.engines import LaunchSpec
from motley_planner.domain.hardware import Gpu, LabelRefusal
from motley_planner.errors import CatalogError

CATALOG = load_catalog()
REQUIRED_GPUS = [
    "H100-SXM5-80GB",
    "H100-PCIE-80GB",
    "H200-SXM-141GB",
    "B200-SXM-180GB",
    "A100-SXM4-40GB",
    "A100-SXM4-80GB",
    "A100-PCIE-80GB",
    "L40S",
    "L4",
    "A10",
    "A10G",
    "T4",
    "V100-SXM2-16GB",
    "V100-SXM2-32GB",
    "RTX-4090",
    "RTX-A6000",
    "MI300X",
]


@pytest.mark.parametrize("name", REQUIRED_GPUS)
def test_every_gpu_that_fleets_commonly_hold_is_listed(name: str) -> None:
    assert name in CATALOG.gpus


@pytest.mark.parametrize("gpu", CATALOG.gpus.values(), ids=lambda gpu: gpu.name)
def test_a_gpus_numbers_are_of_the_right_magnitude(gpu: Gpu) -> None:
    ridge = gpu.flop_per_s["fp16"] / gpu.hbm_bytes_per_s  # flop per byte
    assert 30 <= ridge <= 420
    assert 16e9 <= gpu.hbm_bytes <= 300e9
    assert 0 < gpu.spot_price_usd_per_hour <= gpu.price_usd_per_hour < 40
    assert gpu.price_source and gpu.spot_price_source
    assert gpu.link_bytes_per_s == 0 or gpu.link_bytes_per_s >= gpu.pcie_bytes_per_s * 0.5


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM5-80GB"),
        ("nvidia-h100-80gb", "H100-SXM5-80GB"),
        ("NVIDIA-A100-80GB-PCIe", "A100-PCIE-80GB"),
        ("A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("nvidia-tesla-a100", "A100-SXM4-40GB"),
        ("nvidia-a100-80gb", "A100-SXM4-80GB"),
        ("nvidia-l4", "L4"),
        ("Tesla-T4", "T4"),
        ("nvidia-tesla-t4", "T4"),
        ("Tesla-V100-SXM2-32GB", "V100-SXM2-32GB"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("H100-SXM5-80GB", "H100-SXM5-80GB"),
    ],
)
def test_a_label_names_its_gpu(label: str, name: str) -> None:
    found = CATALOG.gpu_by_label(label)
    assert isinstance(found, Gpu) and found.name == name


@pytest.mark.parametrize(
    ("label", "word"),
    [
        ("NVIDIA-H100-80GB-HBM3-SHARED", "time-sliced"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "MIG"),
        ("NVIDIA-Rubin-R100", "no GPU of the catalog"),
        ("", "no GPU of the catalog"),
    ],
)
def test_a_label_that_names_no_whole_gpu_is_refused_with_a_reason(label: str, word: str) -> None:
    found = CATALOG.gpu_by_label(label)
    assert isinstance(found, LabelRefusal) and word in found.reason


def test_no_two_gpus_share_a_label() -> None:
    for gpu in CATALOG.gpus.values():
        for label in gpu.product_labels:
            assert CATALOG.gpu_by_label(label) == gpu


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "meta-llama/Meta-Llama-3.1-70B"),
        ("meta-llama/llama-3.1-70b-instruct", "meta-llama/Meta-Llama-3.1-70B"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
    ],
)
def test_a_model_is_found_by_any_of_its_names(asked: str, name: str) -> None:
    found = CATALOG.model(asked)
    assert found is not None and found.name == name


def test_an_unknown_model_is_answered_with_the_nearest_names() -> None:
    assert CATALOG.model("Qwen/Qwen3-9B") is None
    assert "Qwen/Qwen3-8B" in CATALOG.nearest_models("Qwen/Qwen3-9B")


def test_the_catalog_loads_in_a_tenth_of_a_second() -> None:
    loading.load_catalog.cache_clear()
    begin = time.process_time()
    load_catalog()
    assert time.process_time() - begin < 0.1


PLACEHOLDERS = {
    "model",
    "served_model_name",
    "tp",
    "port",
    "dtype",
    "max_model_len",
    "context_tokens",
    "max_num_seqs",
    "gpu_memory_utilization",
    "shutdown_timeout",
    "experiment",
    "trial",
    "rank",
    "shared_root",
    "rollout_nodes",
    "rollout_gpus_per_node",
    "trainer_nodes",
    "trainer_gpus_per_node",
}
LAUNCHES = [e.launch for e in CATALOG.engines.values() if e.launch]
LAUNCHES += [f.trainer for f in CATALOG.frameworks.values() if f.trainer]


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: " ".join(launch.command) or "none")
def test_launch_arguments_use_only_documented_placeholders(launch: LaunchSpec) -> None:
    assert launch.placeholders <= PLACEHOLDERS


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_serving_engine_can_be_started_with_its_size_and_port(name: str) -> None:
    launch = CATALOG.engines[name].launch
    assert launch is not None
    assert {"model", "tp", "port", "max_num_seqs", "max_model_len"} <= launch.placeholders
    assert launch.images["nvidia"] and launch.health_path == "/health"
    assert launch.termination_grace_seconds > launch.shutdown_timeout_seconds


def test_an_engine_of_single_files_is_told_apart_where_its_weights_come_from() -> None:
    launch = CATALOG.engines["llamacpp"].launch
    assert launch is not None
    assert launch.mounted_args != launch.hub_args and "{model}" not in launch.args
    assert {"model", "port", "max_num_seqs", "context_tokens"} <= launch.placeholders


def _h100_entry() -> dict[str, object]:
    gpu = CATALOG.gpus["H100-SXM5-80GB"]
    return {
        "name": "X1",
        "vendor": "nvidia",
        "arch": "sm90",
        "product_labels": ["NVIDIA-X1"],
        "memory_gb": gpu.hbm_bytes / 1e9,
        "memory_bandwidth_tb_per_s": 3.35,
        "bf16_dense_tflop_per_s": 989,
        "fp16_dense_tflop_per_s": 989,
        "link_gb_per_s": 450,
        "pcie_gb_per_s": 64,
        "price_usd_per_hour": 5.0,
        "price_source": "contract",
        "spot_price_usd_per_hour": 2.0,
        "spot_price_source": "contract",
        "source": "test",
    }


def test_a_gpu_can_be_added_and_is_converted_to_si_units() -> None:
    wider = with_gpu(CATALOG, _h100_entry(), "spec.catalog.gpus[0]")
    found = wider.gpu_by_label("NVIDIA-X1")
    assert isinstance(found, Gpu)
    assert found.hbm_bytes == 80e9 and math.isclose(found.hbm_bytes_per_s, 3.35e12)
    assert "X1" not in CATALOG.gpus


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"memory_gb": -1}, "memory_gb"),
        ({"memroy_gb": 80}, "memroy_gb"),
        ({"vendor": "acme"}, "vendor"),
        ({"product_labels": []}, "product_labels"),
        ({"product_labels": ["NVIDIA-L4"]}, "product_labels"),
    ],
)
def test_a_wrong_entry_is_refused_by_file_field_and_rule(
    change: dict[str, object], field: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        with_gpu(CATALOG, {**_h100_entry(), **change}, "gpus/x1.toml")
    assert caught.value.file == "gpus/x1.toml" and caught.value.field == field


def test_every_number_of_a_gpu_file_carries_its_unit() -> None:
    plain = {"link_gpus", "compute_efficiency", "memory_efficiency"}
    for name, field in GpuEntry.model_fields.items():
        if field.annotation in (float, int) and name not in plain:
            assert name.rsplit("_", 1)[-1] in {"gb", "s", "hour"}, name


QWEN3_8B = {
    "model_type": "qwen3",
    "num_hidden_layers": 36,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}


def test_a_config_json_gives_the_same_architecture_as_the_catalog() -> None:
    found = model_from_config("Qwen/Qwen3-8B", QWEN3_8B)
    known = CATALOG.models["Qwen/Qwen3-8B"]
    assert not isinstance(found, ArchitectureRefusal)
    for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocabulary", "intermediate"):
        assert getattr(found, name) == getattr(known, name)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "36"}, "num_hidden_layers"),
        ({"num_key_value_heads": -8}, "num_key_value_heads"),
        ({"model_type": "llama4_text"}, "model_type"),
    ],
)
def test_a_config_json_that_cannot_be_priced_is_refused_by_field(
    change: dict[str, object], field: str
) -> None:
    found = model_from_config("acme/own", {**QWEN3_8B, **change})
    assert isinstance(found, ArchitectureRefusal) and found.field == field


@pytest.mark.parametrize("gpu", CATALOG.gpus.values(), ids=lambda gpu: gpu.name)
def test_whole_nodes_cost_about_as_much_per_gpu_as_the_gpu(gpu: Gpu) -> None:
    for shape in gpu.node_shapes:
        each = shape.per_gpu_hour(spot=False)
        assert each is not None and 0.95 * gpu.price_usd_per_hour <= each
        assert each <= 7 * gpu.price_usd_per_hour  # a small GPU in a large host
        spot = shape.per_gpu_hour(spot=True)
        assert spot is None or spot < each


def test_no_instance_type_is_listed_under_two_gpus() -> None:
    listed = [s.instance_type for gpu in CATALOG.gpus.values() for s in gpu.node_shapes]
    assert len(listed) == len(set(listed)) > 50


def test_no_fitted_share_of_a_peak_is_above_one() -> None:
    assert CATALOG.efficiency is not None
    factors = CATALOG.efficiency.factors
    shares = [n for n in factors if n.startswith(("compute", "memory", "experts", "network"))]
    for name in shares:
        if not name.endswith("_us") and name != "experts.imbalance":
            assert 0.05 < factors[name] <= 1.0, name


def test_a_band_and_a_range_are_in_order() -> None:
    assert CATALOG.efficiency is not None
    for low, high in CATALOG.efficiency.bands.values():
        assert 0.5 < low < 1.0 < high < 2.0
    for low, high in CATALOG.efficiency.fitted_range.values():
        assert 0 < low < high
