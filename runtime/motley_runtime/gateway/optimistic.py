"""Streams of a stage before the last that begin before the answer is whole.

The first tokens are held back and scored like a whole answer; if they reach the threshold, they
and all that follows are sent as it comes. An answer shorter than that is scored whole. What was
begun cannot be escalated any more, so the floor holds for the beginnings, not for whole answers:
the price of a first token that does not wait for the last.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from motley_runtime.gateway.answers import GARBLED, garbled
from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.openai_api import ParsedRequest, add_usage
from motley_runtime.gateway.scoring import features_of, logprob_of, wants_logprobs
from motley_runtime.gateway.streams import LineSplitter
from motley_runtime.gateway.upstream import OpenStream


def with_stream_logprobs(body: dict[str, Any], is_chat: bool) -> dict[str, Any]:
    """The request of a stage whose stream will be scored while it comes."""
    asked = dict(body)
    if is_chat:
        asked["logprobs"] = True
    elif not wants_logprobs(body):
        asked["logprobs"] = 1
    return asked


class OptimisticStream:
    """One stage's stream: first `hold`, then `pieces`.

    Of each event what only the gateway asked for is taken out, and earlier stages' usage added.
    """

    def __init__(
        self, request: ParsedRequest, opened: OpenStream, earlier: Mapping[str, Any]
    ) -> None:
        self._opened, self._earlier = opened, earlier
        self._strips = not wants_logprobs(request.body)
        self._splitter = LineSplitter()
        self._held: list[bytes] = []
        self._logprobs: list[float] = []
        self.tokens = 0
        self.is_done = False
        self._is_begun = False

    async def hold(self, tokens: int) -> float | None:
        """Reads on until so many tokens are held back; their score. Raises: UpstreamError."""
        self._held.append(self._take(self._opened.first))
        while self.tokens < tokens and not self.is_done:
            chunk = await anext(self._opened.rest, b"")
            if not chunk:
                if not self.is_done:
                    raise UpstreamError("disconnected", "the stream ended without [DONE]")
                break
            self._held.append(self._take(chunk))
        if not self._logprobs or len(self._logprobs) < self.tokens:
            return None
        return math.exp(math.fsum(self._logprobs) / len(self._logprobs))

    def features(self) -> dict[str, float]:
        """Features of what is held back, after a `hold` that gave a score."""
        return features_of(self._logprobs) or {}

    async def pieces(self) -> AsyncIterator[bytes]:
        """What was held back, then the rest as it comes."""
        self._is_begun = True
        yield b"".join(self._held)
        async for chunk in self._opened.rest:
            yield self._take(chunk)
        yield self._splitter.rest()

    def _take(self, chunk: bytes) -> bytes:
        lines = self._splitter.feed(chunk)
        return b"".join(self._rewrite(line) if is_whole else line for line, is_whole in lines)

    def _rewrite(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line
        if line[5:].strip() == b"[DONE]":
            self.is_done = True
            return line
        try:
            event = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            return line
        if not isinstance(event, dict):
            return line
        if event.get("error"):
            raise UpstreamError("status", "the stream holds an error")
        try:
            return b"data: " + orjson.dumps(self._understood(event)) + b"\n"
        except GARBLED as error:
            if self._is_begun:
                return line  # what the client has begun to read is not cut for it
            raise garbled(error) from error

    def _understood(self, event: dict[str, Any]) -> dict[str, Any]:
        """An event as the client gets it, counted. Raises: one of GARBLED."""
        for choice in choices_of(event):
            self._read(choice)
        if self._earlier and isinstance(event.get("usage"), dict):
            event["usage"] = add_usage(event["usage"], self._earlier)
        return event

    def _read(self, choice: dict[str, Any]) -> None:
        found = token_logprobs(choice.get("logprobs"))
        self._logprobs += found
        delta = delta_of(choice)
        if delta.get("content") or delta.get("tool_calls") or choice.get("text"):
            self.tokens += max(1, len(found))
        if self._strips and "logprobs" in choice:
            choice["logprobs"] = None


def choices_of(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The choices of a stream's event. Raises: TypeError where they are of another form."""
    return [_typed(each, dict, {}) for each in _typed(event.get("choices"), list, [])]


def delta_of(choice: Mapping[str, Any]) -> dict[str, Any]:
    """What one event adds to a chat's choice. Raises: TypeError where it is of another form."""
    delta: dict[str, Any] = _typed(choice.get("delta"), dict, {})
    _typed(delta.get("content"), str, "")
    for call in _typed(delta.get("tool_calls"), list, []):
        _typed(_typed(call, dict, {}).get("function"), dict, {})
    return delta


def _typed(value: Any, kind: type, absent: Any) -> Any:
    if value is None:
        return absent
    if not isinstance(value, kind):
        raise TypeError(f"must be a {kind.__name__}")
    return value


def token_logprobs(logprobs: Any) -> list[float]:
    """The log-probabilities in one event's choice, of a chat or of a completion."""
    if not isinstance(logprobs, dict):
        return []
    content = logprobs.get("content")
    if isinstance(content, list):
        values = [item.get("logprob") for item in content if isinstance(item, dict)]
    else:
        values = logprobs.get("token_logprobs") or []
    if not isinstance(values, list):
        return []
    return [logprob_of(v) for v in values if isinstance(v, int | float)]
