"""Manifests drawn from the CRDs' schemas, on the real API server, by the real operator.

What the API server takes, the operator must answer in the status, within a bound and unshaken;
tests/operator/test_fuzzed_manifests.py draws many more without a server. MOTLEY_FUZZ_SEED draws
others: runs with several seeds are the pieces of a long one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import fuzz
from e2e.cluster.nodes import make_nodes
from e2e.demo_api import Refused, path_of
from e2e.fixtures import Cluster
from e2e.trial import SETTLE_S, Trial

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

AT_ONCE = 25  # manifests that are there together
DOCUMENTS = min(int(os.environ.get("MOTLEY_FUZZ", "300")) // 6, 1000)
SEED = int(os.environ.get("MOTLEY_FUZZ_SEED", "0"))


@pytest.fixture(scope="module")
def trial(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    nodes = [*make_nodes("l4", 3, prefix="fuzz-l4"), *make_nodes("h100", 1, prefix="fuzz-h100")]
    with Trial.begin(cluster, tmp_path_factory.mktemp("operator"), nodes) as made:
        made.pool("bystander", 6)
        made.settle(2 * SETTLE_S)
        yield made
        made.assert_unshaken()
        made.clear()


@pytest.mark.timeout(600 + 4 * DOCUMENTS)
def test_whatever_the_server_takes_is_answered_and_moves_nobody_else(trial: Trial) -> None:
    total: Counter[int] = Counter()
    for number, documents in enumerate(fuzz.batches(DOCUMENTS, AT_ONCE, SEED)):
        try:
            total += answered(trial, documents)
        except Exception as error:
            error.add_note(f"batch {number}, after {dict(total)}: {documents}")
            raise
    print(f"{total.total()} different manifests: {total[201]} taken, {total[422]} refused")
    assert total.total() == DOCUMENTS


def answered(trial: Trial, documents: tuple[dict[str, Any], ...]) -> Counter[int]:
    """The API server's answers; what it takes is answered in the status, and goes again."""
    before = trial.pods_of(trial.motley.look(), "bystander")
    answers = Counter(create(trial, document) for document in documents)
    assert answers.keys() <= {201, 422}
    assert answers[201] > 0
    trial.wait(lambda: not unanswered(trial), SETTLE_S, "every resource is answered")
    trial.assert_unshaken()
    assert trial.pods_of(trial.motley.look(), "bystander") == before
    for kind in fuzz.BASES:
        for item in mine(trial, kind):
            trial.api.delete(kind, trial.namespace, item["metadata"]["name"])
    trial.wait(lambda: not trial.orphans(), SETTLE_S, "nothing is left of them")
    return answers


def create(trial: Trial, document: dict[str, Any]) -> int:
    """The API server's answer to a new resource: 201, or why not."""
    metadata = {**document["metadata"], "namespace": trial.namespace}
    path = path_of(document["kind"], trial.namespace)
    try:
        trial.api.request("POST", path, {**document, "metadata": metadata})
    except Refused as error:
        return error.status
    return 201


def mine(trial: Trial, kind: str) -> list[dict[str, Any]]:
    """The fuzzed resources of a kind that are there."""
    return [item for item in trial.api.list(kind) if item["metadata"]["name"].startswith("fuzzed-")]


def unanswered(trial: Trial) -> list[str]:
    """Resources of which no status speaks of the present spec."""
    return [
        f"{kind} {item['metadata']['name']}"
        for kind in fuzz.BASES
        for item in mine(trial, kind)
        if (item.get("status") or {}).get("observedGeneration") != item["metadata"]["generation"]
        or not (item.get("status") or {}).get("conditions")
    ]
