"""What a question is made from: a text with gaps, variables with ranges, and a solver."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from motley_runtime.questions.quantities import CONSTANTS, Quantity, magnitude, printed, quantity


@dataclass(frozen=True, slots=True)
class Variable:
    """A sampled quantity: low, low + step, ..., high, in `unit`."""

    unit: str
    low: float
    high: float
    step: float

    def draw(self, random: Random) -> float:
        """One value of the grid, each as likely."""
        steps = round((self.high - self.low) / self.step)
        return float(f"{self.low + random.randint(0, steps) * self.step:.10g}")


def _always(**_: Quantity) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Template:
    """A family of questions.

    `solve` takes every variable and constant by name, in SI base units, and returns a quantity of
    the dimension of `unit`. `holds` says which draws make sense. `digits` of the answer are shown.
    A wrong option is at most `farthest` times the answer, or its inverse: farther would be absurd.
    """

    name: str
    text: str
    variables: Mapping[str, Variable]
    solve: Callable[..., Quantity]
    unit: str
    constants: tuple[str, ...] = ()
    holds: Callable[..., bool] = _always
    digits: int = 3
    farthest: float = 25.0

    def draw(self, random: Random) -> dict[str, float]:
        """Values of all variables, in their own units, that make sense together."""
        for _ in range(1000):
            values = {name: each.draw(random) for name, each in self.variables.items()}
            if self.makes_sense(values):
                return values
        raise ValueError(f"template {self.name}: no draw of 1,000 makes sense; widen a range")

    def makes_sense(self, values: Mapping[str, float]) -> bool:
        """Whether a solver may be asked about these values."""
        return bool(self.holds(**self._quantities(values)))

    def answer(self, values: Mapping[str, float]) -> float:
        """The answer in `unit`. Raises: pint.DimensionalityError where units do not agree."""
        return magnitude(self.solve(**self._quantities(values), **_constants(self)), self.unit)

    def question(self, values: Mapping[str, float]) -> str:
        """The text with its gaps filled and the constants that it takes as given."""
        shown = {n: printed(values[n], each.unit) for n, each in self.variables.items()}
        given = [
            f"{CONSTANTS[name].symbol} = {printed(CONSTANTS[name].value, CONSTANTS[name].unit)}"
            for name in self.constants
        ]
        taken = f" Take {'; '.join(given)}." if given else ""
        return self.text.format_map(shown) + taken

    def gaps(self) -> set[str]:
        """Names of the text's gaps."""
        return {name for _, name, _, _ in string.Formatter().parse(self.text) if name}

    def _quantities(self, values: Mapping[str, float]) -> dict[str, Quantity]:
        return {n: quantity(values[n], each.unit) for n, each in self.variables.items()}


def _constants(template: Template) -> dict[str, Quantity]:
    return {n: quantity(CONSTANTS[n].value, CONSTANTS[n].unit) for n in template.constants}
