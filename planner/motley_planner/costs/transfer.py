"""Bytes and seconds of moving a request's KV cache from a prefill to a decode replica."""

from __future__ import annotations

from motley_planner.costs.memory import kv_bytes
from motley_planner.domain.models import ModelSpec

KV_SCALES = (1.0, 0.25)  # as stored in 16 bits, or 4 bits on the wire
KV_COMPRESSION_CAVEAT = (
    "KV caches travel in 4 bits: ThunderServe (arXiv 2502.09334) reports less than 2 % loss of "
    "accuracy on its tasks; Motley has not measured it"
)


def prompt_kv_bytes(model: ModelSpec, prompt_tokens: float, value_bytes: float) -> float:
    """Bytes of a prompt's KV cache over all layers, sent once however often it is stored."""
    return kv_bytes(model, prompt_tokens, value_bytes)


def transfer_s(moved_bytes: float, nic_bytes_per_s: float) -> float:
    """Seconds a KV cache takes through one replica's share of the network, alone."""
    return moved_bytes / nic_bytes_per_s
