"""What Motley writes back: conditions, the plan in groups, and why it changed.

Status models ignore fields they do not know, so that an older operator can read what a newer one
wrote. Lists are bounded so that a status stays under 32 KiB.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from motley_operator.api.common import ATOMIC, keyed_by
from motley_operator.api.quantities import Quantity
from motley_operator.api.statusparts import (
    UNSEEN,
    Hash,
    Sentence,
    StatusModel,
    Text,
    Timestamp,
)
from motley_operator.api.suspects import SuspectRow


class Condition(StatusModel):
    """One statement about the resource (metav1.Condition)."""

    type: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        description="Accepted, Planned, Ready, DemandMeasured, Suspect, Reconciling, Stalled; in Preview Approved; for jobs Checkpointing, Suspended, Complete, Failed."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the statement holds.")
    reason: Annotated[str, Field(max_length=63)] = Field(description="Enumerated CamelCase reason.")
    message: Sentence = Field(default="", description="What binds and what would lift it.")
    last_transition_time: Timestamp = Field(description="When `status` last flipped.")
    observed_generation: int = Field(default=0, ge=0, description="Generation it speaks of.")


class Address(StatusModel):
    """Where clients call."""

    url: Annotated[str, Field(max_length=512)] = Field(description="URL inside the cluster.")


class PlanGroup(StatusModel):
    """Equal replicas: one configuration on one kind of node."""

    stage: Text = Field(
        default="main",
        description="Stage of a cascade, `main` for pools, `rollout` or `trainer` for jobs.",
    )
    column: Text = Field(
        description="Short hash of the configuration, as on the pods' label motley.dev/column."
    )
    model: Text = Field(description="Model id.")
    gpu: Text = Field(description="GPU id of the catalog.")
    gpu_product: Text = Field(description="GPU product as on the nodes' label.")
    tensor_parallel: int = Field(ge=1, description="GPUs that share each layer.")
    pipeline: int = Field(default=1, ge=1, description="Groups of layers of one replica.")
    phase: Text = Field(default="both", description="both, prefill, decode, rollout or trainer.")
    zone: Text = Field(default="", description="Zone of the nodes.")
    capacity_type: Text = Field(default="", description="How the nodes are bought.")
    count: int = Field(ge=0, description="Replicas.")
    ready: int | None = Field(default=None, ge=0, description="Replicas that answer.")
    dollars_per_hour: Quantity = Field(
        default=Quantity("0"), description="Of all replicas of the group."
    )


class Promise(StatusModel):
    """A target and what the plan expects, with the cost model's error band."""

    request_class: Text | None = Field(
        default=None, alias="class", description="Request class, absent for all."
    )
    stage: Text | None = Field(default=None, description="Stage, absent for the whole path.")
    metric: Text = Field(description="ttft, tpot, e2e, quality or requestsPerSecond.")
    percentile: Text | None = Field(default=None, description="p50, p90, p95 or p99.")
    target: Text | None = Field(default=None, description="What the spec asks for.")
    expected: Text = Field(description="What the plan expects.")
    low: Text | None = Field(default=None, description="Lower end of the 80 % band.")
    high: Text | None = Field(default=None, description="Upper end of the 80 % band.")
    provenance: Literal["profiled", "learned"] | None = Field(
        default=None, description="Where it comes from; absent: the cost model."
    )


class RoutingPolicy(StatusModel):
    """One way requests travel through a cascade."""

    id: Text = Field(description="Policy id, as in the routing file.")
    share: float = Field(ge=0, le=1, description="Share of the requests.")
    thresholds: dict[Annotated[str, Field(max_length=63)], float] = Field(
        default={},
        max_length=8,
        description="Per stage: an answer scoring at least this is returned.",
    )


class RoutingSummary(StatusModel):
    """How a cascade routes."""

    policies: tuple[RoutingPolicy, ...] = Field(
        default=(), max_length=16, description="The mixture.", json_schema_extra=keyed_by("id")
    )


class Binding(StatusModel):
    """A constraint that holds the plan back, and what would lift it."""

    constraint: Text = Field(description="Which row binds, in the words of the spec.")
    relax: Sentence = Field(default="", description="What would lift it, e.g. `+1 H100 node`.")


class PlanStatus(StatusModel):
    """The resource's own slice of the fleet's plan; how good that is as a whole is the Fleet's to say."""

    hash: Hash = Field(description="Of this resource's slice only; what motley.dev/approve names.")
    groups: tuple[PlanGroup, ...] = Field(
        default=(),
        max_length=64,
        description="Replicas by configuration and node shape.",
        json_schema_extra=ATOMIC,
    )
    dollars_per_hour: Quantity = Field(default=Quantity("0"), description="US dollars an hour.")
    gpus: Annotated[str, Field(max_length=253)] = Field(
        default="", description="Such as 4xH100,2xL40S."
    )
    promises: tuple[Promise, ...] = Field(
        default=(), max_length=64, description="Targets and expectations.", json_schema_extra=ATOMIC
    )
    routing: RoutingSummary | None = Field(
        default=None, description="Cascades: the policy mixture."
    )
    binding: tuple[Binding, ...] = Field(
        default=(), max_length=16, description="What holds the plan back.", json_schema_extra=ATOMIC
    )

    @property
    def replicas(self) -> int:
        """Replicas of all groups."""
        return sum(group.count for group in self.groups)


class ProposedPlan(PlanStatus):
    """A plan that waits for approval (Preview)."""

    reason: Sentence = Field(default="", description="Why it was made.")
    proposed_at: Timestamp | None = Field(default=None, description="When it was made.")
    dollars_per_hour_before: Quantity | None = Field(
        default=None, description="US dollars an hour of what runs now."
    )
    starts: int = Field(default=0, ge=0, description="Replicas that would start.")
    stops: int = Field(default=0, ge=0, description="Replicas that would stop.")
    keeps: int = Field(default=0, ge=0, description="Replicas that would be left alone.")
    changes: tuple[Sentence, ...] = Field(
        default=(),
        max_length=32,
        description="What would start, stop and move.",
        json_schema_extra=ATOMIC,
    )


class LastReplan(StatusModel):
    """The last change of plan."""

    tier: Text = Field(
        default="",
        description="T0: routing only; T1: pods were added or changed their role, and none that ran was stopped; T2: pods that ran were stopped.",
    )
    reason: Text = Field(description="Enumerated CamelCase reason.")
    message: Sentence = Field(default="", description="The reason in a sentence.")
    started: int = Field(default=0, ge=0, description="Replicas started.")
    stopped: int = Field(default=0, ge=0, description="Replicas stopped.")
    kept: int = Field(default=0, ge=0, description="Replicas that go on.")
    flipped: int = Field(
        default=0,
        ge=0,
        description="Of those that go on: replicas that prefill where they decoded, or the other way.",
    )
    cost_dollars: Quantity | None = Field(
        default=None,
        description="US dollars of GPU time that the change costs once, predicted: weights that load, work that stops lose.",
    )
    time: Timestamp = Field(description="When.")
    seconds: float | None = Field(default=None, ge=0, description="From the event to the new plan.")
    moved_at: Timestamp | None = Field(
        default=None,
        description="The last time that a replica was stopped or a lost one replaced; the cooldown starts there.",
    )
    saved_at: Timestamp | None = Field(
        default=None, description="The last time that replicas were stopped for money alone."
    )
    saved_stops: int | None = Field(
        default=None,
        ge=0,
        description="Replicas that were stopped for money then, and within the Fleet's cooldown before.",
    )


class FrozenInputs(StatusModel):
    """What the pods of a stage were built from; only a spec change or an opt-in replaces it."""

    stage: Text = Field(description="Stage, `main` for pools, `rollout` or `trainer` for jobs.")
    engine: Text = Field(default="", description="Engine name.")
    image: Annotated[str, Field(max_length=512)] = Field(default="", description="Container image.")
    builder: Text = Field(default="", description="Version of the pod builder.")
    hash: Hash = Field(default="", description="Hash over everything that shapes the pod.")


class RecordStatus(StatusModel):
    """What tells the operator's own record in the ConfigMap `<name>-plan` from any other."""

    hash: Hash = Field(description="Hash of the record's text; another text is not read.")
    previous_hash: Hash | None = Field(
        default=None, description="The same of the text before, until the new one is written."
    )
    spec_hash: Hash = Field(description="Hash of the spec that the record was made from.")


class ResourceStatus(StatusModel):
    """What every planned resource reports."""

    observed_generation: int | None = Field(
        default=None,
        ge=UNSEEN,
        description="Generation that the conditions speak of; -1 before the first report.",
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="Statements by type.",
        json_schema_extra=keyed_by("type"),
    )
    plan: PlanStatus | None = Field(default=None, description="What runs or is being brought up.")
    proposed_plan: ProposedPlan | None = Field(
        default=None, description="Preview: what waits for approval."
    )
    record: RecordStatus | None = Field(
        default=None, description="Preview and Disabled: what is recorded of the plan that stands."
    )
    last_replan: LastReplan | None = Field(default=None, description="The last change of plan.")
    last_handled_replan_at: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Echo of the annotation motley.dev/replan-requested-at."
    )
    last_handled_approval: Hash | None = Field(
        default=None,
        description="The last motley.dev/approve that was applied or refused; it counts no more.",
    )
    suspects: tuple[SuspectRow, ...] = Field(
        default=(),
        max_length=16,
        description="Where pods failed; nothing is started there until the time given. An edit of the spec or motley.dev/replan-requested-at lifts all.",
        json_schema_extra=ATOMIC,
    )
    inputs: tuple[FrozenInputs, ...] = Field(
        default=(),
        max_length=16,
        description="What the pods were built from.",
        json_schema_extra=keyed_by("stage"),
    )

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if it was ever set."""
        return next((c for c in self.conditions if c.type == kind), None)


class DemandClass(StatusModel):
    """Requests of one kind, as they are planned for."""

    name: Annotated[str, Field(max_length=63)] = Field(description="Name of the class.")
    prompt_tokens: int = Field(ge=1, description="Mean prompt length in tokens.")
    output_tokens: int = Field(ge=1, description="Mean answer length in tokens.")
    weight: int = Field(ge=1, description="Share of the requests, relative to the other classes.")


class DemandStatus(StatusModel):
    """The measured demand that the plan is made for; it changes when the demand does."""

    source: Text = Field(
        description="Gateways or Engines: where requests were counted. Held: they waited at a gateway while nothing ran."
    )
    requests_per_second: Quantity = Field(description="What is planned for.")
    low: Quantity = Field(description="Lower end of the 99 % interval that was measured.")
    high: Quantity = Field(description="Upper end of it.")
    classes: tuple[DemandClass, ...] = Field(
        default=(), max_length=32, description="Kinds of requests.", json_schema_extra=ATOMIC
    )
    time: Timestamp = Field(description="When it was taken up.")
    held_at: Annotated[str, Field(max_length=64)] | None = Field(
        default=None,
        description="Echo of the last motley.dev/requests-held-at of the gateways that was acted on.",
    )


class ServingStatus(ResourceStatus):
    """What pools and cascades report."""

    address: Address | None = Field(default=None, description="Where clients call.")
    demand: DemandStatus | None = Field(
        default=None, description="With workload.demand: Measured, what is planned for."
    )
