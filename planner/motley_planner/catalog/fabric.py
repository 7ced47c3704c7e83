"""What catalog/fabric.toml may hold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from motley_planner.domain.fabric import Fabric
from motley_planner.units import GIGA, MICRO


class FabricEntry(BaseModel):
    """catalog/fabric.toml, in datasheet units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nic_gb_per_s: dict[str, PositiveFloat]
    other_nic_gb_per_s: PositiveFloat
    zone_link_gb_per_s: PositiveFloat
    hop_latency_us: PositiveFloat
    source: str = Field(min_length=1)

    def to_domain(self) -> Fabric:
        """The fabric in SI units."""
        return Fabric(
            nic_bytes_per_s={name: rate * GIGA for name, rate in self.nic_gb_per_s.items()},
            other_nic_bytes_per_s=self.other_nic_gb_per_s * GIGA,
            zone_link_bytes_per_s=self.zone_link_gb_per_s * GIGA,
            hop_latency_s=self.hop_latency_us * MICRO,
        )
