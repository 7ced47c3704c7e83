"""Manifests drawn from the CRDs' schemas, on the real API server, by the real operator.

What the API server takes, the operator must answer in the status, within a bound and unshaken;
tests/operator/test_fuzzed_manifests.py draws many more without a server.

    MOTLEY_FUZZ=10000 pytest -s tests/e2e/test_faults_manifests.py     # below 1,000 a sixth is drawn
    MOTLEY_FUZZ=10000 MOTLEY_FUZZ_BATCHES=40:80 pytest ...             # these batches of the same 10,000

MOTLEY_FUZZ_SEED draws others. A failure names its batch, and what in it was not answered.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from e2e import fuzz
from e2e.checker import Judge
from e2e.cluster import audit, processes
from e2e.cluster.nodes import make_nodes
from e2e.demo_api import Refused, path_of
from e2e.fixtures import Cluster
from e2e.trial import SETTLE_S, Trial

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ASKED = int(os.environ.get("MOTLEY_FUZZ", "300"))
DOCUMENTS = ASKED if ASKED >= 1000 else ASKED // 6
AT_ONCE = 100 if ASKED >= 1000 else 25  # manifests that are there together
SEED = int(os.environ.get("MOTLEY_FUZZ_SEED", "0"))
FIRST, _, LAST = os.environ.get("MOTLEY_FUZZ_BATCHES", ":").partition(":")
CHOSEN = slice(int(FIRST or 0), int(LAST) if LAST else None)
LABEL = ",".join(f"{key}={value}" for key, value in fuzz.MARK.items())
LOOK_S = 0.1

Document = dict[str, Any]


@pytest.fixture(scope="module")
def trial(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    nodes = [*make_nodes("l4", 3, prefix="fuzz-l4"), *make_nodes("h100", 1, prefix="fuzz-h100")]
    with Trial.begin(cluster, tmp_path_factory.mktemp("operator"), nodes) as made:
        made.pool("bystander", 6)
        made.settle(2 * SETTLE_S)
        yield made
        made.assert_unshaken()
        made.clear()


@dataclass(slots=True)
class Run:
    """What has happened to the manifests so far."""

    trial: Trial
    log: audit.Tail
    judge: Judge = field(default_factory=Judge)
    answers: Counter[int] = field(default_factory=Counter)
    spent_s: Counter[str] = field(default_factory=Counter)

    def timed(self, what: str, began: float) -> float:
        """Books the seconds since then; now."""
        now = time.monotonic()
        self.spent_s[what] += now - began
        return now

    def told(self) -> str:
        """One line: how many, how long, and how much memory the operator has."""
        process = self.trial.motley.process
        resident = (processes.resident_bytes(process) or 0) if process else 0
        parts = ", ".join(f"{what} {seconds:.0f}" for what, seconds in self.spent_s.items())
        return (
            f"{self.answers.total()} manifests: {self.answers[201]} taken, {self.answers[422]} "
            f"refused; s: {parts}; operator {resident / 2**20:.0f} MiB"
        )


@pytest.mark.timeout(600 + 4 * DOCUMENTS)
def test_whatever_the_server_takes_is_answered_and_moves_nobody_else(
    trial: Trial, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trial.hands.local is not None
    run, began = Run(trial, audit.Tail(trial.hands.local.audit_log)), time.monotonic()
    every = list(enumerate(fuzz.batches(DOCUMENTS, AT_ONCE, SEED)))
    run.timed("drawn", began)
    for number, documents in every[CHOSEN]:
        try:
            answered(run, documents)
        except Exception as error:
            error.add_note(named(number, unanswered(trial, documents), documents))
            raise
        with capfd.disabled():
            print(f"batch {number + 1} of {len(every)}, {run.told()}", flush=True)
    assert run.answers.total() == sum(len(documents) for _, documents in every[CHOSEN])


def named(number: int, open_: list[str], documents: tuple[Document, ...]) -> str:
    """Which batch failed, and the manifests that have no answer; all of them where each has one."""
    told = [one for one in documents if one["metadata"]["name"] in open_] or documents
    again = f"MOTLEY_FUZZ={ASKED} MOTLEY_FUZZ_SEED={SEED} MOTLEY_FUZZ_BATCHES={number}:{number + 1}"
    return f"batch {number} ({again}); without an answer: {open_}; {told}"


def answered(run: Run, documents: tuple[Document, ...]) -> None:
    """Each gets its answer from the API server; what it takes is answered in the status, and goes again."""
    trial, began = run.trial, time.monotonic()
    before = trial.pods_of(trial.motley.look(), "bystander")
    answers = Counter(create(trial, document) for document in documents)
    assert answers.keys() <= {201, 422}
    assert answers[201] > 0
    run.answers += answers
    began = run.timed("created", began)
    await_(trial, lambda: not unanswered(trial, documents), "every resource is answered")
    began = run.timed("answered", began)
    trial.assert_unshaken()
    assert trial.pods_of(trial.motley.look(), "bystander") == before
    run.judge.see(one for one in run.log.new() if one.namespace in (trial.namespace, ""))
    run.judge.assert_lawful(time.time())
    began = run.timed("judged", began)
    for kind in fuzz.BASES:
        path = path_of(kind, trial.namespace)
        trial.api.request("DELETE", f"{path}?labelSelector={LABEL}")
    await_(trial, lambda: not trial.orphans(), "nothing is left of them")
    run.timed("gone", began)
    # Nor later on, while longer searches went on: what runs serves no less for equals that come.
    assert trial.pods_of(trial.motley.look(), "bystander") == before


def create(trial: Trial, document: Document) -> int:
    """The API server's answer to a new resource: 201, or why not."""
    metadata = {**document["metadata"], "namespace": trial.namespace}
    path = path_of(document["kind"], trial.namespace)
    try:
        trial.api.request("POST", path, {**document, "metadata": metadata})
    except Refused as error:
        return error.status
    return 201


def unanswered(trial: Trial, documents: tuple[Document, ...]) -> list[str]:
    """Resources of the batch of which no status speaks of the present spec."""
    return [
        item["metadata"]["name"]
        for kind in sorted({document["kind"] for document in documents})
        for item in trial.api.list(kind, labelSelector=LABEL)
        if (item.get("status") or {}).get("observedGeneration") != item["metadata"]["generation"]
        or not (item.get("status") or {}).get("conditions")
    ]


def await_(trial: Trial, holds: Callable[[], bool], what: str) -> None:
    """Looks a few times a second: the machine is the operator's, too."""

    def seen() -> bool:
        time.sleep(LOOK_S)
        return holds()

    trial.wait(seen, SETTLE_S, what)
