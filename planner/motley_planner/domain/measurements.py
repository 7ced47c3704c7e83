"""Measurements of a user's own replicas, which go before the cost model where they speak.

A profile goes before what was learned, and what was learned before the model.
"""

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


@dataclass(frozen=True, slots=True)
class LearnedKey:
    """What a learned factor holds for, by catalog names: replicas on the GPUs of one node."""

    model: str
    gpu: str
    tensor_parallel: int
    precision: str
    engine: str


@dataclass(frozen=True, slots=True)
class Learned:
    """What a step of one configuration takes over what is modeled, learned where it serves.

    `value` is in force and bounded; `low` and `high` enclose what was measured, which may lie
    beyond it while it still moves there.
    """

    key: LearnedKey
    value: float
    low: float
    high: float
    samples: int = 0  # requests behind it
    since: str = ""  # since when the value is in force
