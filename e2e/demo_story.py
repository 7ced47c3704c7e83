"""The demo's chapters: start, apply, lose a node, add nodes, tighten a budget."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2e import demo_operator, demo_view
from e2e.cluster import processes
from e2e.cluster.nodes import demo_nodes, make_nodes
from e2e.cluster.processes import Process
from e2e.cluster.state import ClusterError
from e2e.demo_api import Api, Refused, path_of
from e2e.demo_picture import RESOURCE_KINDS, Picture, ResourceView, take
from e2e.demo_view import View

ROOT = Path(__file__).parent.parent
JOINING = (("h100", "h100-new"), ("l40s", "l40s-new"))
SETTLE_S = 60.0
REST_S = 2.5  # a rollout takes steps; between two of them all may be ready for a moment
QUIET_S = 3.0  # no new plan for so long means that the operator sees no reason for one
BUDGET_SHARE = 0.7
MIN_IMPROVEMENT = 0.05  # the example Fleet's replan.minImprovement


@dataclass(slots=True)
class Demo:
    """One run: where it keeps its files, what it talks to, and what it prints on."""

    folder: Path
    kubeconfig: str
    api: Api
    view: View
    process: Process | None = None  # the operator's

    def look(self) -> Picture:
        """The picture now; ends the demo if the operator is not there any more."""
        if self.process is not None and not processes.is_alive(self.process):
            tail = demo_operator.log_tail(self.folder)
            raise ClusterError(f"the operator has ended; the end of its log:\n{tail}")
        return take(self.api)

    def settle(self, what: str) -> Picture:
        """Waits until every resource and pod is ready and stays so, and expects it."""
        last: tuple[tuple[object, ...], float] = ((), 0.0)

        def is_at_rest(picture: Picture) -> bool:
            nonlocal last
            now = time.monotonic()
            if not picture.is_settled() or picture.mark() != last[0]:
                last = (picture.mark(), now)
            return now - last[1] >= REST_S

        picture, took = demo_view.wait(self.view, self.look, is_at_rest, SETTLE_S)
        self.view.expect(took is not None, f"{what}: all resources Ready, all pods ready")
        return picture

    def gpus(self) -> dict[str, str]:
        """What each node has, by name: "8 x NVIDIA-H100-80GB-HBM3"."""
        found = {}
        for node in self.api.list("Node"):
            labels = node["metadata"].get("labels") or {}
            count = labels.get("nvidia.com/gpu.count", "0")
            found[node["metadata"]["name"]] = f"{count} x {labels.get('nvidia.com/gpu.product')}"
        return found


def tell(demo: Demo) -> None:
    """All chapters, in order."""
    _prepare(demo)
    _apply_examples(demo)
    _lose_a_node(demo)
    _add_nodes(demo)
    _tighten_a_budget(demo)


def _prepare(demo: Demo) -> None:
    view, api = demo.view, demo.api
    for node in demo_nodes():
        _create_node(api, node)
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            api.apply(manifest)
    demo_operator.install_rbac(api)
    demo_operator.write_kubeconfig(api, demo.folder / "operator.kubeconfig")
    _await_crds(api)
    demo.process = demo_operator.start(demo.folder)
    view.event("12 nodes, CRDs and RBAC are there; the operator runs as its own service account")
    view.line()
    demo_view.seats(view, Picture({}, {}), demo.gpus())


def _create_node(api: Api, node: dict[str, Any]) -> None:
    try:
        api.request("POST", path_of("Node"), node)
    except Refused as error:
        if error.status != 409:
            raise


def _await_crds(api: Api) -> None:
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        try:
            for kind in RESOURCE_KINDS:
                api.list(kind)
            return
        except Refused:
            time.sleep(0.1)
    raise ClusterError("the API server does not serve the custom resources after 20 s")


def _apply_examples(demo: Demo) -> None:
    view = demo.view
    view.title("kubectl apply -f examples/")
    began = time.monotonic()
    manifests = [
        document
        for path in sorted((ROOT / "examples").rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]
    namespaces = {m["metadata"]["namespace"] for m in manifests if "namespace" in m["metadata"]}
    for name in sorted(namespaces):
        demo.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    # What resources refer to comes first, so that nobody sees a reference to nothing.
    manifests.sort(key=lambda manifest: manifest["kind"] in RESOURCE_KINDS)
    for manifest in manifests:
        demo.api.apply(manifest)
    picture = demo.settle("the examples")
    took = time.monotonic() - began - REST_S
    view.line()
    demo_view.seats(view, picture, demo.gpus())
    view.line()
    demo_view.prices(view, picture)
    kinds = {one.key.partition("/")[0] for one in picture.resources.values()}
    view.expect(kinds == set(RESOURCE_KINDS), "a cascade, a pool and an RL job are planned")
    view.expect(all(p.node for p in picture.live().values()), "every pod is bound to a node")
    view.fact("examples applied, planned and Ready", f"{took:.1f} s")
    view.fact("pods on nodes", f"{len(picture.live())} on {len(picture.by_node())} nodes")


def _lose_a_node(demo: Demo) -> None:
    view, before = demo.view, demo.look()
    own = {path.rpartition("/")[2] for path in demo.api.created if "/nodes/" in path}
    node = _node_to_lose(before, own)
    lost = {uid: pod for uid, pod in before.live().items() if pod.node == node}
    affected = {pod.key for pod in lost.values()}
    view.title(f"kubectl delete node {node}   ({len(lost)} pods run there)")
    demo.api.delete("Node", "", node)

    def is_replanned(picture: Picture) -> bool:
        marks = {key: before.resources[key].plan_mark for key in affected}
        return all(picture.resources[key].plan_mark != mark for key, mark in marks.items())

    _, planned_s = demo_view.wait(view, demo.look, is_replanned, SETTLE_S)
    view.expect(planned_s is not None and planned_s < 3.0, "a new plan in status within 3 s")
    after = demo.settle("without the node")
    view.line()
    demo_view.compare(view, before, after)
    survivors = before.live().keys() - lost.keys()
    unharmed = len(survivors & after.live().keys())
    view.expect(
        unharmed == len(survivors), f"{unharmed} of {len(survivors)} surviving pods keep their UID"
    )
    view.expect(
        all(pod.node != node for pod in after.live().values()), "no pod is left on the node"
    )
    view.fact("node deleted -> new plan in status", f"{planned_s or 0.0:.2f} s")
    view.fact("surviving pods that kept their UID", f"{unharmed} of {len(survivors)}")


def _node_to_lose(picture: Picture, own: set[str]) -> str:
    """The demo's node with most replicas of services: a job's trainer is not where the story is."""
    trainers = {pod.node for pod in picture.live().values() if pod.stage == "trainer"}
    by_node = {n: c for n, c in picture.by_node().items() if n in own}
    counts = {n: c for n, c in by_node.items() if n not in trainers} or by_node
    if not counts:
        raise ClusterError("no replica runs on a node of the demo, so none can be lost")
    return max(sorted(counts), key=lambda name: counts[name])


def _add_nodes(demo: Demo) -> None:
    view, before = demo.view, demo.look()
    nodes = [node for shape, name in JOINING for node in make_nodes(shape, prefix=name)]
    view.title(f"{len(nodes)} nodes join: {', '.join(n['metadata']['name'] for n in nodes)}")
    for node in nodes:
        _create_node(demo.api, node)

    def is_replanned(picture: Picture) -> bool:
        marks = {key: one.plan_mark for key, one in before.resources.items()}
        return any(picture.resources[key].plan_mark != mark for key, mark in marks.items())

    _, took = demo_view.wait(view, demo.look, is_replanned, QUIET_S)
    after = demo.settle("with the new nodes")
    view.line()
    demo_view.compare(view, before, after)
    if took is None:
        view.line("The plan stays: no use of the new nodes would be worth what moving costs.")
    gone = {u: p for u, p in before.live().items() if u not in after.live()}
    for key in sorted({pod.key for pod in gone.values()}):
        one, other = before.resources[key], after.resources[key]
        was, now = one.dollars_per_hour, other.dollars_per_hour
        if one.is_true("Planned"):
            saves = now < was * (1.0 - MIN_IMPROVEMENT)
            view.expect(saves, f"{key} moves because it saves: ${was:.2f}/h -> ${now:.2f}/h")
        else:
            was, now = _unserved(one), _unserved(other)
            text = f"{now:g} requests/s less than asked" if now else "all that was asked"
            view.expect(
                now < was, f"{key} moves because it was short by {was:g}: now it serves {text}"
            )
    others = {u for u, p in before.live().items() if p.key not in {q.key for q in gone.values()}}
    view.expect(others <= after.live().keys(), "nothing else that runs is disturbed")
    view.fact("pods that moved when nodes joined", str(len(gone)))


def _unserved(one: ResourceView) -> float:
    """Requests/s that the condition Planned says cannot be served."""
    planned = one.conditions["Planned"]
    found = re.search(r"([\d.]+) of [\d.]+ requests/s cannot be served", planned.message)
    return 0.0 if planned.status == "True" or found is None else float(found[1])


def _tighten_a_budget(demo: Demo) -> None:
    view, before = demo.view, demo.look()
    services = [one for one in before.resources.values() if not one.key.startswith("RLJob/")]
    chosen = max(services, key=lambda one: one.dollars_per_hour)
    budget = round(chosen.dollars_per_hour * BUDGET_SHARE, 2)
    kind, namespace, name = chosen.key.split("/")
    view.title(
        f"{name}: spec.budget.dollarsPerHour = {budget}   (it costs {chosen.dollars_per_hour})"
    )
    change = {"spec": {"budget": {"dollarsPerHour": str(budget)}}}
    demo.api.patch(kind, namespace, name, change)

    def is_decided(picture: Picture) -> bool:
        one = picture.resources[chosen.key]
        return one.observed == one.generation and one.dollars_per_hour <= budget + 1e-6

    after, took = demo_view.wait(view, demo.look, is_decided, SETTLE_S)
    view.expect(took is not None, f"a plan within the budget of ${budget}/h")
    after = demo.settle("within the budget")
    view.line()
    demo_view.compare(view, before, after)
    for kind, found in after.resources[chosen.key].conditions.items():
        if found.message:
            view.line(f"{kind}={found.status} {found.reason}: {found.message}")
    others = {u for u, p in before.live().items() if p.key != chosen.key}
    view.expect(others <= after.live().keys(), "no pod of another resource is touched")
    view.fact(f"budget of {name} tightened to", f"${budget}/h, planned in {took or 0.0:.2f} s")
