"""Measurements of a user's own replicas, which go before the cost model where they speak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProfilePoint:
    """Mean latencies of one replica with `batch` equal requests always in flight."""

    batch: float
    prompt_tokens: float
    output_tokens: float
    ttft_s: float | None  # None: not measured
    tpot_s: float


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """One replica configuration by catalog names."""

    model: str
    gpu: str
    tensor_parallel: int
    precision: str


@dataclass(frozen=True, slots=True)
class Profile:
    """Measured points by replica configuration."""

    points: Mapping[ProfileKey, tuple[ProfilePoint, ...]]
