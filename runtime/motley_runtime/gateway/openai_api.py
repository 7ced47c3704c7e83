"""The parts of OpenAI's protocol the gateway has to understand: requests, usage and streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from motley_runtime.gateway.errors import GatewayError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
DONE = b"data: [DONE]\n\n"

_BYTES_PER_TOKEN = 4.0  # OpenAI's rule of thumb for English text; only orders of magnitude count
_TOKENS_PER_MESSAGE = 4.0  # role and separators in OpenAI's chat format


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A client's request, checked as far as the gateway needs."""

    path: str
    body: dict[str, Any]
    is_stream: bool
    include_usage: bool
    model: str | None

    @property
    def is_chat(self) -> bool:
        """Whether it is a chat request, not a plain completion."""
        return self.path == CHAT


def parse_request(path: str, raw: bytes) -> ParsedRequest:
    """The request in a body. Raises: GatewayError 400 naming the field."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise GatewayError(400, f"the body is not JSON: {error}", "invalid_json") from error
    if not isinstance(body, dict):
        raise GatewayError(400, "the body must be a JSON object", "invalid_json")
    if path == CHAT and not (isinstance(body.get("messages"), list) and body["messages"]):
        raise GatewayError(400, "messages must be a non-empty list", "invalid_value", "messages")
    if path == COMPLETIONS and not body.get("prompt"):
        raise GatewayError(400, "prompt must be given", "invalid_value", "prompt")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise GatewayError(400, "model must be a string", "invalid_value", "model")
    stream = body.get("stream")
    if stream not in (None, True, False):
        raise GatewayError(400, "stream must be true or false", "invalid_value", "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise GatewayError(
            400, "stream_options must be an object", "invalid_value", "stream_options"
        )
    include_usage = bool(stream and options and options.get("include_usage"))
    return ParsedRequest(path, body, bool(stream), include_usage, model)


def prompt_tokens(request: ParsedRequest) -> float:
    """About how many tokens the prompt has: UTF-8 bytes / 4, and 4 for each message."""
    body = request.body
    if not request.is_chat:
        return _prompt_length(body["prompt"])
    total = 0.0
    for message in body["messages"]:
        if isinstance(message, dict):
            total += _TOKENS_PER_MESSAGE + _content_length(message.get("content"))
    if body.get("tools"):
        total += len(orjson.dumps(body["tools"])) / _BYTES_PER_TOKEN
    return total


def max_output_tokens(request: ParsedRequest) -> float | None:
    """The client's limit on output tokens, if it set one."""
    for key in ("max_completion_tokens", "max_tokens"):
        value = request.body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def _prompt_length(prompt: Any) -> float:
    if isinstance(prompt, str):
        return _text_length(prompt)
    if isinstance(prompt, list):
        return sum(1.0 if isinstance(item, int) else _prompt_length(item) for item in prompt)
    return 0.0


def _content_length(content: Any) -> float:
    if isinstance(content, str):
        return _text_length(content)
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return sum(_text_length(text) for text in texts if isinstance(text, str))
    return 0.0


def _text_length(text: str) -> float:
    # orjson has refused lone surrogates, so encoding cannot fail.
    return (len(text) if text.isascii() else len(text.encode())) / _BYTES_PER_TOKEN


def add_usage(total: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two usage objects, nested details included."""
    summed = dict(total)
    for key, value in more.items():
        present = summed.get(key)
        if isinstance(value, Mapping):
            summed[key] = add_usage(present if isinstance(present, Mapping) else {}, value)
        elif isinstance(value, int | float) and isinstance(present, int | float):
            summed[key] = present + value
        elif present is None:
            summed[key] = value
    return summed


def usage_of(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The usage object of an answer; empty where it has none."""
    usage = answer.get("usage")
    return usage if isinstance(usage, Mapping) else {}


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


class UsageRewriter:
    """Adds earlier stages' usage to the usage event of a relayed stream."""

    def __init__(self, earlier: Mapping[str, Any]) -> None:
        self._earlier = earlier
        self._pending = b""

    def feed(self, chunk: bytes) -> bytes:
        """The complete lines so far, usage rewritten; the rest is kept back."""
        *complete, self._pending = (self._pending + chunk).split(b"\n")
        return b"".join(self._rewrite(line) + b"\n" for line in complete)

    def rest(self) -> bytes:
        """What was kept back when the stream ended."""
        return self._pending

    def _rewrite(self, line: bytes) -> bytes:
        if b'"usage"' not in line or not line.startswith(b"data:"):
            return line
        try:
            value = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            return line
        if not isinstance(value, dict) or not isinstance(value.get("usage"), dict):
            return line
        value["usage"] = add_usage(value["usage"], self._earlier)
        return b"data: " + orjson.dumps(value)
