"""What the kernel says about this host's processor. Source: proc_cpuinfo(5)."""

from __future__ import annotations

from pathlib import Path


def processor_facts() -> dict[str, str]:
    """Return the facts about the first processor by the kernel's names: `model name`, `flags` and others."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
