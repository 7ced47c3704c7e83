"""Devices of nodes that are seen and not planned, each with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from motley_operator.domain.facts import Device, NodeFacts, SliceFacts

BY_DRA = "devices by DRA are not used for planning: engine pods ask for extended resources"


def gpus_by_driver(slices: Sequence[SliceFacts]) -> dict[str, dict[str, int]]:
    """GPUs that drivers of dynamic resource allocation offer, by node and driver.

    Of each pool only the newest generation counts, and of that each GPU once, however often and as whatever
    it is offered. Parts of GPUs that are not offered as a whole are counted as `driver (what they are)`.
    The node is empty where a slice is of no single one.
    """
    latest: dict[tuple[str, str, str], int] = {}
    for one in slices:
        at = (one.node, one.driver, one.pool)
        latest[at] = max(latest.get(at, 0), one.generation)
    seen: dict[tuple[str, str], set[Device]] = {}
    for one in slices:
        if one.devices and one.generation == latest[one.node, one.driver, one.pool]:
            seen.setdefault((one.node, one.driver), set()).update(one.devices)
    found: dict[str, dict[str, int]] = {}
    for (node, driver), devices in sorted(seen.items()):
        whole: set[str] = set()
        counts = Counter[str]()
        for device in sorted(devices, key=lambda each: (each.part, each.name)):  # whole ones first
            if whole & device.gpu_ids:
                continue
            counts[f"{driver} ({device.part})" if device.part else driver] += 1
            if not device.part:
                whole |= device.gpu_ids
        found.setdefault(node, {}).update(counts)
    return found


def left_out(node: NodeFacts, drivers: Mapping[str, int]) -> list[tuple[str, str]]:
    """(product, reason) of each kind of device of the node that is not planned.

    GPUs that are both an extended resource and devices of a driver count once, as the resource.
    """
    found = list(node.aside)
    if node.refused:
        found.append((node.gpu_label or "GPUs", node.refused))
    elif node.gpu_resource is None:
        found += offered(drivers)
    return found


def offered(drivers: Mapping[str, int]) -> list[tuple[str, str]]:
    """(product, reason) of the devices of each driver."""
    return [(f"{count} devices of {driver}", BY_DRA) for driver, count in drivers.items()]
