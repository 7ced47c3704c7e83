"""Operators beside each other on one cluster, each with a service account and rights of its own.

Who wrote what is read from the API server's audit log, by account.
"""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e import demo_operator, rights
from e2e.cluster import audit
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api, Refused
from e2e.fixtures import Cluster
from e2e.motley import Installation

_BINDINGS = (
    ("ClusterRoleBinding", "", "motley"),
    ("ClusterRoleBinding", "", "motley-namespace"),
    ("ClusterRoleBinding", "", "motley-namespaced"),
    ("RoleBinding", demo_operator.NAMESPACE, "motley-leader"),
    ("RoleBinding", "default", "motley-events"),
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One operator; its rights are given by whoever makes it."""

    api: Api  # the administrator's hands
    account: str
    folder: Path
    flags: tuple[str, ...]
    port: int  # of its probes
    since_s: float  # when it was made, Unix seconds: an account may have had others before

    @classmethod
    def make(cls, api: Api, account: str, folder: Path, *flags: str) -> Tenant:
        """The account with nothing but its part in an election; not started yet."""
        folder.mkdir()
        demo_operator.install_account(api, account)
        demo_operator.write_kubeconfig(api, folder / "operator.kubeconfig", account)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        return cls(api, account, folder, flags, port, time.time())

    @property
    def user(self) -> str:
        """What the API server calls it."""
        return rights.user_of(self.account)

    def start(self) -> None:
        """Starts the operator."""
        demo_operator.start(self.folder, f"--health-port={self.port}", *self.flags)

    def is_alive(self) -> bool:
        """Whether the operator answers that it is alive."""
        return self.probe("healthz")[0] == 200

    def probe(self, name: str) -> tuple[int, str]:
        """What a probe answers; 0 where nobody does."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{name}", timeout=15) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def log(self) -> str:
        """Everything the operator said."""
        path = self.folder / "operator.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self, namespaces: Iterable[str] = ()) -> None:
        """Ends the operator, and takes its rights away."""
        demo_operator.stop(self.folder)
        places = [("RoleBinding", space, "motley-namespace") for space in namespaces]
        for kind, namespace, role in (*_BINDINGS, *places):
            with suppress(Refused):
                name = demo_operator.binding_name(role, self.account)
                self.api.delete(kind, namespace, name)

    def writes(self, hands: Scenario) -> list[audit.Record]:
        """What it has written; Events and Leases are not told."""
        every = hands.event_log(whole=True)
        return [one for one in every if one.user == self.user and one.time_s >= self.since_s]

    def refused(self, hands: Scenario) -> list[str]:
        """Requests of it that were refused for want of a right, granted later or not."""
        assert hands.local is not None
        found = rights.asked(hands.local.audit_log, self.user)
        return [text for _, text in found.refusals]


def judged_by_writes(cluster: Cluster, folder: Path) -> tuple[Scenario, Installation]:
    """Hands and an installation on a cluster whose audit log tells who wrote what; else skips."""
    if cluster.local is None:
        pytest.skip("who wrote what is told by the audit log of a cluster that was started here")
    hands = Scenario(cluster.kubeconfig, cluster.local)
    return hands, Installation.install(cluster.kubeconfig, folder)


def gpus_by_node(api: Api, namespaces: Collection[str]) -> Counter[str]:
    """GPUs that pods of these namespaces ask for, on the node that each is on."""
    found: Counter[str] = Counter()
    for pod in api.list("Pod"):
        is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if pod["metadata"]["namespace"] not in namespaces or is_over:
            continue
        for container in pod["spec"]["containers"]:
            limits = container.get("resources", {}).get("limits") or {}
            found[pod["spec"].get("nodeName", "")] += int(limits.get("nvidia.com/gpu", 0))
    return +found


def calm(
    hands: Scenario, tenants: Iterable[Tenant], seconds: float, timeout_s: float = 60.0
) -> None:
    """Waits until none of them has written anything for so many seconds.

    Raises: TimeoutError where they go on.
    """
    watched, last, since = list(tenants), -1, time.monotonic()

    def is_calm() -> bool:
        nonlocal last, since
        now = sum(len(one.writes(hands)) for one in watched)
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.3)
        return time.monotonic() - since >= seconds

    hands.wait_until(is_calm, timeout_s, f"nobody writes for {seconds:g} s")
