"""The catalog's [launch] block with the plan's numbers in it: image, command line, environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motley_operator.api.adapters import Adapter, rank_of, slots_of
from motley_operator.manifests.stages import StageSpec
from motley_planner.domain.engines import EngineSpec, LaunchSpec
from motley_planner.domain.hardware import Gpu
from motley_planner.domain.models import ModelSpec
from motley_planner.domain.plan import PlannedReplica

MODEL_PATH = "/models"
ADAPTERS_PATH = "/adapters"


@dataclass(frozen=True, slots=True)
class Process:
    """What one engine container runs."""

    image: str
    command: list[str]
    args: list[str]
    env: Mapping[str, str]
    launch: LaunchSpec


def engine_process(
    stage: StageSpec,
    replica: PlannedReplica,
    engine: EngineSpec,
    model: ModelSpec,
    gpu: Gpu,
) -> Process:
    """An inference engine's process for one replica.

    The maximum length is bounded by the model's own; a person's arguments come last, so they win.
    """
    launch = engine.launch
    assert launch is not None, f"{engine.name} was not checked"
    longest = min(stage.longest_tokens, model.max_context_tokens)
    values = {
        "model": model_location(stage),
        "served_model_name": stage.model.id,
        "port": str(launch.port),
        "tp": str(replica.tensor_parallel),
        "dtype": _dtype(replica.precision, gpu),
        "max_model_len": str(longest),
        "max_num_seqs": str(max(1, replica.operating_batch)),
        "context_tokens": str(longest + (max(1, replica.operating_batch) - 1) * longest // 8),
        "gpu_memory_utilization": f"{engine.memory_utilization:g}",
        "shutdown_timeout": str(launch.shutdown_timeout_seconds),
    }
    where = launch.hub_args if stage.weights is None else launch.mounted_args
    args = rendered((*launch.args, *where), values)
    if not model.published_dtype:
        args += launch.precision_args.get(replica.precision, ())
    source = stage.model.source.hugging_face
    if not where and stage.weights is None and source is not None and source.revision is not None:
        args += ["--revision", source.revision]
    args += _opted(stage, launch)
    extra = dict(launch.rollout_env) if replica.role == "rollout" else {}
    if replica.phase != "both":
        added, env = _phase(launch, replica.phase)
        args, extra = args + added, extra | env
    return Process(
        image=stage_image(stage, launch, gpu.vendor),
        command=rendered(launch.command, values),
        args=[*args, *stage.engine.extra_args],
        env={**launch.env, **extra},
        launch=launch,
    )


def _opted(stage: StageSpec, launch: LaunchSpec) -> list[str]:
    """Arguments for what a person asked for: priorities, adapters."""
    ordered, adapted = launch.priority, launch.adapters
    args = list(ordered.args) if ordered is not None and stage.engine.priority else []
    if adapted is None or not stage.adapters:
        return args
    values = {
        "slots": str(slots_of(stage.adapters)),
        "rank": str(rank_of(stage.adapters, adapted.ranks)),
    }
    args += [*rendered(adapted.args, values), adapted.list_arg]
    for adapter in stage.adapters:
        args.append(adapted.item.format(name=adapter.name, path=adapter_location(adapter)))
    return args


def adapter_location(adapter: Adapter) -> str:
    """Where the engine finds an adapter: a mounted folder or a Hugging Face id."""
    hub = adapter.source.hugging_face
    return hub.id if hub is not None else f"{ADAPTERS_PATH}/{adapter.name}"


def _phase(launch: LaunchSpec, phase: str) -> tuple[list[str], dict[str, str]]:
    """What a replica that only prefills, or only decodes, adds: arguments and environment."""
    phases = launch.phases
    assert phases is not None, "the planner lists phases of engines that have them only"
    values = {"handoff_port": str(phases.port)}
    args = phases.prefill_args if phase == "prefill" else phases.decode_args
    env = zip(phases.env, rendered(tuple(phases.env.values()), values), strict=True)
    return rendered(args, values), dict(env)


def stage_image(stage: StageSpec, launch: LaunchSpec, vendor: str) -> str:
    """The image a person wrote, else that frozen at the first plan, else the catalog's.

    One image is frozen for a stage; GPUs of another vendor need another repository, not this one.
    """
    if stage.engine.image:
        return stage.engine.image
    current = launch.images[vendor]
    is_same = stage.frozen_image and repository(stage.frozen_image) == repository(current)
    return stage.frozen_image if is_same else current


def repository(image: str) -> str:
    """An image's name without tag and digest."""
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def model_location(stage: StageSpec) -> str:
    """Where the engine finds the weights: a mounted folder or a Hugging Face id."""
    return MODEL_PATH if stage.weights is not None else stage.model.id


def rendered(texts: tuple[str, ...], values: Mapping[str, str]) -> list[str]:
    """Each text with its placeholders filled in."""
    return [text.format_map(values) for text in texts]


def _dtype(precision: str, gpu: Gpu) -> str:
    """`half` where the GPU or the request has no bf16; else what the checkpoint says."""
    return "half" if precision == "fp16" or not gpu.flop_per_s.get("bf16") else "auto"
