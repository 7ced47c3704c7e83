"""Demand and speeds that are measured: where they are read, and what is made of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from motley_operator.api.common import ApiModel
from motley_operator.api.quantities import Duration
from motley_operator.api.rules import positive


class PrometheusSpec(ApiModel):
    """A Prometheus that scrapes gateways and engines, and how it is read."""

    rules = (
        positive("window", "prometheus.window is longer than 0s: write a duration such as 15m"),
        positive("interval", "prometheus.interval is longer than 0s: write a duration such as 30s"),
        positive(
            "staleAfter", "prometheus.staleAfter is longer than 0s: write a duration such as 2m"
        ),
    )
    url: Annotated[str, Field(min_length=8, max_length=512, pattern=r"^https?://[^\s]+$")] = Field(
        description="Base URL of its HTTP API, as the operator reaches it."
    )
    window: Duration = Field(
        default=Duration("15m"),
        description="Time over which demand is estimated, in ten steps; a step must hold two scrapes.",
    )
    interval: Duration = Field(default=Duration("30s"), description="Time between two readings.")
    stale_after: Duration = Field(
        default=Duration("2m"), description="Age from which a sample or a reading counts no more."
    )
    learn: Literal["Off", "Report", "Apply"] = Field(
        default="Report",
        description="What is made of how fast engines are, over what is modeled. Off: nothing. Report: status.corrections says it. Apply: plans are made with it.",
    )
