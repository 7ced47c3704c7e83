"""HiGHS in a process of its own, killed at the deadline; what it had found by then is kept.

HiGHS's own time limit is not always kept (callbacks are not polled during root work) and a crash
or an out-of-memory kill must not take the operator with it. The parent writes one pickled `Job` to
the worker's stdin and reads length-prefixed pickled `Report`s until the end or the deadline.
Pickle is safe here: both ends are this program.
"""

from __future__ import annotations

import os
import pickle
import select
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import IO, Self

from motley_planner.solver.job import Job, Outcome, Report

KILL_GRACE_S = 0.25  # beyond the job's own limit, before the worker is killed
_HEADER = struct.Struct("<Q")
_ENTRY = "from motley_planner.solver.worker import main; main()"


def solve(job: Job, *, use_worker: bool = True) -> Outcome:
    """The outcome of a job, at the latest KILL_GRACE_S after its time limit when in a worker.

    In-process solving (`use_worker=False`) saves the 0.2 s start of a process and has no hard stop.
    """
    if use_worker:
        with Worker() as worker:
            return worker.solve(job)
    from motley_planner.solver.lexicographic import solve_job

    outcome = Outcome()
    solve_job(job, outcome.take)
    return outcome


class Worker:
    """A process that loads the solver while the job is still being made, and takes one job."""

    def __init__(self) -> None:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _ENTRY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()

    def solve(self, job: Job) -> Outcome:
        """The outcome of a job, at the latest KILL_GRACE_S after its time limit."""
        outcome, process = Outcome(), self._process
        deadline = time.monotonic() + job.time_limit_s + KILL_GRACE_S
        assert process.stdin is not None and process.stdout is not None
        payload = pickle.dumps((time.time(), job))
        feeder = threading.Thread(target=_feed, args=(process.stdin, payload), daemon=True)
        feeder.start()
        _collect(process.stdout, outcome, deadline)
        process.kill()  # whatever is still being fed has no reader now
        feeder.join()
        return outcome


def _feed(pipe: IO[bytes], payload: bytes) -> None:
    try:
        pipe.write(payload)
        pipe.close()
    except OSError:
        return  # the worker ended first; its missing reports say so


def _collect(pipe: IO[bytes], outcome: Outcome, deadline: float) -> None:
    descriptor, buffer = pipe.fileno(), bytearray()
    while not outcome.finished:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            return
        buffer += chunk
        _drain(buffer, outcome)


def _drain(buffer: bytearray, outcome: Outcome) -> None:
    while len(buffer) >= _HEADER.size:
        (size,) = _HEADER.unpack_from(buffer)
        end = _HEADER.size + size
        if len(buffer) < end:
            return
        outcome.take(pickle.loads(bytes(buffer[_HEADER.size : end])))
        del buffer[:end]


def main() -> None:
    """Reads one job from stdin, writes its reports to stdout."""
    from motley_planner.solver.lexicographic import solve_job  # loads HiGHS before the job is here

    sent_at, job = pickle.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever HiGHS prints must not get between the reports

    def emit(report: Report) -> None:
        data = pickle.dumps(report)
        out.write(_HEADER.pack(len(data)) + data)
        out.flush()

    used = max(0.0, time.time() - sent_at)
    solve_job(replace(job, time_limit_s=max(0.05, job.time_limit_s - used)), emit)
    out.close()
