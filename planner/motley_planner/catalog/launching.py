"""The [launch] blocks of catalog files, and the kinds of fields that all catalog files have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from motley_planner.domain.engines import (
    AdapterLaunch,
    LaunchSpec,
    PhaseLaunch,
    PipelineLaunch,
    PriorityLaunch,
)

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=120)]
Dtype = Literal["bf16", "fp16", "fp8", "fp4", "int8", "int4"]


class Entry(BaseModel):
    """A block of a catalog file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PipelineLaunchEntry(Entry):
    """The [launch.pipeline] block: what each pod of a replica over several nodes adds."""

    args: tuple[str, ...]
    worker_args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    port: int = Field(ge=1, le=65535)


class PhaseLaunchEntry(Entry):
    """The [launch.phases] block: what replicas of one phase add."""

    handoff: Literal["nixl", "bootstrap"]
    port: int = Field(ge=1, le=65535)
    prefill_args: tuple[str, ...]
    decode_args: tuple[str, ...]
    env: dict[str, str] = {}


class PriorityLaunchEntry(Entry):
    """The [launch.priority] block: what orders requests by a `priority` field."""

    args: tuple[str, ...]
    order: Literal["lowFirst", "highFirst"]


class AdapterLaunchEntry(Entry):
    """The [launch.adapters] block: how LoRA adapters are given, and how requests name one."""

    args: tuple[str, ...]
    list_arg: Name
    item: Name
    model: Name
    ranks: tuple[PositiveInt, ...] = ()


class LaunchEntry(Entry):
    """The [launch] block of an engine, or [trainer] and [rollout] of a framework."""

    images: dict[str, Name] = {}
    command: tuple[str, ...]
    args: tuple[str, ...]
    mounted_args: tuple[str, ...] = ()
    hub_args: tuple[str, ...] = ()
    port: int = Field(ge=1, le=65535)
    health_path: str = ""
    metrics_path: str = ""
    env: dict[str, str] = {}
    rollout_env: dict[str, str] = {}
    precision_args: dict[Dtype, tuple[str, ...]] = {}
    termination_grace_seconds: PositiveInt = 60
    shutdown_timeout_seconds: Count = 0
    pipeline: PipelineLaunchEntry | None = None
    phases: PhaseLaunchEntry | None = None
    priority: PriorityLaunchEntry | None = None
    adapters: AdapterLaunchEntry | None = None

    def to_domain(self) -> LaunchSpec:
        """The launch block, unchanged."""
        plain = self.model_dump(exclude={"pipeline", "phases", "priority", "adapters"})
        return LaunchSpec(
            **plain,
            pipeline=PipelineLaunch(**self.pipeline.model_dump()) if self.pipeline else None,
            phases=PhaseLaunch(**self.phases.model_dump()) if self.phases else None,
            priority=PriorityLaunch(**self.priority.model_dump()) if self.priority else None,
            adapters=AdapterLaunch(**self.adapters.model_dump()) if self.adapters else None,
        )
