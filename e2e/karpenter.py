"""A real Karpenter on a test cluster, with the provider of its own that buys kwok's nodes.

The provider is part of Karpenter's module: it makes Node objects where another asks a cloud for
machines; everything else is what runs on clouds. Machines and their prices come from a file of ours.

Looked for in `$MOTLEY_CONTROL_PLANE_BIN` and the cache; where there is none, tests that need it are
skipped. `python -m e2e.karpenter` builds it from `cluster/gomod/karpenter` (minutes, once).
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import binaries, foreign, processes
from e2e.cluster.binaries import KARPENTER_PROGRAMS, BinariesError
from e2e.cluster.components import free_ports
from e2e.cluster.nodes import GIB_KI, Shape
from e2e.cluster.processes import Process
from e2e.demo_api import Api, Refused

CRDS = (
    "pkg/apis/crds/karpenter.sh_nodeclaims.yaml",
    "pkg/apis/crds/karpenter.sh_nodeoverlays.yaml",
    "pkg/apis/crds/karpenter.sh_nodepools.yaml",
    "kwok/apis/crds/karpenter.kwok.sh_kwoknodeclasses.yaml",
)
NODE_CLASS: Mapping[str, Any] = {
    "apiVersion": "karpenter.kwok.sh/v1alpha1",
    "kind": "KWOKNodeClass",
    "metadata": {"name": "played"},
    "spec": {},
}
NODE_CLASS_REFERENCE: Mapping[str, str] = {
    "group": "karpenter.kwok.sh",
    "kind": "KWOKNodeClass",
    "name": "played",
}
READY_S = 60.0

needs_karpenter = pytest.mark.skipif(
    binaries.find(KARPENTER_PROGRAMS) is None,
    reason="no Karpenter: python -m e2e.karpenter builds one",
)


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine that may be bought: US dollars per hour by zone, all of it on demand."""

    shape: Shape
    dollars_per_hour: Mapping[str, float]


def instance_types(offers: Iterable[Offer]) -> str:
    """The provider's file of machines."""
    return json.dumps(
        [
            {
                "name": offer.shape.instance_type,
                "architecture": "amd64",
                "operatingSystems": ["linux"],
                "resources": {
                    "cpu": str(offer.shape.cpu_cores),
                    "memory": f"{offer.shape.memory_gib * GIB_KI}Ki",
                    "ephemeral-storage": f"{offer.shape.ephemeral_gib * GIB_KI}Ki",
                    "pods": "110",
                    "nvidia.com/gpu": str(offer.shape.gpu_count),
                },
                "offerings": [
                    {
                        "Price": price,
                        "Available": True,
                        "Requirements": [
                            _one_of("karpenter.sh/capacity-type", "on-demand"),
                            _one_of("topology.kubernetes.io/zone", zone),
                        ],
                    }
                    for zone, price in offer.dollars_per_hour.items()
                ],
            }
            for offer in offers
        ]
    )


def _one_of(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


@dataclass(slots=True)
class Karpenter:
    """A Karpenter that runs, and what it has done."""

    api: Api
    process: Process
    log: Path
    ports: Mapping[str, int]

    def claims(self) -> list[dict[str, Any]]:
        """Its NodeClaims."""
        return self.api.list("NodeClaim")

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes that it made, by name."""
        found = self.api.list("Node", labelSelector="karpenter.sh/nodepool")
        return {node["metadata"]["name"]: node for node in found}

    def measured(self, name: str, **labels: str) -> float:
        """The sum of one of its metrics over the series with these labels."""
        with urllib.request.urlopen(self._url("metrics", "metrics"), timeout=5.0) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"{name}{{") and all(one in line for one in wanted)
        )

    def _url(self, port: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}/{path}"

    def is_ready(self) -> bool:
        """Whether its caches are filled.

        Raises: AssertionError with the end of its log if it has ended.
        """
        assert processes.is_alive(self.process), self.tail()
        with (
            suppress(OSError),
            urllib.request.urlopen(self._url("health", "readyz"), timeout=1.0) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def running(kubeconfig: Path, folder: Path, offers: Iterable[Offer]) -> Iterator[Karpenter]:
    """Installs the CRDs, starts Karpenter and waits for it; at the end all of it goes, its nodes too.

    Raises: ForeignError without its CRDs; AssertionError with its log where it does not start.
    """
    program = binaries.find(KARPENTER_PROGRAMS)
    assert program is not None, "see needs_karpenter"
    definitions = foreign.crds("karpenter", *CRDS)
    types = folder / "instance-types.json"
    types.write_text(instance_types(offers))
    ports = free_ports(("metrics", "health"))
    api = Api(str(kubeconfig))
    for definition in definitions:
        api.apply(definition)
    _served(api)
    api.apply(dict(NODE_CLASS))
    log = folder / "karpenter.log"
    argv = [
        str(program / "karpenter"),
        "--disable-leader-election=true",
        f"--instance-types-file-path={types}",
        f"--metrics-port={ports['metrics']}",
        f"--health-probe-port={ports['health']}",
        "--log-level=debug",
    ]
    started = processes.spawn(argv, log, {"KUBECONFIG": str(kubeconfig)})
    made = Karpenter(api, started, log, ports)
    try:
        _wait(made.is_ready, made)
        yield made
        _take_away(made)
    finally:
        processes.stop(started, grace_s=2.0)
        _drop(api, definitions)
        api.close()


def _wait(is_true: Any, made: Karpenter) -> None:
    deadline = time.monotonic() + READY_S
    while not is_true():
        assert time.monotonic() < deadline, made.tail()
        time.sleep(0.05)


def _served(api: Api) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            for kind in ("NodePool", "NodeClaim", "KWOKNodeClass"):
                api.list(kind)
            return
        except (Refused, ValueError):  # of a group that is not there the answer is no JSON
            assert time.monotonic() < deadline, "Karpenter's kinds are not served"
            time.sleep(0.05)


def _take_away(made: Karpenter) -> None:
    """What is left at the end goes as Karpenter does it: its pools, and with them their nodes."""
    for kind in ("NodePool", "NodeClaim"):
        for one in made.api.list(kind):
            made.api.delete(kind, "", one["metadata"]["name"])
    _wait(lambda: not made.nodes() and not made.claims(), made)


def _drop(api: Api, definitions: Iterable[Mapping[str, Any]]) -> None:
    """Nobody is left who would take off finalizers."""
    for kind in ("NodeClaim", "Node", "NodePool", "KWOKNodeClass"):
        for one in api.list(kind):
            if any("karpenter" in f for f in one["metadata"].get("finalizers") or ()):
                name = one["metadata"]["name"]
                api.patch(kind, "", name, {"metadata": {"finalizers": None}})
                api.delete(kind, "", name)
    for definition in definitions:
        api.delete("CustomResourceDefinition", "", definition["metadata"]["name"])


def main() -> int:
    """Builds Karpenter where it is not there, and fetches its CRDs; 1 where neither can be had."""
    try:
        print(binaries.ensure(KARPENTER_PROGRAMS) / "karpenter")
        foreign.module("karpenter")
    except (BinariesError, foreign.ForeignError) as error:
        print(f"no Karpenter to be had here: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
