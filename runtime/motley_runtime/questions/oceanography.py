"""Templates of physical oceanography."""

from __future__ import annotations

from math import pi

from motley_runtime.questions.quantities import coriolis, cos, sqrt
from motley_runtime.questions.template import Template, Variable

_LATITUDE = Variable("degree", 15, 65, 1)

OCEANOGRAPHY = (
    Template(
        "deep-water-wave",
        "How fast does a surface wave of wavelength {wavelength} travel in deep water?",
        {"wavelength": Variable("m", 5, 400, 1)},
        lambda wavelength, g: sqrt(g * wavelength / (2 * pi)),
        "m/s",
        constants=("g",),
    ),
    Template(
        "tsunami-travel",
        "How long does a tsunami take for {distance} across an ocean {depth} deep?",
        {"distance": Variable("km", 300, 8000, 100), "depth": Variable("m", 1000, 5500, 100)},
        lambda distance, depth, g: distance / sqrt(g * depth),
        "h",
        constants=("g",),
    ),
    Template(
        "ekman-depth",
        "At latitude {latitude} the vertical eddy viscosity of the ocean's surface layer is "
        "{viscosity}. What is the Ekman depth, pi times the square root of twice the viscosity over "
        "the Coriolis parameter?",
        {"latitude": _LATITUDE, "viscosity": Variable("m**2/s", 0.005, 0.1, 0.005)},
        lambda latitude, viscosity, omega: pi * sqrt(2 * viscosity / coriolis(omega, latitude)),
        "m",
        constants=("omega",),
    ),
    Template(
        "ekman-transport",
        "A steady wind stress of {stress} acts along a coast {length} long at latitude {latitude}. "
        "How much water does the Ekman layer carry across that line?",
        {
            "stress": Variable("N/m**2", 0.02, 0.3, 0.01),
            "length": Variable("km", 50, 900, 50),
            "latitude": _LATITUDE,
        },
        lambda stress, length, latitude, omega, rho_sea: (
            stress / (rho_sea * coriolis(omega, latitude)) * length
        ),
        "sverdrup",
        constants=("omega", "rho_sea"),
    ),
    Template(
        "water-pressure",
        "By how much does the weight of sea water of density {density} raise the pressure at a "
        "depth of {depth}?",
        {
            "density": Variable("kg/m**3", 1020, 1045, 1),
            "depth": Variable("m", 50, 6000, 50),
        },
        lambda density, depth, g: density * g * depth,
        "MPa",
        constants=("g",),
    ),
    Template(
        "surface-current",
        "Altimetry shows the sea surface rising by {height} over {distance} at latitude {latitude}. "
        "How fast is the geostrophic surface current?",
        {
            "height": Variable("cm", 5, 110, 5),
            "distance": Variable("km", 40, 400, 10),
            "latitude": _LATITUDE,
        },
        lambda height, distance, latitude, g, omega: (
            g / coriolis(omega, latitude) * height / distance
        ),
        "m/s",
        constants=("g", "omega"),
    ),
    Template(
        "mixed-layer-heat",
        "A mixed layer {depth} deep warms by {warming} in {time}. What mean net heat flux into the "
        "sea does that take?",
        {
            "depth": Variable("m", 10, 120, 5),
            "warming": Variable("K", 0.2, 6, 0.2),
            "time": Variable("day", 10, 120, 5),
        },
        lambda depth, warming, time, rho_sea, cp_sea: rho_sea * cp_sea * depth * warming / time,
        "W/m**2",
        constants=("rho_sea", "cp_sea"),
    ),
    Template(
        "sverdrup-transport",
        "At latitude {latitude} the zonal wind stress changes by {change} over {distance} from south "
        "to north. How large is the meridional Sverdrup transport over a basin {width} wide?",
        {
            "latitude": _LATITUDE,
            "change": Variable("N/m**2", 0.04, 0.3, 0.01),
            "distance": Variable("km", 800, 2500, 100),
            "width": Variable("km", 2000, 9000, 250),
        },
        lambda latitude, change, distance, width, omega, earth_radius, rho_sea: (
            change / distance * width / (rho_sea * (2 * omega * cos(latitude) / earth_radius))
        ),
        "sverdrup",
        constants=("omega", "earth_radius", "rho_sea"),
    ),
    Template(
        "internal-wave",
        "A layer {depth} deep lies on a much deeper one that is denser by {difference}; its own "
        "density is {density}. How fast do long internal waves travel on the interface?",
        {
            "depth": Variable("m", 20, 300, 10),
            "difference": Variable("kg/m**3", 0.5, 6, 0.25),
            "density": Variable("kg/m**3", 1020, 1030, 1),
        },
        lambda depth, difference, density, g: sqrt(g * difference / (density + difference) * depth),
        "m/s",
        constants=("g",),
    ),
    Template(
        "deformation-radius",
        "At latitude {latitude} a water column of depth {depth} has a constant buoyancy frequency of "
        "{frequency}. What is the first baroclinic Rossby radius, the frequency times the depth over "
        "pi times the Coriolis parameter?",
        {
            "latitude": _LATITUDE,
            "depth": Variable("m", 500, 5000, 100),
            "frequency": Variable("1/s", 0.001, 0.008, 0.0005),
        },
        lambda latitude, depth, frequency, omega: (
            frequency * depth / (pi * coriolis(omega, latitude))
        ),
        "km",
        constants=("omega",),
    ),
    Template(
        "estuary-exchange",
        "River water enters an estuary at {river}. Sea water of salinity {sea} flows in below, water "
        "of salinity {out} flows out above, and nothing changes with time. How large is the outflow?",
        {
            "river": Variable("m**3/s", 50, 3000, 50),
            "sea": Variable("g/kg", 28, 36, 0.5),
            "out": Variable("g/kg", 5, 25, 0.5),
        },
        lambda river, sea, out: river * sea / (sea - out),
        "m**3/s",
    ),
)
