"""The small Go programs of e2e, each a module of its own in a folder here, built with the Go of PATH."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


class GoError(Exception):
    """There is no Go that is new enough; says which is needed."""


def build(name: str, folder: Path) -> Path:
    """Builds the program of e2e/<name> into a folder; its path. The first build takes minutes.

    Raises: GoError; AssertionError in the compiler's words where it does not compile.
    """
    module, target = HERE / name, folder / name
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    argv = [_go(module), "build", "-mod=readonly", "-trimpath", "-o", str(target), "."]
    done = subprocess.run(
        argv, cwd=module, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def _go(module: Path) -> str:
    line = re.search(r"^go (\d+)\.(\d+)", (module / "go.mod").read_text(), re.MULTILINE)
    assert line is not None
    needed = (int(line[1]), int(line[2]))
    command = shutil.which("go")
    if command is None:
        raise GoError(f"needs go on PATH to build e2e/{module.name}")
    # Asked outside any module, so that no other toolchain is fetched to answer.
    said = subprocess.run(
        [command, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False
    ).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < needed:
        wanted = ".".join(map(str, needed))
        raise GoError(f"e2e/{module.name} needs go {wanted} or newer, {command} is {said.strip()}")
    return command
