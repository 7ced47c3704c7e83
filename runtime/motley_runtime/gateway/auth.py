"""API keys from a directory, such as a mounted Secret: one file a client."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from motley_runtime.gateway.clients import Client, read_client
from motley_runtime.gateway.errors import GatewayError

log = logging.getLogger("motley.gateway")

_RESCAN_S = 1.0


class ApiKeys:
    """Knows clients by the SHA-256 of their key; keys themselves are not kept.

    The presented key is hashed and looked up by its hash, so the time taken tells nothing about
    how much of a guess was right. The directory is read again when it changes; what cannot be read
    changes nothing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._signature: tuple[object, ...] | None = None
        self._clients: dict[str, Client] = {}
        self._next_scan_s = float("-inf")

    def client(self, authorization: bytes | None) -> Client:
        """The client a header belongs to. Raises: GatewayError 401."""
        self._refresh()
        scheme, _, key = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            message = "give an API key as 'Authorization: Bearer KEY'"
            raise GatewayError(401, message, "missing_api_key")
        known = self._clients.get(hashlib.sha256(key.strip()).hexdigest())
        if known is None:
            raise GatewayError(401, "the API key is not known", "invalid_api_key")
        return known

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._next_scan_s:
            return
        self._next_scan_s = now + _RESCAN_S
        try:
            files = sorted(p for p in self._directory.iterdir() if not p.name.startswith("."))
            signature = tuple((p.name, p.stat().st_mtime_ns, p.stat().st_ino) for p in files)
            if signature == self._signature:
                return
            clients = _read([p for p in files if p.is_file()])
        except (OSError, ValueError) as error:
            log.error("API keys not read", extra={"fields": {"reason": str(error)}})
            return
        self._signature, self._clients = signature, clients
        log.info("API keys read", extra={"fields": {"keys": len(clients)}})


def _read(files: list[Path]) -> dict[str, Client]:
    found: dict[str, Client] = {}
    for path in files:
        client, hashes = read_client(path.name, path.read_text(encoding="utf-8"))
        found |= dict.fromkeys(hashes, client)
    return found
