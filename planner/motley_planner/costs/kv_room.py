"""How many tokens of context fit into a replica's KV cache."""

from __future__ import annotations

from dataclasses import dataclass

from motley_planner.costs.memory import kv_bytes, layer_split, resident_tokens
from motley_planner.costs.pipeline import Pipeline, kv_layer_bytes
from motley_planner.costs.replica import Replica

_SPAN = 1000.0  # tokens over which the bytes of one more are taken


@dataclass(frozen=True, slots=True)
class KvRoom:
    """Tokens of context that fit, and further tokens' worth that a sequence takes at any length.

    The latter is what the windowed layers of a model keep of a sequence beyond their window.
    """

    tokens: float
    tokens_per_sequence: float

    def at_work(self, prompt_tokens: float, output_tokens: float) -> float:
        """Prompt and output tokens, whole, of as many equal requests as fit at once.

        tokens / (ISL + 0.6 OSL + tokens_per_sequence) x (ISL + OSL): a running request has not
        made all of its answer yet.
        """
        held = resident_tokens(prompt_tokens, output_tokens) + self.tokens_per_sequence
        return self.tokens / held * (prompt_tokens + output_tokens) if held > 0 else 0.0


def kv_room(replica: Replica) -> KvRoom:
    """The room beside the weights of a replica whose fragments are alike."""
    start = _window(replica)
    held = kv_bytes(replica.model, start, replica.kv_value_bytes)
    each = (kv_bytes(replica.model, start + _SPAN, replica.kv_value_bytes) - held) / _SPAN
    if each <= 0:
        return KvRoom(float("inf"), 0.0)
    room = max(0.0, replica.free_bytes) / replica.kv_replication
    return KvRoom(room / each, max(0.0, held / each - start))


def pipeline_kv_room(pipeline: Pipeline) -> KvRoom:
    """The room of a replica cut into fragments: that of the tightest one."""
    start = _window(pipeline.parts[0].whole)
    rooms = []
    for free, part, layers in zip(
        pipeline.free_bytes(), pipeline.parts, pipeline.layers, strict=True
    ):
        held = layers * kv_layer_bytes(part, start)
        each = (layers * kv_layer_bytes(part, start + _SPAN) - held) / _SPAN
        rooms.append((free / each, held / each - start) if each > 0 else (float("inf"), 0.0))
    return KvRoom(
        max(0.0, min(room for room, _ in rooms)), max(0.0, max(extra for _, extra in rooms))
    )


def _window(replica: Replica) -> float:
    """Tokens from which on only the layers with full attention grow; 0 where all do."""
    is_windowed = layer_split(replica.model)[1]
    return float(replica.model.sliding_window_tokens) if is_windowed else 0.0
