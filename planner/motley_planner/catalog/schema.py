"""What a catalog file may hold: pydantic models with datasheet units, turned into domain values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from motley_planner.catalog.launching import Count, Dtype, Entry, LaunchEntry, Name, Share
from motley_planner.domain.engines import (
    EngineSpec,
    FrameworkSpec,
)
from motley_planner.domain.hardware import Efficiency, Gpu, NodeShapePrice
from motley_planner.domain.models import ModelSpec
from motley_planner.units import GIGA, MEBI, MICRO, MILLI, TERA


class NodeShapeEntry(Entry):
    """One purchasable node of a GPU file."""

    instance_type: Name
    gpus: PositiveInt
    price_usd_per_hour: PositiveFloat
    spot_price_usd_per_hour: PositiveFloat | None = None

    def to_domain(self) -> NodeShapePrice:
        """The node, unchanged."""
        return NodeShapePrice(**self.model_dump())


class GpuEntry(Entry):
    """catalog/gpus/*.toml."""

    name: Name
    vendor: Literal["nvidia", "amd", "intel"]
    arch: Name
    product_labels: tuple[Name, ...] = Field(min_length=1)
    memory_gb: PositiveFloat
    memory_bandwidth_tb_per_s: PositiveFloat
    bf16_dense_tflop_per_s: PositiveFloat | None = None
    fp16_dense_tflop_per_s: PositiveFloat
    fp8_dense_tflop_per_s: PositiveFloat | None = None
    fp4_dense_tflop_per_s: PositiveFloat | None = None
    int8_dense_top_per_s: PositiveFloat | None = None
    link_gb_per_s: float = Field(ge=0)
    link_gpus: PositiveInt = 1
    pcie_gb_per_s: PositiveFloat
    memory_mib: PositiveInt | None = None  # as the driver reports it
    compute_efficiency: Share | None = None
    memory_efficiency: Share | None = None
    price_usd_per_hour: PositiveFloat
    price_source: Name
    spot_price_usd_per_hour: PositiveFloat
    spot_price_source: Name
    node_shapes: tuple[NodeShapeEntry, ...] = ()
    source: str = Field(min_length=1)

    def to_domain(self) -> Gpu:
        """The GPU in SI units."""
        peaks = {
            "bf16": self.bf16_dense_tflop_per_s,
            "fp16": self.fp16_dense_tflop_per_s,
            "fp8": self.fp8_dense_tflop_per_s,
            "fp4": self.fp4_dense_tflop_per_s,
            "int8": self.int8_dense_top_per_s,
        }
        return Gpu(
            name=self.name,
            vendor=self.vendor,
            arch=self.arch,
            hbm_bytes=self.memory_gb * GIGA,
            hbm_bytes_per_s=self.memory_bandwidth_tb_per_s * TERA,
            flop_per_s={dtype: peak * TERA for dtype, peak in peaks.items() if peak},
            link_bytes_per_s=self.link_gb_per_s * GIGA,
            pcie_bytes_per_s=self.pcie_gb_per_s * GIGA,
            price_usd_per_hour=self.price_usd_per_hour,
            spot_price_usd_per_hour=self.spot_price_usd_per_hour,
            product_labels=self.product_labels,
            compute_efficiency=self.compute_efficiency,
            memory_efficiency=self.memory_efficiency,
            link_gpus=self.link_gpus,
            price_source=self.price_source,
            spot_price_source=self.spot_price_source,
            node_shapes=tuple(shape.to_domain() for shape in self.node_shapes),
            driver_bytes=self.memory_mib * MEBI if self.memory_mib else None,
        )


class ModelEntry(Entry):
    """catalog/models/*.toml."""

    name: Name
    aliases: tuple[Name, ...] = ()
    layers: PositiveInt
    hidden: PositiveInt
    intermediate: Count
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocabulary: PositiveInt
    max_context_tokens: PositiveInt
    tied_embeddings: bool = False
    gated_mlp: bool = True
    qkv_bias: bool = False
    experts: Count = 0
    experts_per_token: Count = 0
    moe_intermediate: Count = 0
    shared_experts: Count = 0
    shared_expert_intermediate: Count = 0
    dense_layers_first: Count = 0
    q_lora_rank: Count = 0
    kv_lora_rank: Count = 0
    qk_nope_head_dim: Count = 0
    qk_rope_head_dim: Count = 0
    v_head_dim: Count = 0
    sliding_window_tokens: Count = 0
    full_attention_layers: Count = 0
    published_dtype: Literal["", "fp8", "fp4", "int4"] = ""
    parameters_b: PositiveFloat
    source: str = Field(min_length=1)

    def to_domain(self) -> ModelSpec:
        """The model's architecture."""
        fields = self.model_dump(exclude={"aliases", "parameters_b", "source"})
        return ModelSpec(**fields, parameters=self.parameters_b * GIGA)


class EngineEntry(Entry):
    """catalog/engines/*.toml."""

    name: Name
    roles: tuple[Literal["serve", "rollout", "trainer"], ...] = Field(min_length=1)
    vendors: tuple[Literal["nvidia", "amd", "intel"], ...] = Field(min_length=1)
    precisions: tuple[Dtype, ...] = Field(min_length=1)
    parallelisms: tuple[Literal["tensor", "pipeline", "data", "expert"], ...]
    layer_overhead_us: float = Field(ge=0)
    step_overhead_ms: float = Field(ge=0)
    first_token_overhead_ms: float = Field(ge=0)
    memory_utilization: Share
    reserved_gb_per_gpu: float = Field(ge=0)
    kv_value_bytes: PositiveFloat
    model_flop_utilization: Share | None = None
    state_bytes_per_parameter: PositiveFloat | None = None
    unsupported_archs: tuple[str, ...] = ()
    pipeline_parallel: bool = False
    unequal_tensor_parallel: bool = False
    launch: LaunchEntry | None = None
    metrics: dict[str, str] = Field(default_factory=dict)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _pipelines_can_start(self) -> EngineEntry:
        if self.unequal_tensor_parallel and not self.pipeline_parallel:
            raise ValueError("unequal_tensor_parallel needs pipeline_parallel")
        if self.pipeline_parallel and (self.launch is None or self.launch.pipeline is None):
            raise ValueError("pipeline_parallel needs a [launch.pipeline] block")
        return self

    def to_domain(self) -> EngineSpec:
        """The engine in SI units."""
        return EngineSpec(
            name=self.name,
            roles=self.roles,
            vendors=self.vendors,
            precisions=self.precisions,
            parallelisms=self.parallelisms,
            layer_overhead_s=self.layer_overhead_us * MICRO,
            step_overhead_s=self.step_overhead_ms * MILLI,
            first_token_overhead_s=self.first_token_overhead_ms * MILLI,
            memory_utilization=self.memory_utilization,
            reserved_bytes_per_gpu=self.reserved_gb_per_gpu * GIGA,
            kv_value_bytes=self.kv_value_bytes,
            model_flop_utilization=self.model_flop_utilization,
            state_bytes_per_parameter=self.state_bytes_per_parameter,
            unsupported_archs=self.unsupported_archs,
            pipeline_parallel=self.pipeline_parallel,
            unequal_tensor_parallel=self.unequal_tensor_parallel,
            launch=self.launch.to_domain() if self.launch else None,
            metrics=self.metrics,
        )


class FrameworkEntry(Entry):
    """catalog/frameworks/*.toml."""

    name: Name
    default_image: str
    trainer_backends: tuple[Name, ...] = Field(min_length=1)
    rollout_engines: tuple[Name, ...] = Field(min_length=1)
    trainer: LaunchEntry | None = None
    rollout: LaunchEntry | None = None
    source: str = Field(min_length=1)

    def to_domain(self) -> FrameworkSpec:
        """The framework's launch data."""
        return FrameworkSpec(
            name=self.name,
            default_image=self.default_image,
            trainer=self.trainer.to_domain() if self.trainer else None,
            rollout=self.rollout.to_domain() if self.rollout else None,
            trainer_backends=self.trainer_backends,
            rollout_engines=self.rollout_engines,
        )


Band = tuple[PositiveFloat, PositiveFloat]


class FittedEntry(Entry):
    """catalog/fitted.toml, which `make fit` writes."""

    source: str = Field(min_length=1)
    rows: PositiveInt
    factors: dict[str, PositiveFloat]
    bands: dict[str, Band]
    fitted_range: dict[str, tuple[float, float]]


class EfficiencyEntry(Entry):
    """catalog/efficiency.toml: what was assumed or measured elsewhere than in the fitted rows."""

    pcie_network: dict[PositiveInt, Share] = Field(min_length=1)
    memory_from_kernels: Share
    moe_prefill: PositiveFloat
    fitted_archs: tuple[str, ...]
    tpot_quantiles: dict[Literal["p50", "p90", "p95", "p99"], PositiveFloat]
    source: str = Field(min_length=1)

    def to_domain(self, fitted: FittedEntry) -> Efficiency:
        """Both files as one value."""
        return Efficiency(
            factors=fitted.factors,
            pcie_network=self.pcie_network,
            memory_from_kernels=self.memory_from_kernels,
            moe_prefill=self.moe_prefill,
            fitted_archs=self.fitted_archs,
            tpot_quantiles={str(name): ratio for name, ratio in self.tpot_quantiles.items()},
            bands=fitted.bands,
            fitted_range=fitted.fitted_range,
        )
