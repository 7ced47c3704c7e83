"""What an answer says in the end, in a form in which two that say the same are equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from motley_runtime.checks.checking import chosen, last_answer, number_in, plain

_OPTIONS = "ABCDEFGHIJ"


def key_of(answer: dict[str, Any], compare: str) -> str | None:
    """What an answer says in the end, as two that say the same share; None where it says nothing."""
    text = text_of(answer["choices"][0]) if answer["choices"] else ""
    if not text:
        return None
    if compare == "Number":
        number = number_in(text)
        return None if number is None else f"{number:.6g}"
    if compare == "Choice":
        return chosen(text, _OPTIONS)
    return plain(last_answer(text)) or plain(text) or None


def text_of(choice: Mapping[str, Any]) -> str:
    """What a choice says: its text, or its tool calls in a fixed form."""
    if "text" in choice:
        return str(choice["text"] or "")
    message = choice.get("message")
    if not isinstance(message, dict):
        return ""
    content, calls = message.get("content"), message.get("tool_calls")
    if calls:
        said = [call.get("function") or call for call in calls if isinstance(call, dict)]
        return orjson.dumps(_plain_calls(said), option=orjson.OPT_SORT_KEYS).decode()
    return content if isinstance(content, str) else ""


def _plain_calls(said: list[Any]) -> list[Any]:
    """Tool calls without ids, their arguments decoded where they are JSON."""
    found = []
    for each in said:
        call = {key: value for key, value in each.items() if key not in ("id", "index")}
        try:
            call["arguments"] = orjson.loads(call.get("arguments") or b"{}")
        except (orjson.JSONDecodeError, TypeError):
            pass
        found.append(call)
    return found
