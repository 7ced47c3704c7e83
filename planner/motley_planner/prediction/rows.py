"""One row of a table of configurations: which columns there are, and what they may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from motley_planner.errors import PlannerError

REQUIRED = ("model", "system", "isl", "osl", "concurrency", "tp_size")
NUMBERS = (
    "isl",
    "osl",
    "concurrency",
    "tp_size",
    "pp_size",
    "attention_dp",
    "moe_tp_size",
    "moe_ep_size",
    "prefix_hit_rate",
)
LARGEST = 1e9
ABSENT = ("", "nan")  # data frames write a missing number so


class RowError(PlannerError):
    """A cell that cannot be read: its column, the rule it breaks and a fix."""

    def __init__(self, column: str, rule: str) -> None:
        super().__init__(f"{column}: {rule}")
        self.column, self.rule = column, rule


@dataclass(frozen=True, slots=True)
class Configuration:
    """One model on one replica at one load."""

    model: str
    system: str
    precision: str  # empty: 16 bits
    backend: str  # empty: vllm
    isl: float
    osl: float
    concurrency: float  # requests in flight, of each attention group
    tp_size: int
    pp_size: int
    attention_dp: int
    moe_tp_size: int  # 0: not given
    moe_ep_size: int
    prefix_hit_rate: float = 0.0

    @property
    def gpus(self) -> int:
        """GPUs as the row counts them."""
        return self.tp_size * self.pp_size * self.attention_dp


def read_configuration(row: Mapping[str, str | None]) -> Configuration:
    """The configuration that a row states; columns it does not know are ignored.

    Raises: RowError naming the column, the rule and a fix.
    """
    for name in ("model", "system"):
        if not (row.get(name) or "").strip():
            raise RowError(name, "is empty; name one")
    text = {name: (row.get(name) or "").strip() for name in TEXTS}
    experts = text["moe_quant_mode"], text["gemm_quant_mode"]
    return Configuration(
        model=text["model"],
        system=text["system"],
        precision=_precision(text["precision"], experts),
        backend=text["backend"].casefold(),
        isl=_number(row, "isl", _positive),
        osl=_number(row, "osl", _positive),
        concurrency=_number(row, "concurrency", _at_least_one),
        tp_size=int(_number(row, "tp_size", _whole)),
        pp_size=int(_number(row, "pp_size", _whole, 1.0)) or 1,
        attention_dp=int(_number(row, "attention_dp", _whole, 1.0)) or 1,
        moe_tp_size=int(_number(row, "moe_tp_size", _whole_or_zero, 0.0)),
        moe_ep_size=int(_number(row, "moe_ep_size", _whole_or_zero, 0.0)),
        prefix_hit_rate=_number(row, "prefix_hit_rate", _share, 0.0),
    )


TEXTS = ("model", "system", "precision", "backend", "gemm_quant_mode", "moe_quant_mode")
# How files name the dtypes of weights; the quantization modes are those of the measured rows.
PRECISIONS = {
    "": "",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "fp8_static": "fp8",
    "int8": "int8",
    "int8_wo": "int8",
    "fp4": "fp4",
    "nvfp4": "fp4",
    "mxfp4": "fp4",
    "w4a16_mxfp4": "fp4",
    "w4a8_mxfp4_mxfp8": "fp4",
    "int4": "int4",
    "int4_wo": "int4",
}


def _precision(stated: str, modes: tuple[str, ...]) -> str:
    """The stated precision, or the one that the quantization modes imply; unknown ones as written."""
    for name in (stated, *modes):
        if name:
            return PRECISIONS.get(name.casefold(), name)
    return "bf16"


def _number(
    row: Mapping[str, str | None],
    column: str,
    rule: Callable[[float], str],
    default: float | None = None,
) -> float:
    text = (row.get(column) or "").strip()
    if default is not None and text.casefold() in ABSENT:
        return default
    if not text:
        raise RowError(column, "is empty; give a number")
    try:
        value = float(text)
    except ValueError:
        raise RowError(column, f"{text!r} is not a number; write one, such as 8") from None
    broken = rule(value) if math.isfinite(value) else "is not a finite number; write one, such as 8"
    if broken:
        raise RowError(column, f"{text} {broken}")
    return value


def _positive(value: float) -> str:
    return (
        "" if 0 < value <= LARGEST else f"is out of range; write one above 0, at most {LARGEST:g}"
    )


def _at_least_one(value: float) -> str:
    if 0 < value < 1:
        return "is less than one request in flight; write at least 1"
    return _positive(value)


def _whole(value: float) -> str:
    fits = value == int(value) and 1 <= value <= 65536
    return "" if fits else "is no GPU count; write a whole number of at least 1"


def _whole_or_zero(value: float) -> str:
    return "" if value == 0 else _whole(value)


def _share(value: float) -> str:
    return "" if 0 <= value < 1 else "is no share; write one from 0 to below 1"
