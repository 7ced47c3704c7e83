"""A process held to a part of a core by a cgroup of its own, as the kubelet enforces `limits.cpu`.

Like the kubelet it gives a weight in proportion, so that what is short is short for all alike. The
weights are large: neighbours on the machine wait, as they do for all that is measured here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
WEIGHT = 8  # times that of a process beside it, for a whole core
PERIOD_US = 20_000  # the kubelet's is 100,000: pauses of that length would be seen in each token
_GONE_S = 5.0


class NoLimitError(Exception):
    """This machine lets nobody limit a process's CPU."""


@contextmanager
def limited(pid: int, cores: float) -> Iterator[None]:
    """Holds a process and its threads to so many cores; ends with the process.

    Raises: NoLimitError where cgroups cannot be written; both versions of them are known.
    """
    name, quota_us = f"motley-bench-{os.getpid()}-{pid}", round(cores * PERIOD_US)
    is_first = (CGROUPS / "cpu").is_dir()
    folder = (CGROUPS / "cpu" if is_first else CGROUPS) / name
    try:
        folder.mkdir()
        if is_first:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
            (folder / "cpu.shares").write_text(str(round(cores * WEIGHT * 1024)))
        else:
            (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            (folder / "cpu.weight").write_text(str(round(cores * WEIGHT * 100)))
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        raise NoLimitError(f"{folder} cannot be used: {error.strerror}") from error
    try:
        yield
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a cgroup once the kernel has let go of its process."""
    deadline_s = time.monotonic() + _GONE_S
    while folder.exists() and time.monotonic() < deadline_s:
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.02)
