"""Weights on a volume: a Job fetches them once, and no engine starts before they are there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from motley_operator.admission.counting import pod_use
from motley_operator.api import ServingPool, read
from motley_operator.domain.facts import PodFacts, Room
from motley_operator.domain.names import COMPONENT, WEIGHTS
from motley_operator.domain.weights import RETRY_S
from motley_operator.facts.pods import parse_pod
from motley_operator.manifests.frame import digest
from motley_operator.manifests.stages import stages_of
from motley_operator.testing import CALIBRATION, cascade, gpu_node, job, pool
from motley_operator.testing.operated import CATALOG, Operated, load
from motley_operator.translate import translate

CACHE = {"persistentVolumeClaim": {"claimName": "models", "subPath": "hub"}}
CACHED = {"id": "Qwen/Qwen3-8B", "cache": CACHE}
Document = dict[str, Any]


class Cached(Operated):
    """Jobs of a world, and hands to end them."""

    def jobs(self) -> dict[str, Document]:
        return {name: one for (kind, _, name), one in self.world.owned.items() if kind == "Job"}

    def tell(self, name: str, **status: Any) -> None:
        """A Job's status, as the Job controller writes it."""
        self.world.owned["Job", "team-a", name]["status"] = status

    def ended(self, kind: str) -> None:
        """Every Job ends so."""
        time = datetime.fromtimestamp(self.world.now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        row = {"type": kind, "status": "True", "lastTransitionTime": time, "message": "Backoff"}
        for name in self.jobs():
            self.tell(name, conditions=[row])

    def pod(self, name: str, **changes: Any) -> None:
        """A pod of a Job."""
        labels = self.jobs()[name]["spec"]["template"]["metadata"]["labels"]
        self.world.foreign_pod(f"{name}-x{len(self.world.pods)}", "cpu", Room(), namespace="team-a")
        at = next(reversed(self.world.pods))
        uid = self.jobs()[name]["metadata"]["uid"]
        made: dict[str, Any] = {"labels": labels, "owner_uid": uid, **changes}
        self.world.pods[at] = replace(self.world.pods[at], **made)

    def steps(self, count: int = 3) -> None:
        for _ in range(count):
            self.cycle()
            self.world.settle()
            self.world.now += 5.0


def test_no_engine_starts_before_the_weights_are_there_and_the_condition_counts_bytes() -> None:
    cached = Cached()
    key = cached.world.add(pool(model=CACHED))
    cached.run()
    (name,) = cached.jobs()
    assert cached.uids(key) == set()
    assert cached.condition(key, "WeightsReady") == ("False", "DownloadPending")
    cached.pod(name, phase="Pending", reason="ImagePullBackOff", bound=False)
    cached.run()
    assert "ImagePullBackOff" in cached.message(key, "WeightsReady")
    cached.world.change_pods(where={COMPONENT: WEIGHTS}, phase="Running", reason="")
    progress = cached.world.owned["ConfigMap", "team-a", name]
    progress["data"] = {"doneBytes": str(6 * 10**9), "totalBytes": str(16 * 10**9)}
    cached.run()
    assert cached.condition(key, "WeightsReady") == ("False", "Downloading")
    assert cached.message(key, "WeightsReady") == "main: 35 % of 16.0 GB"
    assert cached.uids(key) == set()
    cached.restart()
    cached.run()
    assert list(cached.jobs()) == [name] and cached.uids(key) == set()
    cached.ended("Complete")
    cached.run()
    assert cached.condition(key, "WeightsReady") == ("True", "Downloaded")
    assert cached.condition(key, "Ready") == ("True", "Serving")
    before = cached.uids(key)
    cached.restart()
    cached.run()
    assert cached.uids(key) == before and list(cached.jobs()) == [name]


def test_engines_read_what_was_fetched_and_only_the_job_has_the_token() -> None:
    source = {
        "type": "HuggingFace",
        "huggingFace": {"revision": "abc123", "tokenSecretRef": {"name": "hub", "key": "token"}},
    }
    cached = Cached()
    key = cached.world.add(pool(model={**CACHED, "source": source}))
    cached.run()
    (fetching,) = cached.jobs().values()
    cached.ended("Complete")
    cached.run()
    (engine,) = cached.world.engine_pods(key)
    spec = cached.world.specs["team-a", engine.name]
    (container,) = spec["containers"]
    mount = next(m for m in container["volumeMounts"] if m["name"] == "weights")
    assert mount == {
        "name": "weights",
        "mountPath": "/models",
        "readOnly": True,
        "subPath": "hub/Qwen--Qwen3-8B/abc123",
    }
    assert "/models" in container["args"] and "Qwen/Qwen3-8B" in container["args"]  # served as
    assert "--revision" not in container["args"]
    assert "HF_TOKEN" not in {e["name"] for e in container["env"]}
    job_spec = fetching["spec"]["template"]["spec"]
    (fetcher,) = job_spec["containers"]
    env = {e["name"]: e for e in fetcher["env"]}
    assert env["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    folder = env["MOTLEY_FOLDER"]["value"]
    assert f"hub/{folder}" == mount["subPath"]
    assert fetcher["image"] == container["image"]
    # Nothing that a person wrote is on the command line.
    assert fetcher["command"][:2] == ["python3", "-c"] and "args" not in fetcher
    assert "Qwen" not in fetcher["command"][2]


@pytest.mark.parametrize("revision", ["refs/pr/1", "../../etc", "..", ".hidden", "a" * 150])
def test_a_revision_never_leaves_its_folder(revision: str) -> None:
    source = {"type": "HuggingFace", "huggingFace": {"revision": revision}}
    model = read(pool(model={**CACHED, "source": source}))[0]
    assert isinstance(model, ServingPool)
    (stage,) = stages_of(model)
    parts = stage.folder.split("/")
    assert len(parts) == 2 and not any(part.startswith(".") for part in parts)


def test_a_field_that_nobody_set_leaves_the_hashes_of_running_pods_as_they_were() -> None:
    model = read(pool())[0]
    assert isinstance(model, ServingPool)
    (stage,) = stages_of(model)
    written = stage.model.model_dump(mode="json")
    assert written.pop("cache", "absent") is None
    engine = stage.engine.model_dump(mode="json")
    assert engine.pop("priority") is False
    old = (written, engine, None, None, None)
    assert stage.inputs_hash == digest(old)


def test_replicas_that_run_go_on_while_weights_are_fetched_for_their_successors() -> None:
    cached = Cached(nodes=0)
    cached.world.add_node(gpu_node("h0", gpus=1))  # no room for one more
    key = cached.world.add(pool(workload=load(2), parallelism={"maxTensor": 1}))
    cached.run()
    before = cached.uids(key)
    assert len(before) == 1
    cached.edit(key, model=CACHED)
    cached.steps(6)
    assert cached.uids(key) == before and cached.jobs()
    assert cached.condition(key, "Ready") == ("True", "Serving")
    assert cached.condition(key, "WeightsReady")[0] == "False"
    cached.ended("Complete")
    cached.steps(6)
    after = cached.uids(key)
    assert len(after) == 1 and after.isdisjoint(before)


def test_a_ready_replica_makes_no_room_for_one_that_waits_for_its_weights() -> None:
    cached = Cached(nodes=0)
    cached.world.add_node(gpu_node("h0", gpus=2))
    key = cached.world.add(pool(workload=load(2), parallelism={"maxTensor": 1}))
    cached.run()
    before = cached.uids(key)
    cached.world.foreign_pod("full", "h0", Room(gpus=1))
    edited = pool(workload=load(2), parallelism={"maxTensor": 1}, model=CACHED)
    edited["spec"]["engine"] = {"name": "sglang"}  # another column: nothing is kept
    cached.world.add(edited)
    cached.steps(6)
    assert cached.uids(key) == before
    cached.ended("Complete")
    cached.steps(8)
    assert cached.uids(key).isdisjoint(before) and len(cached.uids(key)) == 1


def test_a_failure_says_the_pods_last_words_and_is_tried_again_after_a_while() -> None:
    cached = Cached()
    key = cached.world.add(pool(model=CACHED))
    cached.run()
    (name,) = cached.jobs()
    words = "GatedRepoError: 403 Client Error"
    cached.pod(name, phase="Failed", reason="Error", message=words)
    cached.tell(name, failed=1, active=0)
    cached.run()
    assert cached.condition(key, "WeightsReady") == ("False", "DownloadRetrying")
    assert words in cached.message(key, "WeightsReady")
    uid = cached.jobs()[name]["metadata"]["uid"]
    cached.ended("Failed")
    gave_up = cached.world.now
    cached.run()
    assert cached.condition(key, "WeightsReady") == ("False", "DownloadFailed")
    assert words in cached.message(key, "WeightsReady")
    assert cached.jobs()[name]["metadata"]["uid"] == uid
    told = {(e.type, e.reason) for e in cached.world.events}
    assert ("Warning", "DownloadFailed") in told and ("Warning", "DownloadPending") not in told
    cached.world.now = gave_up + RETRY_S
    cached.steps()
    assert cached.jobs()[name]["metadata"]["uid"] != uid
    assert cached.condition(key, "WeightsReady")[1] in ("DownloadPending", "DownloadRetrying")


def fill(cached: Cached, **hard: str) -> None:
    """A quota with these limits."""
    cached.world.limits.set_quota("team", {k.replace("_", "."): v for k, v in hard.items()})


def test_a_job_whose_pod_a_full_quota_refuses_says_so_and_stops_nothing() -> None:
    cached = Cached(nodes=1)
    key = cached.world.add(pool(workload=load(2), parallelism={"maxTensor": 1}))
    cached.run()
    before = cached.uids(key)
    there = sum(pod.namespace == "team-a" for pod in cached.world.pods.values())
    fill(cached, pods=str(there))  # the gateways and the engine
    cached.edit(key, model=CACHED)
    cached.steps(10)
    assert cached.condition(key, "WeightsReady") == ("False", "DownloadPending")
    cached.steps(6)
    assert cached.condition(key, "WeightsReady") == ("False", "PodRefused")
    said = cached.message(key, "WeightsReady")
    assert "exceeded quota: team" in said and "lift: raise the quota" in said
    assert ("Warning", "PodRefused") in {(e.type, e.reason) for e in cached.world.events}
    assert cached.uids(key) == before
    assert cached.condition(key, "Ready") == ("True", "Serving")
    # Raised: the Job controller makes its pod, and nothing is said of a quota any more.
    fill(cached, pods=str(there + 1))
    (name,) = cached.jobs()
    cached.pod(name, phase="Running", bound=True)
    cached.steps()
    assert cached.condition(key, "WeightsReady") == ("False", "Downloading")


def test_a_job_whose_pod_a_rule_refuses_has_the_rules_words() -> None:
    cached = Cached(nodes=1)
    cached.world.limits.set_range("small", {"type": "Container", "min": {"cpu": "2"}})
    key = cached.world.add(pool(model=CACHED))
    cached.steps(20)
    assert cached.condition(key, "WeightsReady") == ("False", "PodRefused")
    assert "minimum cpu usage per Container" in cached.message(key, "WeightsReady")


def test_a_job_that_has_no_pod_though_one_would_be_taken_points_to_its_events() -> None:
    cached = Cached(nodes=1)
    key = cached.world.add(pool(model=CACHED))
    cached.steps(30)
    (name,) = cached.jobs()
    assert cached.condition(key, "WeightsReady") == ("False", "DownloadPending")
    assert f"kubectl describe job {name}" in cached.message(key, "WeightsReady")


def test_others_leave_a_download_its_place_in_a_quota_and_what_waits_for_it_is_planned() -> None:
    cached = Cached(nodes=4)
    fill(cached, pods="6")  # two gateways each, one download
    waiting = cached.world.add(pool("first", model=CACHED, parallelism={"maxTensor": 1}))
    cached.steps(2)
    grows = cached.world.add(pool("second", workload=load(500), parallelism={"maxTensor": 1}))
    cached.steps(4)
    assert len(cached.uids(grows)) == 1
    bound = cached.status(grows)["plan"]["binding"]
    assert any("beside downloads of weights" in row["constraint"] for row in bound)
    # Its own engine comes when the Job's pod is gone: that it does not fit beside it is no shortfall.
    assert cached.condition(waiting, "Planned") == ("True", "Planned")
    # The pod that comes was counted before, and changes no plan.
    (name,) = cached.jobs()
    solves = cached.planner.solves
    use = pod_use(cached.jobs()[name]["spec"]["template"]["spec"])
    cached.pod(name, phase="Running", bound=True, use=use)
    cached.steps(4)
    assert cached.planner.solves == solves and len(cached.uids(grows)) == 1
    assert cached.condition(waiting, "Planned") == ("True", "Planned")
    cached.world.change_pods(where={COMPONENT: WEIGHTS}, phase="Succeeded")
    cached.ended("Complete")
    cached.steps(8)
    assert len(cached.uids(waiting)) == 1


def test_engines_that_wait_for_a_download_are_no_part_of_the_room_beside_it() -> None:
    cached = Cached(nodes=4)
    sizes = {"maxTensor": 1}
    old = cached.world.add(pool("first", workload=load(2), parallelism=sizes))
    cached.world.add(pool("second", workload=load(2), parallelism=sizes))
    cached.run()
    fill(cached, pods="6")  # two gateways and an engine each
    cached.edit(old, model=CACHED)
    cached.steps(2)
    quotas = translate(cached.world.facts(), CATALOG, cached.settings).snapshot.quotas
    every, beside = sorted(quotas, key=lambda quota: len(quota.name))
    assert (every.at_most, every.over) == (2, 0)
    # The two gateways of each, the download and the old engine leave no place for the second's.
    assert (beside.at_most, beside.over) == (0, 1)
    assert {use.key for use in beside.uses} == {"ServingPool/team-a/second"}


def test_a_request_to_plan_anew_starts_a_job_that_gave_up_at_once() -> None:
    cached = Cached()
    key = cached.world.add(pool(model=CACHED))
    cached.run()
    (name,) = cached.jobs()
    cached.ended("Failed")
    cached.run()
    uid = cached.jobs()[name]["metadata"]["uid"]
    metadata = cached.world.documents[key]["metadata"]
    metadata["annotations"] = {"motley.dev/replan-requested-at": "2027-01-15T08:00:00Z"}
    cached.run()
    assert cached.jobs()[name]["metadata"]["uid"] != uid


def test_a_newer_version_of_the_program_edits_no_job() -> None:
    cached = Cached()
    cached.world.add(pool(model=CACHED))
    cached.run()
    (name,) = cached.jobs()
    live = cached.world.owned["Job", "team-a", name]
    live["spec"]["template"]["spec"]["containers"][0]["command"] = ["python3", "-c", "older"]
    live["metadata"]["annotations"]["motley.dev/inputs-hash"] = "older"
    cached.run()
    (container,) = cached.jobs()[name]["spec"]["template"]["spec"]["containers"]
    assert container["command"][2] == "older"


def test_an_edit_of_what_is_fetched_is_another_job_and_the_old_one_goes() -> None:
    cached = Cached()
    key = cached.world.add(pool(model=CACHED))
    cached.run()
    (old,) = cached.jobs()
    cached.edit(key, model={**CACHED, "cache": {**CACHE, "image": "example.org/fetch:1"}})
    cached.run()
    (new,) = cached.jobs()
    assert new != old and ("ConfigMap", "team-a", old) not in cached.world.owned
    (role,) = [
        o
        for (kind, _, _), o in cached.world.owned.items()
        if kind == "Role" and "weights" in o["metadata"]["name"]
    ]
    assert role["rules"][0]["resourceNames"] == [new] and role["rules"][0]["verbs"] == ["patch"]
    cached.edit(key, model={"id": "Qwen/Qwen3-8B"})
    cached.run()
    assert cached.jobs() == {} and cached.uids(key)
    assert not any("weights" in name for _, _, name in cached.world.owned)


def test_a_stage_waits_for_its_own_weights_only_and_stages_of_one_folder_share_a_job() -> None:
    cached = Cached()
    small, large = {"id": "Qwen/Qwen3-8B"}, {"id": "Qwen/Qwen3-32B"}
    cached.world.config_maps["team-a", "table"] = {"table.csv": CALIBRATION}
    table = {"configMapKeyRef": {"name": "table", "key": "table.csv"}}
    quality = {"floor": "78%", "calibration": table}  # which the small stage does not reach
    for number, (model, starts) in enumerate((({**small, "cache": CACHE}, True), (small, False))):
        other = large if starts else {**large, "cache": CACHE}
        stages = [{"name": "small", "model": model}, {"name": "large", "model": other}]
        key = cached.world.add(cascade(f"support-{number}", stages=stages, quality=quality))
        cached.run()
        waiting = "small" if starts else "large"
        assert cached.message(key, "WeightsReady").startswith(f"{waiting}: ")
        # One replica of the large stage is the plan of this table.
        assert bool(cached.uids(key)) is starts
    both = cached.world.add(job(model={"id": "Qwen/Qwen2.5-7B-Instruct", "cache": CACHE}))
    cached.run()
    mine = [one for name, one in cached.jobs().items() if name.startswith("math")]
    assert len(mine) == 1 and not cached.uids(both)
    assert mine[0]["metadata"]["annotations"]["motley.dev/stages"] == "rollout,trainer"
    cached.ended("Complete")
    cached.run()
    assert cached.uids(both)


def test_the_jobs_pod_passes_the_restricted_profile_and_takes_the_templates_proxies() -> None:
    template = {
        "spec": {
            "imagePullSecrets": [{"name": "registry"}],
            "containers": [
                {
                    "name": "engine",
                    "env": [
                        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
                        {"name": "MOTLEY_FOLDER", "value": "/etc"},
                    ],
                }
            ],
        }
    }
    cached = Cached()
    cached.world.add(pool(model=CACHED, podTemplate=template))
    cached.run()
    (fetching,) = cached.jobs().values()
    spec = fetching["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    env = [(e["name"], e.get("value")) for e in container["env"]]
    assert ("HTTPS_PROXY", "http://proxy:3128") in env and ("MOTLEY_FOLDER", "/etc") not in env
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_a_cache_without_a_hub_is_refused() -> None:
    source = {
        "type": "PersistentVolumeClaim",
        "persistentVolumeClaim": {"claimName": "weights"},
    }
    _, findings = read(pool(model={**CACHED, "source": source}))
    assert any("cache" in str(finding.path) for finding in findings)


def test_a_pods_failure_is_the_job_pods_last_line() -> None:
    document: Document = {
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "u",
            "labels": {"app.kubernetes.io/managed-by": "motley"},
        },
        "spec": {"containers": []},
        "status": {
            "phase": "Failed",
            "containerStatuses": [
                {"state": {"terminated": {"exitCode": 1, "message": "OSError: no space\n"}}}
            ],
        },
    }
    found: PodFacts = parse_pod(document)
    assert found.message == "OSError: no space"
    document["status"]["phase"] = "Running"
    assert parse_pod(document).message == ""
