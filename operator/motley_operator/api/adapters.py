"""LoRA adapters of a pool: served beside the model, each under a name of its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from motley_operator.api.common import ApiModel, ModelId
from motley_operator.api.models import ONE_SOURCE, ClaimSource, SourceType

MOST_SLOTS = 8  # adapters in one batch; further ones take turns

AdapterName = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
]


class AdapterRepository(ApiModel):
    """A repository of the Hugging Face hub; engines fetch it with the model's token."""

    id: ModelId = Field(description="Hugging Face id of the adapter.")


class AdapterSource(ApiModel):
    """Where an adapter comes from: exactly one member, named by `type`."""

    rules = (ONE_SOURCE,)
    type: SourceType = Field(description="Which member is set.")
    persistent_volume_claim: ClaimSource | None = Field(
        default=None, description="The adapter's folder on a volume."
    )
    hugging_face: AdapterRepository | None = Field(
        default=None, description="A repository of the hub."
    )


class Adapter(ApiModel):
    """One LoRA adapter; requests name it as their `model`."""

    name: AdapterName = Field(description="The name that clients write as `model`.")
    source: AdapterSource = Field(description="Where it comes from.")
    rank: int = Field(
        default=16,
        ge=1,
        le=512,
        description="Its rank, `r` of adapter_config.json; GPU memory is planned for it.",
    )


def slots_of(adapters: tuple[Adapter, ...]) -> int:
    """Adapters that one batch may mix, and that GPU memory is set aside for."""
    return min(len(adapters), MOST_SLOTS)


def rank_of(adapters: tuple[Adapter, ...], ranks: tuple[int, ...]) -> int:
    """The rank that all of them fit in: the largest, and one that the engine knows. 0: none."""
    most = max((adapter.rank for adapter in adapters), default=0)
    return min((rank for rank in ranks if rank >= most), default=most) if most else 0
