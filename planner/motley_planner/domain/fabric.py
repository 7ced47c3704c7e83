"""The network between nodes, as far as moving activations and KV caches depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fabric:
    """Rates per direction; see catalog/fabric.toml."""

    nic_bytes_per_s: Mapping[str, float]  # a GPU's share of its node's network, by catalog id
    other_nic_bytes_per_s: float  # of GPUs that are not listed
    zone_link_bytes_per_s: float  # between two zones, all traffic together
    hop_latency_s: float  # of one message between two nodes

    def nic_of(self, gpu: str) -> float:
        """Bytes/s that one GPU's share of the network moves in each direction."""
        return self.nic_bytes_per_s.get(gpu, self.other_nic_bytes_per_s)
