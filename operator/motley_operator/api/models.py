"""A model: which one, in which number format, where its weights are, and where they are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from motley_operator.api.common import (
    ApiModel,
    Image,
    KeyRef,
    Line,
    ModelId,
    ObjectName,
    Opaque,
    Precision,
)
from motley_operator.api.rules import Rule, one_member

SourceType = Literal["PersistentVolumeClaim", "HuggingFace"]
ONE_SOURCE = one_member(
    "source", {"PersistentVolumeClaim": "persistentVolumeClaim", "HuggingFace": "huggingFace"}
)


class ClaimSource(ApiModel):
    """A folder on a PersistentVolumeClaim of the same namespace."""

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim.")
    sub_path: Annotated[str, Field(max_length=512, pattern=r"^[^/].*$")] | None = Field(
        default=None, description="Folder inside the volume, relative, without a leading slash."
    )


class HuggingFaceSource(ApiModel):
    """A repository of the Hugging Face hub; its id is the model's id."""

    revision: Line | None = Field(
        default=None, description="Branch, tag or commit; pin a commit in production."
    )
    token_secret_ref: KeyRef | None = Field(
        default=None, description="Access token for gated repositories."
    )


class ModelSource(ApiModel):
    """Where the weights come from: exactly one member, named by `type`."""

    rules = (ONE_SOURCE,)
    type: SourceType = Field(description="Which member is set.")
    persistent_volume_claim: ClaimSource | None = Field(
        default=None, description="Weights on a volume."
    )
    hugging_face: HuggingFaceSource | None = Field(
        default=None, description="Weights from the hub."
    )


class ModelCache(ApiModel):
    """A volume onto which a Job fetches the weights once; engines read them from there."""

    persistent_volume_claim: ClaimSource = Field(
        description="Claim that holds the weights. Several nodes mount it at once, so it should be "
        "ReadWriteMany; each model and revision has a folder of its own below subPath."
    )
    image: Image | None = Field(
        default=None,
        description="Image of the Job, with python3 and huggingface_hub in it; absent: the engine's.",
    )


def _cache_has_a_source(document: Any) -> bool:
    source = document.get("source") or {}
    return "cache" not in document or source.get("type", "HuggingFace") == "HuggingFace"


class ModelRef(ApiModel):
    """Which model is served or trained, in which number format, and where its weights are."""

    rules = (
        Rule(
            "cache source",
            "cache",
            "cache keeps what is fetched from the hub: use source type HuggingFace, or drop cache "
            "(a PersistentVolumeClaim is there already)",
            "!has(self.cache) || self.source.type == 'HuggingFace'",
            _cache_has_a_source,
        ),
    )
    id: ModelId = Field(
        description="Hugging Face id. The catalog knows base and instruct ids; an unknown id needs `architecture`."
    )
    precision: Precision = Field(default="bf16", description="Number format of the weights.")
    source: ModelSource = Field(
        default=ModelSource(type="HuggingFace", hugging_face=HuggingFaceSource()),
        description="Where the weights come from.",
    )
    cache: ModelCache | None = Field(
        default=None,
        description="Fetch the weights once, onto a volume, before the first engine starts; absent: "
        "each engine fetches them itself.",
    )
    architecture: Opaque | None = Field(
        default=None,
        max_length=200,
        description="Fields of the model's config.json (hidden_size, num_hidden_layers, ...), for ids that the catalog does not know.",
    )
