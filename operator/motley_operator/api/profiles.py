"""A resource's measured profiles: the ConfigMaps they are in, and their tables."""

from __future__ import annotations

from collections.abc import Iterator

from motley_operator.api.common import Table
from motley_operator.api.findings import Finding, Path
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.servingpool import ServingPool
from motley_operator.api.surroundings import ConfigMaps, found
from motley_planner.domain.hardware import Catalog
from motley_planner.domain.measurements import Profile
from motley_planner.profiles import ProfileError, read_profile

Profiled = ServingPool | ModelCascade


def profile_findings(
    resource: Profiled, catalog: Catalog, config_maps: ConfigMaps
) -> Iterator[Finding]:
    """Why a resource's measurements cannot be used."""
    namespace = resource.metadata.namespace or ""
    for at, table in _tables(resource):
        ref = table.config_map_key_ref
        data = config_maps.get((namespace, ref.name))
        if data is None or ref.key not in data:
            yield found(
                (*at, "configMapKeyRef", "name" if data is None else "key"), "profile",
                f"there is no ConfigMap {ref.name} with the key {ref.key} in namespace "
                f"{namespace or 'default'}: create it with the table of measurements",
                "InvalidSpec",
            )  # fmt: skip
            continue
        try:
            read_profile(data[ref.key], catalog)
        except ProfileError as error:
            yield found(at, "profile", f"profile table: {error}", "InvalidSpec")


def profile_of(resource: Profiled, catalog: Catalog, config_maps: ConfigMaps) -> Profile | None:
    """The measurements of a resource without profile findings; None where it names none."""
    namespace = resource.metadata.namespace or ""
    refs = [table.config_map_key_ref for _, table in _tables(resource)]
    read = [read_profile(config_maps[(namespace, ref.name)][ref.key], catalog) for ref in refs]
    if not read:
        return None
    return Profile({key: points for profile in read for key, points in profile.points.items()})


def _tables(resource: Profiled) -> Iterator[tuple[Path, Table]]:
    if isinstance(resource, ServingPool):
        if resource.spec.profile is not None:
            yield ("spec", "profile"), resource.spec.profile
        return
    for i, stage in enumerate(resource.spec.stages):
        if stage.profile is not None:
            yield ("spec", "stages", i, "profile"), stage.profile
