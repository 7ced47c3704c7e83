"""How many parameters a model has: in all, read by a step, and used for one token.

Norm vectors and position tables are left out: under 0.1 % of any model here.
"""

from __future__ import annotations

from motley_planner.domain.models import ModelSpec


def attention_parameters(model: ModelSpec) -> float:
    """Parameters of one layer's attention.

    Plain: h (n_q + 2 n_kv) d + n_q d h, with biases on q, k, v where the model has them.
    MLA (DeepSeek-V2, arXiv 2405.04434): q down and up, joint kv down, k and v up, output.
    """
    h = model.hidden
    if model.kv_lora_rank:
        qk = model.qk_nope_head_dim + model.qk_rope_head_dim
        query = h * model.heads * qk
        if model.q_lora_rank:
            query = h * model.q_lora_rank + model.q_lora_rank * model.heads * qk
        down = h * (model.kv_lora_rank + model.qk_rope_head_dim)
        up = model.kv_lora_rank * model.heads * (model.qk_nope_head_dim + model.v_head_dim)
        return float(query + down + up + model.heads * model.v_head_dim * h)
    qkv = (model.heads + 2 * model.kv_heads) * model.head_dim
    bias = qkv if model.qkv_bias else 0
    return float(h * qkv + bias + model.heads * model.head_dim * h)


def linear_layers(model: ModelSpec) -> list[tuple[float, int, int, bool]]:
    """The linear layers of all layers, as (how many, in, out, whether the output is what ranks split).

    Those that LoRA adapters are made for: attention and MLPs, routed experts one by one. MLA's low-rank
    projections are taken as attention of full width: more, and no more than a few percent of a slot.
    """
    h, q = model.hidden, model.heads * model.head_dim
    kv = model.heads * model.head_dim if model.kv_lora_rank else model.kv_heads * model.head_dim
    found = [
        (model.layers, h, q, True),
        (2 * model.layers, h, kv, True),
        (model.layers, q, h, False),
    ]
    sparse = moe_layers(model)
    ups = 2 if model.gated_mlp else 1
    shared = model.shared_expert_intermediate or model.shared_experts * model.moe_intermediate
    for count, width in (
        (model.layers - sparse, model.intermediate),
        (sparse * model.experts, model.moe_intermediate),
        (sparse if shared else 0, shared),
    ):
        found += [(ups * count, h, width, True), (count, width, h, False)]
    return [(float(count), inside, outside, split) for count, inside, outside, split in found]


def mlp_parameters(model: ModelSpec, intermediate: int) -> float:
    """Parameters of one MLP: three matrices where gated, else two."""
    return float((3 if model.gated_mlp else 2) * model.hidden * intermediate)


def expert_parameters(model: ModelSpec) -> float:
    """Parameters of one routed expert of one layer."""
    return mlp_parameters(model, model.moe_intermediate)


def routed_parameters(model: ModelSpec) -> float:
    """Parameters of all routed experts of all layers; 0 for dense models."""
    return moe_layers(model) * model.experts * expert_parameters(model)


def moe_layers(model: ModelSpec) -> int:
    """Layers whose MLP is a mixture of experts."""
    return model.layers - model.dense_layers_first if model.experts else 0


def always_read_parameters(model: ModelSpec) -> float:
    """Parameters that every step reads whatever the tokens: all but routed experts, with lm_head.

    The input embedding is a lookup; tied embeddings are read once, as lm_head.
    """
    sparse = moe_layers(model)
    shared = model.shared_expert_intermediate or model.shared_experts * model.moe_intermediate
    dense = (model.layers - sparse) * mlp_parameters(model, model.intermediate)
    routing = sparse * (mlp_parameters(model, shared) + model.hidden * model.experts)
    head = model.vocabulary * model.hidden
    return model.layers * attention_parameters(model) + dense + routing + head


def parameter_count(model: ModelSpec) -> float:
    """Parameters in all."""
    embedding = 0 if model.tied_embeddings else model.vocabulary * model.hidden
    return always_read_parameters(model) + embedding + routed_parameters(model)


def active_parameters(model: ModelSpec) -> float:
    """Parameters one token is multiplied with, lm_head included."""
    experts = moe_layers(model) * model.experts_per_token * expert_parameters(model)
    return always_read_parameters(model) + experts


def touched_parameters(model: ModelSpec, tokens: float) -> float:
    """Parameters a step over `tokens` tokens reads, experts chosen evenly and independently.

    always + layers x E x expert x (1 - (1 - k/E)^T): many tokens touch every expert.
    """
    if not model.experts:
        return always_read_parameters(model)
    missed = float((1.0 - model.experts_per_token / model.experts) ** tokens)
    return always_read_parameters(model) + routed_parameters(model) * (1.0 - missed)
