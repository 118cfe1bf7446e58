"""Commands that need more Python packages than a plain installation has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kata_dind.errors import ToolMissing


@contextlib.contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Import within the block what only an extra brings. Raises ToolMissing, with the command that installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kata_dind"):
            raise
        raise ToolMissing(
            f"the Python package {error.name} is not installed, which this command needs",
            id="host.tool-missing",
            hint=f"pipx install --force 'kata-dind[{name}]'",
        ) from error
