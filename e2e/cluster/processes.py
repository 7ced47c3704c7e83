"""Starts, recognizes and ends processes without ever touching one that is not ours.

A process is named by its pid and the time it started: a pid alone is reused, and a name is
shared with the neighbor's cluster. A zombie answers `kill -0`, so its state is read as well, and
how many threads it has: a first thread is a zombie while others still end, and until the last of
them is gone so are none of the process's ports.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process that was started here: its pid and the system's word for when it started."""

    pid: int
    started: str


def _started(pid: int) -> str | None:
    """When a living process started, as the system says it; None if it is gone or a zombie."""
    try:
        # The command may hold spaces and parentheses: fields are counted after the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        is_over = fields[0] in "ZX" and int(fields[17]) <= 1
        return None if is_over else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, when = found.stdout.strip().partition(" ")
    return when.strip() if state and not state.startswith("Z") else None


def spawn(argv: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> Process:
    """Starts a program in a session of its own, both outputs appended to a log file.

    It has this process's environment, and these variables besides.
    The log's folder is made: without it posix_spawn would say that the program is not there.
    """
    log.parent.mkdir(exist_ok=True)
    out = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        {**os.environ, **(variables or {})},
        file_actions=[null, out, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
    )
    return Process(pid, _started(pid) or "gone")


def is_alive(process: Process) -> bool:
    """Whether this very process runs: same pid, same start, and not a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return _started(process.pid) == process.started


def send(process: Process, number: int) -> bool:
    """Sends a signal to this very process; False if it was gone already."""
    if not is_alive(process):
        return False
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
        return True
    return False


def stop(process: Process, grace_s: float = 0.0) -> None:
    """Ends the process: SIGTERM, `grace_s` seconds, SIGKILL. Returns when it is gone."""
    if grace_s > 0:
        send(process, signal.SIGTERM)
        send(process, signal.SIGCONT)
        deadline = time.monotonic() + grace_s
        while is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.02)
    send(process, signal.SIGKILL)
    deadline = time.monotonic() + 10.0
    while is_alive(process):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {process.pid} survives SIGKILL")
        time.sleep(0.01)


def resident_bytes(process: Process) -> int | None:
    """Resident memory in bytes; None where the system does not say."""
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
