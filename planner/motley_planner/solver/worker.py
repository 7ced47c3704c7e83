"""HiGHS in a process of its own, killed at the deadline; what it had found by then is kept.

HiGHS's own time limit is not always kept (callbacks are not polled during root work) and a crash
or an out-of-memory kill must not take the operator with it. The parent writes a pickled `Job` to
the worker's stdin and reads pickled `Report`s until the end or the deadline, both with their length
before them. A worker that ended its job in time waits for the next one: a start takes 0.2 s, which
is as long as many a solve. One whose job is called off (calling_off.py) is killed as at a deadline.
Pickle is safe here: both ends are this program.
"""

from __future__ import annotations

import atexit
import math
import os
import pickle
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import IO

from motley_planner.calling_off import can_be_called_off, go_on
from motley_planner.solver.job import Job, Outcome, Report

KILL_GRACE_S = 0.25  # beyond the job's own limit, before the worker is killed
ASK_S = 0.05  # how often a search that may be called off looks whether it is
MOST_JOBS = 200  # of one process; what a solver leaks goes with it
MOST_IDLE = 2
_HEADER = struct.Struct("<Q")
_ENTRY = "from motley_planner.solver.worker import main; main()"
_idle: list[Worker] = []


def solve(job: Job, *, use_worker: bool = True) -> Outcome:
    """The outcome of a job, at the latest KILL_GRACE_S after its time limit when in a worker.

    In-process solving (`use_worker=False`) saves the 0.2 s start of a process and has no hard stop.

    Raises: CalledOff; in-process only before it begins.
    """
    go_on()
    if use_worker:
        with a_worker() as worker:
            return worker.solve(job)
    from motley_planner.solver.lexicographic import solve_job

    outcome = Outcome()
    solve_job(job, outcome.take)
    return outcome


@contextmanager
def a_worker() -> Iterator[Worker]:
    """A worker that waits for a job, or a new one; it loads the solver while the job is made."""
    worker = None
    while worker is None and _idle:
        worker = _idle.pop()
        if not worker.is_fit:
            worker.close()
            worker = None
    worker = worker or Worker()
    try:
        yield worker
    finally:
        if worker.is_fit and len(_idle) < MOST_IDLE:
            _idle.append(worker)
        else:
            worker.close()


@atexit.register
def end_workers() -> None:
    """Ends the processes that wait for a job."""
    while _idle:
        _idle.pop().close()


class Worker:
    """A process with a loaded solver, for one job after the other."""

    def __init__(self) -> None:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _ENTRY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._jobs, self._ended_last = 0, True

    @property
    def is_fit(self) -> bool:
        """Whether it can take a (further) job."""
        return self._ended_last and self._jobs < MOST_JOBS and self._process.poll() is None

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()

    def solve(self, job: Job) -> Outcome:
        """The outcome of a job, at the latest KILL_GRACE_S after its time limit.

        Raises: CalledOff, at the latest ASK_S after it is; the process has then ended.
        """
        outcome, process = Outcome(), self._process
        self._jobs, self._ended_last = self._jobs + 1, False
        deadline = time.monotonic() + job.time_limit_s + KILL_GRACE_S
        assert process.stdin is not None and process.stdout is not None
        payload = pickle.dumps((time.time(), job))
        payload = _HEADER.pack(len(payload)) + payload
        feeder = threading.Thread(target=_feed, args=(process.stdin, payload), daemon=True)
        feeder.start()
        try:
            _collect(process.stdout, outcome, deadline)
        finally:
            self._ended_last = outcome.finished
            if not outcome.finished:
                process.kill()  # whatever is still being fed has no reader now
            feeder.join()
        return outcome


def _feed(pipe: IO[bytes], payload: bytes) -> None:
    try:
        pipe.write(payload)
        pipe.flush()
    except OSError:
        return  # the worker ended first; its missing reports say so


def _collect(pipe: IO[bytes], outcome: Outcome, deadline: float) -> None:
    descriptor, buffer = pipe.fileno(), bytearray()
    step_s = ASK_S if can_be_called_off() else math.inf
    while not outcome.finished:
        go_on()
        left = deadline - time.monotonic()
        if left <= 0:
            return
        if not select.select([descriptor], [], [], min(left, step_s))[0]:
            continue
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
    """Reads jobs from stdin until it ends, writes their reports to stdout."""
    from motley_planner.solver.lexicographic import solve_job  # loads HiGHS before a job is here

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever HiGHS prints must not get between the reports

    def emit(report: Report) -> None:
        data = pickle.dumps(report)
        out.write(_HEADER.pack(len(data)) + data)
        out.flush()

    read = sys.stdin.buffer.read
    while header := read(_HEADER.size):
        sent_at, job = pickle.loads(read(_HEADER.unpack(header)[0]))
        used = max(0.0, time.time() - sent_at)
        solve_job(replace(job, time_limit_s=max(0.05, job.time_limit_s - used)), emit)
    out.close()
