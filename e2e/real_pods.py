"""Motley on a real node: the chart's objects with our images, pods as the container runtime sees them.

Shared by the test of the real node and by `make demo-live DEMO=--real-node`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import binaries, image_store
from e2e.cluster.local import LocalCluster
from e2e.demo_api import Document
from e2e.engines import models

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "motley" / "install.yaml"
NAMESPACE = "motley-system"
USER = 65532


def chart() -> list[Document]:
    """The rendered chart, its image replaced by ours."""
    (name,) = set(re.findall(r"image: (\S+/motley:\S+)", CHART.read_text()))
    text = CHART.read_text().replace(name, image_store.MOTLEY)
    return [document for document in yaml.safe_load_all(text) if document]


def on_real_node(documents: Iterable[Document]) -> list[Document]:
    """The live demo's objects as real pods need them: engines' image, and weights on the node."""
    found = json.loads(json.dumps(list(documents)))
    for document in found:
        spec = document.get("spec", {})
        if document["kind"] == "PersistentVolume":
            spec["hostPath"] = {"path": str(models.path_of("any").parent)}
        for stage in (spec, *spec.get("stages", ())):
            if "engine" in stage:
                stage["engine"]["image"] = image_store.ENGINE
    return list(found)


@dataclass(frozen=True, slots=True)
class Container:
    """A running container: what the runtime and the kernel say of its first process."""

    pod: str
    name: str
    pid: int

    def status(self) -> Mapping[str, str]:
        """/proc/PID/status by name."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def is_root_read_only(self) -> bool:
        """Whether its root file system is mounted read-only."""
        rows = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        (options,) = {row.split()[5] for row in rows if row.split()[4] == "/"}
        return "ro" in options.split(",")


@dataclass(frozen=True, slots=True)
class RealPods:
    """Hands on the pods of a cluster's real node."""

    cluster: LocalCluster

    def kubectl(self, *arguments: str, given: Iterable[Document] = ()) -> str:
        """What kubectl says, as the administrator.

        Raises: AssertionError with what it complained about.
        """
        folder = binaries.find()
        assert folder is not None
        argv = [str(folder / "kubectl"), f"--kubeconfig={self.cluster.kubeconfig}", *arguments]
        done = subprocess.run(
            argv, input=yaml.safe_dump_all(given), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, documents: Iterable[Document]) -> None:
        """Applies them, CRDs first; namespaces come first in each list."""
        every = list(documents)
        first = [d for d in every if d["kind"] in ("CustomResourceDefinition", "Namespace")]
        names = [f"crd/{d['metadata']['name']}" for d in first if d["kind"] != "Namespace"]
        for part in (first, [d for d in every if d not in first]):
            if part:
                self.kubectl("apply", "--server-side", "--force-conflicts", "-f-", given=part)
            if part is first and names:
                self.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)

    def get(self, *arguments: str) -> Any:
        """Objects as JSON."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def containers(self, namespace: str) -> list[Container]:
        """Containers of a namespace's pods that run, as containerd says; without pause containers."""
        node = self.cluster.real_node
        running = {
            row.split()[0]: int(row.split()[1])
            for row in node.ctr("tasks", "ls").splitlines()[1:]
            if row.split()[-1] == "RUNNING"
        }
        found = []
        for name, pid in running.items():
            labels = json.loads(node.ctr("containers", "info", name))["Labels"]
            is_ours = labels.get("io.kubernetes.pod.namespace") == namespace
            if is_ours and labels.get("io.cri-containerd.kind") == "container":
                pod, inside = "io.kubernetes.pod.name", "io.kubernetes.container.name"
                found.append(Container(labels[pod], labels[inside], pid))
        return sorted(found, key=lambda one: (one.pod, one.name))

    def address_of(self, namespace: str, service: str) -> str:
        """URL of a Service's ClusterIP, which kube-proxy answers for on this machine."""
        spec = self.get("service", "-n", namespace, service)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def told(self) -> str:
        """All pods and the last events, for a test that failed."""
        pods = self.kubectl("get", "pods", "-A", "-o", "wide")
        events = self.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp").splitlines()
        return pods + "\n".join(events[-15:])
