"""A validator that is a program: the answer on its stdin, its exit status the verdict.

It runs without a shell of its making, in a session of its own, in an empty folder, without the
parent's environment, and under limits of processor time, memory, file size and wall time; what it
prints is thrown away. The limits bound accidents. They are no sandbox: whoever names a program here
can run it with the rights of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

_PATH = "/usr/local/bin:/usr/bin:/bin"
# ulimit counts memory in KiB and files in blocks of 512 bytes; both are POSIX sh on Linux.
_LIMITED = 'ulimit -t "$1" && ulimit -v "$2" && ulimit -f "$3" && shift 3 && exec "$@"'


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """Bounds of one run."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20


async def passes(argv: Sequence[str], text: str, limits: CommandLimits) -> bool:
    """Whether the program ends with status 0 in time."""
    sizes = (limits.cpu_s, limits.memory_bytes // 1024, limits.file_bytes // 512)
    with tempfile.TemporaryDirectory(prefix="motley-check-") as folder:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", _LIMITED, "check", *(str(size) for size in sizes), *argv,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL, cwd=folder, start_new_session=True,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
        )  # fmt: skip
        try:
            async with asyncio.timeout(limits.wall_s):
                await process.communicate(text.encode())
        except TimeoutError:
            return False
        finally:
            # Also what the program left behind in its session.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode == 0
