"""The ConfigMap in which a resource in Preview or Disabled keeps its plan, and the proposed one.

A status is too small for every replica's place, and what was approved must be what is carried out,
also by an operator that has just started. The record of a proposal is sealed by its hash, which is
in the status: one that somebody wrote into is thrown away.
"""

from __future__ import annotations

from motley_operator.domain.facts import ClusterFacts
from motley_operator.domain.names import PLAN, PROPOSED_KEY, STANDING_KEY, plan_name
from motley_operator.domain.standing import Held, Proposal, Record, written
from motley_operator.errors import about
from motley_operator.manifests.frame import Manifest, Owner, sealed


def plan_config_maps(held: Held, facts: ClusterFacts) -> tuple[Manifest, ...]:
    """The ConfigMaps of all resources that hold still."""
    found = []
    for resource in facts.resources:
        proposal = held.proposals.get(resource.key, Proposal())
        record = held.records.get(resource.key)
        with about(resource.key):
            made = plan_config_map(Owner.of(resource), record, proposal.record)
        if made is not None and not resource.deleting:
            found.append(made)
    return tuple(found)


def plan_config_map(
    owner: Owner, standing: Record | None, proposed: Record | None
) -> Manifest | None:
    """The ConfigMap `<resource>-plan`; None where there is nothing to remember."""
    data = {
        name: written(record)
        for name, record in ((STANDING_KEY, standing), (PROPOSED_KEY, proposed))
        if record is not None
    }
    if not data:
        return None
    return sealed(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": owner.metadata(plan_name(owner.name), PLAN),
            "data": data,
        }
    )
