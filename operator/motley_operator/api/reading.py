"""From a plain mapping to a resource, or to every mistake in it.

The same three steps as the API server: nulls are dropped, the schema is checked (pydantic here), the
rules over several fields are evaluated (CEL there, `Rule.holds` here).
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from motley_operator.api.common import ApiModel
from motley_operator.api.findings import Finding, InvalidDocument, Path
from motley_operator.api.fleet import Fleet
from motley_operator.api.frame import Resource
from motley_operator.api.modelcascade import ModelCascade
from motley_operator.api.rljob import RLJob
from motley_operator.api.rules import Document
from motley_operator.api.servingpool import ServingPool
from motley_operator.api.wording import sentence

RESOURCES: tuple[type[Resource], ...] = (ServingPool, ModelCascade, RLJob, Fleet)
KINDS: Mapping[str, type[Resource]] = {r.names.kind: r for r in RESOURCES}


def parse(document: Document) -> Resource:
    """The resource that a document describes; its kind says which class.

    A status that does not fit the schema (written by hand, or by another version) reads as an empty
    one: it is Motley's own output and must never stop Motley from planning.

    Raises: InvalidDocument (a SpecError) with every mistake.
    """
    resource, findings = read(document)
    if resource is None:
        raise InvalidDocument(findings)
    return resource


def read(document: Document) -> tuple[Resource | None, tuple[Finding, ...]]:
    """The resource and no findings, or None and all that is wrong with the document."""
    kind = KINDS.get(str(document.get("kind")))
    if kind is None:
        return None, (_unknown_kind(document),)
    cleaned = without_nulls(document)
    status = cleaned.pop("status", None)
    findings: list[Finding] = []
    resource: Resource | None = None
    try:
        resource = kind.model_validate(cleaned)
    except ValidationError as error:
        findings += _schema_findings(kind, error)
    findings += _repeated(kind, cleaned, ())
    findings += rule_findings(kind, cleaned, taken={f.path for f in findings})
    if findings or resource is None:
        return None, tuple(findings)
    return _with_status(resource, status), ()


def _with_status(resource: Resource, status: object) -> Resource:
    model = type(resource).model_fields["status"].annotation
    assert isinstance(model, type) and issubclass(model, BaseModel)
    try:
        return resource.model_copy(update={"status": model.model_validate(status or {})})
    except ValidationError:
        return resource


def without_nulls(value: Any) -> Any:
    """The document without null fields: the API server drops them, too."""
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(v) for v in value]
    return value


def _unknown_kind(document: Document) -> Finding:
    written = document.get("kind")
    near = difflib.get_close_matches(str(written), KINDS, n=1)
    hint = f": did you mean {near[0]}?" if near else f": use one of {', '.join(KINDS)}"
    return Finding(
        ("kind",), "unknown kind", f"{written!r} is not a kind of motley.dev{hint}", "schema"
    )


def _schema_findings(kind: type[Resource], error: ValidationError) -> Iterator[Finding]:
    for problem in error.errors(include_url=False):
        if problem["type"] == "too_short" and len(problem["input"]) >= problem["ctx"]["min_length"]:
            continue  # long enough, but for entries that have a finding of their own
        path = tuple(step for step in problem["loc"] if step != "[key]")
        rule, message = sentence(problem, model_at(kind, path[:-1]))
        yield Finding(path, rule, message, "schema")


def rule_findings(model: type[ApiModel], document: Document, taken: set[Path]) -> list[Finding]:
    """Findings of every rule that does not hold in `document` or below it.

    A rule that cannot be evaluated because the schema is violated below it is left out: that mistake
    is reported already. `taken` holds the paths of those.
    """
    found = []
    for rule, path in _broken(model, document, ()):
        if path not in taken:
            found.append(Finding(path, rule.name, rule.message, "cel"))
    return found


def _broken(model: type[ApiModel], value: Any, path: Path) -> Iterator[tuple[Any, Path]]:
    if not isinstance(value, Mapping):
        return
    for rule in model.rules:
        try:
            broken = rule.holds is not None and not rule.holds(value)
        except (TypeError, ValueError, AttributeError):
            continue
        if broken:
            yield rule, path + tuple(step for step in rule.field.split(".") if step)
    for name, child in children(model).items():
        below = value.get(name)
        if isinstance(below, list):
            for i, item in enumerate(below):
                yield from _broken(child, item, (*path, name, i))
        else:
            yield from _broken(child, below, (*path, name))


def _repeated(model: type[ApiModel], value: Any, path: Path) -> Iterator[Finding]:
    """Entries that a list with unique entries (`x-kubernetes-list-type` map or set) holds twice."""
    if not isinstance(value, Mapping):
        return
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        rows = value.get(field.alias or name)
        child = children(model).get(field.alias or name)
        below = (*path, field.alias or name)
        if isinstance(rows, Mapping) and child is not None:
            yield from _repeated(child, rows, below)
        if not isinstance(rows, list):
            continue
        kind = extra.get("x-kubernetes-list-type") if isinstance(extra, dict) else None
        keys = extra.get("x-kubernetes-list-map-keys") if isinstance(extra, dict) else None
        seen: set[str] = set()
        for i, row in enumerate(rows):
            if child is not None:
                yield from _repeated(child, row, (*below, i))
            written = _identity(row, keys if isinstance(keys, list) else (), child)
            if kind in ("map", "set") and written in seen:
                message = f"{written} is written twice: keep one entry of it"
                yield Finding((*below, i), "unique", message, "schema")
            seen.add(written)


def _identity(row: Any, keys: Sequence[Any], model: type[ApiModel] | None) -> str:
    if not keys or model is None or not isinstance(row, Mapping):
        return str(row)
    defaults = {f.alias or n: f.default for n, f in model.model_fields.items()}
    return ", ".join(f"{key}={row.get(key, defaults[key])}" for key in keys)


@cache
def children(model: type[BaseModel]) -> Mapping[str, type[ApiModel]]:
    """The fields of a model that hold models, by the name they have in documents."""
    found = {}
    for name, field in model.model_fields.items():
        child = _model_in(field.annotation)
        if child is not None:
            found[field.alias or name] = child
    return found


def _model_in(annotation: Any) -> type[ApiModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        for part in typing.get_args(annotation):
            if (model := _model_in(part)) is not None:
                return model
    return None


def model_at(root: type[ApiModel], path: Path) -> type[ApiModel] | None:
    """The model that describes the document at `path`, if one does."""
    model: type[ApiModel] | None = root
    for step in path:
        if isinstance(step, int):
            continue
        model = children(model).get(step) if model is not None else None
    return model
