"""Reads checks from documents and runs them on answers.

    {"type": "Choice", "answer": "B", "options": "ABCD"}      the letter an answer ends on
    {"type": "Number", "answer": 12.5, "relativeTolerance": 0.02}
    {"type": "Exact", "answer": "Paris"}                       case, spaces and a last dot aside
    {"type": "Regex", "pattern": "^\\\\d{4}$"}                   found in the answer
    {"type": "JsonSchema", "schema": {...}}                    the answer is JSON and fits
    {"type": "Command", "argv": ["check.py"]}                  exit status 0 with it on stdin

Choice and Number read what follows the last "Answer:", or the last letter or number that stands
alone.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import orjson

from motley_runtime.checks.commands import CommandLimits, passes

TYPES = ("Choice", "Number", "Exact", "Regex", "JsonSchema", "Command")
_ANSWER = re.compile(r"answer\s*(?:is)?\s*[:=]?\s*\**\s*", re.IGNORECASE)
_NUMBER = r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:\s*(?:[eE]|[x×·*]\s*10\s*\^?)\s*\{?[-+]?\d+\}?)?"
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_READ_CHARS = 100_000  # of an answer; a pattern may take long on endless text
_PATTERN_CHARS = 1000


class CheckError(Exception):
    """A check that cannot be run: what is wrong with its document."""


@dataclass(frozen=True, slots=True)
class Grader:
    """One check, ready to run."""

    type: str
    answer: str = ""
    number: float = 0.0
    tolerance: float = 0.0
    options: str = ""
    pattern: re.Pattern[str] | None = None
    validator: Any = None
    argv: tuple[str, ...] = ()
    limits: CommandLimits | None = None

    async def passes(self, text: str) -> bool:
        """Whether an answer's text is right."""
        text = text[:_READ_CHARS]
        if self.type == "Command":
            return await passes(self.argv, text, self.limits or CommandLimits())
        if self.type == "Regex":
            # In a thread: a bad pattern may backtrack, and other requests go on meanwhile.
            assert self.pattern is not None
            return await asyncio.to_thread(self.pattern.search, text) is not None
        if self.type == "Choice":
            return chosen(text, self.options) == self.answer
        if self.type == "Number":
            found = number_in(text)
            return found is not None and abs(found - self.number) <= self.tolerance
        if self.type == "JsonSchema":
            return self._fits(text)
        return plain(text) == self.answer or plain(last_answer(text)) == self.answer

    def _fits(self, text: str) -> bool:
        fenced = _FENCE.findall(text)
        try:
            value = orjson.loads(fenced[-1] if fenced else text)
        except orjson.JSONDecodeError:
            return False
        return bool(self.validator.is_valid(value))


def parse_check(document: object, commands_dir: Path | None = None) -> Grader:
    """The check in a document; programs only from `commands_dir`. Raises: CheckError."""
    if not isinstance(document, Mapping) or document.get("type") not in TYPES:
        raise CheckError(f"check: give an object whose type is one of {', '.join(TYPES)}")
    kind = str(document["type"])
    made = Grader(kind)
    if kind == "Choice":
        options = str(document.get("options", "ABCD")).upper()
        letter = str(document.get("answer", "")).strip().upper()
        if len(letter) != 1 or letter not in options:
            raise CheckError(f"check.answer: give one letter of {options}")
        return replace(made, answer=letter, options=options)
    if kind == "Number":
        number = _float(document.get("answer"), "answer")
        relative = _float(document.get("relativeTolerance", 0.0), "relativeTolerance")
        absolute = _float(document.get("absoluteTolerance", 0.0), "absoluteTolerance")
        # A little more than asked for, so that a printed decimal on the border counts.
        tolerance = max(absolute, relative * abs(number)) * (1 + 1e-9) + 1e-12
        return replace(made, number=number, tolerance=tolerance)
    if kind == "Exact":
        if not isinstance(document.get("answer"), str):
            raise CheckError("check.answer: give a text")
        return replace(made, answer=plain(document["answer"]))
    if kind == "Regex":
        return replace(made, pattern=_pattern(document.get("pattern")))
    if kind == "JsonSchema":
        return replace(made, validator=_validator(document.get("schema")))
    return replace(made, argv=_argv(document.get("argv"), commands_dir), limits=_limits(document))


def chosen(text: str, options: str) -> str | None:
    """The letter that an answer ends on, if it names one."""
    letter = rf"\(?\**([{re.escape(options)}])\**\)?(?![\w'])"
    for part in (last_answer(text), text):
        boxed = re.findall(rf"\\boxed\{{\s*(?:\\text\{{)?\(?([{re.escape(options)}])", part)
        if boxed:
            return str(boxed[-1])
    after = re.match(letter, last_answer(text).strip(), re.IGNORECASE)
    if after is not None and _ANSWER.search(text):
        return after.group(1).upper()
    alone = re.findall(rf"(?<![\w']){letter}", text)
    return str(alone[-1]) if alone else None


def number_in(text: str) -> float | None:
    """The number after the last "Answer:", else the last number."""
    text = text.replace("\u2212", "-")  # the sign that is typeset
    named = re.search(_NUMBER, last_answer(text)) if _ANSWER.search(text) else None
    found = named.group() if named else next(iter(re.findall(_NUMBER, text)[::-1]), None)
    if found is None:
        return None
    tidy = re.sub(r"[x×·*]\s*10\s*\^?", "e", found.replace(",", ""))
    try:
        value = float(re.sub(r"[\s{}]", "", tidy))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def last_answer(text: str) -> str:
    """What follows the last "Answer:"; all of it where there is none."""
    ends = [match.end() for match in _ANSWER.finditer(text)]
    return text[ends[-1] :] if ends else text


def plain(text: str) -> str:
    """The text without case, outer marks and runs of blanks."""
    return " ".join(text.split()).strip(" .*`\"'").casefold()


def _float(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckError(f"check.{name}: give a finite number")
    return float(value)


def _pattern(value: object) -> re.Pattern[str]:
    if not isinstance(value, str) or not 0 < len(value) <= _PATTERN_CHARS:
        raise CheckError(f"check.pattern: give a text of at most {_PATTERN_CHARS} characters")
    try:
        return re.compile(value)
    except re.error as error:
        raise CheckError(f"check.pattern: is no regular expression ({error})") from error


def _validator(schema: object) -> Any:
    if not isinstance(schema, Mapping):
        raise CheckError("check.schema: give an object")
    kind = jsonschema.validators.validator_for(dict(schema))
    try:
        kind.check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        raise CheckError(f"check.schema: {error.message}") from error
    return kind(dict(schema))


def _argv(value: object, commands_dir: Path | None) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise CheckError("check.argv: give a list of texts")
    if commands_dir is None:
        raise CheckError("check.argv: programs are not allowed here; name a folder of them")
    program = commands_dir / value[0]
    if Path(value[0]).name != value[0] or not program.is_file():
        raise CheckError(f"check.argv: {commands_dir} has no program {value[0]!r}")
    return (str(program.resolve()), *value[1:])


def _limits(document: Mapping[str, Any]) -> CommandLimits:
    if "seconds" not in document:
        return CommandLimits()
    seconds = _float(document["seconds"], "seconds")
    if not 0.0 < seconds <= 60.0:
        raise CheckError("check.seconds: give more than 0 and at most 60")
    return CommandLimits(wall_s=seconds, cpu_s=max(1, math.ceil(seconds)))
