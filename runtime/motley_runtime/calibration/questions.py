"""Question files: a JSON object a line, from `motley questions` or of the user's own.

`prompt` or `messages` (OpenAI's form), and `check` (see checks/) or `reference`, a text that the
answer must equal. `id` and `class` are optional; any other field is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from motley_runtime.checks import CheckError, Grader, parse_check

_FIELDS = {"id", "class", "prompt", "messages", "check", "reference"}


class QuestionError(Exception):
    """A line that is no question: which, and what to write."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question as it is asked and graded. `mark` changes with anything that matters.

    `prompt` is the text that a completion goes on with; empty where the question has messages.
    """

    id: str
    messages: list[Any]
    grader: Grader
    class_name: str
    mark: str
    prompt: str = ""


def read_questions(lines: Iterable[str], commands_dir: Path | None = None) -> list[Asked]:
    """The questions of a file. Raises: QuestionError with the line number."""
    found: list[Asked] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = _question(orjson.loads(line), f"q{number}", commands_dir)
        except orjson.JSONDecodeError as error:
            raise QuestionError(f"line {number}: is not JSON ({error})") from error
        except CheckError as error:
            raise QuestionError(f"line {number}: {error}") from error
        if question.id in seen:
            raise QuestionError(f"line {number}: id {question.id!r} is there twice: keep one")
        seen.add(question.id)
        found.append(question)
    if not found:
        raise QuestionError("there is no question in it")
    with_class = sum(bool(each.class_name) for each in found)
    if with_class not in (0, len(found)):
        raise QuestionError("give every question a class, or none")
    return found


def _question(document: object, default_id: str, commands_dir: Path | None) -> Asked:
    if not isinstance(document, Mapping):
        raise CheckError("give a JSON object")
    unknown = sorted(set(document) - _FIELDS)
    if unknown:
        raise CheckError(f"unknown field {unknown[0]!r}: use {', '.join(sorted(_FIELDS))}")
    prompt, messages = document.get("prompt"), document.get("messages")
    if isinstance(prompt, str) and prompt and messages is None:
        messages = [{"role": "user", "content": prompt}]
    if (
        not isinstance(messages, list)
        or not messages
        or (prompt is not None and "messages" in document)
    ):
        raise CheckError("give a prompt (text) or messages (list), and not both")
    check = document.get("check")
    if check is None and isinstance(document.get("reference"), str):
        check = {"type": "Exact", "answer": document["reference"]}
    if check is None:
        raise CheckError("give a check, or a reference that the answer must equal")
    grader = parse_check(check, commands_dir)
    body = orjson.dumps([messages, check], option=orjson.OPT_SORT_KEYS)
    return Asked(
        id=str(document.get("id", default_id)),
        messages=messages,
        grader=grader,
        class_name=str(document.get("class", "")),
        mark=hashlib.sha256(body).hexdigest()[:16],
        prompt=prompt if isinstance(prompt, str) else "",
    )
