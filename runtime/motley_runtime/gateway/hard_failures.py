"""Answers that are wrong whatever their score: such an answer is always escalated.

Each check needs no model and no threshold. A cut-off counts only where the client set no limit of
its own: then the engine's limit ended the answer, and a larger stage may have more room.
"""

from __future__ import annotations

from typing import Any

import orjson

from motley_runtime.gateway.openai_api import ParsedRequest, max_output_tokens


def hard_failure(request: ParsedRequest, answer: dict[str, Any]) -> str | None:
    """What is wrong with an answer: truncated, filtered, refused, empty, bad-tool-call, not-json."""
    for choice in answer["choices"]:
        found = _of_choice(request, choice)
        if found is not None:
            return found
    return None if answer["choices"] else "empty"


def _of_choice(request: ParsedRequest, choice: dict[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        return "filtered"
    if reason == "length" and max_output_tokens(request) is None:
        return "truncated"
    if not request.is_chat:
        text = choice.get("text")
        return None if isinstance(text, str) and text else "empty"
    message = choice.get("message")
    if not isinstance(message, dict):
        return "empty"
    if message.get("refusal"):
        return "refused"
    calls = message.get("tool_calls")
    if calls:
        is_list = isinstance(calls, list)
        return None if is_list and all(map(_is_callable, calls)) else "bad-tool-call"
    content = message.get("content")
    if not isinstance(content, str) or not content:
        return "empty"
    return None if _is_in_form(request.body.get("response_format"), content) else "not-json"


def _is_callable(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not function.get("name"):
        return isinstance(call, dict) and call.get("type") == "custom"
    return isinstance(_decoded(function.get("arguments") or "{}"), dict)


def _is_in_form(wanted: Any, content: Any) -> bool:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in ("json_object", "json_schema"):
        return True
    value = _decoded(content)
    if kind == "json_object":
        return isinstance(value, dict)
    outer = wanted.get("json_schema")
    schema = outer.get("schema") if isinstance(outer, dict) else None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return value is not _NOTHING
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    return isinstance(value, dict) and all(n in value for n in names if isinstance(n, str))


_NOTHING = object()


def _decoded(text: Any) -> Any:
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError):
        return _NOTHING
