"""Sets of questions: values drawn, options made plausible, letters dealt evenly.

The wrong options are what slips would give: two like quantities mistaken for one another, one
quantity halved, doubled or off by a power of ten, another draw's answer. All four options differ
by at least `SEPARATION`, so that rounding and the graders' tolerance can never make two of them
right, and by at most the template's `farthest`, so that none is absurd. The right one's letters are dealt from
shuffled blocks of four: a model that prefers a letter gains nothing by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count
from random import Random
from typing import Any

from motley_runtime.questions.quantities import printed, rounded
from motley_runtime.questions.template import Template

LETTERS = "ABCD"
FORMS = ("choice", "number")
TOLERANCE = 0.02  # relative, of an open answer; the options' own rounding is 0.5 % at most
SEPARATION = 0.1  # relative, between any two options
_SLIPS = (0.5, 2.0, 0.1, 10.0)
_PLAIN = (0.5, 2.0, 1.5, 0.76, 3.0, 1.28, 0.4, 0.88, 1.14)


@dataclass(frozen=True, slots=True)
class Question:
    """One question: what is asked, the values drawn, the answer in `unit`, the options by letter."""

    id: str
    field: str
    text: str
    values: Mapping[str, float]
    answer: float
    unit: str
    options: Mapping[str, float]
    letter: str


def question_set(
    fields: Mapping[str, Sequence[Template]], seed: int, wanted: int
) -> Iterator[Question]:
    """So many questions, template by template in an order shuffled anew each round.

    The same seed gives the same questions; a longer set begins with the shorter one.
    """
    every = [(field, each) for field, templates in fields.items() for each in templates]
    letters = _dealt(Random(f"letters {seed}"))
    made = 0
    for turn in count():
        order = list(every)
        Random(f"order {seed} {turn}").shuffle(order)
        for field, template in order:
            if made == wanted:
                return
            made += 1
            yield make(template, field, f"{seed}.{turn}", next(letters))


def make(template: Template, field: str, draw: str, letter: str) -> Question:
    """The question that a template gives at one draw, its right option under `letter`."""
    random = Random(f"{field} {template.name} {draw}")
    values = template.draw(random)
    answer = rounded(template.answer(values), template.digits)
    wrong = _wrong(template, values, answer, random)
    random.shuffle(wrong)
    options = {name: answer if name == letter else wrong.pop() for name in LETTERS}
    return Question(
        id=f"{field}.{template.name}.{draw}",
        field=field,
        text=template.question(values),
        values=values,
        answer=answer,
        unit=template.unit,
        options=options,
        letter=letter,
    )


def document(question: Question, form: str) -> dict[str, Any]:
    """The question as a line of a question file; `form` is one of FORMS."""
    if form == "choice":
        lines = [f"{n}) {printed(v, question.unit)}" for n, v in question.options.items()]
        end = "Think briefly, then end with a line `Answer: X`, X being the letter of the option."
        prompt = "\n".join([question.text, *lines, end])
        check: dict[str, Any] = {"type": "Choice", "answer": question.letter, "options": LETTERS}
    else:
        unit = printed(1.0, question.unit).removeprefix("1").strip() or "a pure number"
        end = f"Think briefly, then end with a line `Answer: N`, N being the number, in {unit}."
        prompt = f"{question.text}\n{end}"
        check = {"type": "Number", "answer": question.answer, "relativeTolerance": TOLERANCE}
    return {"id": question.id, "class": question.field, "prompt": prompt, "check": check}


def _wrong(
    template: Template, values: Mapping[str, float], answer: float, random: Random
) -> list[float]:
    """Three wrong options: one of each kind of slip as far as there are, then plain multiples."""
    found = _Options(answer, template.farthest)
    for kind in (_swapped, _misread, _other_draws):
        changed = kind(template, values, random)
        found.take(1, (_tried(template, each) for each in changed))
    found.take(3, (_tried(template, each) for each in _misread(template, values, random)))
    plain = random.sample(_PLAIN, len(_PLAIN))
    found.take(3, (answer * factor for factor in plain))
    if len(found.wrong) < 3:
        raise ValueError(f"template {template.name}: no three options apart at {dict(values)}")
    return [rounded(each, template.digits) for each in found.wrong[:3]]


class _Options:
    """Wrong options found so far."""

    def __init__(self, answer: float, farthest: float) -> None:
        self._answer, self._farthest = answer, farthest
        self.wrong: list[float] = []

    def take(self, most: int, tried: Iterator[float | None]) -> None:
        """Takes up to so many of the values tried, and never more than three in all."""
        for value in tried:
            if most == 0 or len(self.wrong) == 3:
                return
            if value is not None and self._is_apart(value):
                self.wrong.append(value)
                most -= 1

    def _is_apart(self, value: float) -> bool:
        if not 1.0 / self._farthest <= value / self._answer <= self._farthest:
            return False
        others = (self._answer, *self.wrong)
        # 1 % more than asked, for both are still to be rounded.
        return all(
            abs(value - other) >= (SEPARATION + 0.01) * max(abs(value), abs(other))
            for other in others
        )


def _swapped(
    template: Template, values: Mapping[str, float], random: Random
) -> Iterator[dict[str, float]]:
    """Two quantities of one unit mistaken for one another."""
    units = {name: each.unit for name, each in template.variables.items()}
    pairs = [pair for pair in combinations(values, 2) if units[pair[0]] == units[pair[1]]]
    for one, other in random.sample(pairs, len(pairs)):
        yield {**values, one: values[other], other: values[one]}


def _misread(
    template: Template, values: Mapping[str, float], random: Random
) -> Iterator[dict[str, float]]:
    """One quantity halved, doubled or off by a power of ten."""
    slips = [(name, factor) for name in values for factor in _SLIPS]
    for name, factor in random.sample(slips, len(slips)):
        yield {**values, name: values[name] * factor}


def _other_draws(
    template: Template, values: Mapping[str, float], random: Random
) -> Iterator[dict[str, float]]:
    """Other draws of the same template."""
    for _ in range(8):
        yield template.draw(random)


def _tried(template: Template, values: Mapping[str, float]) -> float | None:
    """The solver's number for slipped values; None where they make no sense to it."""
    try:
        if not template.makes_sense(values):
            return None
        found = template.answer(values)
    except (ArithmeticError, TypeError, ValueError):
        return None  # a logarithm of a negative number, an angle that does not exist, ...
    return found if math.isfinite(found) else None


def _dealt(random: Random) -> Iterator[str]:
    while True:
        yield from random.sample(LETTERS, len(LETTERS))
