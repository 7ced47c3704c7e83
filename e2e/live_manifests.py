"""What the live demo applies: namespace, weights, measurements and the cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2e.demo_api import Document
from e2e.engines.models import MODELS
from e2e.live_questions import MAX_TOKENS

NAMESPACE, NAME = "live", "quiz"
STAGES = {"first": "smollm2-135m", "second": "gemma-3-270m"}
GPUS = {"first": "T4", "second": "L40S"}  # what the nodes of each say that they have
BUSY = (4, 64)  # requests at a time, of the profile and of the plan
RATE = 1.5  # requests/s that really come, for all engines share one machine
CONFIDENCE = 0.8  # a hundred questions certify little


@dataclass(frozen=True, slots=True)
class Measured:
    """One model: mean prompt, seconds to a first token, requests/s of one busy core."""

    prompt_tokens: float
    first_token_s: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What `motley calibrate` wrote and said."""

    table: str
    estimator: str
    qualities: dict[str, float]  # of each stage alone
    verdict: Document


def manifests(
    measured: dict[str, Measured],
    calibrated: Calibrated,
    rate: float,
    floor: float,
    gpus: Mapping[str, str] = GPUS,
) -> list[Document]:
    """Namespace, weights, profile, calibration and the cascade; `gpus` by stage."""
    data = {
        "table.csv": calibrated.table,
        "estimator.json": calibrated.estimator,
        "profile.csv": _profile(measured, gpus),
    }
    classes = [{
        "name": "question",
        "promptTokens": round(mean([one.prompt_tokens for one in measured.values()])),
        "outputTokens": MAX_TOKENS,
    }]  # fmt: skip
    spec = {
        "stages": [_stage(name, gpus[name]) for name in STAGES],
        "quality": {
            "floor": f"{100 * floor:.1f}%",
            "confidence": f"{CONFIDENCE:.0%}",
            "estimator": {"type": "LogProb"},
            "calibration": {"configMapKeyRef": {"name": "measured", "key": "table.csv"}},
        },
        "workload": {"requestsPerSecond": f"{rate:.3g}", "classes": classes},
        "replan": {"nodeLossTolerance": 1, "cooldown": "10s"},
        "gateway": {"replicas": 1},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *_volume(),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "measured", "namespace": NAMESPACE},
            "data": data,
        },
        {
            "apiVersion": "motley.dev/v1alpha1",
            "kind": "ModelCascade",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": spec,
        },
    ]


def mean(values: Sequence[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def _stage(name: str, gpu: str) -> Document:
    claim = {"claimName": "weights", "subPath": f"{STAGES[name]}.gguf"}
    source = {"type": "PersistentVolumeClaim", "persistentVolumeClaim": claim}
    return {
        "name": name,
        "model": {
            "id": MODELS[STAGES[name]].hugging_face_id,
            "precision": "int4",
            "source": source,
        },
        "engine": {"name": "llamacpp", "extraArgs": ["--ctx-size", "4096"]},
        "placement": {"gpuProducts": [gpu]},
        "profile": {"configMapKeyRef": {"name": "measured", "key": "profile.csv"}},
    }


def _profile(measured: dict[str, Measured], gpus: Mapping[str, str]) -> str:
    """What each engine did when busy, for the prompt and answer lengths of the questions."""
    lines = ["model,gpu,tp,precision,prompt_tokens,output_tokens,batch,ttft_ms,requests_per_second"]
    for name, one in measured.items():
        cells = [MODELS[STAGES[name]].hugging_face_id, gpus[name], "1", "int4"]
        cells += [f"{one.prompt_tokens:.0f}", str(MAX_TOKENS)]
        first = f"{1e3 * one.first_token_s:.1f}"
        for busy in BUSY:  # a core is as fast with few requests as with many
            lines.append(",".join([*cells, str(busy), first, f"{one.requests_per_s:.3f}"]))
    return "\n".join(lines) + "\n"


def _volume() -> list[Document]:
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "live-weights"},
            "spec": {
                **common,
                "capacity": size,
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": NAMESPACE, "name": "weights"},
                "hostPath": {"path": "/var/empty"},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "weights", "namespace": NAMESPACE},
            "spec": {**common, "volumeName": "live-weights", "resources": {"requests": size}},
        },
    ]
