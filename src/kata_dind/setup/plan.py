"""The steps that make a host ready, and why each is needed; pure."""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kata_dind.setup.packages import WITH_APT, Program

_IDS = 65536
"""How many subordinate ids a user gets; an image has files of users up to `nobody`, 65534."""
_FIRST_ID = 100_000
TUN_DEVICE = Path("/dev/net/tun")


@dataclass(frozen=True)
class Facts:
    """The facts about this host."""

    distribution: str
    """ID in os-release(5)."""
    user: str
    uid: int
    missing_packages: tuple[str, ...]
    """Empty where we don't know the distribution's packages."""
    missing_programs: tuple[Program, ...]
    """Empty where we know the distribution's packages."""
    subuid: str
    """The text of /etc/subuid."""
    subgid: str
    restricts_namespaces: bool
    """Whether AppArmor lets only programs that a profile names make user namespaces."""
    unshare: Path
    """The place of the copy of `unshare` that a profile allows to make them."""
    unshare_is_allowed: bool
    has_tun: bool
    """Whether there is a /dev/net/tun."""
    may_open_tun: bool

    @property
    def is_root(self) -> bool:
        """Whether the user is root."""
        return self.uid == 0


@dataclass(frozen=True)
class Command:
    """A command for root, and its standard input."""

    argv: tuple[str, ...]
    stdin: str = ""
    timeout_seconds: float = 60

    def as_shell(self, *, as_root: bool) -> str:
        """Return the command as the user would type it."""
        line = shlex.join(self.argv if as_root else ("sudo", *self.argv))
        return f"printf %s {shlex.quote(self.stdin)} | {line} >/dev/null" if self.stdin else line


@dataclass(frozen=True)
class Step:
    """One thing that this host needs. A step that is needed and has no commands is for the user to do."""

    name: str
    what: str
    """What is to be done, or why there is nothing to do."""
    why: str
    needed: bool = False
    commands: tuple[Command, ...] = ()

    def as_fields(self, *, as_root: bool) -> dict[str, Any]:
        """Return the step for `--json`."""
        return {
            "step": self.name,
            "needed": self.needed,
            "what": self.what,
            "why": self.why,
            "needs_root": bool(self.commands),
            "commands": [command.as_shell(as_root=as_root) for command in self.commands],
        }


def plan(facts: Facts) -> list[Step]:
    """Return every step, needed or not, in the order in which they are done."""
    return [_packages(facts), _subordinate_ids(facts), _user_namespaces(facts), _tun_device(facts)]


def apparmor_profile_name(unshare: Path) -> str:
    """Return the name of the profile for a copy of `unshare`; each copy has its own."""
    return f"kata-dind-unshare-{zlib.crc32(bytes(unshare)):08x}"


def _packages(facts: Facts) -> Step:
    name, why = "packages", "kata-dind runs QEMU, and builds the guest's disks with the distribution's programs."
    if facts.distribution not in WITH_APT:
        return _programs(name, facts.missing_programs, why=why)
    if not facts.missing_packages:
        return Step(name, "all of them are installed", why)
    install = "env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y"
    commands = (
        Command(("apt-get", "update", "-qq"), timeout_seconds=900),
        Command(
            (*install.split(), "--no-install-recommends", "--", *facts.missing_packages),
            timeout_seconds=3600,
        ),
    )
    return Step(name, f"install {', '.join(facts.missing_packages)}", why, needed=True, commands=commands)


def _programs(name: str, missing: Iterable[Program], *, why: str) -> Step:
    """Name the missing programs, where we don't know the distribution's packages."""
    needed = [f"{program.name} (in Debian's package {program.package})" for program in missing if not program.only_for]
    rest = [f"{program.name}, needed only for {program.only_for}" for program in missing if program.only_for]
    what = f"please install {', '.join(needed)}" if needed else "everything that every user needs is installed"
    return Step(name, "; ".join([what, *(f"{program}, is missing" for program in rest)]), why, needed=bool(needed))


def _subordinate_ids(facts: Facts) -> Step:
    name = "subordinate-ids"
    why = "An image has files of many users; an ordinary user owns them through subordinate ids, see subuid(5)."
    if facts.is_root:
        return Step(name, "root needs none", why)
    flags = {"--add-subuids": facts.subuid, "--add-subgids": facts.subgid}
    lacking = [flag for flag, text in flags.items() if not _has_ids(text, facts)]
    if not lacking:
        return Step(name, f"{facts.user} has them", why)
    first = _first_free_id(facts.subuid + "\n" + facts.subgid)
    ids = f"{first}-{first + _IDS - 1}"
    usermod = ("usermod", *(word for flag in lacking for word in (flag, ids)), facts.user)
    commands = (Command(("touch", "/etc/subuid", "/etc/subgid")), Command(usermod))
    return Step(name, f"give {facts.user} the ids {ids}", why, needed=True, commands=commands)


def _has_ids(text: str, facts: Facts) -> bool:
    return re.search(rf"^({re.escape(facts.user)}|{facts.uid}):", text, flags=re.MULTILINE) is not None


def _first_free_id(text: str) -> int:
    ranges = re.findall(r"^[^:\n]*:(\d+):(\d+)$", text, flags=re.MULTILINE)
    return max([_FIRST_ID, *(int(first) + int(count) for first, count in ranges)])


def _user_namespaces(facts: Facts) -> Step:
    name = "user-namespaces"
    why = "Where AppArmor restricts user namespaces, as on Ubuntu since 23.10, only programs with a profile make them."
    if facts.is_root:
        return Step(name, "root may make them", why)
    if not facts.restricts_namespaces:
        return Step(name, "AppArmor does not restrict them on this host", why)
    if facts.unshare_is_allowed:
        return Step(name, f"{facts.unshare} may make them", why)
    profile = apparmor_profile_name(facts.unshare)
    path = f"/etc/apparmor.d/{profile}"
    text = (
        f'abi <abi/4.0>,\ninclude <tunables/global>\nprofile {profile} "{facts.unshare}" flags=(unconfined) {{\n'
        "  userns,\n}\n"
    )
    commands = (
        Command(("install", "-m", "0755", "/usr/bin/unshare", str(facts.unshare))),
        Command(("tee", path), stdin=text),
        Command(("apparmor_parser", "-r", path)),
    )
    return Step(name, f"let {facts.unshare} make them", why, needed=True, commands=commands)


def _tun_device(facts: Facts) -> Step:
    name = "tun-device"
    why = (
        f"A guest's network goes through {TUN_DEVICE}, which without udev, as in a container, may be root's or missing."
    )
    if facts.may_open_tun:
        return Step(name, f"{facts.user} may open {TUN_DEVICE}", why)
    if facts.has_tun:
        opening = (Command(("chmod", "0666", str(TUN_DEVICE))),)
        return Step(name, f"let every user open {TUN_DEVICE}, as udev does", why, needed=True, commands=opening)
    making = (
        Command(("mkdir", "-p", str(TUN_DEVICE.parent))),
        Command(("mknod", "-m", "0666", str(TUN_DEVICE), "c", "10", "200")),
    )
    return Step(name, f"make {TUN_DEVICE}, as udev does", why, needed=True, commands=making)
