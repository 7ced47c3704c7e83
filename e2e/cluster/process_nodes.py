"""Nodes whose pods are processes of this machine: a kubelet in miniature, without root.

kwok only says that a pod runs. Here it does: each pod has a loopback address of its own
(127.77.x.y), its program is started with it as `--host`, probed, restarted when it ends, drained
(preStop, SIGTERM, grace period) and killed. What an image would hold is told by `programs`: the
first word of a container's command names the argv that stands for it.
"""

from __future__ import annotations

import http.client
import itertools
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from e2e.cluster import processes
from e2e.cluster.components import STOPPED_LABEL
from e2e.cluster.process_pods import State, answers, condition, patch_status, pod_status
from e2e.cluster.processes import Process
from e2e.demo_api import Api, Document, Refused, path_of

LOOK_S = 0.1
LEASE_S = 5.0
BACKOFF_S = 1.0  # a kubelet waits 10 s before a second start

Program = Callable[[Document, Document], Sequence[str]]  # pod, container -> argv


@dataclass(slots=True)
class Seat:
    """One pod that runs here: its address, its process, and the thread that cares for it."""

    pod: Document
    address: str
    log: Path
    process: Process | None = None
    restarts: int = 0
    is_ready: bool = False
    is_ended: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"


@dataclass(slots=True)
class ProcessNodes:
    """The nodes of one demo or test; `start` begins to look after them, `stop` ends everything."""

    kubeconfig: str
    folder: Path
    programs: Mapping[str, Program]
    hosts: Path = field(init=False)
    seats: dict[str, Seat] = field(default_factory=dict)  # by the pod's UID
    names: set[str] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hosts = self.folder / "hosts"
        self.hosts.write_text("")

    def add(self, nodes: Sequence[Document]) -> None:
        """Creates nodes that these processes stand for, and says that they are ready."""
        api = Api(self.kubeconfig)
        for node in nodes:
            name = node["metadata"]["name"]
            labels = {**node["metadata"].get("labels", {}), STOPPED_LABEL: "true"}
            body = {**node, "metadata": {**node["metadata"], "labels": labels}}
            api.request("POST", path_of("Node"), body)
            status = {
                "conditions": [condition("Ready", True, "KubeletReady")],
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "capacity": node["status"]["capacity"],
                "allocatable": node["status"]["allocatable"],
            }
            patch_status(api, path_of("Node", "", name), status)
            self.names.add(name)
        api.close()

    def start(self) -> None:
        """Begins to look after the nodes' pods."""
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends every process that was started here."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10.0)
        for seat in list(self.seats.values()):
            if seat.process is not None:
                processes.stop(seat.process)

    def lose(self, name: str) -> list[str]:
        """The node dies with all that runs there, and its object goes: keys of the pods it had."""
        self.names.discard(name)
        lost = [seat for seat in self.seats.values() if seat.pod["spec"]["nodeName"] == name]
        for seat in lost:
            seat.is_ended.set()
            if seat.process is not None:
                processes.stop(seat.process)
        api = Api(self.kubeconfig)
        api.delete("Node", "", name)
        api.close()
        return [seat.key for seat in lost]

    def kill(self, key: str) -> None:
        """SIGKILL to one pod's process, as the kernel does when memory is short."""
        for seat in self.seats.values():
            if seat.key == key and seat.process is not None:
                processes.send(seat.process, signal.SIGKILL)

    def _look_after(self) -> None:
        api, renewed = Api(self.kubeconfig), 0.0
        while not self._stopping.wait(LOOK_S):
            try:
                if time.monotonic() - renewed > LEASE_S:
                    self._renew(api)
                    renewed = time.monotonic()
                for pod in api.list("Pod"):
                    mine = pod["spec"].get("nodeName") in self.names
                    if mine and pod["metadata"]["uid"] not in self.seats:
                        self._seat(pod)
            except (Refused, OSError, http.client.HTTPException) as error:
                self.failures.append(f"looking after nodes: {error}")
                api.close()
        api.close()

    def _renew(self, api: Api) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        for name in sorted(self.names):
            spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": spec,
            }
            api.apply(lease)

    def _seat(self, pod: Document) -> None:
        number = next(self._numbers)
        address = f"127.77.{number // 250}.{number % 250 + 1}"
        name = f"{pod['metadata']['namespace']}-{pod['metadata']['name']}.log"
        seat = Seat(pod, address, self.folder / name)
        self.seats[pod["metadata"]["uid"]] = seat
        threading.Thread(target=self._run, args=(seat,), daemon=True).start()

    def _run(self, seat: Seat) -> None:
        """One pod's whole life."""
        api = Api(self.kubeconfig)
        try:
            self._live(seat, api)
        except (Refused, OSError, http.client.HTTPException, KeyError) as error:
            if not self._stopping.is_set() and not seat.is_ended.is_set():
                self.failures.append(f"{seat.key}: {type(error).__name__}: {error}")
        finally:
            if seat.process is not None:
                processes.stop(seat.process)
            seat.is_ready = False
            seat.is_ended.set()
            self._write_hosts()
            api.close()

    def _live(self, seat: Seat, api: Api) -> None:
        metadata = seat.pod["metadata"]
        path = path_of("Pod", metadata["namespace"], metadata["name"])
        container = seat.pod["spec"]["containers"][0]
        argv = list(self.programs[container["command"][0]](seat.pod, container))
        self._begin(seat, argv)
        self._write_hosts()
        self._report(seat, api, path)
        probe, probed = container.get("readinessProbe"), 0.0
        while not self._stopping.is_set() and not seat.is_ended.is_set():
            if seat.process is not None and not processes.is_alive(seat.process):
                seat.restarts, seat.is_ready = seat.restarts + 1, False
                self._report(seat, api, path)
                time.sleep(BACKOFF_S)
                self._begin(seat, argv)
            if time.monotonic() - probed > (probe or {}).get("periodSeconds", 1) / 2:
                probed, ready = time.monotonic(), answers(seat.address, container, probe)
                if ready != seat.is_ready:
                    seat.is_ready = ready
                    self._report(seat, api, path)
            try:
                now = api.request("GET", path)
            except Refused as error:
                if error.status == 404:
                    return
                raise
            if now["metadata"]["uid"] != metadata["uid"]:
                return
            if now["metadata"].get("deletionTimestamp"):
                self._end(seat, api, path, container)
                return
            time.sleep(LOOK_S)

    def _begin(self, seat: Seat, argv: Sequence[str]) -> None:
        seat.process = processes.spawn([*argv, "--host", seat.address], seat.log)

    def _end(self, seat: Seat, api: Api, path: str, container: Document) -> None:
        """As a kubelet ends a pod: preStop, SIGTERM, the rest of the grace period, SIGKILL."""
        grace_s = float(seat.pod["spec"].get("terminationGracePeriodSeconds", 30))
        hook = (container.get("lifecycle") or {}).get("preStop") or {}
        wait_s = float((hook.get("sleep") or {}).get("seconds", 0))
        seat.is_ended.wait(min(wait_s, grace_s))
        if seat.process is not None:
            processes.stop(seat.process, grace_s=max(0.1, grace_s - wait_s))
        with suppress(Refused):
            body = {
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": seat.pod["metadata"]["uid"]},
            }
            api.request("DELETE", path, body)

    def _report(self, seat: Seat, api: Api, path: str) -> None:
        state = State(seat.address, seat.is_ready, seat.restarts)
        patch_status(api, path, pod_status(seat.pod, state))

    def _write_hosts(self) -> None:
        """The names that headless Services give to pods, and their addresses."""
        with self._lock:
            lines = []
            for seat in list(self.seats.values()):
                spec, namespace = seat.pod["spec"], seat.pod["metadata"]["namespace"]
                if not seat.is_ended.is_set() and spec.get("hostname") and spec.get("subdomain"):
                    name = f"{spec['hostname']}.{spec['subdomain']}.{namespace}.svc"
                    lines.append(f"{seat.address} {name}\n")
            draft = self.hosts.with_suffix(".new")
            draft.write_text("".join(lines))
            draft.replace(self.hosts)
