"""Starts, resumes, inspects and ends the control plane of one state directory."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from e2e.cluster import binaries, client, components, processes, state
from e2e.cluster.node_files import NodeFiles
from e2e.cluster.real_node import RealNode
from e2e.cluster.state import ClusterError, Component, State

READY_TIMEOUT_S = 60.0
# A half-dead API server answers each request after minutes; a scheduler whose watches outlived etcd
# was once seen to bind nothing any more. A controller manager that saw no Lease renewed while the
# API server was away evicts from every node, and on a busy machine that is longer than its 16 s.
STOPPED_WITH = {
    "etcd": ("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    "kube-apiserver": ("kube-controller-manager",),
}


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """The control plane of one state directory, running or not."""

    directory: Path
    # Flags by program, given after the usual ones (of two equal flags the last counts).
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        """The event log: every write the API server took, one JSON object a line."""
        return self.directory / "audit.log"

    def state(self) -> State:
        """What runs where.

        Raises: ClusterError if no cluster was started in this directory.
        """
        found = state.load(self.directory)
        if found is None:
            raise ClusterError(f"no cluster in {self.directory}; `python -m e2e.cluster up` first")
        return found

    def is_up(self) -> bool:
        """Whether every program runs and the API server is ready."""
        found = state.load(self.directory)
        return (
            found is not None
            and len(found.components) == len(components.ORDER)
            and all(processes.is_alive(one.process) for one in found.components)
            and client.is_ready(self.directory, found.ports["kube-apiserver"])
        )

    @property
    def real_node(self) -> RealNode:
        """The real node of this cluster, whether it has one or not."""
        return RealNode(NodeFiles(self.directory))

    def up(
        self, nodes: list[dict[str, Any]] | None = None, *, with_real_node: bool = False
    ) -> None:
        """Starts what does not run, waits until it answers, and creates the nodes that lack.

        A cluster that is up is left alone. One that is half dead is stopped and started again
        on its own data, on its own ports where they are still free. A real node is started
        with its cluster only: the API server has to listen where pods reach it.

        Raises: ClusterError with the end of a log if a program does not start, or if this machine
        cannot have a real node.
        """
        state.refuse_foreign(self.directory)
        folder = binaries.ensure()
        with state.locked(self.directory):
            if with_real_node:
                self._up_with_real_node(folder)
            elif not self.is_up():
                self._start(folder)
        if nodes:
            port = self.state().ports["kube-apiserver"]
            client.create_nodes(self.directory, port, nodes)

    def _up_with_real_node(self, folder: Path) -> None:
        if self.is_up() and self.real_node.is_up():
            return
        if self.is_up() and not self.real_node.exists():
            raise ClusterError("the cluster runs without a real node; `down` first")
        if state.load(self.directory) is None:
            state.save(self.directory, State())  # from here on `down` finds what was begun
        self.real_node.prepare()
        with ThreadPoolExecutor(1) as pool:  # images are imported while the control plane starts
            runtime = pool.submit(self.real_node.start_runtime)
            self._start(folder)
            runtime.result()
        self.real_node.start(self.state().ports["kube-apiserver"])

    def down(self) -> bool:
        """Ends exactly what `up` started and removes the directory; False if there was nothing.

        Raises: ClusterError naming what a real node left; the directory is kept then.
        """
        if not (self.directory / "state.json").exists():
            return False
        with state.locked(self.directory):
            try:
                self.real_node.down()
            finally:
                # Killed at once, the watchers first: what they know is thrown away with the directory.
                for one in reversed(self.state().components):
                    processes.stop(one.process)
            shutil.rmtree(self.directory)
        return True

    def keep_logs(self, target: Path) -> None:
        """Copies the programs' logs and the event log, which `down` removes."""
        shutil.copytree(self.directory / "logs", target, dirs_exist_ok=True)
        shutil.copy(self.audit_log, target)

    def component(self, name: str) -> Component:
        """One program of the control plane.

        Raises: ClusterError if there is none of that name.
        """
        for one in self.state().components:
            if one.name == name:
                return one
        raise ClusterError(f"no component {name!r}; there are {', '.join(components.ORDER)}")

    def is_alive(self, name: str) -> bool:
        """Whether a program runs."""
        return processes.is_alive(self.component(name).process)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a program a signal; after SIGKILL and SIGTERM waits until it is gone."""
        process = self.component(name).process
        processes.send(process, number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            wait_for(lambda: not processes.is_alive(process), 30.0, f"{name} to end")

    def restart(self, name: str) -> None:
        """Stops a program if it runs, starts it as before, and waits until it answers."""
        with state.locked(self.directory):
            found = self.state()
            processes.stop(self.component(name).process, grace_s=5.0)
            if name == "kwok":
                self._release_leases(found.ports["kube-apiserver"])
            names = (name, *STOPPED_WITH.get(name, ()))
            for one in names[1:]:
                processes.stop(self.component(one).process)
            for one in names:
                found = self._spawn(found, one, self.component(one).argv)
                self._await(one, found)

    def _release_leases(self, port: int) -> None:
        """Drops the nodes' Leases: a new kwok would wait 40 s for its predecessor's to expire."""
        one = client.Client(self.directory, port)
        one.request("DELETE", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        one.close()

    def _start(self, folder: Path) -> None:
        old = state.load(self.directory)
        if old is not None:
            for one in reversed(old.components):
                processes.stop(one.process, grace_s=2.0)
        components.write_files(self.directory)
        ports = components.free_ports(("etcd", "etcd-peer", "kube-apiserver"))
        if old is not None and old.ports and components.are_free(old.ports.values()):
            ports = old.ports
        components.write_kubeconfigs(self.directory, ports)
        # Saved before the first start and after each: whatever happens, `down` knows them all.
        found = State(ports)
        state.save(self.directory, found)
        for name in components.ORDER:
            argv = components.argv_of(name, folder, self.directory, ports)
            argv += self.flags.get(name, ())
            found = self._spawn(found, name, argv)
            if name == "kube-apiserver":
                self._await(name, found)
        for name in components.ORDER:
            self._await(name, found)

    def _spawn(self, found: State, name: str, argv: tuple[str, ...]) -> State:
        process = processes.spawn(argv, self.directory / "logs" / f"{name}.log")
        kept = [one for one in found.components if one.name != name]
        order = components.ORDER.index
        both = sorted([*kept, Component(name, argv, process)], key=lambda one: order(one.name))
        after = replace(found, components=tuple(both))
        state.save(self.directory, after)
        return after

    def _await(self, name: str, found: State) -> None:
        """Waits until the program answers; those that serve nobody only have to be alive."""
        process = next(one.process for one in found.components if one.name == name)
        deadline = time.monotonic() + READY_TIMEOUT_S
        port = found.ports["kube-apiserver"]
        while processes.is_alive(process):
            if name != "kube-apiserver" or client.is_ready(self.directory, port):
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        log = self.directory / "logs" / f"{name}.log"
        last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise ClusterError(f"{name} did not start; the end of {log}:\n{last}")


def wait_for(is_true: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Seconds until the condition held, asked twenty times a second.

    Raises: TimeoutError naming what was waited for.
    """
    began = time.monotonic()
    while not is_true():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def describe(cluster: LocalCluster) -> str:
    """One line a program: whether it runs, its pid, its resident memory in MB, its log."""
    rows = []
    programs = [(one.name, one.process) for one in cluster.state().components]
    if cluster.real_node.exists():
        programs += cluster.real_node.record().programs.items()
    for name, process in programs:
        alive = processes.is_alive(process)
        size = (processes.resident_bytes(process) or 0) if alive else 0
        word = "running" if alive else "dead"
        log = cluster.directory / "logs" / f"{name}.log"
        rows.append(f"{name:<24} {word:<8} {process.pid:>8} {size / 1e6:>6.0f} MB  {log}")
    return "\n".join(rows)


def warn(text: str) -> None:
    """Says something on the error stream."""
    print(f"motley cluster: {text}", file=sys.stderr, flush=True)
