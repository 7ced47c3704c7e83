"""Serving engines, trainer backends and RL frameworks: what they can run, cost and how they start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter


@dataclass(frozen=True, slots=True)
class PipelineLaunch:
    """What the pods of one replica over several nodes add to the launch of a single one.

    Further placeholders: {nodes} pods of the replica, {rank} of this one, {leader} address of the
    first, {pipeline_port}, {layers} of each pod, with commas.
    """

    args: tuple[str, ...]
    worker_args: tuple[str, ...]  # besides, for every pod but the first
    env: Mapping[str, str]
    port: int  # where the pods meet


@dataclass(frozen=True, slots=True)
class PhaseLaunch:
    """What a replica of one phase adds, and how a gateway hands a request from one to the other.

    Further placeholder: {handoff_port}.
    """

    handoff: str  # nixl | bootstrap
    port: int  # of the side channel or bootstrap server
    prefill_args: tuple[str, ...]
    decode_args: tuple[str, ...]
    env: Mapping[str, str]

    @property
    def interchangeable(self) -> bool:
        """Whether both roles are one process: then a replica changes its role while it runs."""
        return self.prefill_args == self.decode_args


@dataclass(frozen=True, slots=True)
class PriorityLaunch:
    """What orders requests inside the engine by a `priority` field of their bodies."""

    args: tuple[str, ...]
    order: str  # lowFirst | highFirst: which values go first


@dataclass(frozen=True, slots=True)
class AdapterLaunch:
    """What makes the engine serve LoRA adapters by name, and how a request names one."""

    args: tuple[str, ...]  # {slots} adapters in one batch, of rank {rank} at most
    list_arg: str  # before the adapters, each as `item`
    item: str  # {name}, {path}
    model: str  # the body's `model`, of {model} and {name}
    ranks: tuple[int, ...] = ()  # the values that {rank} may have; empty: any


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """How one process is started; the planner carries it as opaque text.

    Arguments hold placeholders in braces; catalog.md lists their names.
    """

    images: Mapping[str, str]  # by GPU vendor
    command: tuple[str, ...]
    args: tuple[str, ...]
    port: int
    health_path: str = ""
    metrics_path: str = ""
    mounted_args: tuple[str, ...] = ()  # besides, for weights on a mounted claim
    hub_args: tuple[str, ...] = ()  # besides, for weights that the engine fetches from the hub
    env: Mapping[str, str] = field(default_factory=dict)
    rollout_env: Mapping[str, str] = field(
        default_factory=dict
    )  # besides env, for rollout replicas
    precision_args: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # unquantized weights
    termination_grace_seconds: int = 60
    shutdown_timeout_seconds: int = 0  # how long the engine lets running requests finish
    pipeline: PipelineLaunch | None = None
    phases: PhaseLaunch | None = None  # None: no replicas of one phase
    priority: PriorityLaunch | None = None  # None: the field is not to be sent
    adapters: AdapterLaunch | None = None  # None: no adapters by name

    @property
    def placeholders(self) -> frozenset[str]:
        """Names between braces in command, arguments and environment."""
        args = (*self.args, *self.mounted_args, *self.hub_args)
        return frozenset(_placeholders((*self.command, *args, *self.env.values())))


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One serving engine or trainer backend, with the overheads that its steps have."""

    name: str
    roles: tuple[str, ...]  # serve | rollout | trainer
    vendors: tuple[str, ...]
    precisions: tuple[str, ...]
    parallelisms: tuple[str, ...]  # tensor | pipeline | data | expert
    layer_overhead_s: float
    step_overhead_s: float
    first_token_overhead_s: float
    memory_utilization: float  # share of the GPU's memory the engine takes
    reserved_bytes_per_gpu: float  # activations, graphs and buffers inside that share
    kv_value_bytes: float  # bytes of one cached value by default
    model_flop_utilization: float | None = None  # trainers: share of the 16-bit peak in a step
    state_bytes_per_parameter: float | None = None  # trainers: weights, gradients, optimizer
    launch: LaunchSpec | None = None
    unsupported_archs: tuple[str, ...] = ()
    pipeline_parallel: bool = False  # replicas may span nodes, each with layers of its own
    unequal_tensor_parallel: bool = False  # ... and with a number of GPUs of its own
    metrics: Mapping[str, str] = field(default_factory=dict)  # quantity -> series name


@dataclass(frozen=True, slots=True)
class FrameworkSpec:
    """One RL framework: how its trainer and rollout processes start."""

    name: str
    default_image: str  # empty: the resource must name one
    trainer: LaunchSpec | None
    rollout: LaunchSpec | None  # None: the rollout engine's own launch
    trainer_backends: tuple[str, ...]
    rollout_engines: tuple[str, ...]


def _placeholders(texts: tuple[str, ...]) -> list[str]:
    return [name for text in texts for _, name, _, _ in Formatter().parse(text) if name]
