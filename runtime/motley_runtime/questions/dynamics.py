"""Templates of atmospheric dynamics."""

from __future__ import annotations

from math import pi

from motley_runtime.questions.quantities import coriolis, cos, log, sqrt
from motley_runtime.questions.template import Template, Variable

_LATITUDE = Variable("degree", 25, 70, 1)
_DENSITY = Variable("kg/m**3", 0.6, 1.25, 0.05)

DYNAMICS = (
    Template(
        "geostrophic-wind",
        "At latitude {latitude} the pressure changes by {difference} over {distance}, and the air "
        "density is {density}. What is the geostrophic wind speed?",
        {
            "latitude": _LATITUDE,
            "difference": Variable("hPa", 2, 12, 0.5),
            "distance": Variable("km", 200, 900, 25),
            "density": _DENSITY,
        },
        lambda latitude, difference, distance, density, omega: (
            difference / distance / (density * coriolis(omega, latitude))
        ),
        "m/s",
        constants=("omega",),
    ),
    Template(
        "thermal-wind",
        "At latitude {latitude} the mean temperature of the layer between {lower} and {upper} falls "
        "by {contrast} over {distance} towards the pole. By how much does the westerly geostrophic "
        "wind grow across the layer?",
        {
            "latitude": _LATITUDE,
            "lower": Variable("hPa", 800, 1000, 25),
            "upper": Variable("hPa", 250, 600, 25),
            "contrast": Variable("K", 4, 20, 1),
            "distance": Variable("km", 600, 2000, 100),
        },
        lambda latitude, lower, upper, contrast, distance, omega, r_dry: (
            r_dry / coriolis(omega, latitude) * contrast / distance * log(lower / upper)
        ),
        "m/s",
        constants=("omega", "r_dry"),
    ),
    Template(
        "rossby-number",
        "What is the Rossby number of a flow of {speed} with a horizontal scale of {scale} at "
        "latitude {latitude}?",
        {
            "speed": Variable("m/s", 4, 50, 1),
            "scale": Variable("km", 50, 2000, 50),
            "latitude": _LATITUDE,
        },
        lambda speed, scale, latitude, omega: speed / (coriolis(omega, latitude) * scale),
        "",
        constants=("omega",),
    ),
    Template(
        "inertial-period",
        "What is the period of an inertial oscillation at latitude {latitude}?",
        {"latitude": Variable("degree", 10, 80, 0.5)},
        lambda latitude, omega: 2 * pi / coriolis(omega, latitude),
        "h",
        constants=("omega",),
    ),
    Template(
        "rossby-wave-speed",
        "A barotropic Rossby wave of zonal wavelength {wavelength}, without meridional structure, "
        "lies in a westerly flow of {flow} at latitude {latitude}. At what speed does its phase "
        "move eastward?",
        {
            "wavelength": Variable("km", 2000, 5000, 100),
            "flow": Variable("m/s", 12, 45, 1),
            "latitude": _LATITUDE,
        },
        lambda wavelength, flow, latitude, omega, earth_radius: (
            flow - 2 * omega * cos(latitude) / earth_radius * (wavelength / (2 * pi)) ** 2
        ),
        "m/s",
        constants=("omega", "earth_radius"),
        holds=lambda wavelength, flow, latitude: bool(flow.magnitude > wavelength.magnitude / 4e5),
    ),
    Template(
        "gradient-wind",
        "Around a low at latitude {latitude} air of density {density} moves on a circle of radius "
        "{radius}, where the pressure gradient is {gradient}. What is the gradient wind speed?",
        {
            "latitude": _LATITUDE,
            "density": _DENSITY,
            "radius": Variable("km", 200, 1200, 50),
            "gradient": Variable("hPa/km", 0.01, 0.05, 0.0025),
        },
        lambda latitude, density, radius, gradient, omega: (
            sqrt((coriolis(omega, latitude) * radius / 2) ** 2 + radius * gradient / density)
            - coriolis(omega, latitude) * radius / 2
        ),
        "m/s",
        constants=("omega",),
    ),
    Template(
        "cyclostrophic-wind",
        "In a small intense vortex the pressure rises outward by {gradient} at a radius of {radius}; "
        "the air density is {density}. What is the cyclostrophic wind speed there?",
        {
            "gradient": Variable("hPa/km", 5, 80, 2.5),
            "radius": Variable("m", 50, 900, 25),
            "density": _DENSITY,
        },
        lambda gradient, radius, density: sqrt(radius * gradient / density),
        "m/s",
    ),
    Template(
        "convergence",
        "Over a distance of {distance} along the flow the wind slows from {entering} to {leaving}, "
        "evenly through a layer {depth} deep above flat ground. How fast does air rise through the "
        "top of the layer, if density is constant and nothing changes across the flow?",
        {
            "distance": Variable("km", 50, 400, 10),
            "entering": Variable("m/s", 10, 25, 0.5),
            "leaving": Variable("m/s", 2, 15, 0.5),
            "depth": Variable("m", 300, 2000, 100),
        },
        lambda distance, entering, leaving, depth: (entering - leaving) / distance * depth,
        "cm/s",
        holds=lambda entering, leaving, **_: bool((entering - leaving).magnitude >= 2),
    ),
    Template(
        "buoyancy-period",
        "The temperature of the air is {temperature} and falls with height by {lapse}. With what "
        "period does a displaced dry parcel oscillate?",
        {"temperature": Variable("K", 230, 300, 2), "lapse": Variable("K/km", 1, 8.5, 0.25)},
        lambda temperature, lapse, g, cp_air: 2 * pi / sqrt(g / temperature * (g / cp_air - lapse)),
        "min",
        constants=("g", "cp_air"),
    ),
    Template(
        "layer-thickness",
        "The mean virtual temperature between the pressure levels {lower} and {upper} is "
        "{temperature}. How thick is the layer?",
        {
            "lower": Variable("hPa", 700, 1000, 25),
            "upper": Variable("hPa", 200, 600, 25),
            "temperature": Variable("K", 230, 295, 1),
        },
        lambda lower, upper, temperature, r_dry, g: r_dry * temperature / g * log(lower / upper),
        "m",
        constants=("r_dry", "g"),
    ),
)
