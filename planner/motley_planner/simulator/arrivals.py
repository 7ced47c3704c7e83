"""Requests over time: drawn from a process, or as a trace recorded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Columns of equal length, by arrival; `prefix` identifies a shared start of prompts (-1: none)."""

    classes: tuple[str, ...]
    time_s: Floats
    class_index: Ints
    prompt_tokens: Floats
    output_tokens: Floats
    prefix: Ints | None = None

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def rate(self) -> float:
        """Mean requests/s from the first to the last arrival."""
        span = float(self.time_s[-1] - self.time_s[0]) if len(self) > 1 else 0.0
        return (len(self) - 1) / span if span > 0 else 0.0

    def at_rate(self, requests_per_second: float) -> Arrivals:
        """The same requests with time stretched so that they come at this mean rate."""
        start = self.time_s[0] if len(self) else 0.0
        stretched = (self.time_s - start) * (self.rate / requests_per_second)
        return replace(self, time_s=stretched)

    def leveled(self, window_s: float) -> Arrivals:
        """The same requests with each window of `window_s` at the mean rate of all.

        What is left of a trace when its slow drift, which re-planning follows, is taken out. Time in
        a window runs faster or slower by the window's requests; bursts inside it stay.
        """
        start = self.time_s - (self.time_s[0] if len(self) else 0.0)
        edges = np.arange(0.0, float(start[-1]) + window_s, window_s)
        counts, _ = np.histogram(start, edges)
        passed = np.concatenate([[0.0], np.cumsum(counts)]) / max(self.rate, 1e-12)
        return replace(self, time_s=np.interp(start, edges, passed))

    def first(self, count: int) -> Arrivals:
        """The first `count` requests."""
        return self.keep(slice(0, count))

    def keep(self, rows: Any) -> Arrivals:
        """The requests that an index selects."""
        return Arrivals(
            self.classes,
            self.time_s[rows],
            self.class_index[rows],
            self.prompt_tokens[rows],
            self.output_tokens[rows],
            None if self.prefix is None else self.prefix[rows],
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of requests to be drawn: its rate and its lengths in tokens."""

    name: str
    requests_per_second: float
    prompt_tokens: float
    output_tokens: float


def drawn(
    kinds: Sequence[Kind],
    count: int,
    *,
    seed: int,
    variation: float = 1.0,
    length_variation: float = 0.0,
) -> Arrivals:
    """`count` requests of a renewal process; classes are drawn by their rates.

    `variation`: coefficient of variation of the gaps; 1 is Poisson, other values give gamma gaps (more
    bursty above 1). `length_variation`: of log-normal lengths around the classes' means; 0: constant.
    """
    rng = np.random.default_rng(seed)
    rates = np.array([kind.requests_per_second for kind in kinds])
    shape = 1.0 / variation**2
    gaps = rng.gamma(shape, 1.0 / (shape * rates.sum()), count)
    chosen = rng.choice(len(kinds), count, p=rates / rates.sum())
    return with_classes(kinds, np.cumsum(gaps), chosen, rng, length_variation)


def like_trace(
    kinds: Sequence[Kind], trace: Arrivals, *, seed: int, length_variation: float = 0.0
) -> Arrivals:
    """The instants of a trace stretched to the kinds' total rate, with their classes and lengths."""
    rng = np.random.default_rng(seed)
    rates = np.array([kind.requests_per_second for kind in kinds])
    times = trace.at_rate(float(rates.sum())).time_s
    chosen = rng.choice(len(kinds), len(times), p=rates / rates.sum())
    return with_classes(kinds, times, chosen, rng, length_variation)


def with_classes(
    kinds: Sequence[Kind],
    time_s: Floats,
    chosen: Ints,
    rng: np.random.Generator,
    length_variation: float,
) -> Arrivals:
    """Requests at given instants with the lengths of their classes."""
    prompts = np.array([kind.prompt_tokens for kind in kinds])[chosen]
    outputs = np.array([kind.output_tokens for kind in kinds])[chosen]
    if length_variation > 0.0:
        sigma = np.sqrt(np.log1p(length_variation**2))
        spread = rng.lognormal(-sigma * sigma / 2.0, sigma, (2, len(chosen)))
        prompts = np.maximum(1.0, np.rint(prompts * spread[0]))
        outputs = np.maximum(1.0, np.rint(outputs * spread[1]))
    names = tuple(kind.name for kind in kinds)
    return Arrivals(names, time_s, chosen.astype(np.int64), prompts, outputs)


def nearest_class(lengths: Mapping[str, tuple[float, float]], prompts: Floats) -> Ints:
    """The class whose prompt length is nearest in log space, as a gateway sorts requests."""
    centres = np.log1p(np.array([prompt for prompt, _ in lengths.values()]))
    found: Ints = np.abs(np.log1p(prompts)[:, None] - centres[None, :]).argmin(axis=1)
    return found
