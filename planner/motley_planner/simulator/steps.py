"""How long an engine's steps take, as the simulator asks for it thousands of times a second."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from motley_planner.costs.capacity import step_tokens
from motley_planner.costs.kv_room import kv_room, pipeline_kv_room
from motley_planner.costs.memory import layer_split
from motley_planner.costs.pipeline import Pipeline
from motley_planner.costs.replica import Replica
from motley_planner.costs.steps import decode_step_s, prefill_s

SPAN = 512.0  # tokens of context over which a pipeline's step is taken as a line


class Line(NamedTuple):
    """Seconds of a decode step at a fixed batch: base + slope x mean context in tokens."""

    base_s: float
    slope_s: float


class StepTimes(Protocol):
    """What the simulator needs to know of an engine; times in seconds."""

    @property
    def kv_tokens(self) -> float:
        """Tokens of context that fit into the KV cache."""

    @property
    def kv_tokens_per_sequence(self) -> float:
        """Further tokens' worth of cache that a sequence takes whatever its length."""

    def prefill_s(self, prompt_tokens: float) -> float:
        """Seconds the prefill of one prompt adds to the steps it is part of."""

    @property
    def chunk_tokens(self) -> float:
        """Prompt tokens that one step takes; 0: one prompt, however long."""

    def first_token_delay_s(self, prompt_tokens: float) -> float:
        """Seconds from the end of a prefill until its token is seen; occupies nothing."""

    def decode(self, batch: int, context_tokens: float) -> Line:
        """The decode step of `batch` sequences with a mean context about this long."""


@dataclass(frozen=True, slots=True)
class FixedSteps:
    """An engine with constant times: a plain queue, or a replica known only by its promise."""

    prefill_s_per_token: float = 0.0
    decode_step_s: float = 0.0
    kv_tokens: float = float("inf")
    kv_tokens_per_sequence: float = 0.0
    first_token_s: float = 0.0
    chunk_tokens: float = 0.0  # one prompt at a time, in one step

    def prefill_s(self, prompt_tokens: float) -> float:
        """Proportional to the prompt."""
        return prompt_tokens * self.prefill_s_per_token

    def first_token_delay_s(self, prompt_tokens: float) -> float:
        """The same for all."""
        return self.first_token_s

    def decode(self, batch: int, context_tokens: float) -> Line:
        """The same for all."""
        return Line(self.decode_step_s, 0.0)


@dataclass(slots=True)
class CostedSteps:
    """The cost model's times of one replica, remembered.

    A decode step is affine in the mean context as long as that stays on one side of the sliding
    window; the line of a batch is worked out once on each side.
    """

    replica: Replica
    kv_tokens: float = 0.0
    kv_tokens_per_sequence: float = 0.0
    chunk_tokens: float = 0.0
    _window: float = float("inf")
    _prefills: dict[float, float] = field(default_factory=dict)
    _short: dict[int, Line] = field(default_factory=dict)
    _long: dict[int, Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        replica, model = self.replica, self.replica.model
        if layer_split(model)[1]:
            self._window = float(model.sliding_window_tokens)
        self.chunk_tokens = step_tokens(replica.gpu)
        room = kv_room(replica)
        self.kv_tokens, self.kv_tokens_per_sequence = room.tokens, room.tokens_per_sequence

    def prefill_s(self, prompt_tokens: float) -> float:
        """As the cost model has it."""
        known = self._prefills.get(prompt_tokens)
        if known is None:
            known = self._prefills[prompt_tokens] = prefill_s(self.replica, prompt_tokens)
        return known

    def first_token_delay_s(self, prompt_tokens: float) -> float:
        """Host work of a new request; for experts the further prefill time that only TTFT shows."""
        replica = self.replica
        delay = replica.engine.first_token_overhead_s
        if replica.model.experts:
            delay += (replica.efficiency.moe_prefill - 1.0) * self.prefill_s(prompt_tokens)
        return delay

    def decode(self, batch: int, context_tokens: float) -> Line:
        """The line on the context's side of the window."""
        lines = self._short if context_tokens <= self._window else self._long
        known = lines.get(batch)
        if known is None:
            known = lines[batch] = self._line(batch, context_tokens <= self._window)
        return known

    def _line(self, batch: int, is_short: bool) -> Line:
        low, high = 1.0, self._window
        if not is_short:
            low, high = self._window, self._window + 10_000.0
        elif high == float("inf"):
            high = 10_000.0
        at_low = decode_step_s(self.replica, batch, low)
        slope = (decode_step_s(self.replica, batch, high) - at_low) / (high - low)
        return Line(at_low - slope * low, slope)


@dataclass(slots=True)
class PipelineSteps:
    """The cost model's times of a replica cut into fragments, remembered.

    A prompt takes the time of the slowest fragment or link from everybody, and shows its first token
    when it has passed them all. The cache is as large as the tightest fragment allows. A step bends
    where another fragment becomes the slowest, so lines hold within `SPAN` tokens of context.
    """

    pipeline: Pipeline
    kv_tokens: float = 0.0
    kv_tokens_per_sequence: float = 0.0
    chunk_tokens: float = 0.0
    _prefills: dict[float, list[float]] = field(default_factory=dict)
    _lines: dict[tuple[int, int], Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chunk_tokens = min(step_tokens(part.whole.gpu) for part in self.pipeline.parts)
        room = pipeline_kv_room(self.pipeline)
        self.kv_tokens, self.kv_tokens_per_sequence = room.tokens, room.tokens_per_sequence

    def prefill_s(self, prompt_tokens: float) -> float:
        """Of the slowest fragment or link: the others work on other prompts meanwhile."""
        return max(self._times(prompt_tokens))

    def first_token_delay_s(self, prompt_tokens: float) -> float:
        """Host work of a new request, and the way through the fragments that are not the slowest."""
        whole, times = self.pipeline.parts[0].whole, self._times(prompt_tokens)
        slower = whole.efficiency.moe_prefill if whole.model.experts else 1.0
        return whole.engine.first_token_overhead_s + slower * sum(times) - max(times)

    def decode(self, batch: int, context_tokens: float) -> Line:
        """The line through the ends of the span of contexts."""
        at = int(context_tokens // SPAN)
        known = self._lines.get((batch, at))
        if known is None:
            low = max(1.0, at * SPAN)
            first, last = (
                self.pipeline.decode_step_s(float(batch), c) for c in (low, (at + 1) * SPAN)
            )
            slope = (last - first) / ((at + 1) * SPAN - low)
            known = self._lines[batch, at] = Line(first - slope * low, slope)
        return known

    def _times(self, prompt_tokens: float) -> list[float]:
        known = self._prefills.get(prompt_tokens)
        if known is None:
            known = self.pipeline.prefill_times_s(prompt_tokens)
            self._prefills[prompt_tokens] = known
        return known
