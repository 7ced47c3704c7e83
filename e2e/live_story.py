"""What happens in the live demo: load, an engine killed, a node lost, a higher rate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e import live_load
from e2e.cluster.process_nodes import ProcessNodes
from e2e.demo_api import Api, Document, path_of
from e2e.demo_view import View
from e2e.live_load import Answer
from e2e.live_manifests import CONFIDENCE, NAME, NAMESPACE, RATE, STAGES, Measured, manifests
from e2e.live_questions import calibration_table, mean
from e2e.motley import Installation
from motley_planner.candidates.policies import policies_from_table

KEY = f"ModelCascade/{NAMESPACE}/{NAME}"
SETTLE_S = 120.0
Event = tuple[float, str]


@dataclass(slots=True)
class Live:
    """One run."""

    view: View
    installation: Installation
    nodes: ProcessNodes
    stages: list[Measured]  # the weaker model first

    def table(self) -> str:
        """The calibration table, measured."""
        both = zip(STAGES, (one.outcomes for one in self.stages), strict=True)
        return calibration_table(list(both))

    def floor(self) -> float:
        """Half-way between the least and the most that a policy is certified to give."""
        offered = policies_from_table(self.table(), STAGES, CONFIDENCE)
        qualities = [policy.quality for policy in offered]
        return (min(qualities) + max(qualities)) / 2


def tell(live: Live, seconds: float) -> tuple[list[Answer], list[Event]]:
    """Applies the cascade, loads it, hurts it: all answers and what happened when."""
    view, floor = live.view, live.floor()
    view.title("kubectl apply: a cascade of both, and questions")
    live.installation.apply(manifests(live.stages, live.table(), floor))
    began = time.monotonic()
    live.installation.settle(SETTLE_S)
    live.installation.wait(lambda: bool(endpoints(live)), 30.0, "the gateway is in its Service")
    view.fact("applied, planned and answering", f"{time.monotonic() - began:.1f} s")
    answers: list[Answer] = []
    over = threading.Event()

    def load() -> None:
        mine = Live(view, _reader(live), live.nodes, live.stages)
        where = _cached(lambda: endpoints(mine))
        answers.extend(asyncio.run(live_load.run(where, NAME, RATE, over.is_set)))
        mine.installation.api.close()

    thread = threading.Thread(target=load)
    began = time.monotonic()
    thread.start()
    try:
        events = _hurt(live, seconds, began)
    finally:
        over.set()
        thread.join(120.0)
    return answers, events


def _hurt(live: Live, seconds: float, began: float) -> list[Event]:
    view, events, part = live.view, list[Event](), seconds / 4

    def happened(text: str) -> None:
        events.append((time.monotonic() - began, text))
        view.event(text)

    time.sleep(part)
    victim = min(pod.name for pod in live.installation.look().live().values())
    live.nodes.kill(f"{NAMESPACE}/{victim}")
    happened(f"SIGKILL to the engine of {victim}")
    time.sleep(part)
    node = _node_to_lose(live)
    before = live.installation.look()
    lost = live.nodes.lose(node)
    happened(f"{node} is gone with {len(lost)} pods")
    live.installation.wait(
        lambda: (
            live.installation.look().resources[KEY].plan_mark != before.resources[KEY].plan_mark
        ),
        30.0,
        "a new plan",
    )
    happened("the new plan is in the status")
    live.installation.settle(SETTLE_S)
    happened("all its replicas are ready")
    before = live.installation.look()
    rate = 2.5 * max(one.requests_per_s for one in live.stages)
    change = {"spec": {"workload": {"requestsPerSecond": f"{rate:.1f}"}}}
    live.installation.api.patch("ModelCascade", NAMESPACE, NAME, change)
    happened(f"{rate:.0f} requests/s are to be planned for")
    live.installation.wait(
        lambda: (
            live.installation.look().resources[KEY].plan_mark != before.resources[KEY].plan_mark
        ),
        30.0,
        "a plan for the new rate",
    )
    live.installation.settle(SETTLE_S)
    happened("its replicas are ready")
    time.sleep(part)
    return events


def judge(live: Live, answers: Sequence[Answer]) -> None:
    """What must hold of the answers."""
    view, failed = live.view, [one for one in answers if one.is_failed]
    view.title(f"{len(answers)} questions")
    for one in failed:
        view.line(f"at {one.sent_s:.1f} s: {one.status} {one.said}")
    streams = [one for one in failed if one.is_stream and one.status == 200]
    view.expect(len(failed) == len(streams), "no request failed but streams that had begun")
    plans = list(dict.fromkeys(one.plan for one in answers if one.plan))
    view.expect(len(plans) >= 2, "answers came by the old plan and by the new ones")
    planned = {str(group["stage"]) for group in live.installation.look().resources[KEY].groups}
    stages = {one.stage for one in answers if one.stage}
    view.expect(stages <= planned, "answers came from the models that are planned")
    view.expect(not live.nodes.failures, f"every pod lived as told {live.nodes.failures[:3]}")
    took = sorted(one.took_s for one in answers if not one.is_failed)
    right = sum(one.is_right for one in answers)
    view.fact("questions, streams cut with their pod", f"{len(answers)}, {len(streams)}")
    floor = live.floor()
    view.expect(right / len(answers) >= floor, f"the floor of {100 * floor:.0f} % holds")
    view.fact("right answers", f"{100 * right / len(answers):.0f} %")
    for name, one in zip(STAGES, live.stages, strict=True):
        used = "planned" if name in planned else "not planned: it saves nothing"
        view.fact(f"{one.name}, {100 * mean(one.outcomes, 'quality'):.0f} % right alone", used)
    if took:
        p50, p95 = took[len(took) // 2], took[int(0.95 * len(took))]
        view.fact("latency P50, P95", f"{p50:.2f} s, {p95:.2f} s")
    view.fact("plans that answered", str(len(plans)))


def endpoints(live: Live) -> list[str]:
    """Addresses of ready pods that the gateway's Service selects.

    The endpoints controller does the same, but an EndpointSlice may not hold loopback addresses.
    """
    api = live.installation.api
    path = f"/api/v1/namespaces/{NAMESPACE}/services/{NAME}-gateway"
    spec = api.request("GET", path)["spec"]
    wanted = ",".join(f"{key}={value}" for key, value in spec["selector"].items())
    found = []
    for pod in api.list("Pod", labelSelector=wanted):
        conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions") or ()}
        ports = pod["spec"]["containers"][0]["ports"]
        target = next(
            p["containerPort"] for p in ports if p["name"] == spec["ports"][0]["targetPort"]
        )
        if conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
            found.append(f"http://{pod['status']['podIP']}:{target}")
    return found


def _reader(live: Live) -> Installation:
    """The same cluster on a connection of its own, for another thread."""
    kubeconfig = str(live.nodes.kubeconfig)
    return Installation(Api(kubeconfig), live.installation.folder)


def _cached(read: Callable[[], list[str]], seconds: float = 0.2) -> Callable[[], list[str]]:
    """The reader, asked at most five times a second."""
    last: tuple[float, list[str]] = (0.0, [])

    def get() -> list[str]:
        nonlocal last
        if time.monotonic() - last[0] > seconds:
            last = (time.monotonic(), read())
        return last[1]

    return get


def _node_to_lose(live: Live) -> str:
    """A node with replicas and without the gateway."""
    pods = [p for p in live.installation.api.list("Pod") if p["metadata"]["namespace"] == NAMESPACE]
    by_role: dict[bool, set[str]] = {True: set(), False: set()}
    for pod in pods:
        is_gateway = pod["metadata"]["labels"].get("app.kubernetes.io/component") == "gateway"
        by_role[is_gateway].add(pod["spec"].get("nodeName", ""))
    return min(by_role[False] - by_role[True])


def server_of(kubeconfig: Path) -> str:
    """The API server's URL."""
    api = Api(str(kubeconfig))
    api.close()
    return api.server


def account_of(pod: Document, kubeconfig: Path, folder: Path) -> Path:
    """A folder with token and ca.crt of the pod's service account, as a kubelet mounts it."""
    namespace, name = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
    target = folder / f"{namespace}-{name}"
    target.mkdir(parents=True, exist_ok=True)
    api = Api(str(kubeconfig))
    wanted = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    path = path_of("ServiceAccount", namespace, name, "token")
    token = api.request("POST", path, wanted)["status"]["token"]
    (target / "token").write_text(token)
    (target / "ca.crt").write_bytes(api.ca_data or b"")
    api.close()
    return target
