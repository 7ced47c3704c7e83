"""A live cluster's objects, read once with GETs, for `motley plan --context`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from motley_operator.cli.documents import Sourced, Sources
from motley_operator.connection import (
    CUSTOM,
    KINDS,
    OLDER,
    ApiError,
    Client,
    Credentials,
    Kind,
    Sent,
    load_credentials,
)
from motley_operator.facts.resources import config_map_references

PAGE = "500"  # objects a request, as kubectl asks for


def add_live(objects: Sequence[Sourced], context: str, kubeconfig: str | None) -> Sources:
    """The cluster's nodes, pods and resources; an object of a file goes before the cluster's own.

    Raises: ApiError, OperatorError where the cluster cannot be read.
    """

    def login() -> Credentials:
        return load_credentials(kubeconfig=kubeconfig, context=context)

    return asyncio.run(_read(objects, login, f"cluster {context}"))


async def _read(objects: Sequence[Sourced], login: Any, origin: str) -> Sources:
    async with Client(login) as client:
        nodes = await _list(client, "Node")
        pods = await _list(client, "Pod")
        there: list[Mapping[str, Any]] = []
        for kind in (
            *CUSTOM,
            "Fleet",
            "PriorityClass",
            "ResourceQuota",
            "LimitRange",
            "ResourceSlice",
        ):
            there += await _list(client, kind)
        custom = [item for item in there if item["kind"] in CUSTOM]
        custom += [item for _, item in objects if item.get("kind") in CUSTOM]
        wanted = {ref for item in custom for ref in config_map_references(item)}
        for namespace, name in sorted(wanted):
            there += await _get(client, "ConfigMap", namespace or "default", name)
    given = {_identity(item) for _, item in objects}
    kept = [(origin, item) for item in there if _identity(item) not in given]
    return Sources(
        objects=[*objects, *kept],
        nodes=[(origin, item) for item in nodes],
        pods=[(origin, item) for item in pods],
    )


def _identity(item: Mapping[str, Any]) -> tuple[str, str, str]:
    metadata = item.get("metadata") or {}
    kind = str(item.get("kind"))
    known = KINDS.get(kind)
    namespaced = known is None or known.namespaced
    namespace = str(metadata.get("namespace") or "default") if namespaced else ""
    return kind, namespace, str(metadata.get("name"))


async def _list(client: Client, kind: str) -> list[dict[str, Any]]:
    """Every object of a kind, in the newest version that the cluster has; none where it has none."""
    newest = KINDS[kind]
    for version in (newest.version, *OLDER.get(kind, ())):
        found = await _pages(client, replace(newest, version=version))
        if found is not None:
            return found
    return []


async def _pages(client: Client, collection: Kind) -> list[dict[str, Any]] | None:
    """Every object of a collection; None where the cluster does not have the collection."""
    items: list[dict[str, Any]] = []
    params = {"limit": PAGE}
    while True:
        sent = Sent("list", collection.plural, "GET", collection.path(), params)
        try:
            page = await client.send(sent)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        # Items of a LIST do not say what they are.
        items += [{"kind": collection.name, **item} for item in page.get("items") or ()]
        more = (page.get("metadata") or {}).get("continue")
        if not more:
            return items
        params = {"limit": PAGE, "continue": more}


async def _get(client: Client, kind: str, namespace: str, name: str) -> list[dict[str, Any]]:
    collection = KINDS[kind]
    sent = Sent("get", collection.plural, "GET", collection.path(namespace, name))
    try:
        return [{"kind": kind, **await client.send(sent)}]
    except ApiError as error:
        if error.status == 404:
            return []
        raise
