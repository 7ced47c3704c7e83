"""A stream read into the whole answer that it amounts to, counted while it comes."""

from __future__ import annotations

from typing import Any

import orjson

from motley_runtime.gateway.answers import GARBLED, garbled
from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.optimistic import choices_of, delta_of, token_logprobs
from motley_runtime.gateway.streams import LineSplitter

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")  # deltas that are joined
_MOST_CHARACTERS = 8 * 2**20


class Transcript:
    """One choice of a stream: `feed` its bytes, then ask for `answer`."""

    def __init__(self, request: ParsedRequest) -> None:
        self._is_chat = request.is_chat
        self._splitter = LineSplitter()
        self._head: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._scored: dict[str, list[Any]] = {}
        self._reason: str | None = None
        self._size = 0
        self.usage: dict[str, Any] | None = None
        self.logprobs: list[float] = []
        self.tokens = 0
        self.is_done = False

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the stream. Raises: UpstreamError."""
        for line, is_whole in self._splitter.feed(chunk):
            if not is_whole:
                raise UpstreamError("too_large", "a line of the stream exceeds the size limit")
            if line.startswith(b"data:"):
                try:
                    self._event(line[5:].strip())
                except GARBLED as error:
                    raise garbled(error) from error

    def text(self) -> str:
        """What has been said so far, thoughts first."""
        said = self._texts
        thoughts = said.get("reasoning_content") or said.get("reasoning") or []
        return "".join([*thoughts, *said.get("content", ())])

    def answer(self) -> dict[str, Any]:
        """The whole answer, as if the request had not been streamed; without usage."""
        kind = "chat.completion" if self._is_chat else "text_completion"
        choice: dict[str, Any] = {"index": 0, "logprobs": self._scored or None}
        choice["finish_reason"] = self._reason or "stop"
        if self._is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": None}
            message |= {key: "".join(parts) for key, parts in self._texts.items()}
            if self._calls:
                message["tool_calls"] = [self._calls[i] for i in sorted(self._calls)]
            choice["message"] = message
        else:
            choice["text"] = "".join(self._texts.get("content", ()))
        return {**self._head, "object": kind, "choices": [choice]}

    def _event(self, raw: bytes) -> None:
        if raw == b"[DONE]":
            self.is_done = True
            return
        try:
            event = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise UpstreamError("garbage", "an event of the stream is no JSON") from error
        if not isinstance(event, dict) or event.get("error"):
            raise UpstreamError("status", "the stream holds an error")
        if not self._head:
            self._head = {key: event.get(key) for key in ("id", "created", "model")}
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        for choice in choices_of(event):
            if choice.get("index", 0) == 0:
                self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        found = token_logprobs(choice.get("logprobs"))
        self.logprobs += found
        if self._delta(delta_of(choice) if self._is_chat else {"content": choice.get("text")}):
            self.tokens += max(1, len(found))
        self._reason = choice.get("finish_reason") or self._reason
        logprobs = choice.get("logprobs")
        for key, values in logprobs.items() if isinstance(logprobs, dict) else ():
            if isinstance(values, list):
                self._scored.setdefault(key, []).extend(values)

    def _delta(self, delta: dict[str, Any]) -> bool:
        """Whether a delta says anything."""
        is_said = False
        for key in _TEXTS:
            part = delta.get(key)
            if isinstance(part, str) and part:
                self._texts.setdefault(key, []).append(part)
                self._size += len(part)
                is_said = True
        for call in delta.get("tool_calls") or ():
            self._call(call or {})
            is_said = True
        if self._size > _MOST_CHARACTERS:
            raise UpstreamError("too_large", "the answer exceeds the size limit")
        return is_said

    def _call(self, part: dict[str, Any]) -> None:
        index = part.get("index")
        known = self._calls.setdefault(index if isinstance(index, int) else 0, {})
        for key, value in part.items():
            if key == "function" and isinstance(value, dict):
                function = known.setdefault("function", {"name": "", "arguments": ""})
                for name in ("name", "arguments"):
                    function[name] += str(value.get(name) or "")
                    self._size += len(str(value.get(name) or ""))
            elif key != "index" and value is not None:
                known[key] = value
