"""Money, rates, shares and times as people write them, with their value in SI units.

Each type is a `str` that has been checked, so a document keeps the writing of its author
("2h30m" stays "2h30m") and code asks for the number: `duration.seconds`, `share.fraction`,
`money.usd`, `rate.per_second`. Kubernetes rules: a quantity may be an integer or a string, never
a bare decimal, because decimals do not survive every JSON reader unchanged.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_SUFFIXES = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


class Written(str):
    """A checked text with a numeric meaning; subclasses state pattern, wording and value."""

    __slots__ = ()
    pattern: ClassVar[str]
    max_length: ClassVar[int] = 32
    noun: ClassVar[str]
    examples: ClassVar[str]
    integers: ClassVar[bool] = False

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.read, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, __: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        if cls.integers:
            return {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "x-kubernetes-int-or-string": True,
                "pattern": cls.pattern,
                "minimum": 0,
                "maxLength": cls.max_length,
            }
        return {"type": "string", "pattern": cls.pattern, "maxLength": cls.max_length}

    @classmethod
    def read(cls, value: object) -> Self:
        """The checked text.

        Raises: PydanticCustomError `motley_format`, whose words say what to write instead.
        """
        if isinstance(value, cls):
            return value
        if cls.integers and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            quotable = cls.integers and isinstance(value, float)
            hint = f'; put it in quotes: "{value}"' if quotable else ""
            raise _format_error(cls, f"{value!r} is not {cls.noun}{hint}")
        if len(value) > cls.max_length or not re.fullmatch(cls.pattern, value):
            raise _format_error(cls, f"{value!r} is not {cls.noun}")
        return cls(value)


def _format_error(kind: type[Written], problem: str) -> PydanticCustomError:
    return PydanticCustomError(
        "motley_format",
        "{problem}",
        {"problem": problem, "fix": f"write {kind.noun} such as {kind.examples}"},
    )


class Quantity(Written):
    """A Kubernetes quantity: `12`, `"12.5"`, `"800m"`, `"16Gi"`; never negative."""

    __slots__ = ()
    pattern = r"^[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
    noun = "a quantity"
    examples = '12, "12.5" or "800m"'
    integers = True

    @property
    def value(self) -> float:
        """The number, in the unit of the field it stands in."""
        digits = self.rstrip("mkKMGTi")
        return float(digits) * _SUFFIXES[self[len(digits) :]]

    @property
    def usd(self) -> float:
        """US dollars (the unit of every money field)."""
        return self.value

    @property
    def per_second(self) -> float:
        """Events a second (the unit of every rate field)."""
        return self.value

    @classmethod
    def of(cls, value: float, decimals: int = 3) -> Self:
        """The quantity that writes `value` with at most `decimals` decimals."""
        text = f"{value:.{decimals}f}"
        return cls(text.rstrip("0").rstrip(".") if "." in text else text)


class Percentage(Written):
    """A share from `0%` to `100%`."""

    __slots__ = ()
    pattern = r"^(100(\.0{1,6})?|[0-9]{1,2}(\.[0-9]{1,6})?)%$"
    max_length = 16
    noun = "a percentage from 0% to 100%"
    examples = '70% or "82.5%"'

    @property
    def fraction(self) -> float:
        """The share as a number from 0 to 1."""
        return float(self[:-1]) / 100.0

    @classmethod
    def of(cls, fraction: float, decimals: int = 2) -> Self:
        """The percentage that writes `fraction`, e.g. 0.825 as `82.5%`."""
        text = f"{fraction * 100.0:.{decimals}f}"
        return cls((text.rstrip("0").rstrip(".") if "." in text else text) + "%")


class SparePercentage(Percentage):
    """A share that is kept free, from `0%` to less than `100%`: something must be left to use."""

    __slots__ = ()
    pattern = r"^[0-9]{1,2}(\.[0-9]{1,6})?%$"
    noun = "a percentage from 0% to less than 100%"
    examples = '10% or "12.5%"'


class Duration(Written):
    """A time span: `400ms`, `60s`, `2h30m`."""

    __slots__ = ()
    pattern = r"^([0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h))+$"
    noun = "a duration"
    examples = "400ms, 60s or 2h30m"

    @property
    def seconds(self) -> float:
        """The span in seconds."""
        return sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(self))

    @classmethod
    def of(cls, seconds: float) -> Self:
        """The duration that writes `seconds`: milliseconds below one second, else seconds."""
        if seconds < 1.0:
            return cls(f"{seconds * 1e3:.0f}ms")
        text = f"{seconds:.3f}".rstrip("0").rstrip(".")
        return cls(f"{text}s")
