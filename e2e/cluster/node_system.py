"""What a real node does to this machine, and how each of it is undone: the bridge, cgroups, mounts.

Everything is named after the node or lies under its folder, so that it can be found again without
the program that made it: processes by their mount namespace and cgroup, chains by the names that
Kubernetes gives them. Each undoing may be repeated.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
HIERARCHIES = (
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "systemd",
)
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
POD_SHARES = 8192  # of the CPU, beside 1,024 of each process outside
TABLES = ("nat", "filter", "mangle")


class SystemRefused(Exception):
    """A command of the system failed; says which, and what it said."""


def run(*argv: str, stdin: object = None) -> str:
    """The output of a command.

    Raises: SystemRefused with the end of what it said.
    """
    done = subprocess.run(
        argv,
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,  # type: ignore[arg-type]
    )
    if done.returncode != 0:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise SystemRefused(f"{' '.join(argv)}: {said}")
    return done.stdout


def capabilities() -> int:
    """What this process may do, as the kernel's bits."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


def make_bridge(name: str, address: str, bits: int) -> None:
    """A bridge with an address, to which the pods' interfaces are plugged."""
    run("ip", "link", "add", name, "type", "bridge")
    run("ip", "address", "add", f"{address}/{bits}", "dev", name)
    run("ip", "link", "set", name, "up")


def has_interface(name: str) -> bool:
    """Whether there is a network interface of this name."""
    return Path("/sys/class/net", name).exists()


def remove_bridge(name: str) -> None:
    """Takes the bridge away; the pods' ends went with their network namespaces."""
    if has_interface(name):
        run("ip", "link", "delete", name)


def make_cgroups(name: str) -> None:
    """A cgroup of this name in each hierarchy, for all pods together."""
    for hierarchy in HIERARCHIES:
        folder = CGROUPS / hierarchy / name
        folder.mkdir(exist_ok=True)
        if hierarchy == "cpuset":  # a new one has neither cores nor memory
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((CGROUPS / hierarchy / file).read_text())
        if hierarchy == "cpu":
            (folder / "cpu.shares").write_text(str(POD_SHARES))


def cgroup_folders(name: str) -> list[Path]:
    """All cgroups below this name, the deepest first."""
    found: list[Path] = []
    for hierarchy in HIERARCHIES:
        for folder, _, _ in os.walk(CGROUPS / hierarchy / name, topdown=False):
            found.append(Path(folder))
    return found


def pids_in_cgroups(name: str) -> set[int]:
    """Processes of all pods."""
    found: set[int] = set()
    for folder in cgroup_folders(name):
        with suppress(OSError):
            found |= {int(pid) for pid in (folder / "cgroup.procs").read_text().split()}
    return found


def remove_cgroups(name: str) -> None:
    """Removes the empty cgroups; the kernel takes a moment to let go of processes that ended."""
    deadline = time.monotonic() + 5.0
    while cgroup_folders(name):
        for folder in cgroup_folders(name):
            with suppress(OSError):
                folder.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def namespace_of(pid: int | str) -> int:
    """The number of a process's mount namespace; 0 if the process is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0


def pids_in_namespace(number: int) -> set[int]:
    """Processes that see the mounts of this namespace; never those of our own."""
    if number in (0, namespace_of("self")):
        return set()
    pids = (int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit())
    return {pid for pid in pids if namespace_of(pid) == number and _is_alive(pid)}


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def kill_all(cgroup: str, namespace: int) -> None:
    """SIGKILL to all pods, shims and programs of a node, until there are none.

    Raises: TimeoutError if one survives for ten seconds.
    """
    deadline = time.monotonic() + 10.0
    while pids := {p for p in pids_in_cgroups(cgroup) if _is_alive(p)} | pids_in_namespace(
        namespace
    ):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes survive SIGKILL: {sorted(pids)}")
        time.sleep(0.02)


def kube_chains() -> list[str]:
    """Lines "command table chain" of each chain that Kubernetes has made in the packet filter."""
    found = []
    for command in ("iptables", "ip6tables"):
        if shutil.which(command) is None:
            continue
        for table in TABLES:
            with suppress(SystemRefused):
                rules = run(command, "-w", "-t", table, "-S")
                found += [
                    f"{command} {table} {chain}"
                    for chain in re.findall(r"^-N (KUBE-\S+)", rules, re.MULTILINE)
                ]
    return found


def remove_chains() -> None:
    """Removes Kubernetes' chains and the jumps to them, a table at once."""
    for command, table in sorted({tuple(line.split()[:2]) for line in kube_chains()}):
        lines = run(command, "-w", "-t", table, "-S").splitlines()
        jumps = [
            line.replace("-A ", "-D ", 1)
            for line in lines
            if line.startswith("-A ") and "KUBE-" in line and not line.startswith("-A KUBE-")
        ]
        chains = [line.split()[1] for line in lines if line.startswith("-N KUBE-")]
        script = [f"*{table}", *jumps, *(f"-F {c}" for c in chains), *(f"-X {c}" for c in chains)]
        text = "\n".join([*script, "COMMIT", ""])
        done = subprocess.run(
            [f"{command}-restore", "-w", "--noflush"],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemRefused(f"{command}-restore: {done.stderr.strip()}")


def mounts_under(folder: Path) -> list[str]:
    """Mount points of this machine under a folder, the deepest first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((one for one in points if one.startswith(f"{folder}/")), key=len, reverse=True)


def make_folders(paths: Iterable[str]) -> list[str]:
    """Makes folders that lack; those that were made, to be taken away again, deepest first."""
    made: list[str] = []
    for path in paths:
        lacking = [path]
        while not Path(lacking[-1]).parent.exists():
            lacking.append(str(Path(lacking[-1]).parent))
        for one in reversed(lacking):
            if not Path(one).exists():
                Path(one).mkdir()
                made.insert(0, one)
    return made


def remove_folders(paths: Iterable[str]) -> None:
    """Removes the folders that are empty."""
    for path in sorted(paths, key=len, reverse=True):
        with suppress(OSError):
            Path(path).rmdir()
