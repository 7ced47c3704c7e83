"""Resources without a status: their pods say whether anybody edited them since.

A backup restores a resource without its status, and so may a person's hand. What was last planned is
then not known, but every pod carries the hash of what it was built from: where all of them were
built as the spec says now, nobody edited that, and what runs is held as after any restart. What a
pod is not built from, such as the rate, is not in the hash: more of it is served by what is
added, less of it leaves replicas that stay until money is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable

from motley_operator.api import ModelCascade, RLJob, ServingPool
from motley_operator.api.statusparts import UNSEEN
from motley_operator.domain.facts import ClusterFacts, PodFacts
from motley_operator.domain.names import INPUTS_HASH, STAGE
from motley_operator.domain.translation import Translation
from motley_operator.manifests.stages import stages_of
from motley_operator.translate.running import pods_by_key


def built_as_asked(translation: Translation, facts: ClusterFacts) -> frozenset[str]:
    """Keys of planned resources without a status whose live pods, and there are some, fit the spec."""
    keys = [demand.key for demand in translation.snapshot.demands]
    silent = {key: model for key in keys if _is_silent(model := translation.parsed[key])}
    if not silent:
        return frozenset()
    pods = pods_by_key(facts)
    return frozenset(key for key, model in silent.items() if _fit(pods.get(key, ()), model))


def _is_silent(model: object) -> bool:
    assert isinstance(model, ServingPool | ModelCascade | RLJob)
    return model.status.observed_generation in (None, UNSEEN)


def _fit(pods: Iterable[PodFacts], model: object) -> bool:
    live = [pod for pod in pods if not pod.terminal and not pod.deleting]
    wanted = {stage.name: stage.inputs_hash for stage in stages_of(model)}
    return bool(live) and all(
        pod.annotations.get(INPUTS_HASH) == wanted.get(pod.labels.get(STAGE, "")) for pod in live
    )
