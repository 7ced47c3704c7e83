"""Types that every part of a status is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from motley_operator.api.common import ApiModel

Text = Annotated[str, Field(max_length=253)]
Sentence = Annotated[str, Field(max_length=2048)]
Timestamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Hash = Annotated[str, Field(max_length=64)]

# The server's default of status.observedGeneration. Without it kstatus (Flux, helm --wait) would
# read a resource that nobody has looked at yet as done.
UNSEEN = -1


class StatusModel(ApiModel):
    """A part of a status: unknown fields are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True
    )
