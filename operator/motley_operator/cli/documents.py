"""YAML and JSON files as ClusterFacts: what `motley plan` reads where there is no cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from motley_operator.cli.output import InputError
from motley_operator.domain.facts import ClusterFacts, NodeFacts, PodFacts, ResourceFacts
from motley_operator.domain.purchases import REQUEST
from motley_operator.facts.nodes import parse_node
from motley_operator.facts.pods import parse_pod
from motley_operator.facts.quotas import default_priority_class, parse_limit_range, parse_quota
from motley_operator.facts.slices import parse_slice

Document = Mapping[str, Any]
Sourced = tuple[str, Document]

RESOURCE_KINDS = ("ModelCascade", "ServingPool", "RLJob")
GROUP = "motley.dev/"
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
# What `kubectl get nodes -o yaml` prints at length and nothing here reads; on a cluster of 200
# nodes these two are most of the file and of the time to parse it.
_UNREAD = ("    images:", "    managedFields:")


@dataclass(frozen=True, slots=True)
class Sources:
    """Objects and where each was found (a file's path, or a cluster)."""

    objects: Sequence[
        Sourced
    ]  # resources, ConfigMaps, PriorityClasses, quotas, a Fleet; the rest is ignored
    nodes: Sequence[Sourced]
    pods: Sequence[Sourced] = ()


def read_files(names: Iterable[str]) -> list[Sourced]:
    """Every object in the files and folders.

    Raises: InputError that names the file, the place in it and the rule.
    """
    return [(str(path), item) for path in expand(names) for item in read_documents(path)]


def facts_of(sources: Sources, now: float | None = None) -> ClusterFacts:
    """The facts that the objects state; a resource without a namespace is in "default".

    Raises: InputError that names the file, the object, the rule and the fix.
    """
    found = sources.objects
    return ClusterFacts(
        now=time.time() if now is None else now,
        nodes=tuple(_nodes(sources.nodes)),
        pods=tuple(_pods(sources.pods)),
        resources=tuple(_resources(found)),
        fleet=_fleet(found),
        priority_classes={
            _name(origin, item): int(item.get("value") or 0)
            for origin, item in found
            if item.get("kind") == "PriorityClass"
        },
        default_priority_class=default_priority_class(
            item for _, item in found if item.get("kind") == "PriorityClass"
        ),
        quotas=tuple(parse_quota(i) for _, i in found if i.get("kind") == "ResourceQuota"),
        limit_ranges=tuple(parse_limit_range(i) for _, i in found if i.get("kind") == "LimitRange"),
        served=frozenset({REQUEST}),  # a plan on files assumes what its Fleet names
        slices=tuple(parse_slice(i) for _, i in found if i.get("kind") == "ResourceSlice"),
        config_maps={
            (_namespace(item), _name(origin, item)): item.get("data") or {}
            for origin, item in found
            if item.get("kind") == "ConfigMap"
        },
    )


def expand(names: Iterable[str]) -> list[Path]:
    """The files that the names mean; of a folder all its YAML and JSON files, also deeper ones.

    Raises: InputError for a name that is nothing, or a folder without such files.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            if not inside:
                raise InputError(name, "holds no .yaml, .yml or .json file")
            paths += inside
        elif path.exists():
            paths.append(path)
        else:
            raise InputError(name, "no such file or folder")
    return list(dict.fromkeys(paths))


def read_documents(path: Path) -> Iterator[Document]:
    """Every object in the file; of a List its items.

    Raises: InputError for what is neither YAML nor JSON, or no object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(str(path), reason) from error
    for position, document in enumerate(_parsed(path, text), start=1):
        if document is None:
            continue
        if not isinstance(document, dict):
            kind = type(document).__name__
            raise InputError(f"{path}: document {position}", f"is a {kind}, not an object")
        items = document.get("items")
        if isinstance(items, list) and str(document.get("kind", "List")).endswith("List"):
            yield from items
        else:
            yield document


def _parsed(path: Path, text: str) -> list[Any]:
    if text.lstrip()[:1] == "{":
        try:
            return [json.loads(text)]
        except ValueError:
            pass  # perhaps YAML's flow style, or several JSON documents
        except RecursionError:
            raise InputError(str(path), "is nested too deeply: write it flatter") from None
    import yaml

    from motley_operator.api.nesting import too_deep, too_deep_at

    text = without_unread(text)
    if (deep := too_deep_at(text)) is not None:
        raise InputError(str(path), too_deep(deep))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return list(yaml.load_all(text, Loader=loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}: line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "cannot be read"
        raise InputError(place, f"not YAML: {problem}") from error
    except ValueError as error:  # an integer of thousands of digits, a date in a 13th month
        from motley_operator.api.documents import load

        _, findings = load(text)
        wrong = findings[-1] if findings else None
        place = f"{path}: line {wrong.line}" if wrong else str(path)
        raise InputError(place, wrong.message if wrong else str(error)) from error


def without_unread(text: str) -> str:
    """The text of a `kubectl get -o yaml` List without the blocks that nothing here reads.

    Only lines of a List's items are dropped, and only below a key at an item's own depth, so
    that every other YAML comes back as it was. Dropped lines stay as empty ones: line numbers hold.
    """
    if not text.startswith("apiVersion: v1\nitems:\n"):
        return text
    kept: list[str] = []
    skipping = False
    for line in text.split("\n"):
        # An empty line may be the middle of a long string.
        if skipping and (not line or line.startswith(("    - ", "      "))):
            kept.append("")
            continue
        skipping = line in _UNREAD
        kept.append("" if skipping else line)
    return "\n".join(kept)


def _resources(found: Iterable[Sourced]) -> Iterator[ResourceFacts]:
    seen: dict[str, str] = {}
    for origin, document in found:
        kind, version = document.get("kind"), str(document.get("apiVersion") or "")
        if kind not in RESOURCE_KINDS:
            if version.startswith(GROUP) and kind != "Fleet":
                known = ", ".join((*RESOURCE_KINDS, "Fleet"))
                raise InputError(f"{origin}: kind", f"{kind!r} is no kind of motley.dev: {known}")
            continue
        resource = _resource(kind, origin, document)
        if resource.key in seen:
            raise InputError(origin, f"{resource.key} is in {seen[resource.key]} already")
        seen[resource.key] = origin
        yield resource


def _resource(kind: str, origin: str, document: Document) -> ResourceFacts:
    name, namespace = _name(origin, document), _namespace(document)
    metadata = document["metadata"]
    return ResourceFacts(
        kind=kind,
        namespace=namespace,
        name=name,
        uid=str(metadata.get("uid") or f"{kind}/{namespace}/{name}"),
        generation=int(metadata.get("generation") or 1),
        deleting="deletionTimestamp" in metadata,
        annotations=metadata.get("annotations") or {},
        document={**document, "metadata": {**metadata, "namespace": namespace}},
    )


def _fleet(found: Iterable[Sourced]) -> Document | None:
    fleets = [(origin, item) for origin, item in found if item.get("kind") == "Fleet"]
    if len(fleets) > 1:
        raise InputError(fleets[1][0], f"a second Fleet; {fleets[0][0]} has one already")
    return fleets[0][1] if fleets else None


def _nodes(found: Iterable[Sourced]) -> Iterator[NodeFacts]:
    seen: set[str] = set()
    for origin, document in found:
        if document.get("kind") not in ("Node", None):
            continue
        node = _node(origin, document)
        if node.name in seen:
            raise InputError(origin, f"node {node.name} is there twice")
        seen.add(node.name)
        yield node
    if not seen:
        origin = found_in(found)
        raise InputError(origin, "holds no Node; write it with `kubectl get nodes -o yaml`")


def found_in(found: Iterable[Sourced]) -> str:
    """Where the objects come from, for a message."""
    return ", ".join(dict.fromkeys(origin for origin, _ in found)) or "the nodes file"


def _node(origin: str, document: Document) -> NodeFacts:
    name = _name(origin, document)
    try:
        node = parse_node(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{origin}: node {name}", f"cannot be read ({error!r})") from error
    conditions = (document.get("status") or {}).get("conditions") or ()
    if any(condition.get("type") == "Ready" for condition in conditions):
        return node
    # A node file written by hand says nothing of readiness; it means a node that works.
    return replace(node, ready=True, not_ready_since=None)


def _pods(found: Iterable[Sourced]) -> Iterator[PodFacts]:
    for origin, document in found:
        if document.get("kind") not in ("Pod", None):
            continue
        metadata = document.get("metadata") or {}
        try:
            yield parse_pod({**document, "metadata": {"namespace": "default", **metadata}})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            where = f"{origin}: pod {metadata.get('name')}"
            raise InputError(where, f"cannot be read ({error!r})") from error


def _name(origin: str, document: Document) -> str:
    name = (document.get("metadata") or {}).get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{origin}: {document.get('kind')}: metadata.name", "is missing")
    return name


def _namespace(document: Document) -> str:
    return str((document.get("metadata") or {}).get("namespace") or "default")
