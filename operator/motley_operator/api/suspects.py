"""What a status says about places where a resource's pods failed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from motley_operator.api.statusparts import StatusModel, Text, Timestamp


class SuspectRow(StatusModel):
    """A node, or a configuration on a kind of node, where pods failed lately."""

    node: Text = Field(default="", description="The node; empty: a configuration is suspected.")
    stage: Text = Field(default="", description="Stage whose configuration is suspected.")
    column: Text = Field(
        default="", description="The failed pod's configuration, as on its label motley.dev/column."
    )
    gpu: Text = Field(default="", description="GPU id; empty without a node: the whole stage.")
    size: Text = Field(default="", description="GPUs of a replica, such as tp4 or tp4x2.")
    zone: Text = Field(default="", description="Zone of the nodes.")
    capacity_type: Text = Field(default="", description="How the nodes are bought.")
    reason: Annotated[str, Field(max_length=63)] = Field(description="Why the last pod failed.")
    failures: int = Field(ge=1, description="Failures counted; each one doubles the time.")
    since: Timestamp = Field(description="Pods made until then are counted.")
    until: Timestamp | None = Field(
        default=None,
        description="Nothing is started there before; absent: it has not failed often enough.",
    )
