from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.quantity import entrypoint_size, quantity_bytes
from kata_dind.spec import parse_size

UNITS = {
    **{"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)},
    **{"k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "P": Fraction(10**15)},
    **{"E": Fraction(10**18), "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30)},
    **{"Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60)},
}


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        ("0", 0),
        ("20Gi", 20 << 30),
        ("1.5Gi", 3 << 29),
        ("500M", 500_000_000),
        ("1e9", 10**9),
        ("1E3", 1000),
        ("1E", 10**18),
        ("12e-1", 2),
        ("100m", 1),
        ("1n", 1),
        ("+5Gi", 5 << 30),
        (".5Gi", 1 << 29),
        ("5.", 5),
        ("5.Gi", 5 << 30),
        ("7Ei", 7 << 60),
        (0, 0),
        ("9223372036854775807", (1 << 63) - 1),
        (1048576, 1 << 20),
        (1.5, 2),
    ],
)
def test_a_quantity_is_bytes_rounded_up(value: object, size_bytes: int) -> None:
    assert quantity_bytes(value) == size_bytes


@pytest.mark.parametrize(
    "value",
    [
        *("", "Gi", ".", "+", "-1Gi", "1e9Gi", "1GiB", "1 Gi", " 1Gi", "1Gi\n", "1gi", "1K", "0x10", "1_000", "1,5Gi"),
        *("٣Gi", "1e", "1e+", "--1", "1..5", "nan", "inf", "1Ki1"),
        *("8Ei", "9E99", "1e999", "1e99999999999", "9" * 65, "1" + "0" * 4000),
        *(True, False, None, [], {}, b"1Gi", -1, 1 << 63, math.nan, math.inf, -1.5, 1e30),
    ],
)
def test_what_kubernetes_would_refuse_or_cut_down_is_none(value: object) -> None:
    assert quantity_bytes(value) is None


def test_a_number_of_thousands_of_digits_is_none() -> None:
    assert quantity_bytes(10**5000) is None
    assert quantity_bytes("1" + "0" * 5000) is None


@given(st.integers(0, 10**9), st.integers(0, 999), st.sampled_from(sorted(UNITS)))
def test_a_quantity_is_its_number_times_its_unit(whole: int, thousandths: int, unit: str) -> None:
    exact = (whole + Fraction(thousandths, 1000)) * UNITS[unit]
    expected = math.ceil(exact) if math.ceil(exact) < 1 << 63 else None
    assert quantity_bytes(f"{whole}.{thousandths:03}{unit}") == expected


@given(st.text() | st.floats() | st.integers() | st.from_regex(r"[+-]?[0-9.]{0,9}[eE]?[+-]?[0-9]{0,9}[KMGi]{0,3}"))
def test_any_value_is_bytes_in_range_or_none(value: object) -> None:
    size_bytes = quantity_bytes(value)
    assert size_bytes is None or 0 <= size_bytes < 1 << 63


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0M"),
        ((1 << 20) - 1, "0M"),
        (1 << 20, "1M"),
        (20 << 30, "20G"),
        (20 * 10**9, "19073M"),
        (3 << 29, "1536M"),
        (1 << 40, "1T"),
        ((1 << 40) + (1 << 30), "1025G"),
    ],
)
def test_a_size_for_the_guest_is_whole_mebibytes_rounded_down(size_bytes: int, text: str) -> None:
    assert entrypoint_size(size_bytes) == text


@given(st.integers(1 << 20, 1 << 62))
def test_a_size_for_the_guest_is_at_most_a_mebibyte_less(size_bytes: int) -> None:
    assert 0 <= size_bytes - parse_size(entrypoint_size(size_bytes)) < 1 << 20
