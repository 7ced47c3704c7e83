"""`python -m tests.bench.scale`: the operator on a real API server with thousands of nodes.

    python -m tests.bench.scale --nodes 1000 --resources 100
    python -m tests.bench.scale --nodes 5000 --resources 500 --pods 5000

Control plane and nodes are those of e2e/cluster (kwok plays kubelets); operator, API server and this
program share the machine. Nodes are real-sized: 60 labels, 50 images, 15 KiB and more each.
Printed, and put between the two `bench:scale` marks of docs/benchmarks.md with --write:

    first plan      start of the operator -> every resource has a plan in its status
    restart         the same with everything running; no pod may change its UID
    loss            deletion of a node with replicas -> new plan in the status of one it served
    burst           share of the nodes deleted at once; how many plans that made
    rest            CPU and calls to the API server while nothing happens
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from e2e import demo_operator
from e2e.cluster import processes
from e2e.cluster.local import LocalCluster
from e2e.cluster.nodes import make_mix
from e2e.demo_api import Api, path_of
from e2e.motley import Installation

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- bench:scale -->", "<!-- /bench:scale -->"
METRICS_PORT = 19101
NAMESPACES = 20
SHAPES = ("h100", "a100-80", "l40s", "l4")
# Model, precision, requests/s of one pool for each pod that a fleet is asked to run (about).
MODELS = (
    ("meta-llama/Llama-3.1-8B-Instruct", "bf16", 2.2),
    ("Qwen/Qwen3-32B", "bf16", 1.1),
    ("meta-llama/Llama-3.1-70B-Instruct", "fp8", 1.6),
)
POLL_S = 0.05


def node_objects(count: int) -> list[dict[str, Any]]:
    """Nodes of four shapes in equal parts, filled up to the size of real ones."""
    parts = [(shape, count // 4 + (i < count % 4)) for i, shape in enumerate(SHAPES)]
    nodes = make_mix(parts)
    for number, node in enumerate(nodes):
        labels = node["metadata"]["labels"]
        for i in range(60 - len(labels)):
            labels[f"feature.node.kubernetes.io/cpu-cpuid.FEATURE-{i:02d}-SUPPORTED"] = "true"
        node["status"]["images"] = [
            {
                "names": [
                    f"images.example/team/platform/component-{i}-runtime@sha256:{number * 50 + i:064x}",
                    f"images.example/team/platform/component-{i}-runtime:v1.{i}.{number % 7}",
                ],
                "sizeBytes": 50_000_000 + i,
            }
            for i in range(50)
        ]
    return nodes


def pool_objects(count: int, pods: int) -> list[dict[str, Any]]:
    """Pools of three models that ask for about so many pods together; the same in every run."""
    random = Random(1)
    found = []
    for number in range(count):
        model, precision, rate = MODELS[number % len(MODELS)]
        asked = rate * pods / count * random.uniform(0.6, 1.4)
        source = {"type": "HuggingFace", "huggingFace": {"revision": "main"}}
        chat = {"name": "chat", "promptTokens": 1200, "outputTokens": 300, "weight": 1}
        spec = {
            "model": {"id": model, "precision": precision, "source": source},
            "workload": {"requestsPerSecond": f"{asked:.2f}", "classes": [chat]},
            "slo": {"ttft": {"p95": "2s"}, "tpot": {"p95": "80ms"}},
            "parallelism": {"maxTensor": 4},
        }
        metadata = {"name": f"pool-{number}", "namespace": f"team-{number % NAMESPACES}"}
        kind = {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool"}
        found.append({**kind, "metadata": metadata, "spec": spec})
    return found


@dataclass(slots=True)
class Bench:
    """One run; `rows` is what it found, in order."""

    motley: Installation
    rows: list[tuple[str, str]] = field(default_factory=list)

    @property
    def api(self) -> Api:
        """The connection to the API server."""
        return self.motley.api

    def say(self, what: str, figure: str) -> None:
        """One more row."""
        self.rows.append((what, figure))
        print(f"{what:34s} {figure}", flush=True)

    def fill(self, objects: list[dict[str, Any]], threads: int = 4) -> None:
        """Creates objects over several connections."""

        def work(part: list[dict[str, Any]]) -> None:
            api = Api(str(self.motley.folder / "admin.kubeconfig"))
            for each in part:
                metadata = each["metadata"]
                path = path_of(each["kind"], metadata.get("namespace", ""))
                api.request("POST", path, each)
            api.close()

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [objects[i::threads] for i in range(threads)]))

    def start(self) -> float:
        """Starts the operator; Unix time of that."""
        began = time.time()
        self.motley.process = demo_operator.start(
            self.motley.folder, f"--metrics-port={METRICS_PORT}", "--log-format=json"
        )
        return began

    def metrics(self) -> dict[str, float]:
        """Every series of the operator; empty while it does not answer."""
        found = {}
        with suppress(OSError):
            url = f"http://127.0.0.1:{METRICS_PORT}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                for line in answer.read().decode().splitlines():
                    if not line.startswith("#"):
                        name, _, value = line.rpartition(" ")
                        found[name] = float(value)
        return found

    def plans(self) -> float:
        """Solves that the operator made since it started."""
        return self.metrics().get("motley_solve_seconds_count", 0.0)

    def calls(self) -> Counter[str]:
        """Calls to the API server since it started, by verb and resource."""
        found: Counter[str] = Counter()
        for name, value in self.metrics().items():
            if name.startswith("motley_api_calls_total{"):
                labels = dict(part.split("=") for part in name[24:-1].replace('"', "").split(","))
                found[f"{labels['verb']} {labels['resource']}"] += int(value)
        return found

    def wait(self, holds: Callable[[], bool], limit_s: float, what: str) -> None:
        """Polls until it holds."""
        deadline = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}\n{demo_operator.log_tail(self.motley.folder)}")
            time.sleep(POLL_S)

    def quiet(self, limit_s: float = 300.0) -> None:
        """Waits until nothing was written for 10 s but the lease."""
        since, seen = time.monotonic(), Counter[str]()
        deadline = since + limit_s
        while time.monotonic() - since < 10.0:
            writes = ("create", "patch", "update", "delete")
            now = Counter(
                {
                    what: n
                    for what, n in self.calls().items()
                    if what.startswith(writes) and not what.endswith(" leases")
                }
            )
            if now != seen:
                since, seen = time.monotonic(), now
            if time.monotonic() > deadline:
                raise TimeoutError("never quiet")
            time.sleep(1.0)

    def pods(self) -> dict[str, tuple[str, str]]:
        """UID -> (node, "namespace/resource") of every engine pod that is bound and not being deleted."""
        found = {}
        for pod in self.api.list("Pod", labelSelector="motley.dev/replica"):
            if "deletionTimestamp" not in pod["metadata"] and "nodeName" in pod["spec"]:
                labels = pod["metadata"]["labels"]
                key = f"{pod['metadata']['namespace']}/{labels['motley.dev/resource']}"
                found[pod["metadata"]["uid"]] = (pod["spec"]["nodeName"], key)
        return found

    def has_plans(self) -> bool:
        """Whether every pool has a plan in its status."""
        return all(p.get("status", {}).get("plan") for p in self.api.list("ServingPool"))

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

    def process_figures(self) -> tuple[float, float]:
        """RSS in MiB and CPU seconds so far of the operator and its solver processes."""
        assert self.motley.process is not None
        own = self.motley.process.pid
        ids = [own, *_children(own)]
        rss = cpu = 0.0
        for pid in ids:
            with suppress(OSError):
                text = Path(f"/proc/{pid}/statm").read_text().split()
                rss += int(text[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
                times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                cpu += (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        return rss, cpu


def _children(pid: int) -> list[int]:
    answer = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], check=False, capture_output=True, text=True
    )
    return [int(text) for text in answer.stdout.split()]


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """Every row of the page, in order."""
    nodes = node_objects(options.nodes)
    size = statistics.median(len(json.dumps(n)) for n in nodes) / 1024
    bench.say("nodes, GPUs, KiB a node", f"{len(nodes)}, {8 * len(nodes)}, {size:.1f}")
    bench.fill([_namespace(i) for i in range(NAMESPACES)])
    bench.fill(nodes)
    bench.fill(pool_objects(options.resources, options.pods))
    bench.start()
    began = time.monotonic()
    bench.wait(bench.has_plans, 300.0, "every pool has a plan")
    bench.say("first plan, s", f"{time.monotonic() - began:.1f}")
    bench.quiet()
    running = bench.pods()
    bench.say("resources, pods", f"{options.resources}, {len(running)}")
    _losses(bench, options)
    _burst(bench, options)
    _rest(bench, options)
    _restart(bench)


def _losses(bench: Bench, options: argparse.Namespace) -> None:
    took, random = [], Random(2)
    for _ in range(options.events):
        pods = bench.pods()
        node, key = random.choice(sorted(set(pods.values())))
        took.append(bench.loss_s(node, key))
        time.sleep(2.0)
    took.sort()
    p95 = took[max(0, round(0.95 * len(took)) - 1)]
    bench.say(
        f"loss of a node ({len(took)}): p50, p95, s", f"{statistics.median(took):.2f}, {p95:.2f}"
    )


def _burst(bench: Bench, options: argparse.Namespace) -> None:
    bench.quiet()
    before, plans = bench.pods(), bench.plans()
    nodes = sorted(n["metadata"]["name"] for n in bench.api.list("Node"))
    gone = Random(3).sample(nodes, len(nodes) // 10)
    began = time.monotonic()
    for name in gone:
        bench.api.delete("Node", "", name)
    deleted_s = time.monotonic() - began
    bench.wait(lambda: bench.plans() > plans, 60.0, "a plan after the burst")
    bench.quiet()
    left = {uid for uid, (node, _) in before.items() if node not in set(gone)}
    moved = len(left - bench.pods().keys())
    bench.say("10 % of the nodes deleted in, s", f"{deleted_s:.1f}")
    bench.say("plans that made", f"{bench.plans() - plans:.0f}")
    bench.say("survivors moved", f"{moved} of {len(left)}")


def _rest(bench: Bench, options: argparse.Namespace) -> None:
    bench.quiet()
    (_, cpu), calls = bench.process_figures(), bench.calls()
    time.sleep(options.rest_s)
    rss, cpu_after = bench.process_figures()
    done = bench.calls() - calls
    bench.say("RSS with its solver process, MiB", f"{rss:.0f}")
    bench.say("CPU at rest, % of a core", f"{100 * (cpu_after - cpu) / options.rest_s:.1f}")
    words = ", ".join(f"{n} {what}" for what, n in sorted(done.items())) or "none"
    bench.say(f"calls in {options.rest_s:g} s at rest", words)


def _restart(bench: Bench) -> None:
    before = bench.pods()
    bench.motley.kill()
    bench.start()
    began = time.monotonic()
    bench.wait(
        lambda: bench.metrics().get('motley_cycles_total{result="done"}', 0.0) >= 1,
        120.0,
        "a cycle",
    )
    bench.say("restart -> first cycle done, s", f"{time.monotonic() - began:.1f}")
    bench.quiet()
    after = bench.pods()
    bench.say("pods changed by the restart", f"{len(before.keys() ^ after.keys())}")


def _namespace(number: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{number}"}}


def main(argv: list[str] | None = None) -> int:
    """Runs the bench on a control plane of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--resources", type=int, default=100)
    parser.add_argument("--pods", type=int, default=1000, help="asked for, about")
    parser.add_argument("--events", type=int, default=20, help="nodes lost one after another")
    parser.add_argument("--rest-s", type=float, default=120.0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="motley-scale-") as folder:
        cluster = LocalCluster(Path(folder) / "state")
        cluster.up()
        try:
            motley = Installation.install(cluster.kubeconfig, Path(folder))
            Path(folder, "admin.kubeconfig").write_text(cluster.kubeconfig.read_text())
            bench = Bench(motley)
            try:
                measure(bench, options)
            finally:
                if motley.process:
                    processes.stop(motley.process, grace_s=5.0)
        finally:
            cluster.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
