"""Which of the things that kata-dind needs this host has; reads only."""

from __future__ import annotations

import os
import platform
import pwd
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from kata_dind.host.namespaces import allowed_unshare
from kata_dind.host.process import run, scrubbed_environment
from kata_dind.host.rootlike import read_setting
from kata_dind.setup.packages import WITH_APT, Program, apt_packages, missing_programs, programs
from kata_dind.setup.plan import TUN_DEVICE, Facts, apparmor_profile_name

_ETC = Path("/etc")
_PLACES_OF_PROGRAMS = ("/usr/libexec", "/usr/lib/qemu", "/usr/lib")
"""Where virtiofsd may be when it is not on PATH."""


def read_facts() -> Facts:
    """Return the facts about this host, for the user of this process."""
    distribution, version = _distribution()
    machine, uid, unshare = platform.machine(), os.geteuid(), allowed_unshare()
    with_apt = distribution in WITH_APT
    return Facts(
        distribution=distribution,
        user=_user_name(uid),
        uid=uid,
        missing_packages=_not_installed(apt_packages(distribution, version, machine=machine)) if with_apt else (),
        missing_programs=() if with_apt else _not_found(machine),
        subuid=_text(_ETC / "subuid"),
        subgid=_text(_ETC / "subgid"),
        restricts_namespaces=read_setting("kernel/apparmor_restrict_unprivileged_userns") == "1",
        unshare=unshare,
        unshare_is_allowed=os.access(unshare, os.X_OK)
        and (_ETC / "apparmor.d" / apparmor_profile_name(unshare)).exists(),
        has_tun=TUN_DEVICE.exists(),
        may_open_tun=os.access(TUN_DEVICE, os.R_OK | os.W_OK),
    )


def _distribution() -> tuple[str, str]:
    """Return ID and VERSION_ID of os-release(5)."""
    fields = dict(re.findall(r"""^(\w+)=["']?([^"'\n]*)""", _text(_ETC / "os-release"), flags=re.MULTILINE))
    return fields.get("ID", "unknown"), fields.get("VERSION_ID", "")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run as an id that has no name
        return str(uid)


def _not_installed(packages: Sequence[str]) -> tuple[str, ...]:
    argv = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\\n", *packages]
    answer = run(argv, timeout_seconds=60, allowed_codes=(0, 1))  # 1: one of them is unknown to dpkg
    installed = {line.removeprefix("installed ") for line in answer.stdout.splitlines()}
    return tuple(package for package in packages if package not in installed)


def _not_found(machine: str) -> tuple[Program, ...]:
    path = ":".join([scrubbed_environment()["PATH"], *_PLACES_OF_PROGRAMS])
    found = [program.name for program in programs(machine) if shutil.which(program.name, path=path)]
    return tuple(missing_programs(found, machine=machine))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
