"""Rows of the table in the words of the spec and of the cluster, for people."""

from __future__ import annotations

_LIMITS = {
    "budget": "spec.budget.dollarsPerHour",
    "gpus": "spec.budget.gpus",
    "spot": "maxSpotShare",
    "replicas": "fewest replicas",
    "most": "most replicas",
    "gangs": "one trainer gang",
    "frozen": "what is held (paused, Preview or Disabled)",
}


def binding_words(row: str, key: str) -> str:
    """What a row that binds is called in the spec of resource `key`, or on the cluster."""
    if row == "budget":
        return "budget of Fleet"
    kind, bracket, inside = row.partition("[")
    inside = inside.removesuffix("]")
    if not bracket:
        return _sentence(row)
    if kind == "side":
        return _side(inside, key)
    if kind == "quality":
        return "spec.quality.floor"
    if kind in ("gpus", "slots", "node"):
        return _nodes(inside)
    return {
        "max_count": "most replicas of one configuration",
        "link": "network between zones",
        "nic": "network of a node",
    }.get(kind, "a limit of the fleet")


def _nodes(inside: str) -> str:
    """`<gpu>,<node class>,...`, `<gpu>|<capacity type>|...,<zone>,...` or `<node>,...`."""
    name, _, rest = inside.partition(",")
    if "|" in name:
        name, capacity_type = name.split("|")[:2]
        rest = f"{rest.partition(',')[0]}|{capacity_type}"
    if "|" not in rest:
        return f"GPUs of node {name}"
    zone, capacity_type = rest.split("|")[:2]
    place = f" in {zone}" if zone else ""
    spot = "" if capacity_type == "on-demand" else f"{capacity_type} "
    return f"{spot}{name} nodes{place}"


def _side(inside: str, key: str) -> str:
    """`<key>|<what>` or `<key>|<stage>|<what>` or `hold|<column>`."""
    owner, *rest = inside.split("|")
    if owner == "quota" and rest:
        return rest[0]
    if owner == "hold" or not rest:
        return "what runs and may not be moved now" if owner == "hold" else f"limit {owner}"
    what = rest[0] if rest[0] in ("budget", "gpus", "frozen") else rest[min(1, len(rest) - 1)]
    words = _LIMITS.get(what, what)
    stage = rest[0] if what not in ("budget", "gpus", "frozen", "gangs") else ""
    words = f"{words} of {stage}" if stage and stage not in ("main", what) else words
    return words if owner == key else f"{words} of {owner}"


def _sentence(row: str) -> str:
    """Sentences about classes and columns, without their internal names."""
    if row.startswith("no node fits"):
        return f"no node has room for a replica that serves {row.rpartition('/')[2]}"
    if row.startswith("no column serves"):
        return f"no configuration serves {row.rpartition('/')[2]}"
    if row in ("capacity", "no column can give it"):
        return "GPUs that the resource may use"
    return row
