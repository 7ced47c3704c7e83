"""Hands and eyes of the scale bench: what it does to a cluster, and what it reads of the operator.

Looking must cost the operator nothing, for all share one machine: calls are counted from the API
server's audit log, cycles from the operator's own log; its metrics are read a few times in all.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e import demo_operator
from e2e.cluster.components import free_ports
from e2e.demo_api import Api, path_of
from e2e.motley import Installation

POLL_S = 0.05
CALM_S = 10.0
_WRITES = ("create", "patch", "update", "delete", "deletecollection")

Document = dict[str, Any]


@dataclass(slots=True)
class Lines:
    """The JSON lines that a file has gained since it was last read."""

    path: Path
    offset: int = 0

    def new(self) -> list[Document]:
        """What came since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            whole, _, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + bool(whole)
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]


def cycles_in(folder: Path) -> list[Document]:
    """The lines of an operator's log in a folder that tell of its cycles."""
    lines = Lines(folder / "operator.log").new()
    return [line for line in lines if line["message"].startswith("cycle:")]


def calls_in(records: Iterable[Document]) -> Counter[str]:
    """Calls of the operator by verb and resource."""
    found: Counter[str] = Counter()
    for record in records:
        reference = record.get("objectRef") or {}
        part = f"/{reference['subresource']}" if reference.get("subresource") else ""
        found[f"{record['verb']} {reference.get('resource', record['requestURI'])}{part}"] += 1
    return found


def is_write(call: str) -> bool:
    """Whether a call changes anything; the renewal of the lease does not count."""
    return call.startswith(_WRITES) and not call.endswith(" leases")


@dataclass(slots=True)
class Bench:
    """One run; `rows` is what it found, in order."""

    motley: Installation
    audit_log: Path
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    metrics_port: int = field(default_factory=lambda: free_ports(("metrics",))["metrics"])

    @property
    def api(self) -> Api:
        """The connection to the API server."""
        return self.motley.api

    def say(self, what: str, figure: str, wanted: str = "") -> None:
        """One more row."""
        self.rows.append((what, figure, wanted))
        print(f"{what:44s} {figure}", flush=True)

    def connect(self) -> Api:
        """One more connection, for a thread of its own."""
        return Api(str(self.motley.folder / "admin.kubeconfig"))

    def fill(self, objects: list[Document], threads: int = 4) -> None:
        """Creates objects over several connections."""

        def work(part: list[Document]) -> None:
            api = self.connect()
            for each in part:
                path = path_of(each["kind"], each["metadata"].get("namespace", ""))
                api.request("POST", path, each)
            api.close()

        self._spread(work, objects, threads)

    def drop_nodes(self, label: str) -> list[str]:
        """Deletes the nodes with a label by one request; their names."""
        query = f"?labelSelector={label}"
        gone = [node["metadata"]["name"] for node in self.api.list("Node", labelSelector=label)]
        self.api.request("DELETE", path_of("Node") + query)
        return gone

    def _spread(self, work: Callable[[list[Any]], None], all_: list[Any], threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [all_[i::threads] for i in range(threads)]))

    def start(self) -> float:
        """Starts the operator with an empty log; the moment of that."""
        (self.motley.folder / "operator.log").unlink(missing_ok=True)
        began = time.monotonic()
        flags = (f"--metrics-port={self.metrics_port}", "--log-format=json", "--leader-elect")
        self.motley.process = demo_operator.start(self.motley.folder, *flags)
        return began

    def cycles(self) -> list[Document]:
        """The log lines of the cycles since the operator's start."""
        return cycles_in(self.motley.folder)

    def solves(self) -> int:
        """Plans that were made since the operator's start."""
        with suppress(OSError):
            url = f"http://127.0.0.1:{self.metrics_port}/metrics"
            with urllib.request.urlopen(url, timeout=30) as answer:
                for line in answer.read().decode().splitlines():
                    if line.startswith("motley_solve_seconds_count "):
                        return int(float(line.rpartition(" ")[2]))
        return 0

    def wait(
        self, holds: Callable[[], bool], limit_s: float, what: str, poll_s: float = POLL_S
    ) -> None:
        """Polls until it holds."""
        deadline = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}\n{demo_operator.log_tail(self.motley.folder)}")
            time.sleep(poll_s)

    def quiet(self, limit_s: float = 400.0) -> None:
        """Waits until the operator has written nothing for `CALM_S` but its lease."""
        log = Lines(self.audit_log)
        log.new()
        since = time.monotonic()
        deadline = since + limit_s
        while time.monotonic() - since < CALM_S:
            if any(is_write(call) for call in calls_in(log.new())):
                since = time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError("never quiet")
            time.sleep(0.5)

    def calm(self, limit_s: float = 60.0) -> None:
        """Waits until no cycle has ended for 6 s: an event alone is what is timed."""
        deadline, seen = time.monotonic() + limit_s, -1
        while time.monotonic() < deadline and seen != (now := len(self.cycles())):
            seen = now
            time.sleep(6.0)

    def pods(self, node: str = "") -> dict[str, tuple[str, str]]:
        """UID -> (node, "namespace/resource") of the engine pods that are bound and not ending."""
        found = {}
        chosen = {"fieldSelector": f"spec.nodeName={node}"} if node else {}
        for pod in self.api.list("Pod", labelSelector="motley.dev/replica", **chosen):
            if "deletionTimestamp" not in pod["metadata"] and "nodeName" in pod["spec"]:
                key = f"{pod['metadata']['namespace']}/{pod['metadata']['labels']['motley.dev/resource']}"
                found[pod["metadata"]["uid"]] = (pod["spec"]["nodeName"], key)
        return found

    def has_plans(self) -> bool:
        """Whether every pool has a plan in its status."""
        return all(p.get("status", {}).get("plan") for p in self.api.list("ServingPool"))

    def are_nodes_ready(self) -> bool:
        """Whether kwok has taken every node."""
        return all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in _conditions(node))
            for node in self.api.list("Node")
        )

    def are_ready(self) -> bool:
        """Whether every pool is Ready."""
        return all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in _conditions(pool))
            for pool in self.api.list("ServingPool")
        )

    def mark(self, key: str) -> str:
        """What tells a pool's plan from another."""
        namespace, _, name = key.partition("/")
        pool = self.api.get("ServingPool", namespace, name)
        return json.dumps((pool or {}).get("status", {}).get("plan", {}), sort_keys=True)

    def loss_s(self, node: str, key: str) -> float:
        """Seconds from a node's deletion to a new plan of a pool that ran there."""
        before = self.mark(key)
        began = time.monotonic()
        self.api.delete("Node", "", node)
        self.wait(lambda: self.mark(key) != before, 60.0, f"a new plan of {key}")
        return time.monotonic() - began

    def edit_s(self, key: str, share: float) -> float:
        """Seconds from asking for that share of a pool's rate to a status that speaks of it."""
        namespace, _, name = key.partition("/")
        found = self.api.get("ServingPool", namespace, name)
        assert found is not None, key
        rate = share * float(found["spec"]["workload"]["requestsPerSecond"])
        change = {"spec": {"workload": {"requestsPerSecond": f"{rate:.2f}"}}}
        began = time.monotonic()
        edited = self.api.patch("ServingPool", namespace, name, change)["metadata"]["generation"]

        def is_seen() -> bool:
            status = (self.api.get("ServingPool", namespace, name) or {}).get("status") or {}
            return bool(status.get("observedGeneration") == edited)

        self.wait(is_seen, 120.0, f"a plan of {key} as edited")
        return time.monotonic() - began

    def most_mib(self) -> float:
        """The operator's highest resident memory since its start, in MiB."""
        assert self.motley.process is not None
        status = Path(f"/proc/{self.motley.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024

    def usage(self) -> dict[str, tuple[float, float]]:
        """Of the operator and its solver processes: RSS in MiB, CPU seconds so far."""
        assert self.motley.process is not None
        own = self.motley.process.pid
        found = {"operator": (0.0, 0.0), "solver": (0.0, 0.0)}
        for pid in (own, *_children(own)):
            with suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                who = "operator" if pid == own else "solver"
                rss, cpu = found[who]
                found[who] = (
                    rss + pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                    cpu + (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
                )
        return found


def _conditions(resource: Document) -> list[Document]:
    found: list[Document] = resource.get("status", {}).get("conditions") or []
    return found


def _children(pid: int) -> list[int]:
    answer = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], check=False, capture_output=True, text=True
    )
    return [int(text) for text in answer.stdout.split()]
