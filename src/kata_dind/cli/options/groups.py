"""The options of a sandbox in groups: those that every backend has, and those that only one backend has.

The help shows a group's options under its title, which names the backend if only one has them.
"""

from __future__ import annotations

from collections.abc import Mapping

from kata_dind.cli.options import common, containerd, packages, vm
from kata_dind.cli.options.declare import Declared
from kata_dind.vocabulary import BACKEND_MODULES, BackendName

Group = Mapping[str, Declared]

OWN_OPTIONS: dict[str, Group] = {BackendName.VM: vm.OPTIONS, BackendName.CONTAINERD: containerd.OPTIONS}
"""The options that only one backend has, by the name of that backend."""


def sandbox_groups() -> dict[str, Group]:
    """Return the groups of options that describe a sandbox on one of this installation's backends, by their titles."""
    own = {own_title(backend): OWN_OPTIONS.get(backend, {}) for backend in BACKEND_MODULES}
    return {common.TITLE: common.OPTIONS, **own}


def machine_groups() -> dict[str, Group]:
    """Return the groups without the options that describe only one start."""
    return {
        title: {name: declared for name, declared in group.items() if not declared.of_one_start}
        for title, group in sandbox_groups().items()
    }


def package_groups() -> dict[str, Group]:
    """Return the group of options that say where packages come from, by its title."""
    return {packages.TITLE: packages.OPTIONS}


def own_title(backend: str) -> str:
    """Return the title of the options that only this backend has."""
    return f"Options of the {backend} backend"
