"""One operating point: what a replica can do at a batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A batch size and the classes admitted at it, with mean latencies and capacity alone.

    Capacity is that of a lone replica. From each (replicas, factor) of `pool_steps` on, every
    replica of such a pool may serve that many times as much. The shares are those of
    `domain.table.Column`; empty where memory holds every mix of a full batch.
    """

    batch: int
    capacity: dict[str, float]
    ttft_s: dict[str, float]
    tpot_s: dict[str, float]
    pool_steps: tuple[tuple[int, float], ...] = ()
    provenance: str = "modeled"  # modeled | profiled
    time_share: Mapping[str, float] = field(default_factory=dict)
    kv_share: Mapping[str, float] = field(default_factory=dict)

    def limits(self, name: str) -> tuple[float, float]:
        """Requests/s of a class that the time alone would allow, and the memory alone."""
        rate, kv = self.capacity.get(name, 0.0), self.kv_share.get(name, 0.0)
        return rate / self.time_share.get(name, 1.0), rate / kv if kv else float("inf")

    def mix_per_second(self, shares: Mapping[str, float]) -> float:
        """Requests/s of a mix with these shares of requests by class; 0 where one is not admitted."""
        if not all(self.capacity.get(name, 0.0) > 0.0 for name in shares):
            return 0.0
        limits = {name: self.limits(name) for name in shares}
        used = (sum(s / limits[n][i] for n, s in shares.items()) for i in (0, 1))
        return 1.0 / max(used)
