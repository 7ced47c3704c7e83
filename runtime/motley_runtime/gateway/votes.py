"""What of an answer counts as its vote, in a form in which equal answers are equal.

Boxed: the last \\boxed{...}; Number: the last number; Letter: the choice of a multiple-choice
question; Regex: the last match of a pattern. Only the end of an answer is looked at.
"""

from __future__ import annotations

import re
from collections import deque
from decimal import Decimal, InvalidOperation

from motley_planner.dispatch import Extraction

_CHARACTERS = 8192  # of an answer's end; bounds what a pattern can cost
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_STATED = re.compile(
    r"(?i:(?:answer|option|choice)\s*(?:is|:)?)[\s:*$(\[{\\]*(?:boxed\{|text\{)*([A-J])\b(?!\s+[a-z])"
)
_ALONE = re.compile(r"(?<![A-Za-z'])([A-J])(?![A-Za-z']|\s+[a-z])")
_BRACE = re.compile(r"\\boxed\{|[{}]")


def vote_of(text: str, how: Extraction) -> str | None:
    """An answer's vote; None where it has none."""
    tail = text[-_CHARACTERS:]
    if how.type == "Boxed":
        found = _boxed(tail)
        return None if found is None else _plain(found)
    if how.type == "Number":
        numbers = _NUMBER.findall(tail)
        return _number(numbers[-1]) if numbers else None
    if how.type == "Letter":
        return _letter(tail)
    return _matched(tail, how.pattern)


def _boxed(text: str) -> str | None:
    """What the last closed \\boxed{...} holds, braces in it balanced."""
    opened: list[tuple[int, bool]] = []
    last = (-1, -1)
    for found in _BRACE.finditer(text):
        if found[0] != "}":
            opened.append((found.end(), found[0] != "{"))
        elif opened:
            start, is_box = opened.pop()
            if is_box and start > last[0]:
                last = (start, found.start())
    return text[last[0] : last[1]] if last[0] >= 0 else None


def _letter(text: str) -> str | None:
    found = _boxed(text)
    if found is not None and (inside := _ALONE.findall(found.replace("\\text", ""))):
        return str(inside[-1])
    letters = _STATED.findall(text) or _ALONE.findall(text)
    return str(letters[-1]) if letters else None


def _matched(text: str, pattern: str) -> str | None:
    last = deque(re.finditer(pattern, text), maxlen=1)
    if not last:
        return None
    found = last[0].group(1) if last[0].re.groups else last[0].group(0)
    return _plain(found) if found is not None else None


def _plain(found: str) -> str | None:
    """Without spaces, dollar signs and a full stop; a number in its shortest form."""
    text = "".join(found.split()).strip("$").rstrip(".")
    if not text:
        return None
    return _number(text) if _NUMBER.fullmatch(text) else text


def _number(text: str) -> str:
    try:
        value = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return text
    if abs(value.adjusted()) > 100:  # writing it out would cost what its exponent says
        return str(value)
    return format(value.normalize() + 0, "f")
