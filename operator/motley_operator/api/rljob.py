"""RLJob: reinforcement learning with generation and training on GPUs of their own."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from motley_operator.api.common import (
    ATOMIC,
    ApiModel,
    Argument,
    Budget,
    EngineSpec,
    Image,
    Opaque,
    Parallelism,
    Placement,
    PriorityClassName,
    Replan,
)
from motley_operator.api.frame import Column, Names, Resource, plan_columns
from motley_operator.api.models import ClaimSource, ModelRef
from motley_operator.api.quantities import Duration
from motley_operator.api.rules import Rule, not_above, positive, short_dns_name, unchanged
from motley_operator.api.status import ResourceStatus
from motley_operator.api.statusparts import StatusModel, Timestamp

_CUSTOM_IMAGE = Rule(
    "custom image",
    "image",
    "framework.name: custom needs framework.image: only areal and verl have default images",
    "self.name != 'custom' || has(self.image)",
    lambda d: d.get("name") != "custom" or "image" in d,
)
_TRAINABLE = Rule(
    "trainable precision",
    "model.precision",
    "an RLJob trains in bf16 or fp16: set model.precision to one of them",
    "self.model.precision in ['bf16', 'fp16']",
    lambda d: d.get("model", {}).get("precision", "bf16") in ("bf16", "fp16"),
)


class Framework(ApiModel):
    """The training framework that the pods run."""

    rules = (_CUSTOM_IMAGE,)
    name: Literal["areal", "verl", "custom"] = Field(
        description="areal, verl, or custom with your own image."
    )
    image: Image | None = Field(default=None, description="Container image; absent: the catalog's.")
    command: tuple[Argument, ...] | None = Field(
        default=None,
        max_length=64,
        description="Command of the trainer; absent: the framework's.",
        json_schema_extra=ATOMIC,
    )
    config: Opaque = Field(
        default={},
        description="The framework's own configuration; Motley overrides only sizes and addresses.",
    )


class Algorithm(ApiModel):
    """What one training step consumes."""

    rules = (
        not_above(
            "meanNewTokens",
            "maxNewTokens",
            "meanNewTokens must not be above maxNewTokens: lower the mean or raise the limit",
        ),
    )
    batch_prompts: int = Field(ge=1, le=1_000_000, description="Prompts a training step.")
    samples_per_prompt: int = Field(
        default=8, ge=1, le=1024, description="Answers generated for each prompt."
    )
    max_prompt_tokens: int = Field(
        default=1024, ge=1, le=1_000_000, description="Longest prompt in tokens."
    )
    max_new_tokens: int = Field(ge=1, le=1_000_000, description="Longest answer in tokens.")
    mean_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Mean answer in tokens; absent: half of the longest.",
    )
    max_staleness: int = Field(
        default=4,
        ge=0,
        le=128,
        description="Policy versions an answer may lag behind the trainer (0: synchronous).",
    )
    steps: int = Field(ge=1, le=10_000_000, description="Training steps.")


class Rollout(ApiModel):
    """Generation: replicas that come and go without stopping the trainer."""

    rules = (
        not_above(
            "minReplicas",
            "maxReplicas",
            "rollout.minReplicas must not be above rollout.maxReplicas: raise the maximum or lower the minimum",
        ),
    )
    engine: EngineSpec = Field(
        default=EngineSpec(name="sglang"), description="The inference engine."
    )
    min_replicas: int = Field(default=1, ge=1, le=4096, description="Fewer make the job wait.")
    max_replicas: int | None = Field(
        default=None, ge=1, le=4096, description="Upper limit; absent: none."
    )
    parallelism: Parallelism = Field(
        default=Parallelism(), description="How far one replica may be split."
    )
    placement: Placement = Field(
        default=Placement(), description="Which nodes may be used, beside spec.placement."
    )
    pod_template: Opaque | None = Field(
        default=None, description="Pod template merged over the rollout pods."
    )


class Trainer(ApiModel):
    """Training: one gang that lives and dies together."""

    rules = (
        not_above(
            "minGpus",
            "maxGpus",
            "trainer.minGpus must not be above trainer.maxGpus: raise the maximum or lower the minimum",
        ),
    )
    backend: Literal["fsdp", "megatron"] = Field(
        default="fsdp", description="Training backend of the framework."
    )
    min_gpus: int = Field(default=1, ge=1, le=65536, description="Smallest gang, all its GPUs.")
    max_gpus: int | None = Field(
        default=None, ge=1, le=65536, description="Largest gang; absent: no limit."
    )
    parallelism: Parallelism = Field(
        default=Parallelism(), description="How far the model may be split."
    )
    placement: Placement = Field(
        default=Placement(), description="Which nodes may be used, beside spec.placement."
    )
    pod_template: Opaque | None = Field(
        default=None, description="Pod template merged over the trainer pods."
    )


class Storage(ApiModel):
    """The shared folder of all pods: checkpoints, buffers, name resolution."""

    persistent_volume_claim: ClaimSource = Field(
        description="A claim that many nodes can write (ReadWriteMany)."
    )


class Checkpoint(ApiModel):
    """When the trainer saves, and how it does so before it is stopped."""

    rules = (
        positive("interval", "checkpoint.interval is longer than 0s: write a duration such as 30m"),
    )
    interval: Duration = Field(default=Duration("30m"), description="Time between checkpoints.")
    keep: int = Field(default=3, ge=1, le=1000, description="Checkpoints kept.")
    command: tuple[Argument, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Saves a checkpoint before the trainer is stopped for whatever reason: preempted, suspended, re-planned, replaced, drained, or the job deleted (also by `kubectl delete`, with its namespace, or while no operator runs). A program with its arguments, without a shell; run in each trainer pod (the container's preStop hook) while all of them still train, and ended before they get SIGTERM. Its GPUs are given to nobody, and no other trainer of the job starts, until the pods are gone. A deleted job is gone before its pods, which save for as long as their grace period is (timeoutSeconds and 120 s, or podTemplate's); its Services go with it, so ranks then have no names. Absent: SIGTERM at once.",
        json_schema_extra=ATOMIC,
    )
    timeout_seconds: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="What command may take; the pod's grace period is longer by that.",
    )


class RLJobSpec(ApiModel):
    """What is wanted of a job; the plan decides how many GPUs generate and how many train."""

    rules = (
        _TRAINABLE,
        unchanged(
            "model.id",
            "model.id cannot change: checkpoints belong to the model; create another RLJob",
        ),
    )
    framework: Framework = Field(description="The training framework.")
    model: ModelRef = Field(description="The model that is trained.")
    algorithm: Algorithm = Field(description="What one step consumes.")
    rollout: Rollout = Field(default=Rollout(), description="Generation.")
    trainer: Trainer = Field(default=Trainer(), description="Training.")
    storage: Storage = Field(description="The shared folder.")
    checkpoint: Checkpoint = Field(
        default=Checkpoint(),
        description="When the trainer saves, and how it does so before it is stopped.",
    )
    suspend: bool = Field(
        default=False,
        description="true deletes the job's pods and frees its GPUs. With checkpoint.command the trainer saves first. Without, it gets SIGTERM and its pod's grace period (120 s unless podTemplate says otherwise), and whether it saves then is up to the framework's image: what came after its last checkpoint may be lost.",
    )
    backoff_limit: int = Field(
        default=3, ge=0, le=1000, description="Trainer failures before the job has failed."
    )
    active_deadline_seconds: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Seconds the job may run."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds after which a finished job is deleted, with all it owns; absent: never.",
    )
    budget: Budget | None = Field(
        default=None, description="Upper limits over rollout and trainer."
    )
    placement: Placement = Field(default=Placement(), description="Which nodes may be used.")
    replan: Replan = Field(default=Replan(), description="When a running plan may change.")
    priority_class_name: PriorityClassName | None = Field(
        default=None, description="PriorityClass of the pods; the plan serves higher values first."
    )


class Progress(StatusModel):
    """How far the job is."""

    step: int = Field(default=0, ge=0, description="Training steps done.")
    policy_version: int = Field(
        default=0, ge=0, description="Version of the weights that generate."
    )
    last_checkpoint_step: int | None = Field(
        default=None, ge=0, description="Step of the last checkpoint."
    )
    last_checkpoint_time: Timestamp | None = Field(default=None, description="When it was saved.")


class RLJobStatus(ResourceStatus):
    """What a job reports; its phase is in the conditions."""

    progress: Progress | None = Field(
        default=None,
        description="How far the job is. Motley keeps it and writes nothing there: no checkpoint is read yet.",
    )
    start_time: Timestamp | None = Field(
        default=None, description="When the trainer first started."
    )
    completion_time: Timestamp | None = Field(default=None, description="When the job ended.")
    failures: int = Field(
        default=0, ge=0, description="Trainer failures so far, counted against backoffLimit."
    )


class RLJob(Resource):
    """A reinforcement-learning job."""

    names: ClassVar[Names] = Names(
        "RLJob",
        "rljobs",
        "rljob",
        "rlj",
        "Namespaced",
        plan_columns(Column("Model", ".spec.model.id")),
    )
    rules = (short_dns_name(40),)
    kind: Literal["RLJob"] = "RLJob"
    spec: RLJobSpec
    status: RLJobStatus = Field(default=RLJobStatus())
