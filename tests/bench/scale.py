"""`python -m tests.bench.scale`: the operator on a real API server with thousands of nodes.

    python -m tests.bench.scale --nodes 1000 --resources 100 --pods 1000
    python -m tests.bench.scale --nodes 5000 --resources 500 --pods 5000
    python -m tests.bench.scale --nodes 1000 --resources 100 --pods 1000 --soak-s 1800
    python -m tests.bench.scale --nodes 24 --resources 8 --pods 16 --only-rest --rest-s 3600
    python -m tests.bench.scale --nodes 60 --resources 10 --pods 40 --only-failover

Control plane and nodes are those of e2e/cluster (kwok plays kubelets); operator, API server and this
program share the machine. Nodes are real-sized: 60 labels, 50 images, 15 KiB and more each. Each
node's status is written every five minutes while the bench looks at rest.
Printed, and put into docs/benchmarks.md (each size between its own marks) with --write:

    first plan      start of the operator -> every resource has a plan in its status
    loss            deletion of a node with replicas -> new plan in the status of one it served
    edit            a pool's rate is raised or lowered by 30 % -> the plan for that in its status
    burst           share of the nodes deleted at once; how many plans that made
    rest            CPU, memory and calls to the API server while nothing happens
    failover        the leader is killed -> the standby's first plan is in the status of a pool edited then
    restart         start of a new process -> its first cycle is done; no pod may change its UID
    soak            slope of memory while nodes flap, specs are edited and pods fail
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from e2e.cluster import processes
from e2e.cluster.local import LocalCluster
from e2e.motley import Installation
from tests.bench import page
from tests.bench.scale_failover import failover
from tests.bench.scale_hands import Bench, Lines, calls_in, is_write
from tests.bench.scale_load import Churn, Heartbeats, slope
from tests.bench.scale_objects import (
    AUDIT_POLICY,
    BURST_LABEL,
    namespace_objects,
    node_objects,
    pool_objects,
)


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """Every row of the page, in order."""
    nodes = node_objects(options.nodes)
    size = statistics.median(len(json.dumps(n)) for n in nodes) / 1024
    bench.say("nodes, GPUs, KiB a node", f"{len(nodes):,}, {8 * len(nodes):,}, {size:.1f}")
    bench.fill(namespace_objects())
    bench.fill(nodes)
    bench.fill(pool_objects(options.resources, options.pods))
    bench.wait(bench.are_nodes_ready, 300.0, "every node is Ready", poll_s=15.0)
    bench.say("load average before the start", f"{os.getloadavg()[0]:.1f}")
    began = bench.start()
    bench.wait(bench.has_plans, 300.0, "every pool has a plan", poll_s=0.5)
    bench.say("first plan of all, s", f"{time.monotonic() - began:.1f}")
    bench.wait(bench.are_ready, 400.0, "every pool is Ready", poll_s=2.0)
    bench.say("every resource Ready, s", f"{time.monotonic() - began:.1f}")
    bench.quiet()
    bench.say("resources, engine pods", f"{options.resources:,}, {len(bench.pods()):,}")
    if options.soak_s:
        _soak(bench, options)
        return
    if options.only_rest:
        _rest(bench, options)
        return
    if options.only_failover:
        failover(bench)
        return
    _losses(bench, options)
    _edits(bench, options)
    _rest(bench, options)
    _restart(bench)
    _burst(bench, options)
    failover(bench)


def _losses(bench: Bench, options: argparse.Namespace) -> None:
    took, random = [], Random(2)
    busy = sorted({node for node, _ in bench.pods().values()})
    for node in random.sample(busy, min(len(busy), options.events)):
        runs = sorted(key for _, key in bench.pods(node).values())
        if runs:
            bench.calm()
            took.append(bench.loss_s(node, runs[0]))
    _say_times(bench, "loss", took, "Node")
    bench.say("load average then", f"{os.getloadavg()[0]:.1f}")


def _edits(bench: Bench, options: argparse.Namespace) -> None:
    took, random = [], Random(4)
    pools = sorted({key for _, key in bench.pods().values()})
    for number, key in enumerate(random.sample(pools, min(len(pools), options.events))):
        bench.calm()
        took.append(bench.edit_s(key, 0.7 if number % 2 else 1.3))
    _say_times(bench, "edit of a rate", took, "ServingPool")


def _say_times(bench: Bench, what: str, took: list[float], cause: str) -> None:
    """Rows of the seconds from an event to its plan, and of the steps of the cycles that it caused."""
    took = sorted(took)
    figures = f"{statistics.median(took):.2f}, {nearest_rank(took, 0.95):.2f}, {took[-1]:.2f}"
    bench.say(f"{what} -> plan ({len(took)}): p50, p95, longest, s", figures, "p95 < 3")
    spent = [line for line in bench.cycles() if cause in line["message"]][-len(took) :]
    for step in ("gather_s", "decide_s", "apply_s"):
        bench.say(f"  of that {step}, median", f"{statistics.median(c[step] for c in spent):.2f}")


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The least value that this share of the values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def _rest(bench: Bench, options: argparse.Namespace) -> None:
    bench.quiet()
    with Heartbeats(bench.connect, bench.api.list("Node")) as beats:
        time.sleep(options.warm_s)
        log, before = Lines(bench.audit_log), bench.usage()
        log.new()
        began = time.monotonic()
        time.sleep(options.rest_s)
        after, seconds = bench.usage(), time.monotonic() - began
        calls, beaten = calls_in(log.new()), beats.written
    bench.say("heartbeats of nodes a second", f"{beaten / (seconds + options.warm_s):.1f}")
    for who, wanted in (("operator", "< 500"), ("solver", "")):
        bench.say(f"RSS of the {who}, MiB", f"{after[who][0]:.0f}", wanted)
    share = sum(after[who][1] - before[who][1] for who in after) / seconds
    bench.say("CPU at rest, % of a core", f"{100 * share:.1f}", "< 2")
    lists = sum(n for call, n in calls.items() if call.startswith("list "))
    bench.say("LISTs at rest", f"{lists}", "0")
    writes = sum(n for call, n in calls.items() if is_write(call))
    bench.say("writes at rest but the lease", f"{writes}", "0")
    watches = {call: n for call, n in calls.items() if call.startswith("watch ")}
    most = max(watches.values(), default=0)
    bench.say("most watches of a kind ended in that time", f"{most} in {seconds:.0f} s", "<= 12/h")
    words = ", ".join(f"{n} {what}" for what, n in sorted(calls.items())) or "none"
    if options.only_rest:
        bench.say(f"every call that ended in {seconds:.0f} s", words)
        bench.say("load average at the end", f"{os.getloadavg()[0]:.1f}")
    else:
        print(f"calls in {seconds:.0f} s: {words}", flush=True)


def _restart(bench: Bench) -> None:
    before = bench.pods()
    bench.motley.kill()
    began = bench.start()
    bench.wait(lambda: bool(bench.cycles()), 120.0, "a cycle")
    bench.say("restart -> first cycle done, s", f"{time.monotonic() - began:.1f}", "< 20")
    bench.quiet()
    after = bench.pods()
    bench.say("pods changed by the restart", f"{len(before.keys() ^ after.keys())}", "0")


def _burst(bench: Bench, options: argparse.Namespace) -> None:
    before, solves, cycles = bench.pods(), bench.solves(), len(bench.cycles())
    began = time.monotonic()
    gone = bench.drop_nodes(BURST_LABEL)
    deleted_s = time.monotonic() - began
    bench.wait(lambda: len(bench.cycles()) > cycles, 120.0, "a cycle after the burst", poll_s=0.5)
    bench.quiet()
    left = {uid for uid, (node, _) in before.items() if node not in set(gone)}
    moved = len(left - bench.pods().keys())
    bench.say("nodes deleted at once, s it took", f"{len(gone)}, {deleted_s:.1f}")
    bench.say("plans that made", f"{bench.solves() - solves}", "1")
    bench.say("survivors moved", f"{moved} of {len(left)}", "")
    most = bench.most_mib()
    bench.say("most RSS of the operator from its restart to here, MiB", f"{most:.0f}", "< 500")


def _soak(bench: Bench, options: argparse.Namespace) -> None:
    """Resident memory over time while nodes flap, specs are edited and pods fail."""
    samples: list[tuple[float, float]] = []
    began = time.monotonic()
    with Churn(bench) as churn:
        while (at := time.monotonic() - began) < options.soak_s:
            samples.append((at, bench.usage()["operator"][0]))
            time.sleep(5.0)
        done = churn.done
    last = [(at, rss) for at, rss in samples if at >= options.soak_s / 3]
    per_hour, error = slope(last)
    words = ", ".join(f"{n} {what}" for what, n in sorted(done.items()))
    bench.say("soak, s; what happened", f"{options.soak_s:g}; {words}")
    bench.say("RSS at a third and at the end, MiB", f"{last[0][1]:.1f}, {last[-1][1]:.1f}")
    bench.say("slope of its last two thirds, MiB/h", f"{per_hour:+.1f} +- {error:.1f}", "< 1")
    bench.say("load average at the end", f"{os.getloadavg()[0]:.1f}")
    failed = [
        line for line in Lines(bench.motley.folder / "operator.log").new() if "exception" in line
    ]
    bench.say("cycles, exceptions", f"{len(bench.cycles())}, {len(failed)}", "")
    if options.samples:
        Path(options.samples).write_text(json.dumps(samples))


def write(rows: list[tuple[str, str, str]], mark: str) -> None:
    """Puts the rows into the page."""
    lines = ["| what | measured | wanted |", "|---|---|---|"]
    lines += [f"| {what.strip()} | {figure} | {wanted} |" for what, figure, wanted in rows]
    page.put(mark, "\n".join(lines))


def flags_of(folder: Path, nodes: int) -> dict[str, tuple[str, ...]]:
    """Flags of the control plane beside those of the tests.

    Up to 2,000 nodes kwok renews their leases every 10 s. Beyond, that alone would be more than two
    cores bear: there are none then, and no node is taken for dead. The operator reads no such lease.
    """
    policy = folder / "audit-policy.yaml"
    policy.write_text(AUDIT_POLICY)
    leases = nodes <= 2000
    return {
        "kube-apiserver": (f"--audit-policy-file={policy}", "--delete-collection-workers=8"),
        "kube-controller-manager": (f"--node-monitor-grace-period={'50s' if leases else '2h'}",),
        "kwok": (f"--node-lease-duration-seconds={40 if leases else 0}",),
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the bench on a control plane of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--resources", type=int, default=100)
    parser.add_argument("--pods", type=int, default=1000, help="asked for, about")
    parser.add_argument(
        "--events", type=int, default=20, help="nodes lost, pools edited, one by one"
    )
    parser.add_argument("--rest-s", type=float, default=120.0)
    parser.add_argument(
        "--warm-s", type=float, default=20.0, help="of heartbeats, before rest is looked at"
    )
    parser.add_argument("--only-rest", action="store_true", help="look at rest, and at no more")
    parser.add_argument("--only-failover", action="store_true", help="look at no more than that")
    parser.add_argument("--soak-s", type=float, default=0.0, help="churn for so long, and no more")
    parser.add_argument("--samples", metavar="FILE", help="where the soak's samples go, as JSON")
    parser.add_argument("--write", action="store_true", help="put the rows into the page")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="motley-scale-") as name:
        folder = Path(name)
        flags = flags_of(folder, options.nodes)
        cluster = LocalCluster(folder / "state", flags)
        try:
            cluster.up()
            motley = Installation.install(cluster.kubeconfig, folder)
            (folder / "admin.kubeconfig").write_text(cluster.kubeconfig.read_text())
            bench = Bench(motley, cluster.audit_log)
            try:
                measure(bench, options)
            finally:
                if motley.process:
                    processes.stop(motley.process, grace_s=5.0)
                motley.api.close()
        finally:
            cluster.down()
    if options.write:
        only = "rest" if options.only_rest else "failover" if options.only_failover else ""
        mark = "soak" if options.soak_s else only
        write(bench.rows, mark or f"scale-{options.nodes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
