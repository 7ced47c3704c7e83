"""The small Go programs of e2e, each a module of its own in a folder here, built with the Go of PATH."""

from __future__ import annotations

import subprocess
from pathlib import Path

from e2e.cluster import toolchain
from e2e.cluster.toolchain import ToolchainError

HERE = Path(__file__).parent


class GoError(Exception):
    """There is no Go that is new enough to build a program; says which is needed."""


def build(name: str, folder: Path) -> Path:
    """Builds the program of e2e/<name> into a folder; its path. The first build takes minutes.

    Raises: GoError; AssertionError in the compiler's words where it does not compile.
    """
    module, target = HERE / name, folder / name
    try:
        go = toolchain.of_path(toolchain.asked_by(module))
    except ToolchainError as error:
        raise GoError(f"e2e/{name} cannot be built: {error}") from error
    argv = [go.command, "build", "-mod=readonly", "-trimpath", "-o", str(target), "."]
    done = subprocess.run(
        argv, cwd=module, env=go.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target
