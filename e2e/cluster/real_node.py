"""A real node beside the control plane: containerd, runc, kubelet, kube-proxy, DNS, NetworkPolicies, GPUs.

Pods are containers of this machine. All programs but kube-proxy share a mount namespace of their
own, in which what they keep at fixed places (/var/lib/kubelet and the like) lies in the state
directory: their mounts end with them, and nothing of them is seen outside. One machine holds
one real node at a time, for packet filter and bridge are the machine's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster import binaries, components, image_store, images, node_system, processes
from e2e.cluster.client import Client
from e2e.cluster.node_files import (
    ADDRESS,
    BRIDGE,
    MASK,
    PRIVATE,
    NodeFiles,
    capacity_policy,
)
from e2e.cluster.node_needs import OWNER, missing, taken
from e2e.cluster.processes import Process
from e2e.cluster.state import ClusterError

ORDER = ("holder", "containerd", "names", "policies", "kube-proxy", "kubelet", "device-plugin")
PORTS = ("kubelet", "kube-proxy-health", "kube-proxy-metrics")
READY_S = 120.0
IMAGES_BYTES = 4 * 2**30  # at most; the images take 1.2 GB, as tars and unpacked


@dataclass(slots=True)
class Record:
    """What `down` has to know; written before each thing is done."""

    ports: dict[str, int] = field(default_factory=dict)
    programs: dict[str, Process] = field(default_factory=dict)
    namespace: int = 0
    forwarding: str = ""  # what the machine said before
    folders: list[str] = field(default_factory=list)  # that were made at fixed places


@dataclass(frozen=True, slots=True)
class RealNode:
    """The real node of one state directory, running or not."""

    files: NodeFiles

    @property
    def _record(self) -> Path:
        return self.files.directory / "node.json"

    def exists(self) -> bool:
        """Whether one was begun here and not ended."""
        return self._record.exists()

    def record(self) -> Record:
        """What was written down."""
        raw = json.loads(self._record.read_text())
        raw["programs"] = {name: Process(**one) for name, one in raw["programs"].items()}
        return Record(**raw)

    def _save(self, record: Record) -> None:
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record), indent=1))
        partial.replace(self._record)

    def is_up(self) -> bool:
        """Whether all its programs run."""
        if not self.exists():
            return False
        found = self.record().programs
        return set(found) == set(ORDER) and all(map(processes.is_alive, found.values()))

    def prepare(self) -> None:
        """Bridge and folders: what has to be there before the control plane starts.

        Raises: ClusterError if this machine cannot have a real node, or has another one.
        """
        reason = missing() or taken(self.files.directory)
        if reason:
            raise ClusterError(reason)
        if self.exists():
            self.down()
        record = Record(forwarding=node_system.FORWARDING.read_text().strip())
        self._save(record)
        OWNER.write_text(str(self.files.directory))
        node_system.remove_bridge(BRIDGE)
        node_system.make_bridge(BRIDGE, ADDRESS, MASK)
        node_system.FORWARDING.write_text("1")
        (self.files.directory / "address").write_text(ADDRESS)
        record.ports = components.free_ports(PORTS)
        record.folders = [path for path in PRIVATE if not Path(path).exists()]
        self._save(record)
        record.folders = node_system.make_folders(PRIVATE)
        self._save(record)
        self.files.write(record.ports)
        node_system.make_cgroups(self.files.cgroup)

    def start_runtime(self) -> None:
        """Starts containerd and imports the images; no API server is needed for it.

        Raises: ClusterError with the end of a log if it does not come up.
        """
        record = self.record()
        self._hold(record)
        self._spawn(record, "containerd", self._inside(record, *self._argv("containerd", record)))
        self._import()

    def start(self, port: int) -> None:
        """Starts the other programs, and waits until the node is Ready.

        Raises: ClusterError with the end of a log if one does not come up.
        """
        folder, record = binaries.ensure(binaries.NODE_PROGRAMS), self.record()
        api = Client(self.files.directory, port)
        try:
            self._write_policy(api)
            module = [sys.executable, "-m"]
            root = ["--state", str(self.files.directory)]
            self._spawn(
                record, "names", (*module, "e2e.cluster.names", *root, "--address", ADDRESS)
            )
            self._spawn(record, "policies", (*module, "e2e.cluster.policies", *root))
            self._spawn(record, "kube-proxy", self._argv("kube-proxy", record, folder))
            kubelet = self._argv("kubelet", record, folder)
            self._spawn(record, "kubelet", self._inside(record, *kubelet))
            plugin = (*module, "e2e.cluster.device_plugin", "--count")
            count = str(self.files.shape.gpu_count)
            self._spawn(record, "device-plugin", self._inside(record, *plugin, count))
            self._await(lambda: self._is_ready(api), "the node to be Ready with its GPUs")
        finally:
            api.close()

    def _argv(self, name: str, record: Record, folder: Path = Path("/")) -> tuple[str, ...]:
        return self.files.argv(name, folder, record.ports)

    def _hold(self, record: Record) -> None:
        """A process that keeps a mount namespace of our own open."""
        # Images and containers are in memory: written sooner, and gone with the namespace.
        images_at = self.files.folder / "containerd"
        images_at.mkdir(parents=True, exist_ok=True)
        mounts = [f"mount -t tmpfs -o mode=711,size={IMAGES_BYTES} containerd {images_at}"]
        for path in PRIVATE:
            own = self.files.folder / "private" / path.strip("/").replace("/", "-")
            own.mkdir(parents=True, exist_ok=True)
            mounts.append(f"mount --bind {own} {path}")
        ready = self.files.folder / "held"
        ready.unlink(missing_ok=True)
        script = f"set -e; {'; '.join(mounts)}; : > {ready}; exec sleep infinity"
        argv = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script]
        self._spawn(record, "holder", (str(shutil.which(argv[0])), *argv[1:]))
        self._await(ready.exists, "a mount namespace")
        record.namespace = node_system.namespace_of(record.programs["holder"].pid)
        self._save(record)

    def _inside(self, record: Record, *argv: str) -> tuple[str, ...]:
        target = f"--mount=/proc/{record.programs['holder'].pid}/ns/mnt"
        return (str(shutil.which("nsenter")), target, f"--wd={Path.cwd()}", "--", *argv)

    def _spawn(self, record: Record, name: str, argv: tuple[str, ...]) -> None:
        process = processes.spawn(argv, self.files.directory / "logs" / f"{name}.log")
        record.programs[name] = process
        self._save(record)

    def ctr(self, *arguments: str) -> str:
        """What containerd's own command says."""
        return node_system.run("ctr", f"--address={self.files.socket}", "-n", "k8s.io", *arguments)

    def _import(self) -> None:
        self._await(self._has_containerd, "containerd")
        argv = ["ctr", f"--address={self.files.socket}", "-n", "k8s.io", "images", "import", "-"]
        log = (self.files.directory / "logs" / "import.log").open("wb")
        with image_store.locked() as made, log:
            reader = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log)
            assert reader.stdin is not None
            try:
                images.write_archive(made, reader.stdin)
            finally:
                reader.stdin.close()
                code = reader.wait()
        if code:
            raise self._error("import", "the images to be imported")

    def _has_containerd(self) -> bool:
        try:
            return bool(self.ctr("version"))
        except node_system.SystemRefused:
            return False

    def _write_policy(self, api: Client) -> None:
        for document in capacity_policy(self.files):
            plural = "mutatingadmissionpolic" + (
                "ybindings" if document["kind"].endswith("Binding") else "ies"
            )
            path = f"/apis/{document['apiVersion']}/{plural}"
            status, text = api.request("POST", path, document)
            if status not in (201, 409):
                raise ClusterError(f"{document['kind']}: {text}")

    def _is_ready(self, api: Client) -> bool:
        status, text = api.request("GET", f"/api/v1/nodes/{self.files.name}")
        if status != 200:
            return False
        found: dict[str, Any] = json.loads(text)["status"]
        ready = {one["type"]: one["status"] for one in found.get("conditions", [])}
        has = found.get("allocatable", {})
        gpus, cores = self.files.shape.gpu_count, self.files.shape.cpu_cores
        is_told = has.get("nvidia.com/gpu") == str(gpus) and has.get("cpu") == str(cores)
        return ready.get("Ready") == "True" and is_told

    def _await(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_S
        while not holds():
            for name, process in self.record().programs.items():
                if not processes.is_alive(process):
                    raise self._error(name, what)
            if time.monotonic() > deadline:
                raise self._error("kubelet", what)
            time.sleep(0.05)

    def _error(self, name: str, what: str) -> ClusterError:
        log = self.files.directory / "logs" / f"{name}.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        last = "\n".join(text.splitlines()[-5:])
        return ClusterError(f"waited for {what}; the end of {log}:\n{last}")

    def down(self) -> None:
        """Ends all of it, also where only part of it was begun; may be repeated.

        Raises: ClusterError naming what is left.
        """
        if not self.exists():
            return
        record = self.record()
        # The holder may have died before its namespace was written down.
        holder = record.programs.get("holder")
        if not record.namespace and holder is not None and processes.is_alive(holder):
            record.namespace = node_system.namespace_of(holder.pid)
        for process in reversed(record.programs.values()):
            processes.stop(process)
        node_system.kill_all(self.files.cgroup, record.namespace)
        node_system.remove_chains()
        node_system.remove_bridge(BRIDGE)
        node_system.remove_cgroups(self.files.cgroup)
        if record.forwarding:
            node_system.FORWARDING.write_text(record.forwarding)
        node_system.remove_folders(record.folders)
        left = self.traces()
        if left:
            raise ClusterError(f"the real node left {', '.join(left[:8])}")
        self._record.unlink()
        OWNER.unlink(missing_ok=True)

    def traces(self) -> list[str]:
        """What of the node this machine still has, outside of the state directory."""
        found = [str(one) for one in node_system.cgroup_folders(self.files.cgroup)]
        found += node_system.mounts_under(self.files.directory) + node_system.kube_chains()
        found += [BRIDGE] if node_system.has_interface(BRIDGE) else []
        if self.exists():
            record = self.record()
            pids = node_system.pids_in_namespace(record.namespace)
            found += [f"process {pid}" for pid in sorted(pids)]
            found += [path for path in record.folders if Path(path).exists()]
        return found
