"""Pods are tried before anything that runs makes way for them (pure).

Theory of operation. What replaces a replica without room for both begins by stopping it. Where the API
server then refuses the new pod, nothing of the replica is left, and what ran cannot be made again: its spec
is gone. So the wanted pod is tried first (a dry run, with all of admission), and only a sort that was
admitted lately is made way for. A new sort is another question, so that a mended spec is tried at once.
A full quota is no reason to wait here: what makes way frees it (quotas.py asks whether enough).

Where the cluster's facts hold no verdicts nobody can try anything, and everything counts as admitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from motley_operator.changes.turns import PodName
from motley_operator.domain.actions import CreatePod, Manifest, TryPod
from motley_operator.domain.facts import ClusterFacts, asked_anew
from motley_operator.domain.names import INPUTS_HASH, STAGE
from motley_operator.domain.verdicts import Refused, Sort, sort_of


class Trials:
    """Who is admitted, as far as is known; and who has to be tried for that to be known."""

    def __init__(self, facts: ClusterFacts) -> None:
        self._verdicts, self._now, self._facts = facts.verdicts, facts.now, facts
        self._anew = asked_anew(facts) if facts.verdicts else frozenset[str]()
        self._wanted: dict[Sort, Manifest] = {}

    @property
    def actions(self) -> tuple[TryPod, ...]:
        """The trials that `admits` had to ask for, one for each sort."""
        return tuple(map(TryPod, self._wanted.values()))

    def admits(self, manifest: Manifest) -> bool:
        """Whether the server takes such a pod; one that it was not asked of lately is to be tried."""
        if self._verdicts is None:
            return True
        sort = sort_of(manifest)
        known = self._verdicts.get(sort)
        if known is None or known.until <= self._now or sort.key in self._anew:
            self._wanted.setdefault(sort, manifest)
            return False
        return not known.holds

    def worth_room(
        self, startable: Mapping[PodName, Manifest], created: Iterable[CreatePod]
    ) -> Mapping[PodName, Manifest]:
        """The pods that are there or come now, and of the others those that are admitted."""
        if self._verdicts is None:
            return startable
        known = {(pod.namespace, pod.name) for pod in self._facts.pods}
        known |= {_place(one.manifest) for one in created}
        return {at: m for at, m in startable.items() if at in known or self.admits(m)}


def refused(desired: Iterable[Manifest], facts: ClusterFacts) -> Mapping[str, tuple[Refused, ...]]:
    """Stages of each resource, by key, of which pods are wanted and not taken by the server.

    Of a quota that was full in a trial nothing is said: what makes way frees it.
    """
    found: dict[str, dict[str, Refused]] = {}
    if not any(verdict.refusal for verdict in (facts.verdicts or {}).values()):
        return {}
    built = {(p.namespace, p.name): p.annotations.get(INPUTS_HASH) for p in facts.pods}
    for manifest in desired:
        if manifest["kind"] != "Pod":
            continue
        sort = sort_of(manifest)
        verdict = (facts.verdicts or {}).get(sort)
        if verdict is None or verdict.refusal is None or built.get(_place(manifest)) == sort.inputs:
            continue
        if verdict.holds or verdict.is_made:
            found.setdefault(sort.key, {}).setdefault(sort.stage, Refused(sort.stage, verdict))
    return {key: tuple(stages.values()) for key, stages in found.items()}


def tried(actions: Iterable[object], facts: ClusterFacts) -> Mapping[str, frozenset[str]]:
    """Stages of each resource, by key, of which the server is asked for the first time now."""
    found: dict[str, frozenset[str]] = {}
    for action in actions:
        if isinstance(action, TryPod) and STAGE in action.manifest["metadata"]["labels"]:
            sort = sort_of(action.manifest)
            if not (known := (facts.verdicts or {}).get(sort)) or not known.refusal:
                found[sort.key] = found.get(sort.key, frozenset()) | {sort.stage}
    return found


def _place(manifest: Manifest) -> PodName:
    metadata = manifest["metadata"]
    return metadata["namespace"], metadata["name"]
