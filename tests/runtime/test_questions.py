"""Question sets from templates: every template checked against formulas in everyday units."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations
from random import Random

import pint
import pytest

from motley_runtime.questions import FIELDS, Question, Template, Variable, document, question_set
from motley_runtime.questions.generating import LETTERS, SEPARATION, TOLERANCE
from motley_runtime.questions.quantities import CONSTANTS, printed

EVERY = [(field, each) for field, templates in FIELDS.items() for each in templates]
NAMES = [each.name for _, each in EVERY]
RAD, OMEGA, EARTH_M, G = math.pi / 180, 7.292e-5, 6.371e6, 9.81


@cache
def every_question() -> list[Question]:
    """A set in which each template comes eight times."""
    return list(question_set(FIELDS, 7, 8 * len(EVERY)))


def f(latitude: float) -> float:
    return 2 * OMEGA * math.sin(latitude * RAD)


def beta(latitude: float) -> float:
    return 2 * OMEGA * math.cos(latitude * RAD) / EARTH_M


# Each formula again, written down apart from the templates: plain numbers in the units of the text,
# conversion factors by hand, in the order of the text's variables.
AGAIN: Mapping[str, Callable[..., float]] = {
    "rational-method": lambda i, a, c: c * i * a / 3.6,
    "manning-discharge": lambda h, b, s, n: (
        (b * h) ** (5 / 3) / (b + 2 * h) ** (2 / 3) * math.sqrt(s) / n
    ),
    "darcy-flow": lambda w, b, k, dh, x: k * w * b * dh / (1000 * x),
    "seepage-velocity": lambda k, n, i: k * i / n,
    "thiem-well": lambda t, r1, r2, d: t * d * math.tau / (math.log(r2) - math.log(r1)),
    "water-balance": lambda d, a, p, e, q: (p - e) * 1e-3 * a - q * d * 0.0864,
    "linear-reservoir": lambda k, q, t: q / math.exp(t / k),
    "residence-time": lambda a, h, q: a * 1e6 * h / (q * 86400),
    "froude-number": lambda b, h, q: q / (b * math.sqrt(G) * h**1.5),
    "snow-melt": lambda e, t: e * t * 3600 / 3.34e5,
    "geostrophic-wind": lambda phi, dp, x, rho: dp * 0.1 / x / rho / f(phi),
    "thermal-wind": lambda phi, p1, p2, dt, x: 287 * dt * math.log(p1 / p2) / (f(phi) * 1e3 * x),
    "rossby-number": lambda u, x, phi: u / (1e3 * x * f(phi)),
    "inertial-period": lambda phi: math.tau / f(phi) / 3600,
    "rossby-wave-speed": lambda w, u, phi: u - beta(phi) * (1e3 * w / math.tau) ** 2,
    # The root of v^2 / r + f v = gradient / density, in the form that loses no digits.
    "gradient-wind": lambda phi, rho, r, g: (
        2 * (g * 0.1 / rho) / (f(phi) + math.sqrt(f(phi) ** 2 + 4 * g * 0.1 / rho / (1e3 * r)))
    ),
    "cyclostrophic-wind": lambda g, r, rho: math.sqrt(0.1 * g * r / rho),
    "convergence": lambda x, u1, u2, h: (u1 - u2) * h / (10 * x),
    "buoyancy-period": lambda t, lapse: (
        math.tau / 60 / math.sqrt(G / t * (G / 1004 - lapse / 1000))
    ),
    "layer-thickness": lambda p1, p2, t: 287 / G * t * (math.log(p1) - math.log(p2)),
    "grey-emission": lambda t, e: e * 5.67 * (t / 100) ** 4,
    "effective-temperature": lambda s, a: math.sqrt(math.sqrt(s * (1 - a) / 4 / 5.67e-8)),
    "absorption": lambda i, x, rho, k: i / math.exp(k * rho / 1000 * x),
    "potential-temperature": lambda p, t, p0: t * math.exp(287 / 1004 * math.log(p0 / p)),
    "condensation-level": lambda t, d, a: 1000 * (t - d) / a,
    "air-density": lambda p, t: 100 * p / 287 / t,
    "saturation-pressure": lambda t: 6.11 * math.exp(2.5e6 / 461.5 * (t - 273.15) / (t * 273.15)),
    "mixing-ratio": lambda p, e, r: 1000 * r / (p / e - 1),
    "stokes-fall": lambda r, d, a, mu: 2 / 9 * r**2 * 1e-12 * (d - a) * G / (mu * 1e-6) * 1e3,
    "dry-ascent": lambda t, z: 100 * G / 1004 * z / t,
    "precipitable-water": lambda p1, p2, q: q * (p1 - p2) / 10 / G,
    "p-wave-speed": lambda k, g, rho: math.sqrt((3 * k + 4 * g) / 3 * 1e3 / rho),
    "epicentral-distance": lambda t, s, p: t * s * p / (p - s),
    "bouguer-slab": lambda h, rho: math.tau * 6.674e-6 * rho * h,
    "heat-flow": lambda dt, z, k: 1000 * k * dt / z,
    "airy-root": lambda h, c, m: h / (m / c - 1),
    "diffusion-length": lambda k, t: math.sqrt(k * t * 365.25 * 86400) / 1e3,
    "moment-magnitude": lambda x, w, d, mu: (
        (math.log10(mu) + math.log10(x) + math.log10(w) + math.log10(d) + 15 - 9.1) / 1.5
    ),
    "refraction-angle": lambda i, v1, v2: math.asin(math.sin(i * RAD) * v2 / v1) / RAD,
    "lithostatic-pressure": lambda z, rho: rho * G * z / 1e3,
    "radiometric-age": lambda r, t: t * math.log2(1 + r),
    "archie-law": lambda n, r: r / n / n,
    "deep-water-wave": lambda w: math.sqrt(G * w / math.tau),
    "tsunami-travel": lambda x, h: x / (3.6 * math.sqrt(G * h)),
    "ekman-depth": lambda phi, a: math.pi * math.sqrt(2 * a / f(phi)),
    "ekman-transport": lambda tau, x, phi: tau * x * 1e3 / 1025 / f(phi) / 1e6,
    "water-pressure": lambda rho, z: rho * G * z / 1e6,
    "surface-current": lambda h, x, phi: G * h / 1e5 / x / f(phi),
    "mixed-layer-heat": lambda h, dt, t: 1025 * 3990 * h * dt / (t * 86400),
    "sverdrup-transport": lambda phi, tau, y, w: tau / y * w / (1025 * beta(phi)) / 1e6,
    "internal-wave": lambda h, d, rho: math.sqrt(G * h / (rho / d + 1)),
    "deformation-radius": lambda phi, h, n: n * h / math.pi / f(phi) / 1e3,
    "estuary-exchange": lambda r, s, o: r / (1 - o / s),
}


def test_there_are_forty_templates_over_five_fields_and_each_has_a_name_of_its_own() -> None:
    assert len(FIELDS) == 5
    assert len(EVERY) >= 40 and len(set(NAMES)) == len(EVERY)
    assert min(len(templates) for templates in FIELDS.values()) >= 8


@pytest.mark.parametrize("template", [each for _, each in EVERY], ids=NAMES)
def test_an_answer_is_what_the_formula_gives_when_it_is_written_down_again(
    template: Template,
) -> None:
    random = Random(template.name)
    for _ in range(30):
        values = template.draw(random)
        assert template.answer(values) == pytest.approx(
            AGAIN[template.name](*values.values()), rel=2e-6
        )


@pytest.mark.parametrize("template", [each for _, each in EVERY], ids=NAMES)
def test_a_template_whose_answer_had_another_dimension_would_not_make_a_question(
    template: Template,
) -> None:
    other = replace(template, unit="candela")
    with pytest.raises(pint.DimensionalityError):
        other.answer(other.draw(Random(1)))


@pytest.mark.parametrize("template", [each for _, each in EVERY], ids=NAMES)
def test_every_variable_matters_is_named_in_the_text_and_in_the_solver(template: Template) -> None:
    assert template.gaps() == set(template.variables)
    values = template.draw(Random(3))
    answer = template.answer(values)
    for name in values:
        assert template.answer({**values, name: values[name] * 1.01}) != pytest.approx(
            answer, rel=1e-9
        ), name


def test_adding_metres_to_seconds_is_an_error() -> None:
    wrong = Template(
        "wrong", "{a} and {b}", {"a": Variable("m", 1, 2, 1), "b": Variable("s", 1, 2, 1)},
        lambda a, b: a + b, "m",
    )  # fmt: skip
    with pytest.raises(pint.DimensionalityError):
        wrong.answer({"a": 1.0, "b": 1.0})


def test_a_template_whose_draws_never_make_sense_says_so() -> None:
    never = replace(EVERY[0][1], holds=lambda **_: False)
    with pytest.raises(ValueError, match="widen a range"):
        never.draw(Random(0))


def test_the_same_seed_gives_the_same_set_and_a_longer_one_begins_with_it() -> None:
    again = list(question_set(FIELDS, 7, 60))
    assert again == every_question()[:60]
    assert list(question_set(FIELDS, 8, 60)) != again


def test_a_set_holds_every_template_equally_often_and_no_question_twice() -> None:
    assert set(Counter(each.id.split(".")[1] for each in every_question()).values()) == {8}
    assert (
        len({each.id for each in every_question()})
        == len({each.text for each in every_question()})
        == len(every_question())
    )


def test_options_differ_by_more_than_any_tolerance() -> None:
    for each in every_question():
        for one, other in combinations(each.options.values(), 2):
            apart = abs(one - other) / max(abs(one), abs(other))
            assert apart >= SEPARATION > 2 * TOLERANCE, (each.id, one, other)


def test_no_option_is_absurd_and_the_right_one_is_there_once() -> None:
    for each in every_question():
        assert sorted(each.options) == list(LETTERS)
        assert each.options[each.letter] == each.answer
        assert list(each.options.values()).count(each.answer) == 1
        assert all(1 / 26 <= value / each.answer <= 26 for value in each.options.values())


def test_the_right_letter_is_dealt_evenly_and_cannot_be_told_from_the_template() -> None:
    counts = Counter(each.letter for each in every_question())
    assert max(counts.values()) - min(counts.values()) <= 1
    by_template: dict[str, set[str]] = {}
    for each in every_question():
        by_template.setdefault(each.id.split(".")[1], set()).add(each.letter)
    assert sum(len(letters) for letters in by_template.values()) / len(by_template) > 2.5


def test_the_right_option_is_not_always_of_the_same_rank() -> None:
    ranks = Counter(sorted(q.options.values()).index(q.answer) for q in every_question())
    assert max(ranks.values()) / len(every_question()) < 0.5


@pytest.mark.parametrize("form", ["choice", "number"])
def test_no_text_has_an_unresolved_variable(form: str) -> None:
    for each in every_question():
        prompt = document(each, form)["prompt"]
        assert not re.search(r"[{}]|nan|inf\b|None", prompt), prompt
        for name, value in each.values.items():
            unit = next(t for _, t in EVERY if t.name == each.id.split(".")[1]).variables[name].unit
            assert printed(value, unit) in prompt


def test_constants_that_a_question_uses_are_stated() -> None:
    for each in every_question()[: len(EVERY)]:
        template = next(t for _, t in EVERY if t.name == each.id.split(".")[1])
        for name in template.constants:
            constant = CONSTANTS[name]
            assert f"{constant.symbol} = {printed(constant.value, constant.unit)}" in each.text


def test_a_number_is_printed_as_people_write_it() -> None:
    assert printed(12.5, "km**2") == "12.5 km²"
    assert printed(0.35, "") == "0.35"
    assert printed(7.292e-5, "rad/s") == "7.292 × 10^-5 rad/s"
    assert printed(3.0, "sverdrup") == "3 Sv"
