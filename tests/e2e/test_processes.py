"""A process is ours by its pid and the time it started, and by nothing less."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from e2e.cluster.local import wait_for
from e2e.cluster.processes import Process, is_alive, send, spawn, stop


def _sleeper(tmp_path: Path) -> Process:
    return spawn(["/bin/sh", "-c", "echo started; exec sleep 60"], tmp_path / "log")


def test_a_process_is_alive_from_its_start_until_it_is_stopped(tmp_path: Path) -> None:
    one = _sleeper(tmp_path)
    assert is_alive(one)
    assert os.getsid(one.pid) == one.pid
    wait_for(lambda: (tmp_path / "log").read_text() == "started\n", 5.0, "its first words")
    stop(one, grace_s=5.0)
    assert not is_alive(one)


def test_a_program_may_be_the_first_to_log_into_a_folder(tmp_path: Path) -> None:
    """A real node's programs start beside the control plane's, whichever is first."""
    log = tmp_path / "logs" / "first.log"
    one = spawn(["/bin/sh", "-c", "echo here"], log)
    wait_for(lambda: log.read_text() == "here\n", 5.0, "its words")
    stop(one)


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    one = spawn(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], tmp_path / "log")
    time.sleep(0.2)
    began = time.monotonic()
    stop(one, grace_s=0.3)
    assert not is_alive(one)
    assert time.monotonic() - began >= 0.3


def test_a_zombie_is_not_alive_although_it_can_be_signalled(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:  # a parent that never reaps its child
        child = os.fork()
        if child == 0:
            time.sleep(60)
        started = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19]
        os.write(writer, f"{child} {started}".encode())
        time.sleep(60)
    pid, started = os.read(reader, 100).decode().split()
    one = Process(int(pid), started)
    assert is_alive(one)
    os.kill(one.pid, signal.SIGKILL)
    time.sleep(0.2)
    os.kill(one.pid, 0)  # still there for the kernel
    assert not is_alive(one)
    os.kill(middle, signal.SIGKILL)
    os.waitpid(middle, 0)
    os.close(reader)
    os.close(writer)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are told by /proc")
def test_a_process_is_alive_as_long_as_one_of_its_threads(tmp_path: Path) -> None:
    """Killed, its first thread may be gone before the others, which still hold its ports."""
    words = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('started', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    one = spawn([sys.executable, "-c", words], tmp_path / "log")
    state = Path(f"/proc/{one.pid}/stat")
    wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", 5.0, "its first end")
    assert is_alive(one)
    stop(one)
    assert not is_alive(one)


def test_a_pid_that_another_process_has_now_is_left_alone(tmp_path: Path) -> None:
    one = _sleeper(tmp_path)
    stranger = replace(one, started="1")
    assert not is_alive(stranger)
    assert not send(stranger, signal.SIGKILL)
    stop(stranger)
    assert is_alive(one)
    stop(one)
