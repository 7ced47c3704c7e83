"""Learned corrections on the command line: read from a file, shown with a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from motley_operator.cli.output import InputError, columns, number

if TYPE_CHECKING:
    from motley_operator.cli.plan_file import PlanFile
    from motley_planner.domain.hardware import Catalog
    from motley_planner.domain.measurements import Learned, LearnedKey


def read_corrections(path: str, catalog: Catalog) -> dict[LearnedKey, Learned]:
    """The corrections of a Fleet's status, or of a file with a list `corrections` of such rows.

    In rows written by hand the interval may be left out. Names of the catalog may be any it knows.
    Raises: InputError naming the file, the row and the rule.
    """
    from pydantic import ValidationError

    from motley_operator.api.fleetstatus import Correction
    from motley_operator.demand.corrections import learned_of

    found = {}
    for place, row in _rows(path):
        value = row.get("value")
        interval = dict.fromkeys(("measured", "low", "high"), value)
        try:
            read = Correction.model_validate({**interval, "samples": 0, "since": "", **row})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(step) for step in first["loc"])
            raise InputError(f"{path}: {place}.{field}", first["msg"]) from error
        one = learned_of(_named(read, catalog))
        found[one.key] = one
    return found


def _rows(path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows and where each stands; a file without any is a mistake."""
    from motley_operator.cli.documents import read_files

    rows: list[tuple[str, Any]] = []
    for _, document in read_files([path]):
        inside = "status.corrections" if document.get("kind") == "Fleet" else "corrections"
        holder = document.get("status") if document.get("kind") == "Fleet" else document
        listed = holder.get("corrections") if isinstance(holder, Mapping) else None
        if isinstance(listed, list):
            rows += [(f"{inside}[{i}]", row) for i, row in enumerate(listed)]
    if not rows:
        rule = "holds no corrections; give `kubectl get fleet default -o yaml`, or a list `corrections`"
        raise InputError(path, rule)
    for place, row in rows:
        if not isinstance(row, Mapping):
            raise InputError(f"{path}: {place}", "is no mapping; write model, gpu, ... and value")
        yield place, row


def _named(read: Any, catalog: Catalog) -> Any:
    """The row with the catalog's own names; others may be of models and GPUs that a Fleet adds."""
    from motley_planner.domain.hardware import Gpu

    model, gpu = catalog.model(read.model), catalog.gpu_by_label(read.gpu)
    names = {"model": model.name if model is not None else read.model}
    names["gpu"] = gpu.name if isinstance(gpu, Gpu) else read.gpu
    return read.model_copy(update=names)


def learned_block(content: PlanFile) -> str:
    """What the plan was made with instead of modeled step times; empty where there is nothing."""
    learned = content.problem.learned if content.problem is not None else ()
    if not learned:
        return ""
    rows: list[tuple[str, ...]] = [
        ("MODEL", "GPU", "TP", "PRECISION", "ENGINE", "STEPS TAKE", "MEASURED", "REQUESTS", "SINCE")
    ]
    for one in sorted(learned, key=lambda one: repr(one.key)):
        key, interval = one.key, f"{number(one.low)} to {number(one.high)}"
        size = (key.model, key.gpu, str(key.tensor_parallel), key.precision, key.engine)
        figures = (f"x {number(one.value)}", interval, str(one.samples), one.since)
        rows.append((*size, *figures))
    title = "Learned where it serves, over what is modeled (a profile goes before it):"
    return f"{title}\n\n{columns(rows, indent=2)}"
