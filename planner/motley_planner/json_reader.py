"""Strict reading of JSON objects: every refusal names the entry, the rule and a fix."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from motley_planner.errors import SnapshotError

T = TypeVar("T")
_MISSING = object()
LARGEST = 1e20  # the solver takes more for infinite
SMALLEST = 1e-60  # above 0: quotients and products of all that is read are floats, too
MOST_DIGITS = 400  # of an integer that is read as one; a float holds 309
SHOWN = 40  # characters of a number that a refusal repeats


class _NoNumber:
    """NaN, Infinity or -Infinity in a text, until somebody who knows where asks for it."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def rule(self) -> str:
        """What is wrong with it, and the fix."""
        return f"{self.name} is not a number; leave the field out or write null"

    def __repr__(self) -> str:
        return self.name


class _TooLong(_NoNumber):
    """A number with more digits than Python reads, or than a float holds."""

    @property
    def rule(self) -> str:
        return f"{self.name} is out of range; write at most {LARGEST:g}, null for none"


class _Repeated(dict[str, Any]):
    """An object in which a key occurs twice, until somebody who knows where asks for it."""

    key = ""


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    repeated = _Repeated(found)
    repeated.key = next(name for name in names if names.count(name) > 1)
    return repeated


def _long_integer(digits: str) -> object:
    return int(digits) if len(digits) <= MOST_DIGITS else _too_long(digits)


def finite_float(text: str) -> object:
    """A number in a text as a float; a value that nobody takes for a number where none holds it."""
    value = float(text)
    return value if math.isfinite(value) else _too_long(text)


def _too_long(text: str) -> _TooLong:
    return _TooLong(text if len(text) <= SHOWN else f"a number of {len(text)} digits")


def decoded(text: str, **hooks: Any) -> Any:
    """The value of a JSON text, NaN and integers of thousands of digits as no numbers.

    Raises: json.JSONDecodeError for broken JSON, RecursionError.
    """
    try:
        return json.loads(text, parse_constant=_NoNumber, **hooks)
    except json.JSONDecodeError:
        raise
    except ValueError:  # int() refuses very many digits; a hook for each integer takes its time
        return json.loads(text, parse_constant=_NoNumber, parse_int=_long_integer, **hooks)


def parse_object(text: str, where: str) -> Fields:
    """The one JSON object in a text.

    NaN, Infinity, integers of thousands of digits and keys that occur twice are refused where they
    are read, by their path.

    Raises: SnapshotError for broken JSON.
    """
    try:
        value = decoded(text, object_pairs_hook=_no_repeats)
    except json.JSONDecodeError as error:
        rule = f"line {error.lineno} column {error.colno}: {error.msg}; write valid JSON"
        raise SnapshotError(where, rule) from error
    except RecursionError as error:
        raise SnapshotError(where, "nested too deeply; write a column table") from error
    return Fields(value, where)


class Fields:
    """The fields of one JSON object; `close()` refuses those that nobody asked for."""

    def __init__(self, value: object, where: str) -> None:
        self._value: dict[str, Any] = _object(value, where)
        self.where, self._known = where, set[str]()

    def _get(self, name: str, default: object) -> Any:
        self._known.add(name)
        if name in self._value:
            return self._value[name]
        if default is _MISSING:
            raise SnapshotError(self.where, f"field {name!r} is missing; add it")
        return default

    def at(self, name: str) -> str:
        """Where a field is, in words."""
        return f"{self.where}.{name}" if self.where else name

    def text(self, name: str, default: object = _MISSING) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise SnapshotError(self.at(name), f"write a string, not {_kind(value)}")
        return value

    def choice(self, name: str, choices: Sequence[T], default: object = _MISSING) -> T:
        """One of a few strings."""
        value = self._get(name, default)
        for known in choices:
            if isinstance(value, str) and value == known:
                return known
        raise SnapshotError(
            self.at(name), f"{value!r} is not one of {', '.join(map(str, choices))}; use one"
        )

    def flag(self, name: str, default: object = _MISSING) -> bool:
        """true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise SnapshotError(self.at(name), f"write true or false, not {_kind(value)}")
        return value

    def number(self, name: str, default: object = _MISSING, most: float = math.inf) -> float:
        """A finite number >= 0, and at most `most`."""
        value = check_number(self._get(name, default), self.at(name))
        if value > most:
            raise SnapshotError(self.at(name), f"{value:g} is over {most:g}; write less")
        return value

    def number_or_null(self, name: str) -> float | None:
        """A finite number >= 0, or None where null or left out."""
        value = self._get(name, None)
        return None if value is None else check_number(value, self.at(name))

    def integer(self, name: str, default: object = _MISSING) -> int:
        """A whole number >= 0."""
        value = check_number(self._get(name, default), self.at(name))
        if value != math.floor(value):
            raise SnapshotError(self.at(name), f"{value} is not a whole number; round it")
        return int(value)

    def integer_or_null(self, name: str, default: object = None) -> int | None:
        """A whole number >= 0, or None for null."""
        return None if self._get(name, default) is None else self.integer(name)

    def numbers(self, name: str, default: object = _MISSING) -> dict[str, float]:
        """An object of numbers >= 0."""
        value = _object(self._get(name, default), self.at(name))
        return {key: check_number(n, f"{self.at(name)}[{key!r}]") for key, n in value.items()}

    def texts(self, name: str, default: object = _MISSING) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(name, default)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise SnapshotError(f"{self.at(name)}[{i}]", f"write a string, not {_kind(value)}")
        return tuple(values)

    def objects(
        self,
        name: str,
        read: Callable[[Fields], T],
        default: object = _MISSING,
        quick: Callable[[object], T | None] | None = None,
    ) -> tuple[T, ...]:
        """A list of objects, each read by `read` and then closed.

        `quick` may read a plain good entry faster; where it gives None, `read` says what is wrong.
        """
        found: list[T] = []
        for i, value in enumerate(self._list(name, default)):
            entry = None if quick is None else quick(value)
            if entry is not None:
                found.append(entry)
                continue
            fields = Fields(value, f"{self.at(name)}[{i}]")
            found.append(read(fields))
            fields.close()
        return tuple(found)

    def object_or_null(self, name: str) -> Fields | None:
        """An object, or None where null or left out."""
        value = self._get(name, None)
        return None if value is None else Fields(value, self.at(name))

    def _list(self, name: str, default: object) -> list[Any]:
        value = self._get(name, default)
        if not isinstance(value, list):
            raise SnapshotError(self.at(name), f"write a list [...], not {_kind(value)}")
        return value

    def close(self) -> None:
        """Raises SnapshotError if the object has a field that was never asked for."""
        for name in self._value:
            if name not in self._known:
                close = difflib.get_close_matches(name, self._known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else "remove it"
                raise SnapshotError(self.at(name), f"unknown field; {hint}")


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SnapshotError(where, f"write an object {{...}}, not {_kind(value)}")
    if isinstance(value, _Repeated):
        raise SnapshotError(where, f"key {value.key!r} occurs twice in one object; keep one")
    return value


def check_number(value: object, where: str) -> float:
    """A finite number >= 0."""
    if isinstance(value, _NoNumber):
        raise SnapshotError(where, value.rule)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SnapshotError(where, f"write a number, not {_kind(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise SnapshotError(where, _too_long(str(value)).rule) from error
    if not math.isfinite(number):
        raise SnapshotError(where, "not a finite number; leave the field out or write null")
    if number < 0:
        raise SnapshotError(where, f"{value} is negative; write a number >= 0")
    if number > LARGEST:
        raise SnapshotError(where, f"{number:g} is over {LARGEST:g}; write SI units, null for none")
    if 0.0 < number < SMALLEST:
        raise SnapshotError(where, f"{number:g} is above 0 and below {SMALLEST:g}; write 0")
    return number


def check_unique(names: Iterable[str], where: str) -> set[str]:
    """The names as a set.

    Raises: SnapshotError if one occurs twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SnapshotError(where, f"{name!r} occurs twice; give each its own name")
        seen.add(name)
    return seen


def check_known(name: str, known: Iterable[str], where: str, what: str) -> None:
    """Raises SnapshotError if `name` is not among `known`."""
    if not isinstance(known, AbstractSet | Mapping):
        known = set(known)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    many = f"{what}es" if what.endswith("s") else f"{what}s"
    hint = f"did you mean {close[0]!r}?" if close else f"list it among the {many}"
    raise SnapshotError(where, f"unknown {what} {name!r}; {hint}")


def _kind(value: object) -> str:
    if isinstance(value, _TooLong):
        return value.name
    if isinstance(value, _NoNumber):
        return f"{value.name}, which is no JSON"
    kinds = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object" if isinstance(value, dict) else "a number")
