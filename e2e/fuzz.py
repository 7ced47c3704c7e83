"""Manifests out of the CRDs' own schemas: some from nothing, most of them valid ones with a few
fields replaced, which get further.

A document keeps to the schema's types, ranges, patterns, required fields and list keys; it need not
keep its CEL rules, and seldom makes sense.

Hypothesis draws; what is tested on many at once is drawn one by one before. Of several documents in one
example it throws away the large ones (an example may make 8 KiB of choices) and copies parts of
one to the others: of 2,000 drawn by fives, 501 were different.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from motley_operator.api.crd import crds
from motley_operator.testing import samples

Schema = Mapping[str, Any]
Document = dict[str, Any]
T = TypeVar("T")

BASES = {"ServingPool": samples.pool, "ModelCascade": samples.cascade, "RLJob": samples.job}
MARK: Mapping[str, str] = {"e2e.motley.dev/fuzzed": "true"}  # a label on each
# What a fuzzer never hits by chance; by the name of the field.
KNOWN: Mapping[str, list[Any]] = {
    "id": ["Qwen/Qwen3-8B", "Qwen/Qwen3-32B", "meta-llama/Llama-3.1-70B-Instruct"],
    "gpuProducts": [["NVIDIA-L4"], ["l4"], ["abacus"]],
    "zones": [["az-1"], ["nowhere"]],
}
_ODD = ["", " ", "a", "\u00e9\u4e2d\U0001f600", "0", "null", "../..", "{{x}}", "$(x)", "a" * 64]
_DATES = ["1970-01-01T00:00:00Z", "2026-11-21T12:00:00Z", "9999-12-31T23:59:59Z"]

_AT_ONCE, _IN_VAIN = 1000, 3  # examples of a round of drawing; rounds that found nothing new

_BUILT: dict[tuple[int, str], tuple[Schema, st.SearchStrategy[Any]]] = {}


@cache
def _crds() -> Mapping[str, Document]:
    return crds()


@cache
def schema_of(kind: str) -> Schema:
    """The structural schema of a kind."""
    for document in _crds().values():
        if document["spec"]["names"]["kind"] == kind:
            found: Schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            return found
    raise KeyError(kind)


def values(schema: Schema, name: str = "") -> st.SearchStrategy[Any]:
    """Values of a schema; `name` is the field's.

    Building a strategy takes longer than drawing from it, so each part of a schema is built once.
    """
    made = _BUILT.get((id(schema), name))
    if made is None or made[0] is not schema:
        plain = _plain(schema)
        known = st.one_of(st.sampled_from(KNOWN[name]), plain) if name in KNOWN else plain
        made = _BUILT[id(schema), name] = (schema, known)
    return made[1]


def _plain(schema: Schema) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema and schema.get("x-kubernetes-int-or-string"):
        numbers = {k: schema[k] for k in ("minimum", "maximum") if k in schema}
        texts = {k: schema[k] for k in ("pattern", "maxLength") if k in schema}
        return st.one_of(_integers(numbers), _texts(texts))
    kind = schema.get("type")
    if kind == "string":
        return _texts(schema)
    if kind == "integer":
        return _integers(schema)
    if kind == "number":
        low, high = schema.get("minimum", -1e9), schema.get("maximum", 1e9)
        return st.floats(low, high, allow_nan=False)
    if kind == "boolean":
        return st.booleans()
    if kind == "array":
        return _lists(schema)
    return _objects(schema)


def _integers(schema: Schema) -> st.SearchStrategy[int]:
    low, high = schema.get("minimum", -(2**31)), schema.get("maximum", 2**31 - 1)
    ends = [low, min(high, low + 1), high, max(low, min(high, 1000))]
    return st.one_of(st.sampled_from([int(end) for end in ends]), st.integers(int(low), int(high)))


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    if schema.get("format") == "date-time":
        return st.sampled_from(_DATES)
    low, high = schema.get("minLength", 0), schema.get("maxLength", 200)
    if "pattern" in schema:
        drawn: st.SearchStrategy[str] = st.from_regex(str(schema["pattern"]), fullmatch=True)
        return drawn.filter(lambda text: low <= len(text) <= high and text.isprintable())
    alphabet = st.characters(exclude_categories=["Cs", "Cc"])
    odd = [text for text in _ODD if low <= len(text) <= high]
    free = st.text(alphabet, min_size=low, max_size=min(high, low + 20))
    return st.one_of(st.sampled_from(odd), free) if odd else free


def _lists(schema: Schema) -> st.SearchStrategy[list[Any]]:
    low = schema.get("minItems", 0)
    high = max(low, min(schema.get("maxItems", 3), low + 2))
    unique: Any = None
    if schema.get("x-kubernetes-list-type") == "set":
        unique = repr
    elif schema.get("x-kubernetes-list-type") == "map":
        keys = schema["x-kubernetes-list-map-keys"]
        unique = lambda item: repr([item.get(key) for key in keys])
    return st.lists(values(schema["items"]), min_size=low, max_size=high, unique_by=unique)


def _objects(schema: Schema) -> st.SearchStrategy[Document]:
    if "properties" not in schema:
        below = schema.get("additionalProperties")
        inside = values(below) if isinstance(below, Mapping) else st.text("ab\u00e9{$ ", max_size=5)
        high = min(schema.get("maxProperties", 3), 3)
        return st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), inside, max_size=high)
    required = set(schema.get("required", ()))
    fields = {name: values(below, name) for name, below in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: fields[name] for name in fields if name in required},
        optional={name: fields[name] for name in fields if name not in required},
    )


@cache
def _some_of(fields: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(fields), max_size=2, unique=True)


@st.composite
def edited(draw: st.DrawFn, schema: Schema, base: Any) -> Any:
    """A valid value of which a few fields, at any depth, are replaced, added or taken away."""
    if not isinstance(base, dict) or "properties" not in schema:
        return draw(values(schema))
    changed = copy.deepcopy(base)
    for name in draw(_some_of(tuple(sorted(schema["properties"])))):
        below = schema["properties"][name]
        if name in changed and draw(st.integers(0, 3)) > 0:
            changed[name] = draw(edited(below, changed[name]))
        elif name in changed and name not in schema.get("required", ()) and draw(st.booleans()):
            del changed[name]
        else:
            changed[name] = draw(values(below, name))
    return changed


@st.composite
def manifests(draw: st.DrawFn) -> Document:
    """A document of one of the kinds, without metadata; one in five is made from nothing."""
    kind = draw(st.sampled_from(sorted(BASES)))
    document = BASES[kind]("")
    document["metadata"] = {}
    spec = schema_of(kind)["properties"]["spec"]
    if draw(st.integers(0, 4)) == 0:
        document["spec"] = draw(values(spec))
    else:
        document["spec"] = draw(edited(spec, document["spec"]))
    return document


@st.composite
def statuses(draw: st.DrawFn, kind: str) -> Document:
    """A status as a hand could write it: what the schema admits, and nothing that is true."""
    found: Document = draw(values(schema_of(kind)["properties"]["status"]))
    return found


@st.composite
def fleets(draw: st.DrawFn) -> Document:
    """A Fleet of which a few fields are odd."""
    spec = draw(edited(schema_of("Fleet")["properties"]["spec"], {}))
    return {
        "apiVersion": "motley.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "default", "uid": "fleet", "generation": 1},
        "spec": spec,
    }


def batches(number: int, at_once: int, chosen: int = 0) -> list[tuple[Document, ...]]:
    """So many different manifests, by so many in a batch; the same ones for the same arguments.

    Each is named after its number among all of them.
    """
    named = [
        {**one, "metadata": {"name": f"fuzzed-{i}", "namespace": "team-a", "labels": dict(MARK)}}
        for i, one in enumerate(distinct(manifests(), number, chosen))
    ]
    return [tuple(named[start : start + at_once]) for start in range(0, number, at_once)]


def distinct(strategy: st.SearchStrategy[T], number: int, chosen: int = 0) -> list[T]:
    """So many different values; equal for equal `chosen`, the seed.

    Raises: ValueError where a strategy has fewer.
    """
    found: dict[str, T] = {}
    turn = in_vain = 0
    while len(found) < number:
        before = len(found)

        @seed(f"{chosen} {turn}")
        @settings(
            # Hypothesis keeps a tree of all it has drawn; a few are always the same: the simplest.
            max_examples=min(number - before, _AT_ONCE) + 10,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def collect(value: T) -> None:
            found.setdefault(repr(value), value)

        collect()
        turn, in_vain = turn + 1, in_vain + 1 if len(found) == before else 0
        if in_vain == _IN_VAIN:
            raise ValueError(f"{len(found)} different values of {number}: ask for fewer")
    return list(found.values())[:number]
