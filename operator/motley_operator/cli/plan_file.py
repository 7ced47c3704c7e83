"""PLAN.json: a plan with the inventory it was made on, as one file that other commands read.

docs/reference/plan.md describes the fields. A reader ignores fields it does not know, so that
new ones may be added; `version` changes only when an old field changes its meaning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from motley_operator.cli.output import InputError, plain
from motley_operator.domain.translation import UnknownGpu
from motley_planner.domain.hardware import Gpu, Node
from motley_planner.domain.measurements import Learned
from motley_planner.domain.plan import Plan, PlannedReplica, Refusal
from motley_planner.domain.snapshot import Snapshot
from motley_planner.json_reader import decoded, finite_float

VERSION = 1


@dataclass(frozen=True, slots=True)
class ShapeRow:
    """Nodes that are alike, and their GPUs: all, held by others, held by the plan, left."""

    gpu: str
    zone: str
    capacity_type: str
    gpus_per_node: int
    price_usd_per_gpu_hour: float
    nodes: int
    cordoned: int
    total: int
    foreign: int
    used: int
    free: int


@dataclass(frozen=True, slots=True)
class Seat:
    """One node of the inventory and the GPUs on it that the plan could use."""

    node: str
    gpu: str
    zone: str
    capacity_type: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A resource that could not even be planned, and why."""

    key: str
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What the plan answers, so that `explain` and `what-if` can plan again."""

    snapshot: Snapshot
    gpus: tuple[Gpu, ...] = ()  # those that the Fleet added to the catalog
    learned: tuple[Learned, ...] = ()  # corrections that it was planned with


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What PLAN.json holds."""

    plan: Plan
    inventory: tuple[ShapeRow, ...] = ()
    seats: tuple[Seat, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    unknown_gpus: tuple[UnknownGpu, ...] = ()
    problem: Problem | None = None

    def question(self, path: str) -> Problem:
        """The problem.

        Raises: InputError for a plan that was written without it.
        """
        if self.problem is None:
            raise InputError(
                f"{path}: problem", "is missing; write the plan again with this motley"
            )
        return self.problem


def plan_file(
    plan: Plan,
    problem: Problem,
    rejected: Mapping[str, tuple[Refusal, ...]],
    unknown_gpus: tuple[UnknownGpu, ...],
) -> PlanFile:
    """The file's content for a plan and the problem it answers."""
    snapshot = problem.snapshot
    entries = tuple(Rejected(key, rejected[key]) for key in sorted(rejected))
    seats = tuple(
        Seat(n.name, n.node_class.gpu, n.node_class.zone, n.node_class.capacity_type, n.gpus)
        for n in snapshot.nodes
    )
    return PlanFile(plan, inventory(snapshot.nodes, plan), seats, entries, unknown_gpus, problem)


def without_proofs(content: PlanFile) -> PlanFile:
    """The content for a reader who did not ask for proofs of bounds."""
    return replace(content, plan=replace(content.plan, certificates=()))


def inventory(nodes: tuple[Node, ...], plan: Plan) -> tuple[ShapeRow, ...]:
    """GPUs by node shape, the dearest shape first."""
    used = used_gpus(plan)
    shapes: dict[tuple[str, str, str, int, float], list[Node]] = defaultdict(list)
    for node in nodes:
        kind = node.node_class
        price = kind.price_usd_per_gpu_hour
        shapes[(kind.gpu, kind.zone, kind.capacity_type, node.total_gpus, price)].append(node)
    rows = [_shape_row(shape, members, used) for shape, members in shapes.items()]
    rows.sort(key=lambda r: (-r.price_usd_per_gpu_hour, r.gpu, r.zone, r.capacity_type))
    return tuple(rows)


def _shape_row(
    shape: tuple[str, str, str, int, float], members: list[Node], used: Mapping[str, int]
) -> ShapeRow:
    gpu, zone, capacity_type, per_node, price = shape
    total = sum(node.total_gpus for node in members)
    taken = sum(used.get(node.name, 0) for node in members)
    return ShapeRow(
        gpu=gpu,
        zone=zone,
        capacity_type=capacity_type,
        gpus_per_node=per_node,
        price_usd_per_gpu_hour=price,
        nodes=len(members),
        cordoned=sum(node.cordoned for node in members),
        total=total,
        foreign=total - sum(node.gpus for node in members),
        used=taken,
        free=sum(node.gpus for node in members) - taken,
    )


def used_gpus(plan: Plan) -> dict[str, int]:
    """GPUs that the plan takes, by node name."""
    used: dict[str, int] = defaultdict(int)
    for replica in replicas(plan).values():
        for rank, node in enumerate(replica.nodes):
            used[node] += replica.gpus_on(rank)
    return used


def replicas(plan: Plan) -> dict[str, PlannedReplica]:
    """Every replica of the plan by its unit id ("<resource key>/<replica name>")."""
    return {f"{part.key}/{one.name}": one for part in plan.slices for one in part.replicas}


def to_document(content: PlanFile) -> dict[str, Any]:
    """The content as JSON values, the plan's own fields at the top."""
    rest = {
        "inventory": content.inventory,
        "seats": content.seats,
        "rejected": content.rejected,
        "unknown_gpus": content.unknown_gpus,
        "problem": content.problem,
    }
    document: dict[str, Any] = plain({"version": VERSION})
    document |= plain(content.plan)
    document |= plain(rest)
    return document


def read_plan(path: str | Path) -> PlanFile:
    """The content of a PLAN.json.

    Raises: InputError that names the file, the field and the rule.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        text = Path(path).read_text(encoding="utf-8")
        document = decoded(text, parse_float=finite_float)
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    except RecursionError:
        rule = "nested too deeply; write one with `motley plan ... -o json > PLAN.json`"
        raise InputError(str(path), rule) from None
    except ValueError as error:
        hint = "write one with `motley plan ... -o json > PLAN.json`"
        raise InputError(str(path), f"not JSON ({error}); {hint}") from error
    if not isinstance(document, dict) or "version" not in document:
        raise InputError(str(path), 'no "version": not a file that `motley plan -o json` wrote')
    if document["version"] != VERSION:
        found = document["version"]
        raise InputError(f"{path}: version", f"{found!r}, and this motley reads {VERSION}")
    own = {field.name for field in fields(Plan)}
    nested = {"plan": {name: document[name] for name in document if name in own}}
    nested |= {name: document[name] for name in document if name not in own}
    try:
        return TypeAdapter(PlanFile).validate_python(nested)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"] if step != "plan")
        raise InputError(f"{path}: {place}", first["msg"]) from error


def schema() -> dict[str, Any]:
    """The JSON Schema of PLAN.json, for `motley schema plan`."""
    from pydantic import TypeAdapter

    nested = TypeAdapter(PlanFile).json_schema(mode="serialization")
    definitions: dict[str, Any] = nested["$defs"]
    plan = definitions.pop("Plan")
    own = {name: value for name, value in nested["properties"].items() if name != "plan"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "PLAN.json",
        "description": "What `motley plan -o json` prints.",
        "type": "object",
        "properties": {"version": {"const": VERSION}} | plan["properties"] | own,
        "required": ["version", *plan.get("required", [])],
        "$defs": definitions,
    }
