"""What the live demo applies: namespace, weights, measurements and the cascade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from e2e.demo_api import Document
from e2e.engines.models import MODELS
from e2e.live_questions import MAX_TOKENS, Outcome, mean

NAMESPACE, NAME = "live", "quiz"
STAGES = ("first", "second")
BUSY = 4  # requests at a time, of the profile and of the plan
RATE = 1.0  # requests/s
CONFIDENCE = 0.8  # forty questions certify little


@dataclass(frozen=True, slots=True)
class Measured:
    """One model: its answers to all questions, and requests/s when busy."""

    name: str
    outcomes: list[Outcome]
    requests_per_s: float


def manifests(stages: Sequence[Measured], table: str, floor: float) -> list[Document]:
    """Namespace, weights, profile, calibration and the cascade."""
    data = {"table.csv": table, "profile.csv": _profile(stages)}
    lengths = [one for stage in stages for one in stage.outcomes]
    classes = [{
        "name": "question",
        "promptTokens": round(mean(lengths, "prompt_tokens")),
        "outputTokens": MAX_TOKENS,
    }]  # fmt: skip
    spec = {
        "stages": [_stage(name, one) for name, one in zip(STAGES, stages, strict=True)],
        "quality": {
            "floor": f"{100 * floor:.1f}%",
            "confidence": f"{CONFIDENCE:.0%}",
            "estimator": {"type": "LogProb"},
            "calibration": {"configMapKeyRef": {"name": "measured", "key": "table.csv"}},
        },
        "workload": {"requestsPerSecond": f"{RATE:g}", "classes": classes},
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


def _stage(name: str, one: Measured) -> Document:
    claim = {"claimName": "weights", "subPath": f"{one.name}.gguf"}
    source = {"type": "PersistentVolumeClaim", "persistentVolumeClaim": claim}
    return {
        "name": name,
        "model": {
            "id": MODELS[one.name].hugging_face_id,
            "precision": "int4",
            "source": source,
        },
        "engine": {"name": "llamacpp", "extraArgs": ["--ctx-size", "4096"]},
        "profile": {"configMapKeyRef": {"name": "measured", "key": "profile.csv"}},
    }


def _profile(stages: Sequence[Measured]) -> str:
    """What each engine did when busy, for the prompt and answer lengths of the questions."""
    lines = ["model,gpu,tp,precision,prompt_tokens,output_tokens,batch,ttft_ms,requests_per_second"]
    for one in stages:
        cells = [MODELS[one.name].hugging_face_id, "L4", "1", "int4"]
        cells += [f"{mean(one.outcomes, 'prompt_tokens'):.0f}", str(MAX_TOKENS), str(BUSY)]
        cells += [f"{1e3 * mean(one.outcomes, 'first_token_s'):.1f}", f"{one.requests_per_s:.3f}"]
        lines.append(",".join(cells))
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
