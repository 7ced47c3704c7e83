"""The state directory: what runs, where it listens, and the lock that keeps two `up` apart."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from e2e.cluster.binaries import cache_directory
from e2e.cluster.processes import Process


class ClusterError(Exception):
    """The cluster cannot do what was asked; says why, and which log to read."""


@dataclass(frozen=True, slots=True)
class Component:
    """One program of the control plane as it was started."""

    name: str
    argv: tuple[str, ...]
    process: Process


@dataclass(frozen=True, slots=True)
class State:
    """What the state file says. Components are in starting order."""

    ports: dict[str, int] = field(default_factory=dict)
    components: tuple[Component, ...] = ()


def default_directory() -> Path:
    """`$MOTLEY_CLUSTER_STATE`, else `motley/cluster` under the user's cache directory."""
    chosen = os.environ.get("MOTLEY_CLUSTER_STATE")
    return Path(chosen) if chosen else cache_directory() / "cluster"


def load(directory: Path) -> State | None:
    """The state of a directory; None if no cluster was ever started there."""
    try:
        raw = json.loads((directory / "state.json").read_text())
    except FileNotFoundError:
        return None
    components = tuple(
        Component(one["name"], tuple(one["argv"]), Process(**one["process"]))
        for one in raw["components"]
    )
    return State(raw["ports"], components)


def save(directory: Path, state: State) -> None:
    """Writes the state file so that a reader sees the old one or the new one, never half."""
    partial = directory / "state.json.partial"
    partial.write_text(json.dumps(asdict(state), indent=1))
    partial.replace(directory / "state.json")


def refuse_foreign(directory: Path) -> None:
    """Raises ClusterError if the directory holds something that is no cluster of ours."""
    if not directory.exists() or (directory / "state.json").exists():
        return
    strangers = [
        one.name for one in directory.iterdir() if one.name not in ("lock", "state.json.partial")
    ]
    if strangers:
        raise ClusterError(f"{directory} is not empty and holds no cluster of ours; choose another")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the directory's lock; waits for another `up` or `down` to finish first."""
    while True:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (directory / "lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # `down` removes the folder with the lock in it: then this lock guards nothing.
            if _is_same_file(handle.fileno(), directory / "lock"):
                yield
                return


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
