"""The catalog with the measured profiles that resources name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from motley_operator.api import ModelCascade, Resource, ServingPool
from motley_operator.api.profiles import profile_of
from motley_operator.api.surroundings import ConfigMaps
from motley_planner.domain.hardware import Catalog


def with_profiles(
    catalog: Catalog,
    parsed: Mapping[str, Resource],
    asked: Collection[str],
    config_maps: ConfigMaps,
) -> Catalog:
    """The catalog, with the profile of each asked resource that names one."""
    own = {}
    for key in sorted(asked):
        resource = parsed[key]
        if isinstance(resource, ServingPool | ModelCascade):
            profile = profile_of(resource, catalog, config_maps)
            if profile is not None:
                own[key] = profile
    return replace(catalog, profiles={**catalog.profiles, **own}) if own else catalog


def measurements_of(catalog: Catalog) -> dict[str, object]:
    """Everything measured that plans are made with, by name, for a hash of what they depend on."""
    speeds = {
        f"learned {key}": (one.value, one.low, one.high) for key, one in catalog.learned.items()
    }
    return {**catalog.profiles, **speeds}
