"""Reads plain good columns fast: a table may have 100,000 of them.

Whatever is unusual is left to the strict reader (table_json.py), which names what is wrong.
"""

from __future__ import annotations

from typing import Any, get_args

from motley_planner.domain.table import Column, Fragment, Phase
from motley_planner.json_reader import LARGEST, SMALLEST

_FIELDS = frozenset(
    {
        "id",
        "model",
        "zone",
        "fragments",
        "requests_per_second",
        "phase",
        "price_usd_per_hour",
        "max_count",
        "kv_scale",
        "nic_bytes_per_second",
    }
)
_FRAGMENT_FIELDS = frozenset({"gpu", "tp", "layers"})
_PHASES = frozenset(get_args(Phase))


class QuickColumns:
    """Called with one JSON value; equal fragments become one object."""

    def __init__(self) -> None:
        self._fragments: dict[tuple[str, int, int], Fragment] = {}

    def __call__(self, value: object) -> Column | None:
        """The column, or None where the strict reader should look."""
        if type(value) is not dict or not _FIELDS.issuperset(value):
            return None
        try:
            return self._read(value)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def _read(self, value: dict[str, Any]) -> Column:
        get = value.get
        name, model, zone = value["id"], value["model"], value["zone"]
        if type(name) is not str or type(model) is not str or type(zone) is not str:
            raise ValueError
        phase, most = get("phase", "both"), get("max_count")
        if phase not in _PHASES or not (
            most is None or (type(most) is int and 0 <= most <= LARGEST)
        ):
            raise ValueError
        fragments = tuple([self._fragment(f) for f in _list(value["fragments"])])
        rates = get("requests_per_second", {})
        if not fragments or type(rates) is not dict:
            raise ValueError
        for rate in rates.values():
            if type(rate) is not float or not (SMALLEST <= rate <= LARGEST or rate == 0.0):
                rates = {key: _number(each) for key, each in rates.items()}
                break
        nic, price = get("nic_bytes_per_second"), get("price_usd_per_hour")
        return Column(
            name,
            model,
            zone,
            fragments,
            rates,
            phase,
            0.0 if price is None else _number(price),
            most,
            _number(get("kv_scale", 1.0)),
            None if nic is None else _number(nic),
        )

    def _fragment(self, value: dict[str, Any]) -> Fragment:
        if type(value) is not dict or not _FRAGMENT_FIELDS.issuperset(value):
            raise ValueError
        gpu, tp, layers = value["gpu"], value["tp"], value.get("layers", 0)
        found = self._fragments.get((gpu, tp, layers))
        if found is not None and type(tp) is int and type(layers) is int:
            return found
        if type(tp) is not int or tp < 1 or tp & (tp - 1) or type(layers) is not int or layers < 0:
            raise ValueError
        self._fragments[gpu, tp, layers] = fragment = Fragment(_text(gpu), tp, layers)
        return fragment


def _list(value: object) -> list[Any]:
    if type(value) is not list:
        raise ValueError
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError
    return value


def _number(value: object) -> float:
    if type(value) is not float and type(value) is not int:
        raise ValueError
    number = float(value)
    if not (SMALLEST <= number <= LARGEST or number == 0.0):
        raise ValueError
    return number
