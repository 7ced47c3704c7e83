"""What happens while the scale bench looks: heartbeats of nodes, and churn for the soak."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Any, Self

from e2e.demo_api import Api, Refused, path_of
from tests.bench.scale_hands import Bench

HEARTBEAT_S = 300.0
_MERGE = "application/strategic-merge-patch+json"


class _Thread:
    """A thread with a connection of its own that ends with the `with` block."""

    def __init__(self, connect: Callable[[], Api]) -> None:
        self._api = connect()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        """What the thread does."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join(30.0)
        self._api.close()

    def set_ready(self, node: str, ready: bool) -> None:
        """Writes a node's Ready condition, as its kubelet does; the time of the heartbeat is now."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition: dict[str, Any] = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": "KubeletReady" if ready else "KubeletNotReady",
            "lastHeartbeatTime": now,
        }
        path = path_of("Node", "", node, "status")
        with suppress(Refused):
            self._api.request("PATCH", path, {"status": {"conditions": [condition]}}, _MERGE)


class Heartbeats(_Thread):
    """Every node's status is written every `HEARTBEAT_S`, evenly spread."""

    def __init__(self, connect: Callable[[], Api], nodes: Sequence[dict[str, Any]]) -> None:
        super().__init__(connect)
        self._names = [node["metadata"]["name"] for node in nodes]
        self.written = 0

    def run(self) -> None:
        """Beat until the end."""
        began = time.monotonic()
        while not self._ending.is_set():
            due = (time.monotonic() - began) * len(self._names) / HEARTBEAT_S
            if self.written < due:
                self.set_ready(self._names[self.written % len(self._names)], True)
                self.written += 1
            else:
                self._ending.wait(0.02)


class Churn(_Thread):
    """A node flaps, specs are edited, pods fail: one thing every few seconds, in turns."""

    EVERY_S = 6.0

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.connect)
        self._bench = bench
        self._random = Random(4)
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        """Churn until the end."""
        node = min(node for node, _ in self._bench.pods().values())
        pools = self._bench.api.list("ServingPool")
        turn = 0
        while not self._ending.wait(self.EVERY_S):
            what = ("edit", "fail", "flap")[turn % 3]
            turn += 1
            with suppress(Refused):
                if what == "flap":
                    self._flap(node)
                elif what == "edit":
                    self._edit(self._random.choice(pools))
                else:
                    self._fail()
            self.done[what] += 1

    def _flap(self, node: str) -> None:
        self.set_ready(node, False)
        self._ending.wait(2.0)
        self.set_ready(node, True)

    def _edit(self, pool: dict[str, Any]) -> None:
        asked = float(pool["spec"]["workload"]["requestsPerSecond"])
        rate = f"{asked * self._random.uniform(0.9, 1.1):.2f}"
        change = {"spec": {"workload": {"requestsPerSecond": rate}}}
        metadata = pool["metadata"]
        self._api.patch("ServingPool", metadata["namespace"], metadata["name"], change)

    def _fail(self) -> None:
        """A pod of ours is evicted."""
        namespace = f"team-{self._random.randrange(20)}"
        path = path_of("Pod", namespace) + "?labelSelector=motley.dev/replica&limit=20"
        pods = self._api.request("GET", path).get("items") or []
        if pods:
            name = self._random.choice(pods)["metadata"]["name"]
            change = {"status": {"phase": "Failed", "reason": "Evicted"}}
            self._api.request("PATCH", path_of("Pod", namespace, name, "status"), change, _MERGE)


def slope(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """MiB an hour and its standard error, of (second, MiB): least squares over ten means.

    Neighbouring samples of memory are not independent; means of tenths nearly are.
    """
    tenths = [samples[len(samples) * i // 10 : len(samples) * (i + 1) // 10] for i in range(10)]
    points = [
        (statistics.fmean(at for at, _ in part) / 3600.0, statistics.fmean(rss for _, rss in part))
        for part in tenths
        if part
    ]
    x0, y0 = (statistics.fmean(column) for column in zip(*points, strict=True))
    spread = sum((x - x0) ** 2 for x, _ in points)
    found = sum((x - x0) * (y - y0) for x, y in points) / spread
    rest = sum((y - y0 - found * (x - x0)) ** 2 for x, y in points)
    return found, (rest / max(1, len(points) - 2) / spread) ** 0.5
