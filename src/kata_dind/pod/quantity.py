"""Kubernetes' quantities, and the sizes of the guest entrypoint.

Source: `k8s.io/apimachinery/pkg/api/resource/quantity.go`.
"""

from __future__ import annotations

import re
from fractions import Fraction

_BINARY = {unit: 1 << 10 * (power + 1) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))}
_DECIMAL = {unit: 1000 ** (power + 1) for power, unit in enumerate(("k", "M", "G", "T", "P", "E"))}
_SMALL = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1)}
_UNITS = {**_BINARY, **_DECIMAL, **_SMALL}

_PATTERN = re.compile(r"\+?(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,3}))?")
_LONGEST = 64
_LARGEST = (1 << 63) - 1
"""What Kubernetes keeps as bytes; it cuts larger ones down to it, which nobody can have meant."""

_ENTRYPOINT_SIZE = re.compile(r"([1-9][0-9]{0,8})([KMGT])", re.ASCII)
_MIB = 1 << 20
_ENTRYPOINT_UNITS = (("T", 1 << 40), ("G", 1 << 30), ("M", _MIB))


def quantity_bytes(value: object) -> int | None:
    """Return the bytes of a quantity such as `20Gi`, `1.5G`, `1e9` or `100m`, rounded up as Kubernetes does.

    A number is taken as it is, as the API server takes it. None for anything else, and for what is negative or more
    than 2^63 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, int):
        return value if 0 <= value <= _LARGEST else None
    text = str(value)
    match = _PATTERN.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    whole, fraction, unit, exponent = match.groups(default="")
    number = Fraction(int(whole + fraction or "0"), 10 ** len(fraction))
    number *= Fraction(10) ** int(exponent) if exponent else _UNITS[unit]
    size_bytes = -(-number.numerator // number.denominator)
    return size_bytes if size_bytes <= _LARGEST else None


def quantity(size_bytes: int) -> str:
    """Return a size as a quantity in Gi or Mi, rounded up to a whole one."""
    mib = -(-size_bytes // _MIB)
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def entrypoint_size(size_bytes: int) -> str:
    """Return a size as KATA_DIND_SIZE takes it, such as `20G`: in whole MiB, rounded down.

    Its units are powers of 1024.
    """
    size_bytes = size_bytes // _MIB * _MIB
    unit, unit_bytes = next((unit for unit in _ENTRYPOINT_UNITS if size_bytes % unit[1] == 0), _ENTRYPOINT_UNITS[-1])
    return f"{size_bytes // unit_bytes}{unit}" if size_bytes else "0M"


def entrypoint_size_bytes(text: str) -> int | None:
    """Return the bytes of a size as the guest entrypoint takes it, in powers of 1024; None for anything else."""
    found = _ENTRYPOINT_SIZE.fullmatch(text) if text else None
    return int(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1) if found else None
