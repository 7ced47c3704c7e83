"""A job's trainer gang: one pod a fragment, rank 0 the rendezvous, everything that frameworks ask for.

The gang lives and dies together: containers are never restarted in place; one failed pod ends the
attempt. The configuration file follows the plan while the pods run; the environment is as it was
when they started.

A checkpoint needs every rank, so all pods of a gang have the same preStop hook: whoever deletes
them, and in whatever order, kubelets run it before SIGTERM, while the other ranks still train.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from motley_operator.admission.merging import with_template
from motley_operator.api import RLJob
from motley_operator.domain.names import ATTEMPT, CHECKPOINT
from motley_operator.manifests.frame import Manifest, Owner, sealed
from motley_operator.manifests.launch import Process, model_location, rendered
from motley_operator.manifests.pods import Seat, container_frame, frame_pod, host_address
from motley_operator.manifests.stages import SHARED_ROOT, StageSpec
from motley_planner.domain.engines import FrameworkSpec
from motley_planner.domain.plan import PlannedReplica

MASTER_PORT = 29500  # torch.distributed's default
CONFIG_DIR = "/etc/motley"
CONFIG_KEY = "config.json"


def config_name(job: str) -> str:
    """ConfigMap that trainer pods mount."""
    return f"{job}-config"


def trainer_pod(
    seat: Seat, job: RLJob, framework: FrameworkSpec, rollouts: Sequence[str], failures: int
) -> Manifest:
    """One pod of the gang; `rollouts` are host:port of the rollout replicas.

    `failures` is written on the pod, so that one that fails is counted once.
    """
    process = _process(seat, job, framework, rollouts)
    container = container_frame(seat, process)
    container["ports"] = _ports(process.launch.port)
    container["volumeMounts"].append({"name": "config", "mountPath": CONFIG_DIR, "readOnly": True})
    saving, grace_s = job.spec.checkpoint, process.launch.termination_grace_seconds
    if saving.command:
        container["lifecycle"] = {"preStop": {"exec": {"command": list(saving.command)}}}
        grace_s += saving.timeout_seconds  # the hook's time is part of the pod's grace period
    pod = frame_pod(seat, container, grace_s, "Never")
    config = {"name": config_name(seat.owner.name)}
    pod["spec"]["volumes"].append({"name": "config", "configMap": config})
    pod["metadata"]["annotations"][ATTEMPT] = str(failures)
    if saving.command:
        pod["metadata"]["annotations"][CHECKPOINT] = str(saving.timeout_seconds)
    return with_template(pod, seat.stage.template)


def config_map(
    owner: Owner,
    job: RLJob,
    stage: StageSpec,
    rollouts: Sequence[str],
    trainer: PlannedReplica | None,
) -> Manifest:
    """The job's numbers and addresses, with the framework's own configuration beside them."""
    spec = job.spec
    content = {
        "job": {"namespace": owner.namespace, "name": owner.name, "uid": owner.uid},
        "model": {"id": stage.model.id, "path": model_location(stage)},
        "algorithm": spec.algorithm.model_dump(mode="json", exclude_none=True),
        "rollout": {"engine": spec.rollout.engine.name, "endpoints": list(rollouts)},
        "trainer": {
            "backend": spec.trainer.backend,
            "nodes": len(trainer.nodes) if trainer else 0,
            "gpus_per_node": trainer.tensor_parallel if trainer else 0,
        },
        "checkpoint": {
            "interval_s": spec.checkpoint.interval.seconds,
            "keep": spec.checkpoint.keep,
            "path": _checkpoints(owner),
        },
        "framework": dict(spec.framework.config),
    }
    text = json.dumps(content, sort_keys=True, indent=1)
    metadata = owner.metadata(config_name(owner.name), "trainer")
    return sealed(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {CONFIG_KEY: text}}
    )


def _checkpoints(owner: Owner) -> str:
    """Folder of a job's checkpoints on the shared volume, the same for every attempt."""
    return f"{SHARED_ROOT}/{owner.name}/checkpoints"


def _process(seat: Seat, job: RLJob, framework: FrameworkSpec, rollouts: Sequence[str]) -> Process:
    launch, written = framework.trainer, job.spec.framework
    assert launch is not None, f"{framework.name} has no trainer"
    gpus, nodes = seat.replica.tensor_parallel, len(seat.replica.nodes)
    values = {
        "experiment": seat.owner.name,
        "trial": seat.owner.uid[:8],
        "rank": str(seat.rank),
        "port": str(launch.port),
        "shared_root": SHARED_ROOT,
        "model": model_location(seat.stage),
        "trainer_nodes": str(nodes),
        "trainer_gpus_per_node": str(gpus),
        "rollout_nodes": str(len(rollouts)),
        "rollout_gpus_per_node": str(gpus),
    }
    command = list(written.command) if written.command else rendered(launch.command, values)
    return Process(
        image=written.image or framework.default_image,
        command=command,
        args=[] if written.command else rendered(launch.args, values),
        env={**launch.env, **_rendezvous(seat), **_numbers(seat, job, rollouts)},
        launch=launch,
    )


def _rendezvous(seat: Seat) -> dict[str, str]:
    """What torch.distributed, torchrun (PET_*) and Ray-based recipes read."""
    gpus, nodes = seat.replica.tensor_parallel, len(seat.replica.nodes)
    address = host_address(seat.owner, seat.replica)
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(MASTER_PORT),
        "WORLD_SIZE": str(gpus * nodes),
        "NNODES": str(nodes),
        "NODE_RANK": str(seat.rank),
        "NPROC_PER_NODE": str(gpus),
        "PET_NNODES": str(nodes),
        "PET_NODE_RANK": str(seat.rank),
        "PET_NPROC_PER_NODE": str(gpus),
        "PET_MASTER_ADDR": address,
        "PET_MASTER_PORT": str(MASTER_PORT),
    }


def _numbers(seat: Seat, job: RLJob, rollouts: Sequence[str]) -> dict[str, str]:
    algorithm, saving = job.spec.algorithm, job.spec.checkpoint
    env = {
        "MOTLEY_CONFIG": f"{CONFIG_DIR}/{CONFIG_KEY}",
        "MOTLEY_CHECKPOINT_PATH": _checkpoints(seat.owner),
        "MOTLEY_MODEL": model_location(seat.stage),
        "MOTLEY_ROLLOUT_ENDPOINTS": ",".join(f"http://{address}" for address in rollouts),
        "MOTLEY_BATCH_PROMPTS": str(algorithm.batch_prompts),
        "MOTLEY_SAMPLES_PER_PROMPT": str(algorithm.samples_per_prompt),
        "MOTLEY_MAX_PROMPT_TOKENS": str(algorithm.max_prompt_tokens),
        "MOTLEY_MAX_NEW_TOKENS": str(algorithm.max_new_tokens),
        "MOTLEY_MAX_STALENESS": str(algorithm.max_staleness),
        "MOTLEY_STEPS": str(algorithm.steps),
    }
    if saving.command:
        env["MOTLEY_CHECKPOINT_TIMEOUT_SECONDS"] = str(saving.timeout_seconds)
    if job.spec.framework.name == "areal":
        env["AREAL_LLM_SERVER_ADDRS"] = ",".join(rollouts)
    return env


def _ports(port: int) -> list[Manifest]:
    ports = [{"name": "rendezvous", "containerPort": MASTER_PORT}]
    if port != MASTER_PORT:
        ports.append({"name": "framework", "containerPort": port})
    return ports
