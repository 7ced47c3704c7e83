"""A Go module that builds another version of Kubernetes than the one that `gomod` pins.

`gomod/kubernetes` is one version, written down whole. Of any other only the version is chosen: which
modules go with it is what its own go.mod says, and Go's checksum database vouches for each of them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

# The oldest Kubernetes that Motley states (Chart.yaml's kubeVersion), in its last patch release.
MINIMUM = "1.30.14"
GO_LINE = "1.24.0"  # the first version of go.mod with `tool` lines

_KUBERNETES = "k8s.io/kubernetes"
_STAGING = re.compile(r"^\s*(?:replace )?(k8s\.io/\S+) => \./staging/", re.MULTILINE)
_GO = re.compile(r"^go (\d+\.\d+)", re.MULTILINE)
_VERSION = re.compile(r"1\.\d+\.\d+")


class ModuleError(Exception):
    """There is no module of that version, or none can be written."""


def checked(version: str) -> str:
    """The version without a leading "v".

    Raises: ModuleError if it is no release of Kubernetes 1.
    """
    found = version.removeprefix("v")
    if not _VERSION.fullmatch(found):
        raise ModuleError(
            f"MOTLEY_KUBERNETES={version!r} is no release: write one such as {MINIMUM}"
        )
    return found


def text_of(version: str, upstream: str, packages: tuple[str, ...]) -> str:
    """go.mod of a module that builds these packages, before `go mod tidy`.

    `upstream` is the go.mod of k8s.io/kubernetes at that version: each module that it replaces by a
    folder of its own tree is replaced by the release of the same number, v0 for v1. Programs keep the
    defaults of the Go release that they were written for.
    """
    staged = "v0." + version.partition(".")[2]
    go = _GO.search(upstream)
    if go is None:
        raise ModuleError(f"the go.mod of {_KUBERNETES} v{version} names no version of Go")
    tools = [f"\t{package}" for package in packages]
    replaced = [f"\t{name} => {name} {staged}" for name in _STAGING.findall(upstream)]
    head = [
        "module motley.dev/e2e/kubernetes",
        "",
        f"go {GO_LINE}",
        "",
        f"godebug default=go{go[1]}",
    ]
    lines = [*head, "", "tool (", *tools, ")", "", f"require {_KUBERNETES} v{version}", ""]
    return "\n".join([*lines, "replace (", *replaced, ")", ""])


def write(
    folder: Path, version: str, packages: tuple[str, ...], go: tuple[str, Mapping[str, str]]
) -> None:
    """Writes go.mod and go.sum into the folder, which may be there already; `go` is (command, environment).

    Raises: ModuleError in Go's words, such as for a version that does not exist.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = _go(go, folder, "mod", "download", "-json", f"{_KUBERNETES}@v{version}")
    upstream = Path(json.loads(found)["GoMod"]).read_text()
    (folder / "go.mod").write_text(text_of(version, upstream, packages))
    _go(go, folder, "mod", "tidy")


def _go(go: tuple[str, Mapping[str, str]], folder: Path, *arguments: str) -> str:
    command, environment = go
    done = subprocess.run(
        [command, *arguments],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise ModuleError(f"go {' '.join(arguments)} failed:\n{last}")
    return done.stdout
