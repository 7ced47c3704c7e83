"""The cluster's DNS in a hundred lines: addresses of Services and of pods below headless ones.

    python -m e2e.cluster.names --state DIR --address 10.244.77.1

It stands for CoreDNS, of which it has what pods of Motley ask: A records under cluster.local, read
from the API server at the time of the question. Of everything else it says that it does not exist.
Sources: RFC 1035; Kubernetes' DNS-based service discovery, version 1.1.0.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import socketserver
import struct
import sys
from pathlib import Path
from typing import Any

from e2e.cluster import state
from e2e.cluster.client import Client

DOMAIN = "svc.cluster.local"
TTL_S = 2
_A, _IN, _NO_NAME, _FAILED = 1, 1, 3, 2


def question(packet: bytes) -> tuple[str, int, int]:
    """Name, type, and where the question ends.

    Raises: ValueError if this is no single plain question.
    """
    if len(packet) < 12 or packet[2] & 0xF8 or packet[4:6] != b"\0\1":
        raise ValueError("not one question")
    labels, at = [], 12
    while at < len(packet) and packet[at]:
        size = packet[at]
        if size > 63 or at + size >= len(packet):
            raise ValueError("a label is cut off")
        labels.append(packet[at + 1 : at + 1 + size].decode("ascii").lower())
        at += 1 + size
    if at + 5 > len(packet):
        raise ValueError("the question is cut off")
    (kind,) = struct.unpack_from("!H", packet, at + 1)
    return ".".join(labels), kind, at + 5


def answer(packet: bytes, end: int, addresses: list[str], code: int) -> bytes:
    """The packet that answers a question with these addresses."""
    flags = 0x8580 | code  # an answer, authoritative, recursion available
    head = packet[:2] + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", _A, _IN, TTL_S, 4) + ipaddress.IPv4Address(one).packed
        for one in addresses
    )
    return head + packet[12:end] + records


def addresses_of(name: str, client: Client) -> list[str] | None:
    """Addresses of a name of the cluster; None if there is no such name.

    Raises: OSError or http.client.HTTPException if the API server does not answer.
    """
    if not name.endswith(f".{DOMAIN}"):
        return None
    parts = name.removesuffix(f".{DOMAIN}").split(".")
    if len(parts) not in (2, 3):
        return None
    service, namespace = parts[-2:]
    path = f"/api/v1/namespaces/{namespace}/services/{service}"
    status, text = client.request("GET", path)
    if status != 200:
        return None
    spec = json.loads(text)["spec"]
    if spec.get("clusterIP") not in (None, "", "None"):
        return [spec["clusterIP"]] if len(parts) == 2 else None
    found = _endpoints(client, namespace, service, bool(spec.get("publishNotReadyAddresses")))
    wanted = [one for one in found if len(parts) == 2 or one.get("hostname") == parts[0]]
    if not wanted and len(parts) == 3:
        return None
    return sorted({address for one in wanted for address in one["addresses"]})


def _endpoints(client: Client, namespace: str, service: str, unready: bool) -> list[Any]:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    query = f"?labelSelector=kubernetes.io/service-name%3D{service}"
    status, text = client.request("GET", path + query)
    slices = json.loads(text).get("items") or [] if status == 200 else []
    return [
        endpoint
        for one in slices
        for endpoint in one.get("endpoints") or ()
        if unready or (endpoint.get("conditions") or {}).get("ready") is not False
    ]


class _Handler(socketserver.BaseRequestHandler):
    """One question; the server carries the state directory."""

    def handle(self) -> None:
        """Answers it."""
        packet, socket = self.request
        directory: Path = self.server.directory  # type: ignore[attr-defined]
        try:
            name, kind, end = question(packet)
        except (ValueError, UnicodeDecodeError):
            return
        code, found = 0, []
        try:
            found_state = state.load(directory)
            assert found_state is not None
            client = Client(directory, found_state.ports["kube-apiserver"])
            addresses = addresses_of(name, client)
            client.close()
            code, found = (0, addresses) if addresses is not None else (_NO_NAME, [])
        except (OSError, http.client.HTTPException) as error:
            print(f"names: {name}: {error}", file=sys.stderr, flush=True)
            code = _FAILED
        shown = found if kind == _A else []
        socket.sendto(answer(packet, end, shown, code), self.client_address)


def main(argv: list[str] | None = None) -> int:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(prog="names", description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=53)
    options = parser.parse_args(argv)
    with socketserver.ThreadingUDPServer((options.address, options.port), _Handler) as server:
        server.daemon_threads = True
        server.directory = options.state  # type: ignore[attr-defined]
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
