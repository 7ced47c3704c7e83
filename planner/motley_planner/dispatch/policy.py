"""One way of a cascade's requests through its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """One threshold vector and the share of all requests that follow it.

    Where `classes` are named, all of them are of those classes. `quality` is the certified lower
    bound of its mean answer quality, where the plan states it.
    """

    id: str
    share: float
    thresholds: Mapping[str, float]
    classes: tuple[str, ...] = ()
    quality: float | None = None
