"""What is served and how clients reach it: request classes, latency targets, the gateway."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from motley_operator.api.common import ApiModel, DnsLabel, LocalSecret, keyed_by
from motley_operator.api.quantities import Duration, Percentage, Quantity
from motley_operator.api.rules import Rule, not_above, positive
from motley_planner.dispatch import DispatchRule, WorkflowRule
from motley_planner.dispatch.routing import MOST_ALPHA

Objective = Literal["MinimizeCost", "MaximizeThroughput"]
Disaggregation = Literal["Auto", "Always", "Never"]
DemandSource = Literal["Stated", "Measured"]
WorkflowAdmission = Literal["Always", "Deadline"]
DispatchName = Literal["EarliestFinish", "Hexgen", "RoundRobin", "LeastLoaded"]

_HEXGEN_ALONE = Rule(
    "alpha of Hexgen",
    "alpha",
    "alpha is for rule: Hexgen only: set that rule or drop alpha",
    "!has(self.alpha) || self.rule == 'Hexgen'",
    lambda d: "alpha" not in d or d.get("rule") == "Hexgen",
)
_MOST_ALPHA = Rule(
    "alpha <= 60%",
    "alpha",
    "alpha is at most 60%: above it nearly all requests go to the fastest GPUs; lower it",
    "!has(self.alpha) || double(self.alpha.replace('%', '')) <= 60.0",
    lambda d: "alpha" not in d or Percentage.read(d["alpha"]).fraction <= MOST_ALPHA,
)


class RequestClass(ApiModel):
    """One kind of request, told apart by what a gateway can see when it arrives."""

    name: DnsLabel = Field(description="Name of the class; clients may send it as x-motley-class.")
    prompt_tokens: int = Field(ge=1, le=2_000_000, description="Mean prompt length in tokens.")
    output_tokens: int = Field(ge=1, le=1_000_000, description="Mean answer length in tokens.")
    weight: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Share of the requests, relative to the other classes.",
    )


class Workload(ApiModel):
    """How many requests arrive and what they look like."""

    requests_per_second: Quantity = Field(description="Requests a second over all classes.")
    demand: DemandSource = Field(
        default="Stated",
        description="Stated plans for the figures written here; Measured for what Prometheus shows (Fleet.spec.prometheus), and for these figures until it does.",
    )
    min_requests_per_second: Quantity | None = Field(
        default=None,
        description="Measured: the least that is planned for; absent: a tenth of requestsPerSecond.",
    )
    max_requests_per_second: Quantity | None = Field(
        default=None,
        description="Measured: the most that is planned for; absent: ten times requestsPerSecond.",
    )
    classes: tuple[RequestClass, ...] = Field(
        min_length=1,
        max_length=32,
        description="Kinds of requests.",
        json_schema_extra=keyed_by("name"),
    )


class Percentiles(ApiModel):
    """Upper limits of a latency at percentiles over requests."""

    rules = (
        *(
            positive(p, f"{p} is longer than 0s: leave it out or write a limit such as 400ms")
            for p in ("p50", "p90", "p95", "p99")
        ),
        *(
            not_above(a, b, f"{a} must not be above {b}: raise {b} or lower {a}", "duration")
            for a, b in (
                ("p50", "p90"),
                ("p50", "p95"),
                ("p90", "p95"),
                ("p50", "p99"),
                ("p90", "p99"),
                ("p95", "p99"),
            )
        ),
    )
    p50: Duration | None = Field(default=None, description="Half of the requests are faster.")
    p90: Duration | None = Field(default=None, description="90 % of the requests are faster.")
    p95: Duration | None = Field(default=None, description="95 % of the requests are faster.")
    p99: Duration | None = Field(default=None, description="99 % of the requests are faster.")


class Slo(ApiModel):
    """Latency targets."""

    ttft: Percentiles | None = Field(default=None, description="Time to first token.")
    tpot: Percentiles | None = Field(
        default=None, description="Time per output token after the first, per request."
    )
    e2e: Percentiles | None = Field(default=None, alias="e2e", description="Arrival to last token.")


class GatewayAuth(ApiModel):
    """Who may call the gateway."""

    secret_ref: LocalSecret = Field(description="Secret whose values are the accepted API keys.")


class Hold(ApiModel):
    """Requests that wait at the gateway of a pool or cascade that was scaled to zero."""

    rules = (positive("time", "hold.time is longer than 0s: write a duration such as 5m"),)
    requests: int = Field(
        default=256,
        ge=0,
        le=65_536,
        description="Requests that one gateway pod holds; further ones get 503 with Retry-After. 0: none is held and none starts a replica.",
    )
    time: Duration = Field(
        default=Duration("5m"), description="Longest wait for a replica; then 503 with Retry-After."
    )


class Dispatch(ApiModel):
    """How the gateway picks a replica."""

    rules = (_HEXGEN_ALONE, _MOST_ALPHA)
    rule: DispatchName = Field(
        default="EarliestFinish",
        description="EarliestFinish: where it ends first, at the plan's rates; Hexgen: alpha weighs the replica's speed against work outstanding there; RoundRobin: in turn; LeastLoaded: fewest under way. All but the first leave the plan's rates aside.",
    )
    alpha: Percentage | None = Field(
        default=None,
        description="Hexgen: weight of speed, 0% to 60%; absent: 20%. `motley simulate --tune-alpha` finds one.",
    )

    @property
    def as_routed(self) -> DispatchRule:
        """The rule as a routing file states it."""
        policy = self.rule[0].lower() + self.rule[1:]
        return (
            DispatchRule(policy)
            if self.alpha is None
            else DispatchRule(policy, self.alpha.fraction)
        )


class WorkflowPolicy(ApiModel):
    """What the gateway does with workflows: calls that share an x-motley-workflow-id."""

    admission: WorkflowAdmission = Field(
        default="Always",
        description="Which new workflows are let in. Always: every one. Deadline: refuses those that cannot be done by their x-motley-deadline-ms, with 429 and Retry-After, at their first call only; calls of workflows under way always pass. With several gateway pods a client has to say which call is the first (x-motley-workflow-call).",
    )

    @property
    def as_routed(self) -> WorkflowRule:
        """The rule as a routing file states it."""
        return WorkflowRule(self.admission.lower())


class Gateway(ApiModel):
    """The address clients call: routes requests as the plan says."""

    replicas: int = Field(default=2, ge=1, le=64, description="Gateway pods.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port of the Service.")
    auth: GatewayAuth | None = Field(
        default=None, description="API keys; absent: anybody in the cluster network may call."
    )
    hold: Hold = Field(
        default=Hold(),
        description="With demand: Measured and minRequestsPerSecond: 0, requests that come while nothing runs.",
    )
    dispatch: Dispatch = Field(default=Dispatch(), description="How replicas are picked.")
    workflows: WorkflowPolicy = Field(
        default=WorkflowPolicy(), description="Workflows of several calls under one deadline."
    )
