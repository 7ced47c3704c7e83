"""Who a client is and what it may use, as its file among the API keys says.

A file holds one key a line, plain or `sha256:<hex>`, and settings as `name=value` lines; its name
is the client's. Empty lines and those that begin with `#` say nothing. A line of the form
`name=value` that is no setting is refused, for it would be a key that anybody guesses; the `=` that
pads base64 at a key's end is none.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

_PREFIX = "sha256:"
_LIKE_A_SETTING = re.compile(r"([a-z_]+)\s*=\s*[^\s=]")


@dataclass(frozen=True, slots=True)
class Client:
    """One client. None is without limit; `weight` is its part when requests have to wait."""

    name: str
    requests_per_minute: float | None = None
    burst: float | None = None
    concurrency: int | None = None
    weight: float = 1.0
    priority: int = 0
    trust_zones: frozenset[str] | None = None


ANYBODY = Client("")


def part_of(limit: int, gateways: int) -> int:
    """One gateway's part of a number of requests, at least 1."""
    return max(1, limit // gateways)


def read_client(name: str, text: str) -> tuple[Client, frozenset[str]]:
    """The client a file describes and the SHA-256 of its keys. Raises: ValueError naming the line."""
    client, hashes = Client(name), set()
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        setting, equals, value = line.partition("=")
        setting = setting.strip()
        if not line or line.startswith("#"):
            continue
        if equals and setting in _SETTINGS:
            try:
                client = replace(client, **{setting: _SETTINGS[setting](value.strip())})
            except ValueError as error:
                raise ValueError(f"{name}, line {number}: {setting}: {error}") from error
        elif found := _LIKE_A_SETTING.match(line):
            raise ValueError(f"{name}, line {number}: {_no_setting(found[1])}")
        else:
            hashes.add(_digest(line))
    return client, frozenset(hashes)


def _no_setting(written: str) -> str:
    """What is wrong with a line; not what it says, for it may be a key."""
    near = difflib.get_close_matches(written, _SETTINGS, 1)
    meant = f"did you mean {near[0]}?" if near else f"settings are {', '.join(_SETTINGS)}"
    return f"is no setting ({meant}), and a key of this form is given as sha256:<hex>"


def _digest(line: str) -> str:
    if line.startswith(_PREFIX):
        return line.removeprefix(_PREFIX).strip().lower()
    return hashlib.sha256(line.encode()).hexdigest()


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError("must be a number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("must be a whole number of at least 1")
    return value


def _zones(text: str) -> frozenset[str]:
    return frozenset(zone.strip() for zone in text.split(",") if zone.strip())


_SETTINGS: dict[str, Callable[[str], Any]] = {
    "requests_per_minute": _positive,
    "burst": _positive,
    "concurrency": _count,
    "weight": _positive,
    "priority": int,
    "trust_zones": _zones,
}
