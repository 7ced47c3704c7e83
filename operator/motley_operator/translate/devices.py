"""Devices of nodes that are seen and not planned, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from motley_operator.domain.facts import NodeFacts, SliceFacts


def gpus_by_driver(slices: Sequence[SliceFacts]) -> dict[str, dict[str, int]]:
    """GPUs that drivers of dynamic resource allocation offer, by node and driver.

    Of each pool only the newest generation counts, and of that each GPU once.
    """
    latest: dict[tuple[str, str, str], int] = {}
    for one in slices:
        at = (one.node, one.driver, one.pool)
        latest[at] = max(latest.get(at, 0), one.generation)
    seen: dict[tuple[str, str], set[str]] = {}
    for one in slices:
        if one.node and one.gpus and one.generation == latest[one.node, one.driver, one.pool]:
            seen.setdefault((one.node, one.driver), set()).update(one.gpus)
    found: dict[str, dict[str, int]] = {}
    for (node, driver), gpus in sorted(seen.items()):
        found.setdefault(node, {})[driver] = len(gpus)
    return found


def left_out(node: NodeFacts, drivers: Mapping[str, int]) -> list[tuple[str, str]]:
    """(product, reason) of each kind of device of the node that is not planned.

    GPUs that are both an extended resource and devices of a driver count once, as the resource.
    """
    found = list(node.aside)
    if node.refused:
        found.append((node.gpu_label or "GPUs", node.refused))
    elif node.gpu_resource is None:
        found += [
            (
                f"{gpus} devices of {driver}",
                "devices by DRA are not used for planning: engine pods ask for extended resources",
            )
            for driver, gpus in drivers.items()
        ]
    return found
