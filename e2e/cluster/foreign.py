"""Other projects' CRDs and sources, as their Go modules have them: fetched for a test, kept nowhere.

`go mod download` verifies what it gets against the checksum database and keeps it in Go's module
cache. Without Go or the network there is nothing, with the reason why.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.binaries import required

# Module and version; the autoscaler's APIs at the version that this Kueue requires.
MODULES: Mapping[str, tuple[str, str]] = {
    "autoscaler": (
        "k8s.io/autoscaler/cluster-autoscaler/apis",
        "v0.0.0-20240830133931-adfbe7e45277",
    ),
    "kueue": ("sigs.k8s.io/kueue", "v0.19.2"),
    "prometheus-operator": ("github.com/prometheus-operator/prometheus-operator", "v0.85.0"),
    "karpenter": ("sigs.k8s.io/karpenter", f"v{required('karpenter', 'sigs.k8s.io/karpenter')}"),
    "inference": ("sigs.k8s.io/gateway-api-inference-extension", "v1.0.0"),
}
_FETCH_S = 180


class ForeignError(Exception):
    """A module cannot be had; says why."""


@functools.cache
def module(name: str) -> Path:
    """The folder of a module's sources.

    Raises: ForeignError.
    """
    go = shutil.which("go")
    if go is None:
        raise ForeignError("go is not on PATH")
    path, version = MODULES[name]
    environment = {**os.environ, "GOWORK": "off", "GOFLAGS": ""}
    try:
        done = subprocess.run(
            [go, "mod", "download", "-json", f"{path}@{version}"],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_FETCH_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ForeignError(f"{path} was not there within {_FETCH_S} s") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"Error": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
    if "Dir" not in answer:
        raise ForeignError(f"{path}@{version}: {answer.get('Error', 'not there')}")
    return Path(answer["Dir"])


def crds(name: str, *files: str) -> list[dict[str, Any]]:
    """CustomResourceDefinitions of a module, from files in it.

    Raises: ForeignError.
    """
    folder = module(name)
    documents = [d for f in files for d in yaml.safe_load_all((folder / f).read_text()) if d]
    for document in documents:
        # Written by the generator as null, which an apply would own.
        document["metadata"].pop("creationTimestamp", None)
        document.pop("status", None)
    return documents
