"""A few lines of HTTP for the cluster's own start: no library beyond Python's is needed there."""

from __future__ import annotations

import http.client
import json
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from e2e.cluster.components import address_of, token_of


class Client:
    """One connection to the API server as one of the cluster's identities."""

    def __init__(self, directory: Path, port: int, identity: str = "admin") -> None:
        context = ssl.create_default_context(cafile=str(directory / "certs" / "apiserver.crt"))
        self._connection = http.client.HTTPSConnection(
            address_of(directory), port, context=context, timeout=20.0
        )
        self._headers = {
            "Authorization": f"Bearer {token_of(directory, identity)}",
            "Content-Type": "application/json",
        }

    def request(self, method: str, path: str, body: object | None = None) -> tuple[int, str]:
        """Sends one request; its status code and the answer's text."""
        payload = None if body is None else json.dumps(body)
        self._connection.request(method, path, payload, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def is_ready(directory: Path, port: int) -> bool:
    """Whether the API server says that it is ready."""
    try:
        client = Client(directory, port)
        try:
            return client.request("GET", "/readyz")[0] == 200
        finally:
            client.close()
    except (OSError, http.client.HTTPException):
        return False


def create_nodes(directory: Path, port: int, nodes: list[dict[str, Any]]) -> int:
    """Creates the nodes that are not there yet; returns how many were created.

    Raises: ValueError with the API server's words if it refuses a node.
    """

    def create(part: list[dict[str, Any]]) -> int:
        client, made = Client(directory, port), 0
        for node in part:
            status, text = client.request("POST", "/api/v1/nodes", node)
            if status not in (201, 409):  # 409: it is there already
                raise ValueError(f"node {node['metadata'].get('name')}: {text}")
            made += status == 201
        client.close()
        return made

    workers = 4
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(create, [nodes[k::workers] for k in range(workers)]))
