"""Motley on a real node: the chart's objects with our images, pods as the container runtime sees them.

Shared by the test of the real node and by `make demo-live DEMO=--real-node`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e import helm
from e2e.cluster import binaries, image_store
from e2e.cluster.local import LocalCluster
from e2e.demo_api import Document
from e2e.engines import models

ROOT = Path(__file__).parent.parent
CHART = ROOT / "charts" / "motley" / "install.yaml"
NAMESPACE = "motley-system"
USER = 65532
SILENCE_S = 1.5  # a connection within one machine takes a thousandth of that
_GET = f"""
import sys, urllib.error, urllib.request
try:
    told = urllib.request.urlopen(sys.argv[1], timeout={SILENCE_S}).status
except urllib.error.HTTPError as error:
    told = error.code
except urllib.error.URLError as error:
    told = {{TimeoutError: "silence", ConnectionRefusedError: "refused"}}[type(error.reason)]
except TimeoutError:
    told = "silence after the connection"
print(told)
"""


def chart(*values: str) -> list[Document]:
    """The chart, its image replaced by ours: as it is delivered, or rendered by helm with these values."""
    text = _rendered(values) if values else CHART.read_text()
    (name,) = set(re.findall(r"image: (\S+/motley:\S+)", text))
    text = text.replace(name, image_store.MOTLEY)
    return [document for document in yaml.safe_load_all(text) if document]


def _rendered(values: Iterable[str]) -> str:
    """The chart with values, and the namespace, which helm does not make.

    Raises: AssertionError in helm's words; helm.HelmError where there is none.
    """
    flags = [f"--set={value}" for value in values]
    argv = ["template", "motley", str(CHART.parent), f"--namespace={NAMESPACE}"]
    done = helm.run(*argv, "--kube-version=1.35.0", *flags)
    assert done.returncode == 0, done.stderr
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    return f"{yaml.safe_dump(space)}---\n{done.stdout}"


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


def askers(namespaces: Iterable[str]) -> list[Document]:
    """A pod `asker` in each namespace that does nothing: it is somebody else's, to ask from."""
    container = {"name": "pause", "image": image_store.PAUSE, "imagePullPolicy": "Never"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    found: list[Document] = []
    for space in namespaces:
        metadata = {"name": "asker", "namespace": space}
        found.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        found.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return found


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

    def only(self, namespace: str, component: str) -> tuple[str, str]:
        """Name and address of the one pod of a component."""
        label = f"app.kubernetes.io/component={component}"
        (found,) = self.get("pods", "-n", namespace, "-l", label)["items"]
        return found["metadata"]["name"], found["status"]["podIP"]

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

    def reach(self, pod: str, namespace: str, url: str) -> str:
        """What a GET from inside a pod meets: "200" and the like, "refused", or "silence".

        It is sent from the pod's network namespace by this machine's Python.
        """
        (container,) = (one for one in self.containers(namespace) if one.pod == pod)
        inside = ["nsenter", f"--net=/proc/{container.pid}/ns/net", sys.executable, "-c", _GET, url]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def address_of(self, namespace: str, service: str) -> str:
        """URL of a Service's ClusterIP, which kube-proxy answers for on this machine."""
        spec = self.get("service", "-n", namespace, service)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def told(self) -> str:
        """All pods and the last events, for a test that failed."""
        pods = self.kubectl("get", "pods", "-A", "-o", "wide")
        events = self.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp").splitlines()
        return pods + "\n".join(events[-15:])
