"""Quantities with units for the templates: one registry, functions, constants, and how they print.

The algebra of units is pint's. A solver that adds metres to seconds, or whose result is not of the
answer's dimension, raises while a question is made; nothing of that kind gets into a set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import pint

Quantity: TypeAlias = Any  # pint's quantity; its own type says nothing of the dimension either

REGISTRY: Any = pint.UnitRegistry()
# Names that pint reads as something else (Sv is its sievert) or prints in an unusual order.
_PRINTED = {"sverdrup": "Sv", "s/m**(1/3)": "s/m^(1/3)", "ohm*m": "Ω·m", "N*m": "N·m", "": ""}


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant that a question states: its symbol in text, value and unit."""

    symbol: str
    value: float
    unit: str


CONSTANTS: Mapping[str, Constant] = {
    "g": Constant("g", 9.81, "m/s**2"),
    "omega": Constant("the Earth's rotation rate", 7.292e-5, "rad/s"),
    "earth_radius": Constant("the Earth's radius", 6371.0, "km"),
    "r_dry": Constant("the gas constant of dry air", 287.0, "J/(kg*K)"),
    "r_vapour": Constant("the gas constant of water vapour", 461.5, "J/(kg*K)"),
    "cp_air": Constant("the specific heat of air at constant pressure", 1004.0, "J/(kg*K)"),
    "cp_sea": Constant("the specific heat of sea water", 3990.0, "J/(kg*K)"),
    "l_vapour": Constant("the latent heat of vaporisation", 2.5e6, "J/kg"),
    "l_fusion": Constant("the latent heat of fusion", 3.34e5, "J/kg"),
    "rho_water": Constant("the density of water", 1000.0, "kg/m**3"),
    "rho_sea": Constant("the density of sea water", 1025.0, "kg/m**3"),
    "sigma": Constant("the Stefan-Boltzmann constant", 5.67e-8, "W/(m**2*K**4)"),
    "big_g": Constant("the gravitational constant", 6.674e-11, "m**3/(kg*s**2)"),
    "e_0": Constant("the saturation vapour pressure at 273.15 K", 611.0, "Pa"),
    "t_0": Constant("the melting point", 273.15, "K"),
}


def quantity(value: float, unit: str) -> Quantity:
    """A value in its unit, turned into SI base units."""
    return REGISTRY.Quantity(value, _unit(unit)).to_base_units()


@cache
def _unit(name: str) -> Any:
    """A unit by its name, which takes pint longer to read than all that is done with it."""
    return REGISTRY.Unit(name or "dimensionless")


def magnitude(found: Quantity, unit: str) -> float:
    """The number of a quantity in a unit. Raises: pint.DimensionalityError."""
    if not isinstance(found, REGISTRY.Quantity):
        found = REGISTRY.Quantity(found, "dimensionless")
    return float(found.to(_unit(unit)).magnitude)


def printed(value: float, unit: str) -> str:
    """A value as people write it: `12.5 km²`, `0.35`, `3.2 × 10^-5 rad/s`."""
    number = f"{value:.10g}"
    if "e" in number or (value and not 1e-3 <= abs(value) < 1e7):
        mantissa, _, exponent = f"{value:.10e}".partition("e")
        number = f"{float(mantissa):g} × 10^{int(exponent)}"
    shown = _PRINTED.get(unit)
    if shown is None:
        shown = f"{_unit(unit):~P}"
    return f"{number} {shown}" if shown else number


def rounded(value: float, digits: int) -> float:
    """The value with so many significant digits."""
    return float(f"{value:.{digits - 1}e}")


def exp(x: Quantity) -> float:
    """e to the power of a pure number. Raises: pint.DimensionalityError for any other."""
    return math.exp(magnitude(x, ""))


def log(x: Quantity) -> float:
    """The natural logarithm of a pure number."""
    return math.log(magnitude(x, ""))


def sin(x: Quantity) -> float:
    """The sine of an angle."""
    return math.sin(magnitude(x, "rad"))


def cos(x: Quantity) -> float:
    """The cosine of an angle."""
    return math.cos(magnitude(x, "rad"))


def arcsin(x: Quantity) -> Quantity:
    """The angle whose sine is a pure number."""
    return REGISTRY.Quantity(math.asin(magnitude(x, "")), "rad")


def sqrt(x: Quantity) -> Quantity:
    """The square root, units included."""
    return x**0.5


def coriolis(omega: Quantity, latitude: Quantity) -> Quantity:
    """The Coriolis parameter 2 Omega sin(latitude), 1/s."""
    return 2.0 * omega * sin(latitude)
