"""Templates of atmospheric physics."""

from __future__ import annotations

from motley_runtime.questions.quantities import exp
from motley_runtime.questions.template import Template, Variable

PHYSICS = (
    Template(
        "grey-emission",
        "What flux does a surface of temperature {temperature} and emissivity {emissivity} emit?",
        {
            "temperature": Variable("K", 220, 320, 1),
            "emissivity": Variable("", 0.7, 1, 0.01),
        },
        lambda temperature, emissivity, sigma: emissivity * sigma * temperature**4,
        "W/m**2",
        constants=("sigma",),
    ),
    Template(
        "effective-temperature",
        "A planet receives {irradiance} at normal incidence and reflects a share of {albedo}. What "
        "is its effective radiating temperature?",
        {
            "irradiance": Variable("W/m**2", 400, 2800, 50),
            "albedo": Variable("", 0.05, 0.75, 0.01),
        },
        lambda irradiance, albedo, sigma: (irradiance * (1 - albedo) / (4 * sigma)) ** 0.25,
        "K",
        constants=("sigma",),
        farthest=1.7,
    ),
    Template(
        "absorption",
        "A beam of {irradiance} crosses {path} of a gas of density {density} whose mass absorption "
        "coefficient is {coefficient}. What irradiance is left?",
        {
            "irradiance": Variable("W/m**2", 100, 1300, 50),
            "path": Variable("m", 100, 2000, 50),
            "density": Variable("g/m**3", 1, 12, 0.5),
            "coefficient": Variable("m**2/kg", 0.02, 0.3, 0.02),
        },
        lambda irradiance, path, density, coefficient: (
            irradiance * exp(-coefficient * density * path)
        ),
        "W/m**2",
    ),
    Template(
        "potential-temperature",
        "Air at {pressure} has a temperature of {temperature}. What is its potential temperature, "
        "referred to {reference}?",
        {
            "pressure": Variable("hPa", 250, 850, 10),
            "temperature": Variable("K", 220, 285, 1),
            "reference": Variable("hPa", 1000, 1000, 1),
        },
        lambda pressure, temperature, reference, r_dry, cp_air: (
            temperature * (reference / pressure) ** (r_dry / cp_air).to("").magnitude
        ),
        "K",
        constants=("r_dry", "cp_air"),
        digits=4,
        farthest=1.7,
    ),
    Template(
        "condensation-level",
        "Air at the ground has a temperature of {temperature} and a dew point of {dew_point}. While "
        "it rises dry-adiabatically the two approach each other by {approach}. How high is the "
        "lifting condensation level above the ground?",
        {
            "temperature": Variable("K", 288, 308, 0.5),
            "dew_point": Variable("K", 273, 296, 0.5),
            "approach": Variable("K/km", 7.8, 8.2, 0.1),
        },
        lambda temperature, dew_point, approach: (temperature - dew_point) / approach,
        "m",
        holds=lambda temperature, dew_point, approach: bool(
            (temperature - dew_point).magnitude >= 2
        ),
    ),
    Template(
        "air-density",
        "What is the density of dry air at {pressure} and {temperature}?",
        {
            "pressure": Variable("hPa", 200, 1040, 10),
            "temperature": Variable("K", 215, 310, 1),
        },
        lambda pressure, temperature, r_dry: pressure / (r_dry * temperature),
        "kg/m**3",
        constants=("r_dry",),
    ),
    Template(
        "saturation-pressure",
        "By the Clausius-Clapeyron equation with a constant latent heat, what is the saturation "
        "vapour pressure over water at {temperature}?",
        {"temperature": Variable("K", 276, 310, 0.25)},
        lambda temperature, e_0, t_0, l_vapour, r_vapour: (
            e_0 * exp(l_vapour / r_vapour * (1 / t_0 - 1 / temperature))
        ),
        "hPa",
        constants=("e_0", "t_0", "l_vapour", "r_vapour"),
    ),
    Template(
        "mixing-ratio",
        "Moist air at a pressure of {pressure} has a vapour pressure of {vapour}; the ratio of the "
        "molar masses of water and dry air is {ratio}. What is its mixing ratio?",
        {
            "pressure": Variable("hPa", 500, 1040, 10),
            "vapour": Variable("hPa", 2, 40, 0.5),
            "ratio": Variable("", 0.622, 0.622, 0.001),
        },
        lambda pressure, vapour, ratio: ratio * vapour / (pressure - vapour),
        "g/kg",
    ),
    Template(
        "stokes-fall",
        "A droplet of radius {radius} and density {droplet} falls through air of density {air} and "
        "dynamic viscosity {viscosity}. What is its terminal speed by Stokes' law?",
        {
            "radius": Variable("um", 2, 25, 0.5),
            "droplet": Variable("kg/m**3", 900, 1200, 25),
            "air": Variable("kg/m**3", 0.7, 1.3, 0.05),
            "viscosity": Variable("uPa*s", 15, 19, 0.5),
        },
        lambda radius, droplet, air, viscosity, g: (
            2 * radius**2 * (droplet - air) * g / (9 * viscosity)
        ),
        "mm/s",
        constants=("g",),
    ),
    Template(
        "dry-ascent",
        "An unsaturated parcel of {temperature} rises by {height} without exchange of heat. By how "
        "many percent of its first absolute temperature does it cool?",
        {"temperature": Variable("K", 270, 310, 1), "height": Variable("m", 200, 3000, 50)},
        lambda temperature, height, g, cp_air: g / cp_air * height / temperature,
        "percent",
        constants=("g", "cp_air"),
    ),
    Template(
        "precipitable-water",
        "A layer of air between {lower} and {upper} has a mean specific humidity of {humidity}. How "
        "deep would its water stand on the ground?",
        {
            "lower": Variable("hPa", 850, 1020, 10),
            "upper": Variable("hPa", 400, 800, 10),
            "humidity": Variable("g/kg", 1, 16, 0.5),
        },
        lambda lower, upper, humidity, g, rho_water: humidity * (lower - upper) / (g * rho_water),
        "mm",
        constants=("g", "rho_water"),
    ),
)
