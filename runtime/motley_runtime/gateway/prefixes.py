"""Where a prompt's beginning was last computed, so that its KV cache is used again.

A prompt is cut into blocks of 2 KiB (about 512 tokens, the block of Mooncake's traces); each
block's key is a hash of all up to its end. The replica that has the longest beginning is worth the
prefill it saves. A session's replica is worth a fixed number of seconds. Both only move a request
to a replica that the planned rates allow, and only where it would not finish later
(`Dispatcher.choose`). Only hashes are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from motley_runtime.gateway.openai_api import ParsedRequest

BLOCK_BYTES = 2048
_BLOCKS = 64  # looked at: 128 KiB of prompt, some 0.1 ms of hashing
_CAPACITY = 200_000


@dataclass(frozen=True, slots=True)
class PromptKey:
    """A prompt's beginnings, shortest first, and the session it belongs to."""

    blocks: tuple[Hashable, ...]
    session: str | None = None


def prompt_key(
    request: ParsedRequest, session: bytes | None, adapter: str | None = None
) -> PromptKey | None:
    """The key of a request; None where it has neither a whole block nor a session.

    An adapter's cache is its own: the same prompt with and without it has two keys.
    """
    body = request.body
    text = body.get("messages") or body.get("input") or body.get("prompt")
    raw = orjson.dumps(text)
    if body.get("tools"):
        raw = orjson.dumps(body["tools"]) + raw
    named = session.decode("latin-1")[:128] if session else None
    if adapter:
        raw = adapter.encode() + b"\0" + raw
        named = f"{adapter}\0{named}" if named else None
    if len(raw) < BLOCK_BYTES and named is None:
        return None
    return PromptKey(tuple(block_hashes(raw)), named)


def block_hashes(raw: bytes) -> list[bytes]:
    """One hash for each whole block, of all up to its end."""
    found, digest = [], blake2b(digest_size=8)
    for end in range(BLOCK_BYTES, min(len(raw), _BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES):
        digest.update(raw[end - BLOCK_BYTES : end])
        found.append(digest.digest())
    return found


class PrefixIndex:
    """The affinity hook of a dispatcher, over beginnings and sessions."""

    def __init__(
        self, block_s: float = 0.05, session_s: float = 1.0, capacity: int = _CAPACITY
    ) -> None:
        """`block_s`, `session_s`: seconds that a cached block and a known session are worth."""
        self._block_s, self._session_s, self._capacity = block_s, session_s, capacity
        self._where: OrderedDict[tuple[str, Hashable], str] = OrderedDict()

    def __len__(self) -> int:
        """Beginnings and sessions remembered."""
        return len(self._where)

    def preferred(self, stage_name: str, prefix: Hashable) -> tuple[str, float] | None:
        """The session's replica, else the one with the longest beginning, and what it saves."""
        assert isinstance(prefix, PromptKey)
        if prefix.session is not None:
            name = self._where.get((stage_name, prefix.session))
            if name is not None:
                return name, self._session_s + self._block_s * len(prefix.blocks)
        for count in range(len(prefix.blocks), 0, -1):
            name = self._where.get((stage_name, prefix.blocks[count - 1]))
            if name is not None:
                return name, self._block_s * count
        return None

    def placed(self, stage_name: str, prefix: Hashable, replica_name: str) -> None:
        """Remembers where a prompt went; the longest unused are forgotten."""
        assert isinstance(prefix, PromptKey)
        keys: Sequence[Hashable] = prefix.blocks
        if prefix.session is not None:
            keys = (*keys, prefix.session)
        for key in keys:
            entry = (stage_name, key)
            self._where[entry] = replica_name
            self._where.move_to_end(entry)
        while len(self._where) > self._capacity:
            self._where.popitem(last=False)
