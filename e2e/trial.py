"""A fleet under trial: an operator behind a proxy that misbehaves, pools to serve, and who judges.

What is judged is read from the API server alone: objects, and the log of every write it took. The
operator's own log is looked at for one thing only, whether a cycle ended in an unforeseen error.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e import belongings, demo_operator
from e2e.checker import assert_lawful
from e2e.cluster import audit, processes
from e2e.cluster.faults import WRITES, Fault, FaultProxy, redirect
from e2e.cluster.nodes import Node
from e2e.cluster.scenario import Scenario
from e2e.demo_api import Api, Refused
from e2e.demo_picture import Picture
from e2e.fixtures import Cluster
from e2e.motley import Installation
from e2e.samples import pool

Document = dict[str, Any]

FULL = os.environ.get("MOTLEY_FAULTS") == "full"  # the long forms, for a night
CALM_S = 1.0  # how long everything stays Ready before it counts as settled
SETTLE_S = 60.0  # the bound within which every fault must be overcome once it is over
# Requests of an operator that change something a plan is about; Events, Leases and dry runs are not.
CHANGES = r"^(?!.*/(events|leases)(/|\?|$))(?!.*dryRun=)"
NEW_PODS = r"/pods(\?(?!.*dryRun=)|$)"  # POSTs of them
_UNFORESEEN = re.compile(r"the cycle failed|; it keeps what it runs|exception was never retrieved")


@dataclass(slots=True)
class Trial:
    """An installation in a namespace of its own, its operator behind a fault proxy."""

    motley: Installation
    hands: Scenario
    proxy: FaultProxy
    namespace: str
    flags: tuple[str, ...] = ()
    _heard: int = 0  # bytes of the operator's log in which no cycle ended in an unforeseen error

    @classmethod
    @contextmanager
    def begin(cls, cluster: Cluster, folder: Path, nodes: Sequence[Node]) -> Iterator[Trial]:
        """Nodes, an operator, no resources yet; all of it is taken away again at the end."""
        if cluster.local is None:
            pytest.skip("faults are made on a cluster that was started here")
        hands = Scenario(cluster.kubeconfig, cluster.local)
        made = Installation.install(cluster.kubeconfig, folder)
        try:
            proxy, _ = hands.fault_proxy()
            redirect(folder / "operator.kubeconfig", proxy.port)
            hands.add_nodes(nodes, ready_within_s=60.0)
            trial = cls(made, hands, proxy, hands.namespace("trial"))
            trial.start()
            yield trial
            trial.clear()
        finally:
            made.stop()
            hands.close()

    # The operator

    @property
    def api(self) -> Api:
        """The administrator's hands."""
        return self.motley.api

    def start(self) -> None:
        """Starts the operator."""
        self.motley.process = demo_operator.start(self.motley.folder, *self.flags)

    def reinstall(self) -> None:
        """Makes the operator's namespace, account and rights anew, and starts it."""
        demo_operator.install_rbac(self.api)
        kubeconfig = self.motley.folder / "operator.kubeconfig"
        demo_operator.write_kubeconfig(self.api, kubeconfig)
        redirect(kubeconfig, self.proxy.port)
        self.start()

    def kill(self) -> None:
        """SIGKILL; may be called from the proxy's thread."""
        process = self.motley.process
        assert process is not None
        processes.send(process, signal.SIGKILL)

    def is_alive(self) -> bool:
        """Whether the operator's process runs."""
        return self.motley.process is not None and processes.is_alive(self.motley.process)

    def log(self) -> str:
        """Everything the operator said, over all its lives."""
        return (self.motley.folder / "operator.log").read_text(errors="replace")

    def assert_unshaken(self) -> None:
        """The operator is alive, and no cycle of it ended in an unforeseen error."""
        assert self.is_alive(), demo_operator.log_tail(self.motley.folder, 40)
        with (self.motley.folder / "operator.log").open("rb") as log:
            log.seek(self._heard)
            whole, _, _ = log.read().rpartition(b"\n")
        text = whole.decode(errors="replace")
        found = _UNFORESEEN.search(text)
        if found:
            start = max(0, found.start() - 500)
            raise AssertionError(text[start : found.end() + 3000])
        self._heard += len(whole)

    # Resources

    def apply(self, *manifests: Document) -> None:
        """Applies resources, to be deleted at the end."""
        self.motley.apply(manifests)

    def pool(self, name: str, rate: float, **spec: Any) -> str:
        """Applies a pool; its key."""
        self.apply(pool(name, self.namespace, rate, **spec))
        return f"ServingPool/{self.namespace}/{name}"

    def edit(self, name: str, rate: float) -> None:
        """Another rate for a pool."""
        spec = {"spec": {"workload": {"requestsPerSecond": rate}}}
        self.api.patch("ServingPool", self.namespace, name, spec)

    def price(self, node: str, dollars_per_hour: str | None) -> None:
        """What a node says that it costs; None: nothing."""
        labels = {"motley.dev/price-usd-per-hour": dollars_per_hour}
        self.api.patch("Node", "", node, {"metadata": {"labels": labels}})

    def status(self, name: str) -> Document:
        """What a pool's status says."""
        found = self.api.get("ServingPool", self.namespace, name) or {}
        status: Document = found.get("status") or {}
        return status

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """(status, reason) of one of a pool's conditions."""
        rows = {row["type"]: row for row in self.status(name).get("conditions") or ()}
        row = rows.get(kind) or {}
        return str(row.get("status", "")), str(row.get("reason", ""))

    def settle(self, timeout_s: float = SETTLE_S, calm_s: float = CALM_S) -> Picture:
        """Waits until everything is Ready on its present spec and stays so; the picture then."""
        since: list[float] = []

        def is_calm() -> bool:
            with suppress(Refused, OSError):
                if self.motley.look().is_settled():
                    since.append(time.monotonic())
                    return since[-1] - since[0] >= calm_s
            since.clear()
            return False

        self.motley.wait(is_calm, timeout_s, "everything is Ready")
        return self.motley.look()

    def wait(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> float:
        """Seconds until the predicate held."""
        began = time.monotonic()
        self.motley.wait(predicate, timeout_s, what)
        return time.monotonic() - began

    def serve_two(self) -> None:
        """Two pools, `edited` and `bystander`, as every trial begins."""
        self.pool("edited", 6)
        self.pool("bystander", 6)
        self.settle(2 * SETTLE_S)  # controllers that lost the API server come back step by step

    def judge(self) -> None:
        """Ends the faults; the verdict over everything that has happened here so far."""
        self.proxy.faults.clear()
        self.assert_unshaken()
        self.assert_lawful()
        self.hands.restore_missing_nodes()

    def clear(self) -> None:
        """Ends all faults and all resources, and brings lost nodes back."""
        self.proxy.faults.clear()
        self.hands.restore_missing_nodes()
        for item in self.api.list("ServingPool"):
            metadata = item["metadata"]
            self.api.delete("ServingPool", metadata["namespace"], metadata["name"])
        self.wait(lambda: not self.orphans(), SETTLE_S, "nothing is left of the pools")
        self.motley.created.clear()

    @staticmethod
    def pods_of(picture: Picture, name: str) -> set[str]:
        """UIDs of a pool's live pods."""
        return {uid for uid, pod in picture.live().items() if pod.key.endswith(f"/{name}")}

    def created(self) -> int:
        """How many engine pods have been created here so far."""
        return sum(
            (one.verb, one.resource, one.subresource) == ("create", "pods", "")
            and "motley.dev/replica" in (one.object["metadata"].get("labels") or {})
            for one in self.records()
        )

    # Faults

    def kill_at(self, number: int, *, is_done: bool) -> Fault:
        """Kills the operator at its n-th change: just before it, or when its answer is on the way."""
        fault = Fault(
            CHANGES,
            methods=WRITES,
            skip=number - 1,
            times=1,
            act=self.kill,
            reset=not is_done,
            swallow=is_done,
        )
        self.proxy.faults[:] = [fault]
        return fault

    def workers(self) -> list[int]:
        """Pids of the operator's children: the solver's processes."""
        assert self.motley.process is not None
        found: list[int] = []
        with suppress(OSError):
            for task in Path(f"/proc/{self.motley.process.pid}/task").iterdir():
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return found

    def end_worker(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Sends a solver process a signal, if it is still the operator's child."""
        if pid in self.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    # The judges

    def records(self) -> list[audit.Record]:
        """Every write to nodes and to this namespace, since the cluster began."""
        assert self.hands.local is not None
        every = audit.read(self.hands.local.audit_log)
        return [one for one in every if one.namespace in (self.namespace, "")]

    def assert_lawful(self) -> None:
        """No GPU twice, no replica twice, nobody waits: by the log of writes."""
        assert_lawful(self.records(), time.time())

    def writes_of_operator(self, since_s: float) -> list[audit.Record]:
        """The changes that the operator has made since a Unix time."""
        return [
            one
            for one in self.hands.event_log(whole=True)
            if one.user.endswith(f":{demo_operator.ACCOUNT}")
            and one.time_s >= since_s
            and one.resource not in ("events", "leases")
        ]

    def orphans(self) -> list[str]:
        """Objects of ours in the namespace whose resource is gone."""
        return belongings.orphans(self.api, self.namespace)

    def owned(self, kind: str, resource: str = "") -> list[Document]:
        """Objects of a kind in the namespace that carry Motley's mark, or those of one resource."""
        return belongings.owned(self.api, self.namespace, kind, resource)
