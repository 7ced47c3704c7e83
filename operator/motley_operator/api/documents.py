"""YAML files checked as a whole: every mistake of every document, each with its line.

Documents of other groups are read only for what resources refer to (ConfigMaps) and are otherwise
left alone, so that a folder of mixed manifests can be checked as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

import yaml

from motley_operator.api.common import API_VERSION, GROUP
from motley_operator.api.findings import Finding, Path
from motley_operator.api.fleet import Fleet
from motley_operator.api.frame import Resource
from motley_operator.api.nametaken import name_findings
from motley_operator.api.nesting import too_deep, too_deep_at
from motley_operator.api.reading import KINDS, read
from motley_operator.api.semantics import semantic_findings
from motley_operator.api.surroundings import Surroundings, with_additions
from motley_planner.catalog import load_catalog
from motley_planner.domain.hardware import Catalog

_MAY_NOT_READ = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"})
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@dataclass(frozen=True, slots=True)
class Located:
    """A document, the YAML node it came from, and its file."""

    content: Mapping[str, Any]
    node: yaml.Node
    file: str

    @property
    def label(self) -> str:
        """Kind and name, for messages."""
        metadata = self.content.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        namespace = metadata.get("namespace")
        name = metadata.get("name", "?")
        return f"{self.content.get('kind', '?')} {f'{namespace}/' if namespace else ''}{name}"


def validate_documents(
    source: str | FilePath | Sequence[FilePath], catalog: Catalog | None = None
) -> tuple[Finding, ...]:
    """Every finding of a YAML text, a file, a folder or several of them, by file and line.

    Raises: OSError where a file cannot be read.
    """
    located: list[Located] = []
    findings: list[Finding] = []
    for file, text in _texts(source):
        documents, mistakes = load(text, file)
        located += documents
        findings += mistakes
    findings += _check(located, catalog or load_catalog())
    return tuple(sorted(findings, key=lambda f: (f.file, f.line)))


def _texts(source: str | FilePath | Sequence[FilePath]) -> Iterator[tuple[str, str]]:
    if isinstance(source, str):
        yield "", source
        return
    for path in [source] if isinstance(source, FilePath) else source:
        inside = (
            sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES) if path.is_dir() else [path]
        )
        for file in inside:
            yield str(file), file.read_text(encoding="utf-8")


def load(text: str, file: str = "") -> tuple[list[Located], list[Finding]]:
    """The documents of a YAML text, and what the reader itself finds wrong (syntax, double keys)."""
    deep = too_deep_at(text)
    if deep is not None:
        return [], [Finding((), "YAML", too_deep(deep), "yaml", file=file, line=deep)]
    loader = yaml.SafeLoader(text)
    documents: list[Located] = []
    findings: list[Finding] = []
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            findings += _double_keys(node, (), file)
            unread = list(_unread(loader, node, (), file))
            findings += unread
            if not unread:
                documents += _unpacked(loader.construct_document(node), node, file)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        words = getattr(error, "problem", None) or str(error)
        findings.append(
            Finding(
                (),
                "YAML",
                f"is not YAML: {words}: correct line {line}",
                "yaml",
                file=file,
                line=line,
            )
        )
    finally:
        loader.dispose()
    return documents, findings


def _unpacked(content: Any, node: yaml.Node, file: str) -> Iterator[Located]:
    if not isinstance(content, Mapping):
        return
    if content.get("kind") == "List" and isinstance(content.get("items"), list):
        items = _child(node, "items")
        assert isinstance(items, yaml.SequenceNode)
        for item, below in zip(content["items"], items.value, strict=True):
            yield from _unpacked(item, below, file)
    else:
        yield Located(content, node, file)


def _unread(loader: yaml.SafeLoader, node: yaml.Node, path: Path, file: str) -> Iterator[Finding]:
    """Values that YAML reads as a number or a date and Python cannot hold."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _unread(loader, item, (*path, i), file)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _unread(loader, key, path, file)
            yield from _unread(loader, value, (*path, str(key.value)), file)
    elif node.tag in _MAY_NOT_READ:
        try:
            loader.construct_object(node)
        except ValueError as error:
            words = f"a number of {len(node.value)} digits" if len(node.value) > 99 else str(error)
            message = f"cannot be read ({words}): write a smaller number, or quote it"
            yield Finding(path, node.value[:20], message, "yaml", file=file, line=_line(node))


def _double_keys(node: yaml.Node, path: Path, file: str) -> Iterator[Finding]:
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _double_keys(item, (*path, i), file)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        below = (*path, str(key.value))
        if key.value in seen and key.value != "<<":
            message = f"{key.value} is written twice and only the last would count: keep one"
            yield Finding(below, "double key", message, "yaml", file=file, line=_line(key))
        seen.add(key.value)
        yield from _double_keys(value, below, file)


def _check(documents: Sequence[Located], catalog: Catalog) -> Iterator[Finding]:
    resources: list[tuple[Located, Resource]] = []
    for document in documents:
        resource, findings = _read(document)
        yield from (_placed(f, document) for f in findings)
        if resource is not None:
            resources.append((document, resource))
    yield from _double_names(documents)
    plain, allowed = Surroundings(catalog), frozenset[str]()
    for _, resource in resources:
        if isinstance(resource, Fleet):
            catalog, _ = with_additions(catalog, resource.spec)
            allowed = frozenset(resource.spec.pod_templates.allow)
    around = Surroundings(catalog, _config_maps(documents), allowed=allowed)
    for document, resource in resources:
        near = plain if isinstance(resource, Fleet) else around
        yield from (_placed(f, document) for f in semantic_findings(resource, near))
    yield from _shared_names(resources)


def _read(document: Located) -> tuple[Resource | None, tuple[Finding, ...]]:
    version, kind = str(document.content.get("apiVersion", "")), document.content.get("kind")
    if version.split("/")[0] != GROUP and kind not in KINDS:
        return None, ()
    if version != API_VERSION:
        message = f"{version!r} is not served: write {API_VERSION}"
        return None, (Finding(("apiVersion",), "apiVersion", message, "schema"),)
    return read(document.content)


def _double_names(documents: Sequence[Located]) -> Iterator[Finding]:
    seen: dict[tuple[str, ...], Located] = {}
    for document in documents:
        kind, metadata = document.content.get("kind"), document.content.get("metadata")
        if kind not in KINDS or not isinstance(metadata, Mapping) or "name" not in metadata:
            continue
        key = (str(kind), str(metadata.get("namespace", "")), str(metadata["name"]))
        first = seen.setdefault(key, document)
        if first is not document:
            where = (
                f"{first.file}:{_line(first.node)}" if first.file else f"line {_line(first.node)}"
            )
            message = (
                f"the name {key[2]} is taken by {first.label} ({where}): choose another name, for "
                "the later one would replace the earlier"
            )
            finding = Finding(("metadata", "name"), "one name", message, "semantic", "NameTaken")
            yield _placed(finding, document)


def _shared_names(resources: Sequence[tuple[Located, Resource]]) -> Iterator[Finding]:
    by_key = {"/".join(resource.key): (document, resource) for document, resource in resources}
    taken = name_findings({key: resource for key, (_, resource) in by_key.items()})
    for key, finding in taken.items():
        yield _placed(finding, by_key[key][0])


def _config_maps(documents: Sequence[Located]) -> dict[tuple[str, str], Mapping[str, str]]:
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    for document in documents:
        metadata = document.content.get("metadata")
        if document.content.get("kind") == "ConfigMap" and isinstance(metadata, Mapping):
            key = (str(metadata.get("namespace", "")), str(metadata.get("name", "")))
            found[key] = dict(document.content.get("data") or {})
    return found


def _placed(finding: Finding, document: Located) -> Finding:
    line = _line(_deepest(document.node, finding.path))
    return replace(finding, resource=document.label, file=document.file, line=line)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _deepest(node: yaml.Node, path: Path) -> yaml.Node:
    """The key of the last step of a path that the document has, else the last node above it."""
    found = node
    for step in path:
        if isinstance(step, int) and isinstance(node, yaml.SequenceNode) and step < len(node.value):
            node = found = node.value[step]
            continue
        entry = _entry(node, str(step))
        if entry is None:
            return found
        found, node = entry
    return found


def _entry(node: yaml.Node, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next(((k, v) for k, v in reversed(node.value) if k.value == name), None)


def _child(node: yaml.Node, name: str) -> yaml.Node | None:
    entry = _entry(node, name)
    return entry[1] if entry else None
