"""The proof of a bound: a price for each limit of a problem, by weak duality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Certificate:
    """No plan reaches more at a level than `bound` (of a price: less), and why.

    `multipliers` are prices of the limits of `checker/relaxation.py` by their names, in the level's
    unit per unit of the limit; whoever has the table works out the bound from them by addition.
    Levels above are held at what the plan reaches.
    """

    level: str
    bound: float
    multipliers: Mapping[str, float]
