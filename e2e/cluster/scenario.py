"""What a test does to a cluster, in words: nodes come and go, programs die, the API misbehaves.

Everything a scenario did is undone when it is closed: its nodes and namespaces are deleted, silent
nodes speak again, dead programs are started, proxies stop.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from e2e.cluster import audit
from e2e.cluster.components import STOPPED_LABEL, kubeconfig_text, token_of
from e2e.cluster.faults import Fault, FaultProxy
from e2e.cluster.local import LocalCluster, wait_for
from e2e.cluster.nodes import Node


class Scenario:
    """One test's hands on a cluster. `local` is None on a cluster that was not started here."""

    def __init__(self, kubeconfig: Path, local: LocalCluster | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.local = local
        # Any: the client takes and nests plain dicts, which its annotations do not say.
        self.api_client: Any = config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]
        self.core: Any = client.CoreV1Api(self.api_client)
        self.apps: Any = client.AppsV1Api(self.api_client)
        self.custom: Any = client.CustomObjectsApi(self.api_client)
        self._added: dict[str, Node] = {}
        self._undo = ExitStack()
        self._undo.callback(self.api_client.close)
        self._log_start = os.path.getsize(local.audit_log) if local else 0

    def close(self) -> None:
        """Undoes what the scenario did, last first."""
        self._undo.close()

    # Nodes

    def add_node(self, node: Node, ready_within_s: float = 20.0) -> str:
        """Adds a node and waits until it is Ready; its name."""
        return self.add_nodes([node], ready_within_s)[0]

    def add_nodes(self, nodes: Iterable[Node], ready_within_s: float = 20.0) -> list[str]:
        """Adds nodes and waits until all are Ready; their names."""
        nodes = list(nodes)
        names = [self.core.create_node(node).metadata.name for node in nodes]
        self._added.update(zip(names, nodes, strict=True))
        for name in names:
            self._undo.callback(self.remove_node, name)
        self.wait_until(
            lambda: all(self._takes_pods(name) for name in names), ready_within_s, f"{names} Ready"
        )
        return names

    def _takes_pods(self, name: str) -> bool:
        """Ready, and the lifecycle controller has taken its not-ready taint off."""
        keys = [one.key for one in self.core.read_node(name).spec.taints or []]
        return "node.kubernetes.io/not-ready" not in keys and self.is_ready(name)

    def remove_node(self, name: str) -> None:
        """Deletes a node, as an autoscaler or a cloud does; nothing if it is gone."""
        with suppress_missing():
            self.core.delete_node(name)

    def added(self) -> list[str]:
        """Names of the nodes that this scenario has added, there or not."""
        return list(self._added)

    def restore_missing_nodes(self, ready_within_s: float = 60.0) -> None:
        """Adds the nodes of this scenario that are gone again, as they were first added."""
        there = {node.metadata.name for node in self.core.list_node().items}
        names = [name for name in self._added if name not in there]
        for name in names:
            self.core.create_node(self._added[name])
        self.wait_until(
            lambda: all(self._takes_pods(name) for name in names), ready_within_s, f"{names} Ready"
        )

    def cordon(self, name: str) -> None:
        """Marks a node unschedulable."""
        self.core.patch_node(name, {"spec": {"unschedulable": True}})

    def uncordon(self, name: str) -> None:
        """Takes the mark off."""
        self.core.patch_node(name, {"spec": {"unschedulable": None}})

    def taint(self, name: str, key: str, value: str = "", effect: str = "NoSchedule") -> None:
        """Adds a taint to a node."""
        taints = self.core.read_node(name).spec.taints or []
        kept = [self.api_client.sanitize_for_serialization(one) for one in taints]
        new = {"key": key, "value": value, "effect": effect}
        self.core.patch_node(name, {"spec": {"taints": [*kept, new]}})

    def untaint(self, name: str, key: str) -> None:
        """Removes every taint of that key from a node."""
        taints = self.core.read_node(name).spec.taints or []
        kept = [self.api_client.sanitize_for_serialization(one) for one in taints if one.key != key]
        self.core.patch_node(name, {"spec": {"taints": kept}})

    def is_ready(self, name: str) -> bool:
        """Whether a node exists and its Ready condition is True."""
        return self.ready_status(name) == "True"

    def ready_status(self, name: str) -> str:
        """A node's Ready condition: True, False, Unknown, or "" if it says nothing or is gone."""
        with suppress_missing():
            conditions = self.core.read_node(name).status.conditions or []
            return next((str(one.status) for one in conditions if one.type == "Ready"), "")
        return ""

    def stop_heartbeats(self, name: str) -> None:
        """Silences a node's kubelet: no Lease, no pod played; NotReady about 12 to 17 s later."""
        self.core.patch_node(name, {"metadata": {"labels": {STOPPED_LABEL: "true"}}})
        self._undo.callback(self.resume_heartbeats, name)

    def resume_heartbeats(self, name: str) -> None:
        """Lets a silenced node speak again; nothing if it is gone."""
        with suppress_missing():
            self.core.patch_node(name, {"metadata": {"labels": {STOPPED_LABEL: None}}})

    def set_not_ready(self, name: str) -> None:
        """Makes a node say at once that it is not ready, and then fall silent."""
        self.stop_heartbeats(name)
        self._say_ready(name, "False", "KubeletNotReady")

    def set_ready(self, name: str) -> None:
        """Makes such a node say at once that it is ready again, and speak on."""
        self._say_ready(name, "True", "KubeletReady")
        self.resume_heartbeats(name)

    def _say_ready(self, name: str, status: str, reason: str) -> None:
        condition = {
            "type": "Ready",
            "status": status,
            "reason": reason,
            "message": "set by a scenario",
            "lastHeartbeatTime": _now(),
            "lastTransitionTime": _now(),
        }
        self.core.patch_node_status(name, {"status": {"conditions": [condition]}})

    # Pods and namespaces

    def namespace(self, prefix: str = "e2e") -> str:
        """A new namespace of the scenario's own; its name."""
        name = f"{prefix}-{uuid.uuid4().hex[:8]}"
        self.core.create_namespace({"metadata": {"name": name}})
        self._undo.callback(self._remove_namespace, name)
        return name

    def _remove_namespace(self, name: str) -> None:
        with suppress_missing():
            self.core.delete_namespace(name)

    def end_pod(self, namespace: str, name: str, phase: str = "Failed") -> None:
        """Makes a pod's containers end, with phase Failed or Succeeded."""
        self.core.patch_namespaced_pod_status(name, namespace, {"status": {"phase": phase}})

    # Programs and the API

    def kill_component(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a program of the control plane a signal; started again when the test ends."""
        self._own().kill(name, number)
        self._undo.callback(self._revive, name)

    def restart_component(self, name: str) -> None:
        """Starts a program as it was, ending it first if it runs, and waits until it answers."""
        self._own().restart(name)

    def compact(self) -> int:
        """Throws away etcd's history up to now, and with the API server its memory of it.

        A watch from before is then answered 410 and has to list again. The revision is returned.
        """
        own = self._own()
        etcd = f"http://127.0.0.1:{own.state().ports['etcd']}/v3/kv"
        revision = int(_post(f"{etcd}/range", {"key": "AA=="})["header"]["revision"])
        _post(f"{etcd}/compaction", {"revision": revision, "physical": True})
        own.kill("kube-apiserver")  # it remembers the last changes by itself
        self.restart_component("kube-apiserver")
        return revision

    def _revive(self, name: str) -> None:
        cluster = self._own()
        cluster.kill(name, signal.SIGCONT)  # a stopped one goes on
        if not cluster.is_alive(name):
            cluster.restart(name)

    def fault_proxy(self, identity: str = "admin") -> tuple[FaultProxy, Path]:
        """A proxy in front of the API server and a kubeconfig that leads through it.

        Append to its `faults`, or `cut` its connections, to make the API misbehave.
        """
        own = self._own()
        directory, port = own.directory, own.state().ports["kube-apiserver"]
        proxy = FaultProxy(port, directory / "certs" / "apiserver.crt")
        proxy.start()
        self._undo.callback(proxy.stop)
        path = directory / f"kubeconfig-faults-{proxy.port}"
        path.touch(mode=0o600)
        server = f"http://127.0.0.1:{proxy.port}"
        path.write_text(kubeconfig_text(server, token_of(directory, identity), None))
        self._undo.callback(path.unlink, missing_ok=True)
        return proxy, path

    def set_api_faults(self, *faults: Fault) -> tuple[FaultProxy, Path]:
        """A fault proxy with these faults set."""
        proxy, path = self.fault_proxy()
        proxy.faults.extend(faults)
        return proxy, path

    # What happened

    def event_log(self, whole: bool = False) -> list[audit.Record]:
        """The writes the API server took since the scenario began, or since the cluster did."""
        return audit.read(self._own().audit_log, 0 if whole else self._log_start)

    def wait_until(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Seconds until the predicate held.

        Raises: TimeoutError that says what was waited for.
        """
        return wait_for(predicate, timeout_s, what)

    def _own(self) -> LocalCluster:
        if self.local is None:
            raise RuntimeError("this needs a cluster that was started here, not MOTLEY_KUBECONFIG")
        return self.local


@contextmanager
def suppress_missing() -> Iterator[None]:
    """Lets the API server's 404 pass in silence."""
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON that etcd's gateway answers."""
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10.0) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
