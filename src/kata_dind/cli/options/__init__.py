"""The options that several commands share, and the decorators that give them to a command.

An option `--some-thing` is read from `KATA_DIND_SOME_THING` too; one that belongs to a single verb has the verb in its
variable. Values stay text here: only `spec.py` says what they mean and which are allowed. An option that was not given
is not passed on: the defaults are those of the spec, and a test compares them with those that the help shows.

A new option of a sandbox is a field in `spec.py`, and an entry in `common.py` or in the file of its backend.
"""

from __future__ import annotations

from kata_dind.cli.options.declare import flag, option, require_word, seconds, whole_number
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
    "require_word",
    "seconds",
    "takes_machine_options",
    "takes_package_options",
    "takes_sandbox_options",
    "takes_session",
    "whole_number",
]
