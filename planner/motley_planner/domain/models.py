"""Model architectures, as far as time and memory depend on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One decoder-only language model; counts are per layer unless they say otherwise."""

    name: str  # Hugging Face id, e.g. "Qwen/Qwen3-8B"
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_context_tokens: int
    tied_embeddings: bool = False
    gated_mlp: bool = True
    qkv_bias: bool = False
    experts: int = 0  # 0: dense
    experts_per_token: int = 0
    moe_intermediate: int = 0
    shared_experts: int = 0
    shared_expert_intermediate: int = 0
    dense_layers_first: int = 0  # MoE models: leading layers with a dense MLP
    q_lora_rank: int = 0
    kv_lora_rank: int = 0  # > 0: multi-head latent attention
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    sliding_window_tokens: int = 0
    full_attention_layers: int = 0  # of models with windows; 0 = all layers alike
    published_dtype: str = ""  # checkpoints published quantized keep this dtype (fp4, fp8, int4)
    parameters: float | None = None  # stated total, where the source gives one
    adapter_slots: int = 0  # LoRA adapters that are kept on the GPUs beside it ...
    adapter_rank: int = 0  # ... with room for this rank each
