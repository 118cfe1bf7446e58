"""The options that several commands share, and the decorators that give them to a command.

An option `--some-thing` is read from `KATA_DIND_SOME_THING` too; one that belongs to a single verb has the verb in its
variable. Values stay text here: what they mean, and which are allowed, only `spec.py` says. What was not given does
not arrive: the defaults are the spec's, and those that the help shows are compared with them by a test.

A new option of a sandbox is a field in `spec.py`, and an entry in `common.py` or in the file of its backend.
"""

from __future__ import annotations

from kata_dind.cli.options.declare import flag, option, seconds, whole_number
from kata_dind.cli.options.general import DEFAULT_NAME, Json, Name, NameOrDefault, Names
from kata_dind.cli.options.taking import (
    takes_machine_options,
    takes_package_options,
    takes_sandbox_options,
    takes_session,
)

__all__ = [
    "DEFAULT_NAME",
    "Json",
    "Name",
    "NameOrDefault",
    "Names",
    "flag",
    "option",
    "seconds",
    "takes_machine_options",
    "takes_package_options",
    "takes_sandbox_options",
    "takes_session",
    "whole_number",
]
