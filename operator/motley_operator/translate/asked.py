"""What the resources ask for, as they are read one by one.

A resource that makes no sense is rejected with its findings. One whose reading fails in a way that
nobody thought of is rejected as well, with the error: it must not end planning for all others.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from motley_operator import lifecycle
from motley_operator.api import FleetSpec, ModelCascade, Resource, RLJob, ServingPool, read
from motley_operator.api.findings import Finding
from motley_operator.api.nametaken import name_findings
from motley_operator.api.quality import cascade_policies
from motley_operator.api.semantics import semantic_findings
from motley_operator.api.surroundings import Surroundings
from motley_operator.demand import Settled
from motley_operator.domain.facts import ClusterFacts, ResourceFacts
from motley_operator.settings import Settings
from motley_operator.translate.demand import Measuring, with_demand
from motley_operator.translate.jobs import job_demand
from motley_operator.translate.parts import refusals_of
from motley_operator.translate.running import pods_by_key
from motley_operator.translate.serving import cascade_demand, pool_demand, with_phases
from motley_planner.domain.demand import RlDemand, ServingDemand
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Refusal, internal_error
from motley_planner.errors import MotleyError
from motley_planner.remembering import Memory, Same

_READ: Memory[tuple[Resource | None, tuple[Finding, ...]]] = Memory(4096)

_FAILED = "%s cannot be read; it keeps what it runs"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Asked:
    """What the resources ask for, by key."""

    around: Surroundings
    demands: dict[str, ServingDemand | RlDemand] = field(default_factory=dict)
    parsed: dict[str, Resource] = field(default_factory=dict)
    rejected: dict[str, tuple[Refusal, ...]] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Settled | None] = field(default_factory=dict)


def read_resources(
    facts: ClusterFacts, catalog: Catalog, fleet: FleetSpec, settings: Settings
) -> Asked:
    """What all resources ask for; those that are being deleted ask for nothing."""
    allowed = frozenset(fleet.pod_templates.allow)
    asked = Asked(Surroundings(catalog, facts.config_maps, facts.priority_classes, allowed))
    _READ.keep({resource.key for resource in facts.resources}.__contains__)
    there = [each for each in facts.resources if not each.deleting]
    for resource in sorted(there, key=lambda each: each.key):
        try:
            model, findings = _read(resource)
        except Exception as error:
            logger.exception(_FAILED, resource.key)
            asked.rejected[resource.key] = (internal_error(error),)
            continue
        if model is None:
            asked.rejected[resource.key] = refusals_of(findings)
        else:
            asked.parsed[resource.key] = model
    reading = _Reading(facts, catalog, fleet, settings, asked)
    for key, model in asked.parsed.items():
        try:
            reading.add(key, model)
        except MotleyError:
            raise  # what nobody can go on with
        except Exception as error:
            logger.exception(_FAILED, key)
            asked.rejected[key] = (internal_error(error),)
    return asked


def _read(resource: ResourceFacts) -> tuple[Resource | None, tuple[Finding, ...]]:
    """The resource's model; a document is read once, for documents are replaced and never edited."""
    document = resource.document
    return _READ.get(resource.key, Same(document), lambda: read(document))


class _Reading:
    """What checked resources ask for, with all that is needed to tell."""

    def __init__(
        self,
        facts: ClusterFacts,
        catalog: Catalog,
        fleet: FleetSpec,
        settings: Settings,
        asked: Asked,
    ) -> None:
        self.facts, self.catalog, self.fleet, self.settings = facts, catalog, fleet, settings
        self.asked = asked
        self.pods = pods_by_key(facts)
        self.taken = name_findings(asked.parsed)
        self.measuring = Measuring(facts, fleet)

    def add(self, key: str, model: Resource) -> None:
        """Note the demand of a resource, or why it is rejected; of a job that has ended, neither."""
        asked = self.asked
        if isinstance(model, RLJob):
            phase = lifecycle.phase_of(model, self.pods.get(key, ()), self.facts.now)
            asked.phases[key] = phase
            if phase in lifecycle.GONE:
                return
        findings = semantic_findings(model, asked.around)
        if key in self.taken:
            findings += (self.taken[key],)
        if findings:
            asked.rejected[key] = refusals_of(findings)
            return
        if isinstance(model, ServingPool | ModelCascade):
            demand = asked.measured[key] = self.measuring.settled(key, model)
            model = with_demand(model, demand)
        wanted = _demand(key, model, self.facts, (self.catalog, self.fleet))
        if isinstance(wanted, ServingDemand):
            wanted = with_phases(wanted, self.catalog, self.settings.pairs_phases)
        asked.demands[key] = wanted


def _demand(
    key: str, model: Resource, facts: ClusterFacts, fleet: tuple[Catalog, FleetSpec]
) -> ServingDemand | RlDemand:
    """What a checked resource asks for."""
    catalog, spec = fleet
    assert isinstance(model, ServingPool | ModelCascade | RLJob)
    priority = facts.priority_classes.get(model.spec.priority_class_name or "", 0)
    if isinstance(model, ModelCascade):
        routing = (priority, cascade_policies(model, facts.config_maps))
        return cascade_demand(key, model, catalog, spec, routing)
    if isinstance(model, ServingPool):
        return pool_demand(key, model, catalog, spec, priority)
    return job_demand(key, model, catalog, priority)
