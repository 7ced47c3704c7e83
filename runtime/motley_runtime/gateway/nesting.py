"""How deep a request's body may be nested: what is read has to be written again.

orjson reads 1,024 levels and writes 254. Four of these are for what the gateway puts a client's
prompt into, when it asks a judge about an answer.
"""

from __future__ import annotations

from typing import Any

import orjson

MOST_LEVELS = 250


def is_too_deep(raw: bytes, body: Any) -> bool:
    """Whether a decoded body has more than MOST_LEVELS of lists and objects in each other.

    A body with no more brackets than that is not looked at; another one is written once, which
    costs less than it took to read.
    """
    if not _has_more_brackets(raw, MOST_LEVELS):
        return False
    try:
        orjson.dumps([[[[body]]]])
    except orjson.JSONEncodeError:
        return True
    return False


def _has_more_brackets(raw: bytes, most: int) -> bool:
    for bracket in (b"[", b"{"):
        at = raw.find(bracket)
        while at >= 0:
            most -= 1
            if most < 0:
                return True
            at = raw.find(bracket, at + 1)
    return False
