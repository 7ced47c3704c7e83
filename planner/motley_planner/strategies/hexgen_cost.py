"""HexGen's cost model of an asymmetric pipeline, with the corrections that today's models need.

A pipeline is a list of stages; stage j runs `layers` layers by TP over the GPUs of one machine.
Per stage with TP degree D, H hidden size, B bytes, b requests of s_in prompt and s_out new tokens:

    compute   max over GPUs of  W B s_out l / (D m) + 2 W b (s_in + s_out) l / (D c)
              (weights are read from memory once a generated token, every token costs FLOPs)
    TP comm   4 l (D - 1) (alpha + b s_in H B / (D beta)) + 4 l (D - 1) s_out (alpha + b H B / (D beta))
    PP comm   alpha + b s_in H B / beta + s_out (alpha + b H B / beta)      to the next stage
    memory    l (W B + 2 b (s_in + s_out) K B) / D + 4 b (s_in + s_out) H B + ends

Corrections, each switched off by `original`: W, parameters a layer, is 12 H^2 in the paper (attention with
as many KV heads as heads, MLP 4 H wide) and 12.75 H^2 in Llama-2-70B; K, the KV width, is H in the
paper and KV heads x head size with grouped-query attention (8 times smaller there); embedding and output
matrices sit on the first and last stage; a tenth of memory is kept for the engine.

Source: HexGen, ICML 2024, arXiv 2311.11514, section 3, and its released optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

USABLE_MEMORY = 0.9


@dataclass(frozen=True, slots=True)
class Device:
    """One kind of GPU."""

    name: str
    memory_bytes: float
    memory_bytes_per_s: float
    flop_per_s: float


@dataclass(frozen=True, slots=True)
class Link:
    """Latency and bandwidth between GPUs of a machine, or between machines."""

    latency_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Transformer:
    """What the formulas need of a model."""

    layers: int
    hidden: int
    parameters_per_layer: float
    kv_width: int
    vocabulary: int
    bytes_per_element: int = 2

    def original(self) -> Transformer:
        """The model as the paper's formulas see it: 12 H^2 a layer, KV width H, no vocabulary."""
        return replace(
            self, parameters_per_layer=12.0 * self.hidden**2, kv_width=self.hidden, vocabulary=0
        )


@dataclass(frozen=True, slots=True)
class Job:
    """Requests a batch and their lengths."""

    batch: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A TP group over `devices` and the layers it runs; `link` joins the group."""

    devices: tuple[Device, ...]
    link: Link
    layers: int = 0

    @property
    def tp(self) -> int:
        """GPUs of the group."""
        return len(self.devices)


def compute_s(model: Transformer, stage: Stage, job: Job) -> float:
    """Seconds that the stage computes for a batch, from first to last token."""
    weights = model.parameters_per_layer * stage.layers / stage.tp
    tokens = job.batch * (job.prompt_tokens + job.output_tokens)
    return max(
        weights * model.bytes_per_element * job.output_tokens / d.memory_bytes_per_s
        + 2.0 * weights * tokens / d.flop_per_s
        for d in stage.devices
    )


def tensor_parallel_s(model: Transformer, stage: Stage, job: Job) -> float:
    """Seconds of the stage's all-reduces for a batch."""
    if stage.tp == 1:
        return 0.0
    width = job.batch * model.hidden * model.bytes_per_element / stage.tp
    once = stage.link.latency_s + width * job.prompt_tokens / stage.link.bytes_per_s
    each = stage.link.latency_s + width / stage.link.bytes_per_s
    return 4.0 * stage.layers * (stage.tp - 1) * (once + job.output_tokens * each)


def hop_s(model: Transformer, link: Link, job: Job) -> float:
    """Seconds of handing a batch's activations to the next stage, over all tokens."""
    width = job.batch * model.hidden * model.bytes_per_element
    once = link.latency_s + width * job.prompt_tokens / link.bytes_per_s
    return once + job.output_tokens * (link.latency_s + width / link.bytes_per_s)


def stage_s(model: Transformer, stage: Stage, job: Job) -> float:
    """Seconds of a stage for a batch."""
    return compute_s(model, stage, job) + tensor_parallel_s(model, stage, job)


def pipeline_s(model: Transformer, stages: Sequence[Stage], between: Link, job: Job) -> float:
    """Seconds of a batch through all stages: what HexGen minimizes for a group of GPUs."""
    hops = (len(stages) - 1) * hop_s(model, between, job)
    return hops + sum(stage_s(model, stage, job) for stage in stages)


def memory_bytes(model: Transformer, stage: Stage, job: Job, matrices: int) -> float:
    """Bytes on each GPU of a stage that also holds `matrices` of vocabulary x hidden."""
    tokens = job.batch * (job.prompt_tokens + job.output_tokens)
    per_layer = model.parameters_per_layer + 2.0 * tokens * model.kv_width
    ends = matrices * model.vocabulary * model.hidden / stage.tp
    activations = 4.0 * tokens * model.hidden
    return model.bytes_per_element * (stage.layers * per_layer / stage.tp + ends + activations)


def refusal(model: Transformer, stages: Sequence[Stage], job: Job) -> str | None:
    """Why a pipeline does not fit, or None where it does."""
    if sum(s.layers for s in stages) != model.layers:
        return f"{sum(s.layers for s in stages)} layers instead of {model.layers}"
    for number, stage in enumerate(stages):
        matrices = (number == 0) + (number == len(stages) - 1)
        need = memory_bytes(model, stage, job, matrices)
        least = min(stage.devices, key=lambda d: d.memory_bytes)
        if need > USABLE_MEMORY * least.memory_bytes:
            return (
                f"stage {number} needs {need / 1e9:.1f} GB on a GPU, {least.name} has "
                f"{USABLE_MEMORY * least.memory_bytes / 1e9:.1f} GB to give"
            )
    return None
