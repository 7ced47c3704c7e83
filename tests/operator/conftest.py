"""A small Kubernetes API on a real socket, for the rooms that speak HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
from aiohttp import web

from motley_operator.connection import KINDS, Client, Credentials, Kind

Document = dict[str, Any]
# What RBAC says; of admission's refusals there are as many as plugins.
UNGRANTED = (
    'User "system:serviceaccount:motley-system:motley" cannot list resource "nodes" '
    'in API group "" at the cluster scope'
)


class StubApi:
    """Collections with resource versions, watches that can be cut, and answers to order.

    It knows what the store and the applier rely on: chunked LIST, WATCH from a version, 410 below
    `compacted`, UID preconditions, POST conflicts, server-side apply as a merge of top-level keys.
    """

    def __init__(self) -> None:
        self.versions = itertools.count(101)
        self.version = 100
        self.compacted = 0
        self.objects: dict[str, dict[tuple[str, str], Document]] = {}
        self.history: list[tuple[int, str, str, Document]] = []
        self.watches: set[asyncio.Queue[tuple[int, str, str, Document] | None]] = set()
        self.faults: deque[tuple[int, dict[str, str], Document]] = deque()
        self.calls: Counter[str] = Counter()
        self.hanging = False  # writes are taken and never answered
        self.silent = False  # watches accept and say nothing
        self.refusing = False
        self.forbidden: set[str] = set()  # plurals that nobody may read
        self.absent: set[str] = set()  # plurals, or version/plural, that it does not serve
        self.url = ""

    def put(self, kind: str, document: Mapping[str, Any], event: str = "") -> Document:
        """Create or change an object, as another client would."""
        known = KINDS[kind]
        document = json.loads(json.dumps(document))
        metadata = document["metadata"]
        key = (metadata.get("namespace") or "", metadata["name"])
        held = self.objects.setdefault(known.plural, {})
        event = event or ("MODIFIED" if key in held else "ADDED")
        self.version = next(self.versions)
        metadata.setdefault(
            "uid", held[key]["metadata"]["uid"] if key in held else f"uid-{self.version}"
        )
        metadata["resourceVersion"] = str(self.version)
        document.setdefault("kind", known.name)
        document.setdefault("apiVersion", known.api_version)
        held[key] = document
        self._tell(event, known, document)
        return document

    def drop(self, kind: str, name: str, namespace: str = "") -> None:
        """Remove an object, as another client would."""
        known = KINDS[kind]
        document = self.objects[known.plural].pop((namespace, name))
        self.version = next(self.versions)
        last = {
            **document,
            "metadata": {**document["metadata"], "resourceVersion": str(self.version)},
        }
        self._tell("DELETED", known, last)

    def cut(self) -> None:
        """End every watch, as a proxy or a restart does."""
        for queue in list(self.watches):
            queue.put_nowait(None)

    def compact(self) -> None:
        """Forget the history, as etcd does: watches from before are 410."""
        self.compacted = self.version
        self.history.clear()

    def bookmark(self) -> None:
        """Tell every watch how far it has come."""
        for queue in self.watches:
            queue.put_nowait((self.version, "BOOKMARK", "", {}))

    def fail_next(self, status: int, headers: Mapping[str, str] | None = None, **body: Any) -> None:
        """Answer the next write with this."""
        self.faults.append((status, dict(headers or {}), body))

    def _tell(self, event: str, kind: Kind, document: Document) -> None:
        entry = (self.version, event, kind.plural, json.loads(json.dumps(document)))
        self.history.append(entry)
        for queue in self.watches:
            queue.put_nowait(entry)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.refusing:
            return _status(503, "ServiceUnavailable")
        parts = request.path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else ""
        if plural in self.forbidden:
            return _status(403, "Forbidden", message=f"{plural} is forbidden: {UNGRANTED}")
        version = parts[1] if parts[0] == "api" else parts[2]
        if {plural, f"{version}/{plural}"} & self.absent:
            self.calls[f"absent {plural}"] += 1
            return _status(404, "NotFound")
        if request.method == "GET" and "watch" in request.query:
            self.calls[f"watch {plural}"] += 1
            return await self._watch(request, plural, namespace)
        self.calls[f"{request.method} {'/'.join([plural, *rest[2:]])}"] += 1
        if request.method == "GET" and not name:
            return self._list(request, plural, namespace)
        if self.hanging and request.method != "GET":
            await asyncio.sleep(30.0)
        if self.faults:
            status, headers, body = self.faults.popleft()
            return _status(status, **{"reason": "", **body}, headers=headers)
        key = (namespace, name)
        held = self.objects.setdefault(plural, {})
        if request.method == "GET":
            return web.json_response(held[key]) if key in held else _status(404, "NotFound")
        body = await request.json()
        if request.query.get("dryRun") == "All":
            is_there = (namespace, body["metadata"]["name"]) in held
            return _status(409, "AlreadyExists") if is_there else web.json_response(body)
        return self._write(request.method, body, plural, key)

    def _write(
        self, method: str, body: Document, plural: str, key: tuple[str, str]
    ) -> web.Response:
        kind = next(k for k in KINDS.values() if k.plural == plural)
        held = self.objects[plural]
        if method == "POST":
            if (key[0], body["metadata"]["name"]) in held:
                return _status(409, "AlreadyExists")
            body["metadata"]["namespace"] = key[0]
            return web.json_response(self.put(kind.name, body), status=201)
        old = held.get(key)
        wanted = (body.get("preconditions") or body.get("metadata") or {}).get("uid")
        if wanted and not old and method == "PATCH" and "apiVersion" in body:
            return _status(409, "Conflict", message="uid mismatch: no existing object was found")
        if old and wanted and wanted != old["metadata"]["uid"]:
            if method == "PATCH":
                return _status(422, "Invalid", message="metadata.uid: field is immutable")
            return _status(409, "Conflict", message="the UID in the precondition does not match")
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version and (not old or version != old["metadata"]["resourceVersion"]):
            return _status(409, "Conflict", message="the object has been modified")
        if method == "DELETE":
            if not old:
                return _status(404, "NotFound")
            self.drop(kind.name, key[1], key[0])
            return _status(200, "", code=200)
        if not old and "apiVersion" not in body:
            return _status(404, "NotFound")
        merged = {**(old or {}), **body}
        merged["metadata"] = {**((old or {}).get("metadata") or {}), **(body.get("metadata") or {})}
        merged["metadata"]["namespace"] = key[0]
        return web.json_response(self.put(kind.name, merged))

    def _list(self, request: web.Request, plural: str, namespace: str) -> web.Response:
        items = [
            d
            for (ns, _), d in sorted(self.objects.get(plural, {}).items())
            if namespace in ("", ns)
        ]
        items = [d for d in items if _selected(d, request.query)]
        start, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 500))
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        bare = [{k: v for k, v in d.items() if k not in ("kind", "apiVersion")} for d in items]
        return web.json_response({"metadata": metadata, "items": bare[start : start + limit]})

    async def _watch(self, request: web.Request, plural: str, namespace: str) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self.compacted:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        queue: asyncio.Queue[Any] = asyncio.Queue()
        for entry in self.history:
            if entry[0] > since:
                queue.put_nowait(entry)
        self.watches.add(queue)
        try:
            while (entry := await queue.get()) is not None:
                await self._say(response, entry, plural, namespace, request.query)
        except ConnectionResetError:
            pass
        finally:
            self.watches.discard(queue)
        return response

    async def _say(
        self, response: web.StreamResponse, entry: Any, plural: str, namespace: str, query: Any
    ) -> None:
        version, event, where, document = entry
        if self.silent:
            return
        if event == "BOOKMARK":
            document = {"metadata": {"resourceVersion": str(version)}}
        elif (
            where != plural
            or not _selected(document, query)
            or namespace not in ("", document["metadata"].get("namespace"))
        ):
            return
        told = {"type": event, "object": _ordered(document)}
        await response.write(json.dumps(told, separators=(",", ":")).encode() + b"\n")


def _ordered(document: Document) -> Document:
    """The object with its fields in an API server's order."""
    metadata = document["metadata"]
    first = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    names = [*(n for n in first if n in metadata), *(n for n in metadata if n not in first)]
    rest = {k: v for k, v in document.items() if k not in ("kind", "apiVersion", "metadata")}
    head = {k: document[k] for k in ("kind", "apiVersion") if k in document}
    return head | {"metadata": {n: metadata[n] for n in names}} | rest


def _selected(document: Document, query: Any) -> bool:
    metadata = document["metadata"]
    label, _, value = query.get("labelSelector", "").partition("=")
    if label and (metadata.get("labels") or {}).get(label) != value:
        return False
    field, _, value = query.get("fieldSelector", "").partition("=")
    return not field or metadata["name"] == value


def _status(
    code: int, reason: str, headers: Mapping[str, str] | None = None, message: str = "", **_: Any
) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message or reason}
    return web.json_response(body, status=code, headers=headers)


@pytest.fixture
async def api() -> AsyncIterator[StubApi]:
    stub = StubApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.handle)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    stub.url = f"http://{host}:{port}"
    yield stub
    stub.cut()
    await runner.cleanup()


@pytest.fixture
def login(api: StubApi) -> Callable[[], Credentials]:
    return lambda: Credentials(server=api.url)


@pytest.fixture
async def client(login: Callable[[], Credentials]) -> AsyncIterator[Client]:
    async with Client(login) as connected:
        yield connected


@pytest.fixture
def node() -> Iterator[Any]:
    def make(name: str, gpus: int = 8, **status: Any) -> Document:
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        return {
            "metadata": {
                "name": name,
                "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
                "annotations": {"csi.volume/nodeid": "x"},
            },
            "spec": {},
            "status": {
                "allocatable": {
                    "nvidia.com/gpu": str(gpus),
                    "cpu": "191500m",
                    "memory": "2104533975Ki",
                    "pods": "110",
                },
                "conditions": [{**ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
                **status,
            },
        }

    yield make


@pytest.fixture
def pod() -> Iterator[Any]:
    def make(name: str, node: str | None = None, gpus: int = 1, ours: bool = True) -> Document:
        labels = {"app": "x"}
        if ours:
            labels |= {
                "app.kubernetes.io/managed-by": "motley",
                "motley.dev/kind": "ServingPool",
                "motley.dev/resource": "chat",
            }
        requests = {"nvidia.com/gpu": str(gpus), "cpu": "4", "memory": "16Gi"}
        return {
            "metadata": {"name": name, "namespace": "team-a", "labels": labels},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "main", "resources": {"requests": requests}}],
            },
            "status": {"phase": "Running"},
        }

    yield make
