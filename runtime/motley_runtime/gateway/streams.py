"""Server-sent events: whole answers turned into them, and the little that is read out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from motley_runtime.gateway.answers import GARBLED, garbled
from motley_runtime.gateway.openai_api import ParsedRequest, add_usage, usage_of

DONE = b"data: [DONE]\n\n"
_LINE_BYTES = 2**20  # no usage event is longer


def as_events(answer: dict[str, Any], request: ParsedRequest) -> Iterator[bytes]:
    """A whole answer as the server-sent events of a stream."""
    kind = "chat.completion.chunk" if request.is_chat else "text_completion"
    head = {key: answer.get(key) for key in ("id", "created", "model")} | {"object": kind}
    parts = _chat_parts if request.is_chat else _completion_parts
    for choice in answer.get("choices", ()):
        for part in parts(choice):
            yield event(head | {"choices": [part]})
    if request.include_usage:
        yield event(head | {"choices": [], "usage": dict(usage_of(answer))})
    yield DONE


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _chat_parts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    index = choice.get("index", 0)
    message = dict(choice.get("message") or {})
    role = {"role": message.pop("role", "assistant"), "content": ""}
    yield {"index": index, "delta": role, "logprobs": None, "finish_reason": None}
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
    delta = {key: value for key, value in message.items() if value is not None}
    if delta:
        logprobs = choice.get("logprobs")
        yield {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
    reason = choice.get("finish_reason") or "stop"
    yield {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}


def _completion_parts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {
        "index": choice.get("index", 0),
        "text": choice.get("text", ""),
        "logprobs": choice.get("logprobs"),
        "finish_reason": choice.get("finish_reason") or "stop",
    }


class LineSplitter:
    """Cuts a stream into lines, whatever its chunks are.

    A line longer than `limit` is handed on in pieces as it comes, marked as not whole, so that an
    endless one costs no memory.
    """

    def __init__(self, limit: int = _LINE_BYTES) -> None:
        self._limit = limit
        self._pending: list[bytes] = []
        self._size = 0
        self._is_cut = False

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bool]]:
        """The lines that a chunk completes, line feed included, and whether each is whole."""
        start = 0
        while (end := chunk.find(b"\n", start) + 1) > 0:
            line, start = chunk[start:end], end
            if self._pending:
                self._pending.append(line)
                line = self._take()
            yield line, not self._is_cut
            self._is_cut = False
        if start < len(chunk):
            self._pending.append(chunk[start:])
            self._size += len(chunk) - start
            if self._size > self._limit:
                self._is_cut = True
                yield self._take(), False

    def rest(self) -> bytes:
        """What is left of the last line."""
        return self._take()

    def _take(self) -> bytes:
        taken = b"".join(self._pending)
        self._pending, self._size = [], 0
        return taken


class UsageRewriter:
    """Adds earlier stages' usage to the usage event of a relayed stream."""

    def __init__(self, earlier: Mapping[str, Any]) -> None:
        self._earlier = earlier
        self._lines = LineSplitter()

    def feed(self, chunk: bytes) -> bytes:
        """The complete lines so far, usage rewritten; the rest is kept back."""
        lines = self._lines.feed(chunk)
        return b"".join(self._rewrite(line) if is_whole else line for line, is_whole in lines)

    def rest(self) -> bytes:
        """What was kept back when the stream ended."""
        return self._lines.rest()

    def _rewrite(self, line: bytes) -> bytes:
        if b'"usage"' not in line or not line.startswith(b"data:"):
            return line
        try:
            value = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            return line
        if not isinstance(value, dict) or not isinstance(value.get("usage"), dict):
            return line
        try:
            value["usage"] = add_usage(value["usage"], self._earlier)
            return b"data: " + orjson.dumps(value) + b"\n"
        except GARBLED as error:
            garbled(error)
            return line
