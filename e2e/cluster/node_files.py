"""The files and command lines of a real node's programs; everything lies under one folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.components import REAL_LABEL
from e2e.cluster.image_store import PAUSE
from e2e.cluster.nodes import Shape, labels_of

ADDRESS, NETWORK, MASK = "10.244.77.1", "10.244.77.0/24", 24
BRIDGE = "motley0"
CNI_PROGRAMS = "/usr/lib/cni"
# What programs of a node keep at places that no flag moves: each node has its own behind them.
PRIVATE = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/run/containerd",
    "/run/netns",
)

# Machines say how many GPUs they have; of cores and memory they say what engine pods ask for.
SHAPE = Shape("NVIDIA-L4", 4, 23034, 32, 128, 200, "real")


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where one node keeps what."""

    directory: Path  # the cluster's state directory
    name: str = "real-1"
    shape: Shape = SHAPE

    @property
    def folder(self) -> Path:
        """All that the node writes."""
        return self.directory / "node"

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.folder / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """The name of the cgroup that holds all pods, in each hierarchy."""
        return f"motley-{hashlib.sha256(str(self.directory).encode()).hexdigest()[:8]}"

    def write(self, ports: Mapping[str, int]) -> None:
        """Writes each program's configuration."""
        for name in ("cni", "pods", "certs", "plugins"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "containerd.toml").write_text(self._containerd())
        (self.folder / "cni" / "10-motley.conflist").write_text(json.dumps(_cni(), indent=1))
        # The names of this machine's own resolver are not for pods.
        (self.folder / "resolv.conf").write_text("")
        kubelet = self._kubelet(ports)
        (self.folder / "kubelet.yaml").write_text(json.dumps(kubelet, indent=1))

    def argv(self, name: str, binaries: Path, ports: Mapping[str, int]) -> tuple[str, ...]:
        """The command line of containerd, kubelet or kube-proxy."""
        kubeconfig = f"--kubeconfig={self.directory / 'kubeconfigs' / name}.yaml"
        if name == "containerd":
            return ("/usr/bin/containerd", "--config", str(self.folder / "containerd.toml"))
        if name == "kube-proxy":
            return (
                str(binaries / name),
                kubeconfig,
                f"--hostname-override={self.name}",
                "--proxy-mode=iptables",
                f"--cluster-cidr={NETWORK}",
                # Answers of a pod of the same bridge would go past the translation otherwise.
                "--masquerade-all",
                "--iptables-localhost-nodeports=false",
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
                f"--healthz-bind-address=127.0.0.1:{ports['kube-proxy-health']}",
                f"--metrics-bind-address=127.0.0.1:{ports['kube-proxy-metrics']}",
            )
        return (
            str(binaries / name),
            kubeconfig,
            f"--config={self.folder / 'kubelet.yaml'}",
            f"--hostname-override={self.name}",
            f"--node-ip={ADDRESS}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--node-labels={self._labels()}",
        )

    def _labels(self) -> str:
        labels = labels_of(self.shape, self.name) | {REAL_LABEL: "true"}
        # Of its own labels under kubernetes.io a kubelet may set a few only; these it sets itself.
        own = ("kubernetes.io/arch", "kubernetes.io/os", "kubernetes.io/hostname")
        return ",".join(f"{key}={value}" for key, value in labels.items() if key not in own)

    def _containerd(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        absent = ", ".join(
            f'"io.containerd.snapshotter.v1.{name}"'
            for name in ("aufs", "btrfs", "devmapper", "zfs")
        )
        return f"""\
version = 2
root = "{self.folder / "containerd"}"
state = "{self.folder / "containerd-state"}"
oom_score = 0
disabled_plugins = [{absent}, "io.containerd.internal.v1.opt"]
[grpc]
address = "{self.socket}"
[{cri}]
sandbox_image = "{PAUSE}"
disable_apparmor = true
# A machine that may not lower scores (no CAP_SYS_RESOURCE) could start no sandbox at all.
restrict_oom_score_adj = true
[{cri}.containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
[{cri}.cni]
bin_dir = "{CNI_PROGRAMS}"
conf_dir = "{self.folder / "cni"}"
"""

    def _kubelet(self, ports: Mapping[str, int]) -> dict[str, Any]:
        little = {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
                  "imagefs.available": "1%"}  # fmt: skip
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            "address": ADDRESS,
            "port": ports["kubelet"],
            "readOnlyPort": 0,
            "healthzPort": 0,
            # The API server has no certificate to show; the port is open on the bridge alone.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": [ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": str(self.folder / "pods"),
            "volumePluginDir": str(self.folder / "plugins"),
            "evictionHard": little,
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "serializeImagePulls": False,
        }


def _cni() -> dict[str, Any]:
    ranges = [[{"subnet": NETWORK, "gateway": ADDRESS}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False,
              "hairpinMode": True, "ipam": ipam}  # fmt: skip
    return {"cniVersion": "0.4.0", "name": "motley", "plugins": [bridge]}


def capacity_policy(files: NodeFiles) -> list[dict[str, Any]]:
    """A policy that writes the shape's cores and memory into the node's status.

    A kubelet reports its machine, and the planner asks 4 cores and 16 GiB for each GPU: a laptop's
    node would be planned for nothing. So the API server puts the shape's numbers in their place.
    """
    shape, path = files.shape, "/status"
    values = {"cpu": str(shape.cpu_cores), "memory": f"{shape.memory_gib}Gi"}
    patches = ", ".join(
        f'JSONPatch{{op: "replace", path: "{path}/{part}/{name}", value: "{value}"}}'
        for part in ("capacity", "allocatable")
        for name, value in values.items()
    )
    group = "admissionregistration.k8s.io/v1beta1"
    has_status = "has(object.status.capacity) && 'cpu' in object.status.capacity"
    match = {
        "resourceRules": [{
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["nodes", "nodes/status"],
        }]
    }  # fmt: skip
    policy = {
        "apiVersion": group,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "motley-real-node"},
        "spec": {
            "matchConstraints": match,
            "matchConditions": [
                {"name": "real", "expression": f"object.metadata.name == '{files.name}'"},
                {"name": "reported", "expression": has_status},
            ],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": f"[{patches}]"}}],
        },
    }
    binding = {
        "apiVersion": group,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "motley-real-node"},
        "spec": {"policyName": "motley-real-node"},
    }
    return [policy, binding]
