"""Seconds and bytes of one RL training step on a gang of equal GPUs, state sharded over all."""

from __future__ import annotations

from dataclasses import dataclass

from motley_planner.costs.memory import layer_split
from motley_planner.costs.parameters import active_parameters, parameter_count
from motley_planner.costs.rates import compute_share, link_rate
from motley_planner.domain.engines import EngineSpec
from motley_planner.domain.hardware import Efficiency, Gpu
from motley_planner.domain.models import ModelSpec

NODE_NETWORK_BYTES_PER_S = 12.5e9  # assumed: one 100 Gb/s NIC a node; the fleet states no fabric
LOGIT_BYTES = 6.0  # 16-bit logits and their 32-bit softmax
LOGIT_CHUNK_TOKENS = 4096  # trainers of long sequences compute the loss in pieces of this order
WEIGHT_COPY_BYTES = 2.0  # weights travel in 16 bits


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step: how many samples, how long on average and at most."""

    samples: int
    mean_tokens: int
    longest_tokens: int


@dataclass(frozen=True, slots=True)
class Gang:
    """Equal GPUs that train one model together, `gpus_per_node` on each of `nodes` nodes."""

    model: ModelSpec
    gpu: Gpu
    engine: EngineSpec
    gpus_per_node: int
    nodes: int
    flop_per_s: float  # of one GPU, attained
    link_bytes_per_s: float  # into and out of one GPU
    state_bytes_per_parameter: float

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.gpus_per_node * self.nodes

    @property
    def usable_bytes(self) -> float:
        """Bytes of one GPU for state and activations."""
        return (
            self.gpu.hbm_bytes * self.engine.memory_utilization - self.engine.reserved_bytes_per_gpu
        )

    def needed_bytes(self, step: TrainingStep) -> float:
        """Bytes one GPU needs: its share of the state, and activations of the longest sample."""
        state = parameter_count(self.model) * self.state_bytes_per_parameter / self.gpus
        return state + activation_bytes(self.model, step.longest_tokens)

    def free_bytes(self, step: TrainingStep) -> float:
        """Bytes left on each GPU; negative if the job does not fit."""
        return self.usable_bytes - self.needed_bytes(step)


def gang_of(
    model: ModelSpec,
    gpu: Gpu,
    gang: tuple[int, int],
    engine: EngineSpec,
    efficiency: Efficiency,
) -> Gang | str:
    """The gang of (GPUs on each node, nodes), or why this GPU or backend cannot train."""
    if engine.model_flop_utilization is None or engine.state_bytes_per_parameter is None:
        return f"engine {engine.name} is not a trainer backend"
    if gpu.vendor not in engine.vendors:
        return f"backend {engine.name} does not run on {gpu.vendor} GPUs"
    peak = gpu.flop_per_s.get("bf16")
    if peak is None:
        return f"{gpu.name} has no bf16, which training needs"
    # The stated utilization is of GPUs that attain the fitted share of their peak.
    relative = compute_share(gpu, "bf16", efficiency) / efficiency.factors["compute.bf16"]
    inside = link_rate(gpu, gang[0], efficiency)
    across = NODE_NETWORK_BYTES_PER_S * efficiency.network / gang[0]
    return Gang(
        model=model,
        gpu=gpu,
        engine=engine,
        gpus_per_node=gang[0],
        nodes=gang[1],
        flop_per_s=peak * engine.model_flop_utilization * min(1.0, relative),
        link_bytes_per_s=inside if gang[1] == 1 else min(inside, across * gang[0]),
        state_bytes_per_parameter=engine.state_bytes_per_parameter,
    )


def activation_bytes(model: ModelSpec, tokens: int) -> float:
    """Bytes of activations of one sample with every layer recomputed: layer inputs and logits."""
    inputs = 2.0 * model.layers * tokens * model.hidden
    working = (
        2.0 * tokens * (6 * model.hidden + 3 * max(model.intermediate, model.moe_intermediate))
    )
    logits = LOGIT_BYTES * min(tokens, LOGIT_CHUNK_TOKENS) * model.vocabulary
    return inputs + working + logits


def training_flop(model: ModelSpec, step: TrainingStep) -> float:
    """Flop of one step, forward and backward: 6 P_active tokens + 3 x causal attention.

    Recomputation is not counted as useful work; the utilization already pays for it.
    """
    tokens = float(step.samples * step.mean_tokens)
    full, windowed = layer_split(model)
    window = min(model.sliding_window_tokens, step.mean_tokens)
    pairs = full * step.mean_tokens**2 / 2.0
    pairs += windowed * (step.mean_tokens * window - window**2 / 2.0)
    attention = 3.0 * 4.0 * model.head_dim * model.heads * pairs * step.samples
    return 6.0 * active_parameters(model) * tokens + attention


def gather_s(gang: Gang, step: TrainingStep) -> float:
    """Seconds of sharded-state traffic in one step: gather twice, scatter once, per micro-batch.

    A micro-batch holds as many tokens as the longest sample, on each GPU.
    """
    if gang.gpus == 1:
        return 0.0
    tokens = step.samples * step.mean_tokens
    micro_batches = max(1.0, tokens / (gang.gpus * max(1, step.longest_tokens)))
    moved = 3.0 * WEIGHT_COPY_BYTES * parameter_count(gang.model) * (gang.gpus - 1) / gang.gpus
    return micro_batches * moved / gang.link_bytes_per_s


def weight_sync_s(gang: Gang) -> float:
    """Seconds new weights take to reach the rollout replicas: 16-bit weights / one node's network."""
    attained = (
        NODE_NETWORK_BYTES_PER_S * 0.51
    )  # the share collectives attain, as in efficiency.toml
    return WEIGHT_COPY_BYTES * parameter_count(gang.model) / attained


def training_step_s(gang: Gang, step: TrainingStep) -> float:
    """Seconds of one training step: compute or traffic, whichever is longer, then weight sync."""
    compute = training_flop(gang.model, step) / (gang.gpus * gang.flop_per_s)
    return max(compute, gather_s(gang, step)) + gang.engine.step_overhead_s + weight_sync_s(gang)
