"""The parts of a resource that pods are built from, the same for pools, stages and jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from motley_operator.api import ModelCascade, RLJob, ServingPool
from motley_operator.api.adapters import Adapter
from motley_operator.api.branching import Branches
from motley_operator.api.common import EngineSpec
from motley_operator.api.models import ClaimSource, ModelRef
from motley_operator.api.traffic import Workload
from motley_operator.domain.names import MAIN_STAGE, ROLLOUT, TRAINER
from motley_operator.manifests.frame import digest
from motley_planner.dispatch import BranchRule

SHARED_ROOT = "/shared"
_LENGTH_FACTOR = 8  # the longest request admitted, in mean requests
_LEAST_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What a person says about the pods of one stage."""

    name: str
    model: ModelRef
    engine: EngineSpec
    template: Mapping[str, Any] | None
    longest_tokens: int  # prompt and answer together
    shared: ClaimSource | None = None
    priority_class: str | None = None
    frozen_image: str = ""  # the catalog's at the first plan, from status
    branches: BranchRule | None = None  # of the gateway; no part of what pods are built from
    known_hash: str = ""  # worked out before, for there may be thousands of pods
    adapters: tuple[Adapter, ...] = ()
    checkpoint: tuple[str, ...] = ()  # a trainer's command, and the seconds that it may take

    @property
    def folder(self) -> str:
        """Folder of the cached weights below the cache's: the model, and the revision."""
        hub = self.model.source.hugging_face
        revision = (hub.revision if hub is not None else None) or "main"
        plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", revision)
        return f"{self.model.id.replace('/', '--')}/{revision if plain else digest(revision)}"

    @property
    def weights(self) -> ClaimSource | None:
        """Where on a volume the weights are; None: engines fetch them."""
        cache = self.model.cache
        if cache is None:
            return self.model.source.persistent_volume_claim
        claim = cache.persistent_volume_claim
        path = "/".join(filter(None, ((claim.sub_path or "").rstrip("/"), self.folder)))
        return ClaimSource.model_construct(claim_name=claim.claim_name, sub_path=path)

    @property
    def inputs_hash(self) -> str:
        """Hash over what a person wrote; a new version of Motley does not change it."""
        if self.known_hash:
            return self.known_hash
        model = self.model.model_dump(mode="json")
        engine = self.engine.model_dump(mode="json")
        # Hashes from before there were these fields are still in force.
        if self.model.cache is None:
            del model["cache"]
        if not self.engine.priority:
            del engine["priority"]
        adapters = [adapter.model_dump(mode="json") for adapter in self.adapters]
        return digest(
            (
                model,
                engine,
                self.template,
                self.shared.model_dump(mode="json") if self.shared else None,
                self.priority_class,
                *([adapters] if adapters else []),
                *([{"checkpoint": self.checkpoint}] if self.checkpoint else []),
            )
        )


def stages_of(resource: object) -> tuple[StageSpec, ...]:
    """The stages of a resource, in its order; a job's trainer comes last.

    The image of a stage is frozen while what a person wrote about it stays the same.
    """
    assert isinstance(resource, ServingPool | ModelCascade | RLJob)
    frozen = {(row.stage, row.hash): row.image for row in resource.status.inputs}
    return tuple(
        replace(stage, frozen_image=frozen.get((stage.name, known), ""), known_hash=known)
        for stage in _written(resource)
        for known in (stage.inputs_hash,)
    )


def _written(resource: ServingPool | ModelCascade | RLJob) -> tuple[StageSpec, ...]:
    if isinstance(resource, ServingPool):
        spec = resource.spec
        longest, priority = _longest(spec.workload), spec.priority_class_name
        template = spec.pod_template
        main = StageSpec(
            MAIN_STAGE,
            spec.model,
            spec.engine,
            template,
            longest,
            priority_class=priority,
            adapters=spec.adapters,
        )
        return (replace(main, branches=_rule(spec.branches)),)
    if isinstance(resource, ModelCascade):
        longest = _longest(resource.spec.workload)
        priority = resource.spec.priority_class_name
        made = (
            StageSpec(s.name, s.model, s.engine, s.pod_template, longest, priority_class=priority)
            for s in resource.spec.stages
        )
        pairs = zip(made, resource.spec.stages, strict=True)
        return tuple(replace(stage, branches=_rule(s.branches)) for stage, s in pairs)
    return _job_stages(resource)


def _job_stages(job: RLJob) -> tuple[StageSpec, ...]:
    spec = job.spec
    longest = spec.algorithm.max_prompt_tokens + spec.algorithm.max_new_tokens
    claim, priority = spec.storage.persistent_volume_claim, spec.priority_class_name
    rollout, saving = spec.rollout, spec.checkpoint
    saved = (*saving.command, str(saving.timeout_seconds)) if saving.command else ()
    backend = EngineSpec(name=spec.trainer.backend, image=spec.framework.image)
    return (
        StageSpec(
            ROLLOUT, spec.model, rollout.engine, rollout.pod_template, longest, claim, priority
        ),
        StageSpec(
            TRAINER,
            spec.model,
            backend,
            spec.trainer.pod_template,
            longest,
            claim,
            priority,
            checkpoint=saved,
        ),
    )


def _rule(branches: Branches | None) -> BranchRule | None:
    return branches.rule if branches is not None else None


def _longest(workload: Workload) -> int:
    """Longest request to admit: several times the longest class's mean, a power of two."""
    mean = max(c.prompt_tokens + c.output_tokens for c in workload.classes)
    length = _LEAST_LENGTH
    while length < _LENGTH_FACTOR * mean:
        length *= 2
    return length
