"""Motley on a test cluster: CRDs, the chart's RBAC, examples, and the operator as a process."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from e2e import demo_operator
from e2e.cluster import processes
from e2e.cluster.components import free_ports
from e2e.cluster.processes import Process
from e2e.demo_api import Api, Refused
from e2e.demo_picture import RESOURCE_KINDS, Picture, take

ROOT = Path(__file__).parent.parent
POLL_S = 0.03
CALM_S = 3.0  # longer than a solve, so that a plan in the making is waited for
SEARCH_DUE = "motley_plan_search_due_timestamp_seconds "
CARRIED_OUT_S = 1.0  # once the plan is there: longer than what is left to do stands still


@dataclass(slots=True)
class Installation:
    """An installed operator and hands to use it with."""

    api: Api
    folder: Path
    process: Process | None = None
    created: list[tuple[str, str, str]] = field(default_factory=list)
    metrics_port: int = 0

    @classmethod
    def install(cls, kubeconfig: Path, folder: Path) -> Installation:
        """CRDs, RBAC and the operator's own kubeconfig; the operator is not started yet."""
        api = Api(str(kubeconfig))
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text()):
                api.apply(manifest)
        demo_operator.install_rbac(api)
        demo_operator.write_kubeconfig(api, folder / "operator.kubeconfig")
        made = cls(api, folder)
        made.wait(made._serves_kinds, 20.0, "the custom resources are served")
        return made

    def _serves_kinds(self) -> bool:
        with suppress(Refused):
            for kind in RESOURCE_KINDS:
                self.api.list(kind)
            return True
        return False

    def start(self, *flags: str) -> None:
        """Starts the operator; flags more than those of every test are its own."""
        self.metrics_port = free_ports(("metrics",))["metrics"]
        port = f"--metrics-port={self.metrics_port}"
        self.process = demo_operator.start(self.folder, port, *flags)

    def grant(self, file: str) -> None:
        """Gives the operator rules of the chart that are granted only where asked for."""
        demo_operator.grant(self.api, file.removesuffix(".yaml"), file)

    def kill(self) -> None:
        """SIGKILL, as an out-of-memory kill does it."""
        assert self.process is not None
        processes.stop(self.process, grace_s=0.0)

    def clear(self, grace_s: int | None = None) -> None:
        """Deletes what was applied and its pods, and waits for them to go.

        The garbage collector deletes them, too, but hears of kinds that are new up to 30 s later.
        No `grace_s`: they have the time that their specs say.
        """
        for kind, namespace, name in reversed(self.created):
            with suppress(Refused):
                self.api.delete(kind, namespace, name)
        self.created.clear()
        with suppress(AssertionError):
            self.wait(lambda: self._without_pods(grace_s), 60.0, "all pods are gone")

    def _without_pods(self, grace_s: int | None) -> bool:
        pods = self.look().pods.values()
        for pod in pods:
            if grace_s is not None or not pod.deleting:
                self.api.delete("Pod", pod.namespace, pod.name, grace_s)
        return not pods

    def stop(self) -> None:
        """Ends the operator, deletes what was applied, and closes the connection.

        The operator ends, too, where the API server cannot be reached any more.
        """
        try:
            self.clear(grace_s=0)
        finally:
            demo_operator.stop(self.folder)
            self.api.close()

    def apply_examples(self) -> None:
        """examples/, referred-to objects first."""
        manifests = [
            document
            for path in sorted((ROOT / "examples").rglob("*.yaml"))
            for document in yaml.safe_load_all(path.read_text())
            if document
        ]
        manifests.sort(key=lambda m: (m["kind"] in RESOURCE_KINDS, m["kind"] != "Namespace"))
        self.apply(manifests)

    def apply(self, manifests: Iterable[dict[str, Any]]) -> None:
        """Applies objects and remembers the custom resources among them."""
        for manifest in manifests:
            self.api.apply(manifest)
            metadata = manifest["metadata"]
            if manifest["kind"] in (*RESOURCE_KINDS, "Fleet"):
                place = (manifest["kind"], metadata.get("namespace", ""), metadata["name"])
                self.created.append(place)

    def look(self) -> Picture:
        """Resources and pods now."""
        return take(self.api)

    def settle(self, timeout_s: float = 60.0, calm_s: float = CALM_S) -> Picture:
        """Waits until every resource and pod is Ready and stays so for `calm_s`; the picture then.

        A status tells of a plan before its first pod moves, so one look is not enough.
        """
        since: list[float] = []

        def is_calm() -> bool:
            if not self.look().is_settled():
                since.clear()
                return False
            since.append(time.monotonic())
            return since[-1] - since[0] >= calm_s

        self.wait(is_calm, timeout_s, "everything is Ready")
        return self.look()

    def rest(self) -> Picture:
        """Settled, and no plan is owed a longer search: it was cut short, and what follows may move pods."""
        picture = self.settle()
        while self._is_search_due():
            self.wait(lambda: not self._is_search_due(), 90.0, "no longer search is due")
            picture = self.settle()
        return picture

    def _is_search_due(self) -> bool:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10.0) as reply:
            lines = reply.read().decode().splitlines()
        (due,) = (line.split()[1] for line in lines if line.startswith(SEARCH_DUE))
        return float(due) > 0.0

    def new_plan_s(self, before: Picture, keys: Iterable[str], act: Callable[[], object]) -> float:
        """Seconds from the API server's answer to `act` until each resource's status has a new plan."""
        wanted = sorted(keys)
        act()
        began = time.monotonic()

        def has_new_plans() -> bool:
            now = self.look().resources
            return all(now[k].plan_mark != before.resources[k].plan_mark for k in wanted)

        self.wait(has_new_plans, 30.0, f"new plans of {wanted}")
        return time.monotonic() - began

    def wait(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Polls until the predicate holds; AssertionError with the operator's log otherwise."""
        deadline = time.monotonic() + timeout_s
        while not predicate():
            if time.monotonic() > deadline:
                tail = demo_operator.log_tail(self.folder)
                saved = self.save_objects()
                raise AssertionError(f"not within {timeout_s:g} s: {what} ({saved})\n{tail}")
            time.sleep(POLL_S)

    def save_objects(self) -> Path:
        """Writes what a plan is made of to a file that `motley plan` reads, to look into later."""
        kinds = ("Node", "Pod", "ConfigMap", "PriorityClass", "Fleet", *RESOURCE_KINDS)
        found = [item | {"kind": kind} for kind in kinds for item in self.api.list(kind)]
        path = self.folder / f"objects-{time.time_ns()}.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": found}))
        return path
