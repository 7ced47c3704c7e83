"""Models the catalog does not list, from the field names of a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motley_planner.domain.models import ModelSpec

# Their layers differ in ways that ModelSpec cannot say: linear or sparse attention, mixed widths.
UNSUPPORTED_TYPES = ("llama4", "qwen3_5", "qwen3_next", "gemma4", "glm_moe_dsa", "mamba", "jamba")
# OPT, BLOOM and GPT-2 families have plain two-matrix MLPs.
UNGATED_TYPES = ("opt", "bloom", "gpt2", "gpt_neox", "gptj", "falcon", "phi")
REQUIRED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


@dataclass(frozen=True, slots=True)
class ArchitectureRefusal:
    """Why a model's config cannot be priced; `field` is the config.json key."""

    field: str
    reason: str


def model_from_config(
    model_id: str, architecture: Mapping[str, Any]
) -> ModelSpec | ArchitectureRefusal:
    """The architecture that a config.json describes, or why it cannot be priced."""
    inner = architecture.get("text_config") or {}
    if not isinstance(inner, Mapping):
        return ArchitectureRefusal("text_config", "must be an object")
    config = {**architecture, **inner}
    kind = str(config.get("model_type", ""))
    if kind.startswith(UNSUPPORTED_TYPES):
        return ArchitectureRefusal(
            "model_type", f"{kind} mixes layer types that cannot be priced yet"
        )
    for key in REQUIRED:
        if not _whole(config.get(key)):
            return ArchitectureRefusal(key, "must be a positive whole number")
    for key in _OPTIONAL_COUNTS:
        if config.get(key) is not None and not _whole(config[key], least=0):
            return ArchitectureRefusal(key, "must be a whole number, 0 or more")
    if not _whole(config.get("intermediate_size")) and not _experts(config):
        return ArchitectureRefusal("intermediate_size", "must be a positive whole number")
    heads = int(config["num_attention_heads"])
    if "head_dim" not in config and config["hidden_size"] % heads:
        return ArchitectureRefusal("head_dim", "is needed: hidden_size is no multiple of the heads")
    return _spec(model_id, config, kind)


def _spec(model_id: str, config: Mapping[str, Any], kind: str) -> ModelSpec:
    heads = int(config["num_attention_heads"])
    experts = _experts(config)
    layers = int(config["num_hidden_layers"])
    return ModelSpec(
        name=model_id,
        layers=layers,
        hidden=int(config["hidden_size"]),
        intermediate=_count(config, "intermediate_size"),
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads") or heads,
        head_dim=_count(config, "head_dim") or int(config["hidden_size"]) // heads,
        vocabulary=int(config["vocab_size"]),
        max_context_tokens=_count(config, "max_position_embeddings") or 8192,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        gated_mlp=kind not in UNGATED_TYPES,
        qkv_bias=bool(config.get("attention_bias", kind.startswith("qwen2"))),
        experts=experts,
        experts_per_token=_count(config, "num_experts_per_tok") if experts else 0,
        moe_intermediate=(
            (_count(config, "moe_intermediate_size") or _count(config, "intermediate_size"))
            if experts
            else 0
        ),
        shared_experts=_count(config, "n_shared_experts") if experts else 0,
        shared_expert_intermediate=(
            _count(config, "shared_expert_intermediate_size") if experts else 0
        ),
        dense_layers_first=_count(config, "first_k_dense_replace") if experts else 0,
        q_lora_rank=_count(config, "q_lora_rank"),
        kv_lora_rank=_count(config, "kv_lora_rank"),
        qk_nope_head_dim=_count(config, "qk_nope_head_dim"),
        qk_rope_head_dim=_count(config, "qk_rope_head_dim"),
        v_head_dim=_count(config, "v_head_dim"),
        sliding_window_tokens=_window(config),
        full_attention_layers=_full_layers(config, layers),
        published_dtype=_published_dtype(config),
    )


_OPTIONAL_COUNTS = (
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_shared_experts",
    "shared_expert_intermediate_size",
    "first_k_dense_replace",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "sliding_window",
    "sliding_window_pattern",
)


def _whole(value: object, least: int = 1) -> bool:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # YAML and JSON readers may hand over 4096.0
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _count(config: Mapping[str, Any], key: str) -> int:
    return int(config.get(key) or 0)


def _experts(config: Mapping[str, Any]) -> int:
    keys = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((_count(config, key) for key in keys if config.get(key)), 0)


def _window(config: Mapping[str, Any]) -> int:
    # Qwen2 configs name a window and switch it off.
    return _count(config, "sliding_window") if config.get("use_sliding_window", True) else 0


def _full_layers(config: Mapping[str, Any], layers: int) -> int:
    if not _window(config):
        return 0
    kinds = config.get("layer_types")
    if isinstance(kinds, list | tuple):
        return sum(1 for kind in kinds if kind == "full_attention")
    pattern = _count(config, "sliding_window_pattern")
    return layers // pattern if pattern else 0


def _published_dtype(config: Mapping[str, Any]) -> str:
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return ""
    method = str(quantization.get("quant_method", ""))
    bits = quantization.get("bits") or quantization.get("weight_bits")
    if method in ("mxfp4", "nvfp4"):
        return "fp4"
    if method in ("awq", "gptq"):
        return "int8" if bits == 8 else "int4"
    return "fp8" if method in ("fp8", "fbgemm_fp8") else ""
