"""The Fleet object: its spec and catalog, or the defaults where there is none or it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motley_operator.api import Fleet, FleetSpec, read
from motley_operator.api.semantics import semantic_findings
from motley_operator.api.surroundings import Surroundings, with_additions
from motley_operator.translate.parts import refusals_of
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.plan import Refusal


def fleet_spec(
    document: Mapping[str, Any] | None, catalog: Catalog
) -> tuple[FleetSpec, Catalog, tuple[Refusal, ...]]:
    """The Fleet's spec, the catalog with its own entries, and what is wrong with it.

    A Fleet that breaks the schema counts as absent; entries that mean nothing are left out.
    """
    if document is None:
        return FleetSpec(), catalog, ()
    fleet, findings = read(document)
    if not isinstance(fleet, Fleet):
        return FleetSpec(), catalog, refusals_of(findings)
    unmet = refusals_of(semantic_findings(fleet, Surroundings(catalog)))
    return fleet.spec, with_additions(catalog, fleet.spec)[0], unmet
