"""Templates of geophysics."""

from __future__ import annotations

from math import log10, pi

from motley_runtime.questions.quantities import arcsin, log, magnitude, quantity, sin, sqrt
from motley_runtime.questions.template import Template, Variable

GEOPHYSICS = (
    Template(
        "p-wave-speed",
        "A rock has a bulk modulus of {bulk}, a shear modulus of {shear} and a density of {density}. "
        "How fast do P waves travel in it?",
        {
            "bulk": Variable("GPa", 20, 140, 2),
            "shear": Variable("GPa", 10, 80, 2),
            "density": Variable("kg/m**3", 2200, 3500, 50),
        },
        lambda bulk, shear, density: sqrt((bulk + 4 / 3 * shear) / density),
        "km/s",
    ),
    Template(
        "epicentral-distance",
        "At a station the S wave of a shallow earthquake arrives {delay} after the P wave. The waves "
        "travel at {s_speed} and {p_speed}. How far away was the earthquake?",
        {
            "delay": Variable("s", 3, 60, 1),
            "s_speed": Variable("km/s", 3, 3.8, 0.1),
            "p_speed": Variable("km/s", 5.4, 6.8, 0.1),
        },
        lambda delay, s_speed, p_speed: delay / (1 / s_speed - 1 / p_speed),
        "km",
    ),
    Template(
        "bouguer-slab",
        "What is the gravitational attraction of an endless horizontal slab of rock {thickness} thick "
        "with a density of {density}?",
        {
            "thickness": Variable("m", 100, 3000, 50),
            "density": Variable("kg/m**3", 2000, 3100, 10),
        },
        lambda thickness, density, big_g: 2 * pi * big_g * density * thickness,
        "mGal",
        constants=("big_g",),
    ),
    Template(
        "heat-flow",
        "In a borehole the temperature rises by {rise} over {depth}; the thermal conductivity of the "
        "rock is {conductivity}. What is the conductive heat flow?",
        {
            "rise": Variable("K", 5, 60, 1),
            "depth": Variable("m", 200, 2000, 50),
            "conductivity": Variable("W/(m*K)", 1.5, 4.5, 0.1),
        },
        lambda rise, depth, conductivity: conductivity * rise / depth,
        "mW/m**2",
    ),
    Template(
        "airy-root",
        "A mountain range stands {height} above the lowland. The crust has a density of {crust}, the "
        "mantle of {mantle}. How thick is its root in Airy's isostasy?",
        {
            "height": Variable("km", 0.5, 6, 0.1),
            "crust": Variable("kg/m**3", 2650, 2950, 10),
            "mantle": Variable("kg/m**3", 3200, 3400, 10),
        },
        lambda height, crust, mantle: height * crust / (mantle - crust),
        "km",
    ),
    Template(
        "diffusion-length",
        "Over which length does heat spread in rock of thermal diffusivity {diffusivity} in {time}, "
        "taken as the square root of their product?",
        {
            "diffusivity": Variable("mm**2/s", 0.6, 1.6, 0.05),
            "time": Variable("megayear", 1, 150, 1),
        },
        lambda diffusivity, time: sqrt(diffusivity * time),
        "km",
    ),
    Template(
        "moment-magnitude",
        "A fault {length} long and {width} deep slips by {slip} in rock of shear modulus {shear}. "
        "What is the moment magnitude, 2/3 (log10 of the moment in N·m, less 9.1)?",
        {
            "length": Variable("km", 5, 300, 5),
            "width": Variable("km", 5, 30, 1),
            "slip": Variable("m", 0.2, 8, 0.2),
            "shear": Variable("GPa", 25, 60, 1),
        },
        lambda length, width, slip, shear: quantity(
            2 / 3 * (log10(magnitude(shear * length * width * slip, "N*m")) - 9.1), ""
        ),
        "",
        farthest=1.35,
    ),
    Template(
        "refraction-angle",
        "A seismic ray meets a plane boundary {incidence} from its normal. The wave travels at "
        "{before} before and at {after} behind it. At what angle from the normal does it go on?",
        {
            "incidence": Variable("degree", 8, 50, 1),
            "before": Variable("km/s", 3, 6, 0.1),
            "after": Variable("km/s", 3.5, 8, 0.1),
        },
        lambda incidence, before, after: arcsin(after / before * sin(incidence)),
        "degree",
        holds=lambda incidence, before, after: bool(
            0.0 < (after / before * sin(incidence)).magnitude < 0.95
            and abs((after / before).magnitude - 1) > 0.1
        ),
    ),
    Template(
        "lithostatic-pressure",
        "What is the lithostatic pressure at a depth of {depth} below the surface in rock of density "
        "{density}?",
        {
            "depth": Variable("km", 1, 40, 0.5),
            "density": Variable("kg/m**3", 2300, 3300, 50),
        },
        lambda depth, density, g: density * g * depth,
        "MPa",
        constants=("g",),
    ),
    Template(
        "radiometric-age",
        "A mineral that held no daughter isotope at first has {ratio} daughter atoms for each parent "
        "atom left. The half-life is {half_life}. How old is it?",
        {
            "ratio": Variable("", 0.02, 3, 0.02),
            "half_life": Variable("megayear", 100, 4500, 50),
        },
        lambda ratio, half_life: half_life * log(1 + ratio) / log(2.0),
        "megayear",
    ),
    Template(
        "archie-law",
        "A clean sandstone of porosity {porosity} is filled with brine of resistivity {brine}. With "
        "Archie's law, a tortuosity factor of 1 and a cementation exponent of 2, what is the "
        "resistivity of the rock?",
        {
            "porosity": Variable("", 0.06, 0.38, 0.01),
            "brine": Variable("ohm*m", 0.05, 2, 0.05),
        },
        lambda porosity, brine: brine / porosity**2,
        "ohm*m",
    ),
)
