"""Kubernetes' quantities of bytes, and the sizes of the guest entrypoint. Pure.

Source: apimachinery's `resource.Quantity`; docs/guest-entrypoint.md for KATA_DIND_SIZE.
"""

from __future__ import annotations

import re
from fractions import Fraction

MIB = 1024**2
GIB = 1024**3

LEAST_BYTES = 64 * MIB
"""The smallest data root that the guest entrypoint makes."""
MOST_BYTES = 16 * 1024**4
"""The largest."""

_QUANTITY = re.compile(r"\+?([0-9]{1,20})(\.[0-9]{0,20})?(?:([KMGTPE]i|[mkMGTPE])|[eE]([+-]?[0-9]{1,2}))?", re.ASCII)
_SIZE = re.compile(r"([1-9][0-9]{0,8})([KMGT])", re.ASCII)
_UNITS = {"m": Fraction(1, 1000)} | {
    prefix + suffix: Fraction(base**power)
    for suffix, base, prefixes in (("", 1000, "kMGTPE"), ("i", 1024, "KMGTPE"))
    for power, prefix in enumerate(prefixes, 1)
}


def parse_quantity(value: object) -> int | None:
    """Return a Kubernetes quantity in bytes, rounded up; None for anything that isn't one, and for negative ones."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value < 2**63 else None
    if not isinstance(value, str) or not (found := _QUANTITY.fullmatch(value)):
        return None
    whole, decimals, unit, exponent = found.groups()
    if not decimals and not exponent and unit != "m":
        amount = Fraction(int(whole))
    else:
        amount = Fraction(whole + (decimals or "")) if decimals != "." else Fraction(whole)
    scale = _UNITS[unit] if unit else Fraction(10) ** int(exponent or 0)
    total = amount * scale
    count = -(-total.numerator // total.denominator)
    return count if count < 2**63 else None


def parse_size(value: object) -> int | None:
    """Return a size in bytes that is written as the guest entrypoint wants it; None for anything else."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) * 1024 ** ("KMGT".index(found[2]) + 1) if found else None


def quantity(count: int) -> str:
    """Return bytes as a quantity in Gi or Mi, rounded up to a whole one."""
    mib = -(-count // MIB)
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def size(count: int) -> str:
    """Return bytes as the guest entrypoint wants them, rounded down to a whole MiB."""
    mib = count // MIB
    return f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"


def is_possible(count: int) -> bool:
    """Tell whether a data root may have this size."""
    return LEAST_BYTES <= count <= MOST_BYTES


def limit_for(count: int) -> int:
    """Return the sizeLimit of a directory that holds a disk of so many bytes.

    A disk that is full takes its whole size, and the file systems above and below it have metadata of their own.
    """
    limit = count + max(count // 20, 256 * MIB)
    return -(-limit // GIB) * GIB if count >= 4 * GIB else -(-limit // MIB) * MIB


def disk_within(limit: int) -> int:
    """Return the size of a disk for which a directory with this limit has room; 0 if none has."""
    return max(0, limit - max(-(-limit // 20), 256 * MIB)) // MIB * MIB
