"""Templates of hydrology."""

from __future__ import annotations

from math import pi

from motley_runtime.questions.quantities import exp, log, sqrt
from motley_runtime.questions.template import Template, Variable

HYDROLOGY = (
    Template(
        "rational-method",
        "Rain of intensity {intensity} falls on a catchment of {area} whose runoff coefficient is "
        "{coefficient}. What is the peak discharge by the rational method?",
        {
            "intensity": Variable("mm/h", 10, 90, 2.5),
            "area": Variable("km**2", 0.5, 12, 0.25),
            "coefficient": Variable("", 0.2, 0.9, 0.05),
        },
        lambda intensity, area, coefficient: coefficient * intensity * area,
        "m**3/s",
    ),
    Template(
        "manning-discharge",
        "Water flows {depth} deep in a rectangular channel that is {width} wide, has a bed slope of "
        "{slope} and a Manning roughness of {roughness}. What is the discharge in uniform flow?",
        {
            "depth": Variable("m", 0.5, 4, 0.1),
            "width": Variable("m", 4, 40, 1),
            "slope": Variable("", 0.0005, 0.01, 0.0005),
            "roughness": Variable("s/m**(1/3)", 0.015, 0.06, 0.005),
        },
        lambda depth, width, slope, roughness: (
            width
            * depth
            * (width * depth / (width + 2 * depth)) ** (2 / 3)
            * sqrt(slope)
            / roughness
        ),
        "m**3/s",
    ),
    Template(
        "darcy-flow",
        "Groundwater crosses an aquifer section {width} wide and {thickness} thick. The hydraulic "
        "conductivity is {conductivity} and the head falls by {drop} over {distance}. What is the "
        "flow through the section?",
        {
            "width": Variable("m", 100, 2000, 50),
            "thickness": Variable("m", 5, 60, 2.5),
            "conductivity": Variable("m/day", 1, 80, 1),
            "drop": Variable("m", 0.5, 12, 0.5),
            "distance": Variable("km", 0.5, 6, 0.25),
        },
        lambda width, thickness, conductivity, drop, distance: (
            conductivity * width * thickness * drop / distance
        ),
        "m**3/day",
    ),
    Template(
        "seepage-velocity",
        "In an aquifer with hydraulic conductivity {conductivity} and effective porosity {porosity} "
        "the hydraulic gradient is {gradient}. How fast does a conservative tracer move?",
        {
            "conductivity": Variable("m/day", 2, 90, 2),
            "porosity": Variable("", 0.1, 0.4, 0.02),
            "gradient": Variable("", 0.001, 0.02, 0.001),
        },
        lambda conductivity, porosity, gradient: conductivity * gradient / porosity,
        "m/day",
    ),
    Template(
        "thiem-well",
        "A well pumps a confined aquifer of transmissivity {transmissivity} in steady state. The "
        "heads in observation wells at {near} and {far} differ by {difference}. What is the "
        "pumping rate?",
        {
            "transmissivity": Variable("m**2/day", 50, 1500, 50),
            "near": Variable("m", 5, 40, 5),
            "far": Variable("m", 60, 400, 20),
            "difference": Variable("m", 0.4, 5, 0.2),
        },
        lambda transmissivity, near, far, difference: (
            2 * pi * transmissivity * difference / log(far / near)
        ),
        "m**3/day",
    ),
    Template(
        "water-balance",
        "In {days} a catchment of {area} receives {rain} of rain and loses {evaporation} by "
        "evapotranspiration; the mean outflow of its river is {outflow}. How much does the stored "
        "volume of water grow?",
        {
            "days": Variable("day", 30, 120, 10),
            "area": Variable("km**2", 200, 1500, 50),
            "rain": Variable("mm", 250, 600, 10),
            "evaporation": Variable("mm", 50, 150, 10),
            "outflow": Variable("m**3/s", 1, 10, 0.5),
        },
        lambda days, area, rain, evaporation, outflow: (rain - evaporation) * area - outflow * days,
        "hectometer**3",
        holds=lambda days, area, rain, evaporation, outflow: (
            (rain - evaporation) * area > 1.3 * outflow * days
        ),
    ),
    Template(
        "linear-reservoir",
        "The baseflow of a river falls like that of a linear reservoir with a storage constant of "
        "{constant}. It is {start} now. What is it after {time} without rain?",
        {
            "constant": Variable("day", 10, 80, 5),
            "start": Variable("m**3/s", 5, 90, 5),
            "time": Variable("day", 5, 60, 5),
        },
        lambda constant, start, time: start * exp(-time / constant),
        "m**3/s",
    ),
    Template(
        "residence-time",
        "A lake of {area} with a mean depth of {depth} is fed and drained at {flow}. What is the "
        "mean residence time of its water?",
        {
            "area": Variable("km**2", 1, 60, 1),
            "depth": Variable("m", 3, 60, 1),
            "flow": Variable("m**3/s", 1, 40, 1),
        },
        lambda area, depth, flow: area * depth / flow,
        "day",
    ),
    Template(
        "froude-number",
        "A river of rectangular section is {width} wide and {depth} deep and carries {flow}. What is "
        "its Froude number?",
        {
            "width": Variable("m", 5, 60, 2.5),
            "depth": Variable("m", 0.5, 5, 0.25),
            "flow": Variable("m**3/s", 10, 200, 10),
        },
        lambda width, depth, flow, g: flow / (width * depth) / sqrt(g * depth),
        "",
        constants=("g",),
    ),
    Template(
        "snow-melt",
        "A ripe snow cover at the melting point takes up a mean energy flux of {flux} for {time}. "
        "How much melt water, as a depth of water, does it give?",
        {"flux": Variable("W/m**2", 20, 300, 10), "time": Variable("h", 3, 48, 3)},
        lambda flux, time, rho_water, l_fusion: flux * time / (rho_water * l_fusion),
        "mm",
        constants=("rho_water", "l_fusion"),
    ),
)
