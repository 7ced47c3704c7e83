"""Money, rates, shares and times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from motley_operator.admission.quantities import read_quantity
from motley_operator.api import Duration, Percentage, Quantity
from motley_operator.api.quantities import SparePercentage


@pytest.mark.parametrize(
    ("written", "value"),
    [("12", 12.0), (12, 12.0), ("12.5", 12.5), ("800m", 0.8), ("2k", 2e3), ("16Gi", 16 * 2**30)],
)
def test_a_quantity_reads_as_kubernetes_reads_it(written: object, value: float) -> None:
    assert Quantity.read(written).value == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("suffix", ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"])
@pytest.mark.parametrize("digits", ["0", "7", "12.5"])
def test_every_suffix_that_the_schema_admits_is_read(digits: str, suffix: str) -> None:
    written = digits + suffix
    assert Quantity.read(written).value == pytest.approx(float(read_quantity(written)), rel=1e-12)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("400ms", 0.4), ("60s", 60.0), ("2h30m", 9000.0), ("1m500ms", 60.5), ("1.5s", 1.5)],
)
def test_a_duration_reads_in_seconds(written: str, seconds: float) -> None:
    assert Duration.read(written).seconds == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(("written", "fraction"), [("70%", 0.7), ("82.5%", 0.825), ("100%", 1.0)])
def test_a_percentage_reads_as_a_fraction(written: str, fraction: float) -> None:
    assert Percentage.read(written).fraction == pytest.approx(fraction, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (Quantity, -1), (Quantity, 1.5), (Quantity, True), (Quantity, "12 "), (Quantity, "12\n"),
        (Quantity, "1e3"), (Quantity, ""), (Duration, "60"), (Duration, "1d"), (Duration, 5),
        (Duration, ""), (Percentage, "100.5%"), (Percentage, "0.5"), (Percentage, "-1%"),
        (SparePercentage, "100%"), (SparePercentage, "100.0%"),
    ],
)  # fmt: skip
def test_what_is_not_written_so_is_refused(kind: type[Quantity], written: object) -> None:
    with pytest.raises(PydanticCustomError):
        kind.read(written)


@given(st.floats(0, 1))
def test_a_fraction_survives_writing(fraction: float) -> None:
    assert Percentage.read(str(Percentage.of(fraction))).fraction == pytest.approx(
        fraction, abs=5.1e-5
    )


@given(st.floats(0, 1e9))
def test_money_survives_writing(dollars: float) -> None:
    assert Quantity.read(str(Quantity.of(dollars))).usd == pytest.approx(dollars, abs=5.1e-4)


@given(st.floats(0, 1e6))
def test_a_time_survives_writing(seconds: float) -> None:
    assert Duration.read(str(Duration.of(seconds))).seconds == pytest.approx(seconds, abs=5.1e-4)
