"""Operator, gateway and engine as real pods: containers of this machine, from our own images.

Needs root, Linux and a few Debian packages (e2e/README.md); skipped with a sentence without them.
The tests build on each other: one node is started for all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2e import helm
from e2e.cluster import binaries, image_store, node_needs, node_system
from e2e.cluster import policies as enforcer
from e2e.cluster.binaries import BinariesError
from e2e.cluster.local import LocalCluster
from e2e.cluster.node_files import BRIDGE
from e2e.cluster.nodes import make_nodes
from e2e.cluster.state import ClusterError
from e2e.engines import models
from e2e.engines.models import MODELS, ModelsError
from e2e.helm import needs_helm
from e2e.live_questions import complete
from e2e.real_pods import NAMESPACE, USER, RealPods, askers, chart, on_real_node
from e2e.real_training import training

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SPACE, POOL, MODEL = "real", "small", "smollm2-135m"
# Every test here runs under these policies, enforced, where there is helm to render them.
CLOSED = (
    "networkPolicy.operator=true",
    "networkPolicy.engines=true",
    "networkPolicy.metricsNamespaces={monitoring}",
)
ASKERS = (SPACE, "monitoring", "elsewhere")  # namespaces with a pod of somebody else
PATIENCE_S = 90.0


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    reason = node_needs.missing() or node_needs.taken(Path())
    try:
        if not reason:
            models.ensure(MODEL)
            binaries.ensure(binaries.NODE_PROGRAMS)
    except (ModelsError, BinariesError, OSError) as error:
        reason = str(error)
    if reason:
        pytest.skip(f"no real node: {reason}")


@pytest.fixture(scope="module")
def pods(_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPods]:
    """A control plane with a real node and one of kwok's, which no pod of ours may take."""
    local = LocalCluster(tmp_path_factory.mktemp("real") / "state")
    (other,) = make_nodes("h100", prefix="played")
    taints = [{"key": "played", "effect": "NoSchedule"}]
    try:
        local.up([{**other, "spec": {"taints": taints}}], with_real_node=True)
        yield RealPods(local)
    finally:
        local.down()


def wait(pods: RealPods, holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"no {what}\n{pods.told()}"
        time.sleep(0.1)


def conditions(thing: dict[str, Any]) -> dict[str, str]:
    found = thing.get("status", {}).get("conditions") or ()
    return {one["type"]: one["status"] for one in found}


def ready_pods(pods: RealPods, namespace: str) -> list[str]:
    found = pods.get("pods", "-n", namespace)["items"]
    return sorted(
        one["metadata"]["name"] for one in found if conditions(one).get("Ready") == "True"
    )


def pool() -> list[dict[str, Any]]:
    """A namespace, weights that lie on the node, and a pool of the small model."""
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    size = {"storage": "1Gi"}
    claim = {"claimName": "weights", "subPath": f"{MODEL}.gguf"}
    spec = {
        "model": {
            "id": MODELS[MODEL].hugging_face_id,
            "precision": "int4",
            "source": {"type": "PersistentVolumeClaim", "persistentVolumeClaim": claim},
        },
        "engine": {"name": "llamacpp", "extraArgs": ["--ctx-size", "2048"]},
        "workload": {
            "requestsPerSecond": "1",
            "classes": [{"name": "all", "promptTokens": 100, "outputTokens": 20}],
        },
        "replan": {"nodeLossTolerance": 0},
        "gateway": {"replicas": 1},
    }
    return on_real_node([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}},
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "weights"},
         "spec": {**common, "capacity": size, "claimRef": {"namespace": SPACE, "name": "weights"}}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
         "metadata": {"name": "weights", "namespace": SPACE},
         "spec": {**common, "volumeName": "weights", "resources": {"requests": size}}},
        {"apiVersion": "motley.dev/v1alpha1", "kind": "ServingPool",
         "metadata": {"name": POOL, "namespace": SPACE}, "spec": spec},
    ])  # fmt: skip


def capital_of_france(pods: RealPods) -> str:
    """What the pool's gateway says that it is, asked by the Service's address as one asks a base model."""
    prompt = "The capital of Germany is Berlin. The capital of France is"
    return complete(pods.address_of(SPACE, f"{POOL}-gateway"), prompt, POOL).lower()


def test_a_kubelet_and_kwok_each_look_after_their_own_node(pods: RealPods) -> None:
    def nodes() -> dict[str, dict[str, Any]]:
        return {one["metadata"]["name"]: one for one in pods.get("nodes")["items"]}

    wait(
        pods,
        lambda: all(conditions(one).get("Ready") == "True" for one in nodes().values()),
        "nodes that are Ready",
    )
    real, played = nodes()["real-1"], nodes()["played-1"]
    assert real["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert played["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("kwok://")
    assert real["status"]["allocatable"]["nvidia.com/gpu"] == "4"


def test_the_chart_runs_the_operator_as_a_pod(pods: RealPods) -> None:
    pods.apply(chart(*(CLOSED if helm.find() else ())))
    wait(pods, lambda: len(ready_pods(pods, NAMESPACE)) == 1, "operator")
    (container,) = pods.containers(NAMESPACE)
    assert [container.pod] == ready_pods(pods, NAMESPACE)
    assert container.name == "operator"


def test_a_pool_is_served_by_pods_through_the_gateways_service(pods: RealPods) -> None:
    pods.apply(pool())
    wait(pods, lambda: len(ready_pods(pods, SPACE)) == 2, "gateway and engine")
    assert [one.pod for one in pods.containers(SPACE)] == ready_pods(pods, SPACE)
    assert {one.name for one in pods.containers(SPACE)} == {"engine", "gateway"}
    assert "paris" in capital_of_france(pods)


@pytest.fixture(scope="module")
def asked(pods: RealPods) -> Callable[[str, str], dict[str, str]]:
    """What a GET of a port and path meets, by the namespace that asks; one pod asks in each."""
    if reason := enforcer.missing():
        pytest.skip(reason)
    pods.apply(askers(ASKERS))
    wait(pods, lambda: all("asker" in ready_pods(pods, s) for s in ASKERS), "pods that ask")

    def ask(host: str, path: str) -> dict[str, str]:
        url = f"http://{host}{path}"
        with ThreadPoolExecutor(len(ASKERS)) as threads:  # silence is waited for, by all at once
            met = threads.map(lambda space: pods.reach("asker", space, url), ASKERS)
            return dict(zip(ASKERS, met, strict=True))

    return ask


@needs_helm
@pytest.mark.parametrize("path", ["/metrics", "/health", "/props", "/slots", "/v1/models"])
def test_an_engine_is_silent_to_strangers_and_not_to_who_scrapes(
    pods: RealPods, asked: Callable[[str, str], dict[str, str]], path: str
) -> None:
    _, engine = pods.only(SPACE, "serve")
    scraped = ("asker", "monitoring", f"http://{engine}:8080{path}")
    wait(pods, lambda: pods.reach(*scraped) != "silence", "way to scrape")
    met = asked(f"{engine}:8080", path)
    assert met["monitoring"] in ("200", "501"), "a namespace that is named reaches the whole port"
    assert {met[SPACE], met["elsewhere"]} == {"silence"}


@needs_helm
def test_the_gateway_reaches_its_engine_on_its_port_and_on_no_other(
    pods: RealPods, asked: Callable[[str, str], dict[str, str]]
) -> None:
    gateway, _ = pods.only(SPACE, "gateway")
    _, engine = pods.only(SPACE, "serve")
    assert pods.reach(gateway, SPACE, f"http://{engine}:8080/health") == "200"
    assert pods.reach(gateway, SPACE, f"http://{engine}:8081/") == "silence"
    # Where no policy is, a port on which nobody listens says so: the silence is a policy's.
    (open_,) = (one for one in pods.get("pods", "-n", "elsewhere")["items"])
    assert set(asked(f"{open_['status']['podIP']}:8081", "/").values()) == {"refused"}


@needs_helm
def test_everybody_reaches_the_gateway_by_its_service_and_nobody_another_port(
    pods: RealPods, asked: Callable[[str, str], dict[str, str]]
) -> None:
    url = pods.address_of(SPACE, f"{POOL}-gateway").removeprefix("http://")
    _, gateway = pods.only(SPACE, "gateway")
    for path in ("/v1/models", "/metrics"):
        assert set(asked(url, path).values()) == {"200"}
    assert set(asked(f"{gateway}:8081", "/").values()) == {"silence"}


@needs_helm
def test_the_operators_metrics_are_for_the_named_namespace_and_its_probes_for_nobody(
    pods: RealPods, asked: Callable[[str, str], dict[str, str]]
) -> None:
    _, operator = pods.only(NAMESPACE, "operator")
    url = pods.address_of(NAMESPACE, "motley-metrics").removeprefix("http://")
    for host in (url, f"{operator}:9090"):
        met = asked(host, "/metrics")
        assert met.pop("monitoring") == "200"
        assert set(met.values()) == {"silence"}
    assert set(asked(f"{operator}:8081", "/healthz").values()) == {"silence"}
    (told,) = pods.get("pods", "-n", NAMESPACE)["items"]
    assert [one["restartCount"] for one in told["status"]["containerStatuses"]] == [0]


def test_all_of_them_run_as_the_restricted_profile_says(pods: RealPods) -> None:
    found = [*pods.containers(NAMESPACE), *pods.containers(SPACE)]
    found = [one for one in found if one.pod != "asker"]
    assert len(found) == 3
    for container in found:
        status = container.status()
        assert status["Uid"].split() == [str(USER)] * 4, container
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, container
        assert status["NoNewPrivs"] == "1", container
        assert status["Seccomp"] == "2", "a filter, container's default"
        assert container.is_root_read_only() == (container.name != "engine"), container


def test_the_device_plugin_gives_the_engine_a_gpu_of_its_own(pods: RealPods) -> None:
    (engine,) = (one for one in pods.containers(SPACE) if one.name == "engine")
    variables = Path(f"/proc/{engine.pid}/environ").read_bytes().split(b"\0")
    (visible,) = (v for v in variables if v.startswith(b"NVIDIA_VISIBLE_DEVICES="))
    assert visible.partition(b"=")[2].startswith(b"GPU-")


def test_an_engine_that_is_killed_is_started_again_and_answers(pods: RealPods) -> None:
    (before,) = (one for one in pods.containers(SPACE) if one.name == "engine")
    os.kill(before.pid, signal.SIGKILL)

    def is_back() -> bool:
        status = pods.get("pod", "-n", SPACE, before.pod)["status"]
        (container,) = status["containerStatuses"]
        return bool(container["restartCount"] == 1 and container["ready"])

    wait(pods, is_back, "restarted engine")
    assert "paris" in capital_of_france(pods)


def engines_of(pods: RealPods) -> dict[str, dict[str, Any]]:
    """The pool's engine pods, by name."""
    found = pods.get("pods", "-n", SPACE, "-l", "motley.dev/replica")["items"]
    return {one["metadata"]["name"]: one for one in found}


def plan_for(pods: RealPods, per_s: float) -> int:
    """Another rate; how many engines are ready once that is carried out."""
    change = {"spec": {"workload": {"requestsPerSecond": f"{per_s:g}"}}}
    pods.kubectl(
        "patch", "servingpool", "-n", SPACE, POOL, "--type=merge", f"-p={json.dumps(change)}"
    )

    def is_done() -> bool:
        found = pods.get("servingpool", "-n", SPACE, POOL)
        seen = found["status"].get("observedGeneration") == found["metadata"]["generation"]
        told = conditions(found)
        return bool(seen and told.get("Ready") == "True" and told.get("Reconciling") != "True")

    wait(pods, is_done, f"plan for {per_s:g} requests/s that is carried out")
    return len(engines_of(pods))


def running_at(pod: dict[str, Any]) -> float:
    """Requests that an engine answers now, as it counts them."""
    with urllib.request.urlopen(
        f"http://{pod['status']['podIP']}:8080/metrics", timeout=10
    ) as told:
        rows = told.read().decode().splitlines()
    return sum(
        float(row.split()[-1]) for row in rows if row.startswith("vllm:num_requests_running")
    )


class Stream(threading.Thread):
    """One long answer, read as it comes."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.parts, self.is_whole, self.ended_at = url, 0, False, 0.0
        self.reason = ""
        self.start()

    def run(self) -> None:
        body = {"model": POOL, "prompt": "Once upon a time", "max_tokens": 900, "stream": True}
        request = urllib.request.Request(
            f"{self.url}/v1/completions",
            json.dumps({**body, "ignore_eos": True}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    self.parts += 1
                    for choice in json.loads(line[6:]).get("choices") or ():
                        self.reason = choice.get("finish_reason") or self.reason
                self.is_whole |= line.strip() == b"data: [DONE]"
        self.ended_at = time.time()


def test_an_engine_that_a_plan_stops_finishes_what_it_answers(pods: RealPods) -> None:
    """Out of the Service, a pause, SIGTERM, and the engine ends what runs: no stream is cut."""
    for per_s in (30, 100, 300, 1000, 3000):
        if plan_for(pods, per_s) > 1:
            break
    before = engines_of(pods)
    assert len(before) > 1, "no rate takes more than one engine"
    one, other = list(before)[:2]  # ranks meet on ports that they choose; nobody listens there now
    rank = f"http://{before[other]['status']['podIP']}:29500/"
    assert pods.reach(one, SPACE, rank) == "refused"
    url = pods.address_of(SPACE, f"{POOL}-gateway")
    streams = [Stream(url) for _ in range(2 * len(before))]
    wait(pods, lambda: all(one.parts > 3 for one in streams), "streams that have begun")
    assert all(running_at(pod) >= 1 for pod in before.values())
    change = {"spec": {"workload": {"requestsPerSecond": "1"}}}
    pods.kubectl(
        "patch", "servingpool", "-n", SPACE, POOL, "--type=merge", f"-p={json.dumps(change)}"
    )

    def leaving() -> list[str]:
        found = engines_of(pods).items()
        return [name for name, one in found if "deletionTimestamp" in one["metadata"]]

    wait(pods, lambda: bool(leaving()), "engines that are asked to end")
    asked_at, gone = time.time(), set(leaving())
    for one in streams:
        one.join(PATIENCE_S)
    # A part may hold several tokens, such as those of one letter: the engine says that all 900 came.
    told = [(one.is_whole, one.reason, one.parts) for one in streams]
    assert all(is_whole and reason == "length" for is_whole, reason, _ in told), told
    assert max(one.ended_at for one in streams) > asked_at, "they were over before"
    wait(pods, lambda: not gone & engines_of(pods).keys(), "end of the engines")
    wait(pods, lambda: len(engines_of(pods)) == 1, "one engine for the lower rate")
    assert "paris" in capital_of_france(pods)


def test_pods_go_with_their_resource(pods: RealPods) -> None:
    assert pods.cluster.real_node.is_up(), "none of its programs has ended, the enforcer neither"
    ours = ("-n", SPACE, "-l", "app.kubernetes.io/managed-by=motley")
    pods.kubectl("delete", "servingpool", "-n", SPACE, POOL)
    wait(pods, lambda: not pods.get("pods", *ours)["items"], "end of the pods")
    assert [one for one in pods.containers(SPACE) if one.pod != "asker"] == []
    wait(pods, lambda: not pods.get("networkpolicy", *ours)["items"], "end of the policies")
    assert len(pods.containers(NAMESPACE)) == 1, "the operator runs on"


@pytest.mark.parametrize(("leaves_with", "cascade"), [(0, "background"), (3, "foreground")])
def test_a_trainer_saves_before_it_stops_and_the_next_one_goes_on_from_there(
    pods: RealPods, tmp_path: Path, leaves_with: int, cascade: str
) -> None:
    """Suspended, and let go while it saves: whatever its exit code, the job has not ended by it.

    Then deleted, and it saves again, in all the time of its own, when the job is gone already.
    """
    folder, name = tmp_path / "shared", f"count-{leaves_with}"
    for path in (tmp_path, folder):
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
    job = ("rljob", "-n", SPACE, name)

    def condition(kind: str) -> str:
        found = pods.get(*job).get("status", {}).get("conditions") or ()
        return next((one["reason"] for one in found if one["type"] == kind), "")

    def suspend(value: bool) -> None:
        change = json.dumps({"spec": {"suspend": value}})
        pods.kubectl("patch", *job, "--type=merge", f"-p={change}")

    def log() -> list[tuple[str, int, float]]:
        found = folder / name / "checkpoints" / "log"
        rows = [row.split() for row in found.read_text().splitlines()] if found.exists() else []
        return [(what, int(step), float(at)) for what, step, at in rows]

    pods.apply(training(SPACE, folder, leaves_with))
    wait(pods, lambda: condition("Ready") == "Running" and bool(log()), "trainer that runs")
    suspend(True)
    wait(pods, lambda: condition("Checkpointing") == "Suspending", "word of the checkpoint")
    suspend(False)
    wait(pods, lambda: len(log()) >= 3 and condition("Ready") == "Running", "next trainer")
    (_, first, _), (ended, last, ended_at), (began, resumed, began_at) = log()
    assert (ended, began, first) == ("ended", "began", 0)
    assert 0 < resumed < last, "what was saved, while it went on"
    assert ended_at < began_at
    status = pods.get(*job)["status"]
    assert status.get("failures", 0) == 0 and not status.get("suspects")
    assert not {"Complete", "Failed", "Checkpointing"} & set(conditions({"status": status}))
    ours = ("-n", SPACE, "-l", f"motley.dev/kind=RLJob,motley.dev/resource={name}")
    trainers = (*ours[:3], f"{ours[3]},motley.dev/role=trainer")
    ending: list[Any] = []

    def is_told() -> bool:
        ending[:] = pods.get("pods", *trainers)["items"]
        return any("deletionTimestamp" in one["metadata"] for one in ending)

    pods.kubectl("delete", "rljob", "-n", SPACE, name, f"--cascade={cascade}")
    wait(pods, is_told, "deletion of the trainer")
    (trainer,) = ending
    assert trainer["metadata"]["deletionGracePeriodSeconds"] == 60 + 120
    wait(pods, lambda: not pods.get("services", *ours)["items"], "end of the Services")
    assert pods.get("pods", *trainers)["items"], "it saves, without its Service"
    wait(pods, lambda: not pods.get("pods", *ours)["items"], "end of the pods")
    saved, (what, last, _) = int((folder / name / "checkpoints" / "step").read_text()), log()[-1]
    assert (what, len(log())) == ("ended", 4)
    assert resumed < saved < last


def test_a_second_real_node_is_refused(pods: RealPods, tmp_path: Path) -> None:
    other = LocalCluster(tmp_path / "other")
    with pytest.raises(ClusterError, match="has a real node already"):
        other.up(with_real_node=True)
    other.down()
    assert pods.cluster.real_node.is_up()


def test_down_leaves_nothing_of_a_node_with_pods(pods: RealPods) -> None:
    node = pods.cluster.real_node
    folders = node.record().folders
    assert node.traces(), "there was something to leave"
    assert pods.cluster.down()
    assert node.traces() == []
    assert [path for path in folders if Path(path).exists()] == []
    assert not pods.cluster.directory.exists()
    assert node_needs.owner() is None


@pytest.mark.parametrize("program", ["holder", "kubelet"])
def test_down_clears_up_after_a_program_that_was_killed(
    _possible: None, tmp_path: Path, program: str
) -> None:
    directory = tmp_path / "state"
    argv = [sys.executable, "-m", "e2e.cluster", "up", "--real-node", "--state", str(directory)]
    up = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    node = LocalCluster(directory).real_node
    deadline = time.monotonic() + PATIENCE_S
    while not (node.exists() and program in node.record().programs):
        assert up.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    up.kill()
    up.wait()
    assert node.traces()
    assert LocalCluster(directory).down()
    assert node.traces() == []
    assert not node_system.has_interface(BRIDGE)
    assert image_store.folder().is_dir(), "what is kept for the next start"
