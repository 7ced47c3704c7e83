"""Names of the objects that resources need: no two resources of a namespace may share one.

A cascade `a` with a stage `b` and a pool `a-b` would both want a PodDisruptionBudget `a-b`. The
older resource has the name; the younger one is refused with the name in the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from motley_operator.api.findings import Finding
from motley_operator.api.frame import Resource
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.rljob import RLJob
from motley_operator.api.servingpool import ServingPool
from motley_operator.domain.names import (
    MAIN_STAGE,
    ROLLOUT,
    TRAINER,
    budget_name,
    gateway_name,
    stage_service,
)

Name = tuple[str, str, str]  # namespace, kind, name


def name_findings(resources: Mapping[str, Resource]) -> Mapping[str, Finding]:
    """Resources whose objects' names are taken, by key ("kind/namespace/name")."""
    holders: dict[Name, str] = {}
    findings: dict[str, Finding] = {}
    for key in sorted(resources, key=lambda each: (_age(resources[each]), each)):
        wanted = list(_names(resources[key]))
        lost = [name for name in wanted if name in holders or wanted.count(name) > 1]
        if lost:
            _, kind, name = lost[0]
            holder = holders.get(lost[0], "its own gateway")
            message = f"{kind} {name} is taken by {holder}: rename this resource or its stage"
            path = ("metadata", "name")
            findings[key] = Finding(path, "one name", message, "semantic", "NameTaken")
        else:
            holders |= dict.fromkeys(wanted, key)
    return findings


def _age(resource: Resource) -> str:
    return resource.metadata.creation_timestamp or ""


def _names(resource: Resource) -> Iterator[Name]:
    namespace, name = resource.metadata.namespace or "", resource.metadata.name
    stages: tuple[str, ...] = ()
    if isinstance(resource, ServingPool):
        stages = (MAIN_STAGE,)
    elif isinstance(resource, ModelCascade):
        stages = tuple(stage.name for stage in resource.spec.stages)
    elif isinstance(resource, RLJob):
        stages = (ROLLOUT, TRAINER)
    if isinstance(resource, ServingPool | ModelCascade):
        yield namespace, "Service", gateway_name(name)
    for stage in stages:
        yield namespace, "Service", stage_service(name, stage)
        yield namespace, "PodDisruptionBudget", budget_name(name, stage)
