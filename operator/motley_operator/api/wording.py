"""Schema mistakes in sentences: what is wrong, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

from motley_operator.api.common import ApiModel

_TRAP = (
    "YAML 1.1 reads On, Off, Yes and No without quotes as true and false: put the word in quotes"
)
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list (lines that start with '- ')",
    "dict_type": "an object (lines of `key: value`)",
    "model_type": "an object (lines of `key: value`)",
    "model_attributes_type": "an object (lines of `key: value`)",
}


def sentence(problem: ErrorDetails, model: type[ApiModel] | None) -> tuple[str, str]:
    """The rule's name and the sentence for one pydantic error below `model`."""
    kind, context, value = problem["type"], problem.get("ctx", {}), problem["input"]
    if kind == "extra_forbidden":
        return "unknown field", _unknown_field(str(problem["loc"][-1]), model)
    if kind == "missing":
        return "required", f"is required: {_purpose(str(problem['loc'][-1]), model)}"
    if kind == "literal_error":
        return "one of", _not_one_of(value, context)
    if kind == "motley_format":
        trap = f". {_TRAP}" if isinstance(value, bool) else ""
        return "format", f"{context['problem']}: {context['fix']}{trap}"
    if kind in _TYPES:
        trap = f". {_TRAP}" if isinstance(value, bool) and _TYPES[kind] == "text" else ""
        return "type", f"{_short(value)} is not {_TYPES[kind]}: write {_TYPES[kind]} here{trap}"
    return _limits(kind, context, value, problem["msg"])


def _limits(kind: str, context: Mapping[str, Any], value: object, message: str) -> tuple[str, str]:
    if kind in ("greater_than_equal", "greater_than"):
        return "minimum", f"{_short(value)} is too small: write at least {context['ge']}"
    if kind in ("less_than_equal", "less_than"):
        return "maximum", f"{_short(value)} is too large: write at most {context['le']}"
    if kind in ("string_too_long", "too_long"):
        unit = "characters" if kind == "string_too_long" else "entries"
        return "too long", f"has too many {unit}: keep it to {context['max_length']}"
    if kind in ("string_too_short", "too_short"):
        unit = "characters" if kind == "string_too_short" else "entries"
        return "too short", f"has too few {unit}: give at least {context['min_length']}"
    if kind == "string_pattern_mismatch":
        return "format", f"{_short(value)} is not allowed here: it must match {context['pattern']}"
    return kind.replace("_", " "), f"{message}: correct {_short(value)}"


def _unknown_field(name: str, model: type[ApiModel] | None) -> str:
    known = [f.alias or n for n, f in model.model_fields.items()] if model is not None else []
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or [
        k for k in known if k.lower() == name.replace("_", "").replace("-", "").lower()
    ]
    if near:
        return f"there is no field {name}: did you mean {near[0]}?"
    return f"there is no field {name}: remove it" + (
        f" (known: {', '.join(known)})" if known else ""
    )


def _purpose(name: str, model: type[ApiModel] | None) -> str:
    for field_name, field in (model.model_fields if model is not None else {}).items():
        if (field.alias or field_name) == name and field.description:
            return f"add {name} ({field.description.rstrip('.')})"
    return f"add {name}"


def _not_one_of(value: object, context: Mapping[str, Any]) -> str:
    expected = str(context.get("expected", ""))
    if isinstance(value, bool):
        return f"{str(value).lower()} is not a word: write {expected}. {_TRAP}"
    words = [w.strip("' ") for w in expected.replace(" or ", ",").split(",")]
    near = [w for w in words if w.lower() == str(value).lower()] or difflib.get_close_matches(
        str(value), words, n=1
    )
    hint = f"did you mean {near[0]}? It is" if near else "write"
    return f"{_short(value)} is not known here: {hint} one of {', '.join(words)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
