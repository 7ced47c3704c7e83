"""The parts of OpenAI's protocol the gateway has to understand: requests and usage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.nesting import MOST_LEVELS, is_too_deep

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
PATHS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)

# Between gateway and engines only: a client that names a cache or a host in them would read another
# client's prompt, or make an engine connect to where it likes.
_OURS = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room")
_BYTES_PER_TOKEN = 4.0  # OpenAI's rule of thumb for English text; only orders of magnitude count
_MOST_COUNT = 2**63 - 1  # what every reader of JSON takes for a whole number
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

    @property
    def is_scored(self) -> bool:
        """Whether its answers can be scored; others go to the last stage as they are."""
        return self.path in (CHAT, COMPLETIONS)


def parse_request(path: str, raw: bytes) -> ParsedRequest:
    """The request in a body. Raises: GatewayError 400 naming the field."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:
            raise _too_deep() from error
        raise GatewayError(400, f"the body is not JSON: {error}", "invalid_json") from error
    if is_too_deep(raw, body):
        raise _too_deep()
    if not isinstance(body, dict):
        raise GatewayError(400, "the body must be a JSON object", "invalid_json")
    for key in _OURS:
        body.pop(key, None)
    if path == CHAT and not (isinstance(body.get("messages"), list) and body["messages"]):
        raise GatewayError(400, "messages must be a non-empty list", "invalid_value", "messages")
    if path == COMPLETIONS and not body.get("prompt"):
        raise GatewayError(400, "prompt must be given", "invalid_value", "prompt")
    if path == EMBEDDINGS and not body.get("input"):
        raise GatewayError(400, "input must be given", "invalid_value", "input")
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


def _too_deep() -> GatewayError:
    text = f"the body is nested deeper than {MOST_LEVELS} levels"
    return GatewayError(400, text, "too_deep")


def prompt_tokens(request: ParsedRequest) -> float:
    """About how many tokens the prompt has: UTF-8 bytes / 4, and 4 for each message."""
    body = request.body
    if not request.is_scored:
        return _input_length(body.get("input")) + _content_length(body.get("instructions"))
    if not request.is_chat:
        return _prompt_length(body["prompt"])
    total = _messages_length(body["messages"])
    if body.get("tools"):
        total += len(orjson.dumps(body["tools"])) / _BYTES_PER_TOKEN
    return total


def max_output_tokens(request: ParsedRequest) -> float | None:
    """The client's limit on output tokens, if it set one."""
    for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = request.body.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def _messages_length(messages: list[Any]) -> float:
    return sum(
        _TOKENS_PER_MESSAGE + _content_length(message.get("content"))
        for message in messages
        if isinstance(message, dict)
    )


def _input_length(given: Any) -> float:
    """Of texts and tokens, or of the messages that `/v1/responses` takes in their place."""
    if isinstance(given, list) and given and isinstance(given[0], dict):
        return _messages_length(given)
    return _prompt_length(given)


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


def seed_of(seed: int, index: int) -> int:
    """The seed of one of several answers: counted up, and modulo 2**63 beyond what engines take."""
    counted = seed + index
    return counted if -(2**63) <= counted < 2**63 else counted % 2**63


def add_usage(total: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two usage objects, nested details included; whole numbers end at 2**63 - 1."""
    summed = dict(total)
    for key, value in more.items():
        present = summed.get(key)
        if isinstance(value, Mapping):
            summed[key] = add_usage(present if isinstance(present, Mapping) else {}, value)
        elif isinstance(value, int | float) and isinstance(present, int | float):
            count = present + value
            is_float = isinstance(count, float)
            summed[key] = count if is_float else max(-_MOST_COUNT, min(_MOST_COUNT, count))
        elif present is None:
            summed[key] = value
    return summed


def usage_of(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The usage object of an answer; empty where it has none."""
    usage = answer.get("usage")
    return usage if isinstance(usage, Mapping) else {}
