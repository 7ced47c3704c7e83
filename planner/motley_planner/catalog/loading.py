"""The one loader: catalog files, or a person's additions, to a checked Catalog."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from motley_planner.catalog.fabric import FabricEntry
from motley_planner.catalog.schema import (
    EfficiencyEntry,
    EngineEntry,
    FittedEntry,
    FrameworkEntry,
    GpuEntry,
    ModelEntry,
)
from motley_planner.domain.hardware import Catalog, normalized_label
from motley_planner.domain.models import ModelSpec
from motley_planner.errors import CatalogError

Entry = TypeVar("Entry", bound=BaseModel)


@cache
def load_catalog() -> Catalog:
    """The catalog that ships with Motley.

    Raises: CatalogError naming file, field and rule.
    """
    root = files("motley_planner.catalog")
    gpus = _folder(root, "gpus", GpuEntry)
    models = _folder(root, "models", ModelEntry)
    engines = _folder(root, "engines", EngineEntry)
    frameworks = _folder(root, "frameworks", FrameworkEntry)
    efficiency = _read(root.joinpath("efficiency.toml"), "efficiency.toml", EfficiencyEntry)
    fitted = _read(root.joinpath("fitted.toml"), "fitted.toml", FittedEntry)
    return Catalog(
        fabric=_read(root.joinpath("fabric.toml"), "fabric.toml", FabricEntry).to_domain(),
        gpus={entry.name: entry.to_domain() for _, entry in gpus},
        models={entry.name: entry.to_domain() for _, entry in models},
        engines={entry.name: entry.to_domain() for _, entry in engines},
        frameworks={entry.name: entry.to_domain() for _, entry in frameworks},
        model_aliases=_alias_index(models),
        labels=_label_index(gpus),
        efficiency=efficiency.to_domain(fitted),
    )


def with_gpu(catalog: Catalog, entry: Mapping[str, Any], origin: str) -> Catalog:
    """The catalog with one more (or a replaced) GPU, given in the keys of catalog/gpus/*.toml.

    Raises: CatalogError naming `origin`, the field and the rule.
    """
    gpu = _checked(entry, origin, GpuEntry)
    labels = {label: name for label, name in catalog.labels.items() if name != gpu.name}
    for label in (gpu.name, *gpu.product_labels):
        _claim(labels, normalized_label(label), gpu.name, origin, "product_labels")
    return replace(catalog, gpus={**catalog.gpus, gpu.name: gpu.to_domain()}, labels=labels)


def with_model(catalog: Catalog, model: ModelSpec, aliases: Iterable[str], origin: str) -> Catalog:
    """The catalog with one more (or a replaced) model and its aliases.

    Raises: CatalogError naming `origin` where another model has one of the names.
    """
    index = {alias: name for alias, name in catalog.model_aliases.items() if name != model.name}
    for alias in (model.name, *aliases):
        _claim(index, alias.casefold(), model.name, origin, "aliases")
    return replace(catalog, models={**catalog.models, model.name: model}, model_aliases=index)


def _folder(root: Traversable, folder: str, kind: type[Entry]) -> list[tuple[str, Entry]]:
    paths = sorted(root.joinpath(folder).iterdir(), key=lambda path: path.name)
    tomls = [path for path in paths if path.name.endswith(".toml")]
    entries = [
        (f"{folder}/{path.name}", _read(path, f"{folder}/{path.name}", kind)) for path in tomls
    ]
    _unique(((file, str(getattr(entry, "name", ""))) for file, entry in entries), "name")
    return entries


def _read(path: Traversable, file: str, kind: type[Entry]) -> Entry:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(file, "(file)", f"not valid TOML: {error}") from error
    return _checked(content, file, kind)


def _checked(content: Mapping[str, Any], file: str, kind: type[Entry]) -> Entry:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(file)"
        raise CatalogError(file, field, first["msg"]) from error


def _alias_index(models: list[tuple[str, ModelEntry]]) -> dict[str, str]:
    index: dict[str, str] = {}
    for file, entry in models:
        for alias in (entry.name, *entry.aliases):
            _claim(index, alias.casefold(), entry.name, file, "aliases")
    return index


def _label_index(gpus: list[tuple[str, GpuEntry]]) -> dict[str, str]:
    index: dict[str, str] = {}
    for file, entry in gpus:
        for label in (entry.name, *entry.product_labels):
            _claim(index, normalized_label(label), entry.name, file, "product_labels")
    return index


def _claim(index: dict[str, str], key: str, owner: str, file: str, field: str) -> None:
    if index.setdefault(key, owner) != owner:
        raise CatalogError(file, field, f"{key!r} already names {index[key]}")


def _unique(names: Iterable[tuple[str, str]], field: str) -> None:
    seen: dict[str, str] = {}
    for file, name in names:
        if name in seen:
            raise CatalogError(file, field, f"{name!r} is already in {seen[name]}")
        seen[name] = file
