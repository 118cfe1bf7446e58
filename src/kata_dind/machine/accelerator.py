"""KVM or TCG. KVM counts only once a guest has booted on it, for /dev/kvm can open, create a VM and hang every guest.

The finding is cached per host kernel, host boot, QEMU build and guest kernel, so a hang costs its seconds once.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from kata_dind.errors import CommandFailed, CommandTimedOut, KvmUnavailable
from kata_dind.host.disks import file_mark
from kata_dind.host.process import require_tool, run, tail
from kata_dind.machine.argv import qemu_binary
from kata_dind.progress import Event, Report
from kata_dind.vocabulary import Accelerator

PROBE_SECONDS = 8.0
"""A guest on a working KVM reports itself in well under a second; nested KVM has been seen to take three."""

BOOT_MARK = "kata-dind: booted"
_KVM = Path("/dev/kvm")


@dataclass(frozen=True)
class KvmFinding:
    """Whether a guest boots on KVM here, and if not, why."""

    works: bool
    reason: str


def choose_accelerator(
    asked: Accelerator, *, kernel: Path, initramfs: Path, cache: Path, report: Report
) -> tuple[Accelerator, str]:
    """Return KVM or TCG, and the reason in one sentence.

    Raises KvmUnavailable when KVM was asked for and no guest boots on it.
    """
    if asked is Accelerator.TCG:
        return Accelerator.TCG, "as asked"
    finding = find_kvm(kernel=kernel, initramfs=initramfs, cache=cache, report=report)
    if finding.works:
        return Accelerator.KVM, "a guest has booted on KVM here"
    if asked is Accelerator.KVM:
        raise KvmUnavailable(
            f"KVM does not work here: {finding.reason}", hint="use --accel tcg, which is about ten times slower"
        )
    report(Event("accelerator", f"no KVM ({finding.reason}); using TCG emulation, about ten times slower"))
    return Accelerator.TCG, finding.reason


def find_kvm(*, kernel: Path, initramfs: Path, cache: Path, report: Report) -> KvmFinding:
    """Find out whether a guest boots on KVM, from the cache or by booting one."""
    if not os.access(_KVM, os.R_OK | os.W_OK):
        why = f"{_KVM} does not exist" if not _KVM.exists() else f"this user may not open {_KVM}: join the group kvm"
        return KvmFinding(works=False, reason=why)
    file = cache / f"kvm-{_fingerprint(kernel)}.json"
    try:
        return KvmFinding(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass  # not known yet, or not readable any more: the probe answers
    report(Event("accelerator", f"trying KVM with a first guest (at most {PROBE_SECONDS:g} s, once)"))
    finding = _probe_kvm(kernel, initramfs)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(finding)))
    temporary.replace(file)
    return finding


def probe_argv(kernel: Path, initramfs: Path, console: Path) -> list[str]:
    """Compute the smallest machine that shows whether a kernel boots on KVM."""
    return [
        qemu_binary(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256M",
        "-kernel", str(kernel), "-initrd", str(initramfs), "-append", "console=ttyS0 quiet panic=-1 kata_dind.probe",
        "-chardev", f"file,id=console,path={str(console).replace(',', ',,')}", "-serial", "chardev:console",
    ]  # fmt: skip


def _probe_kvm(kernel: Path, initramfs: Path) -> KvmFinding:
    with tempfile.TemporaryDirectory(prefix="kata-dind-kvm-") as directory:
        console = Path(directory) / "console"
        try:
            run(probe_argv(kernel, initramfs, console), timeout_seconds=PROBE_SECONDS)
        except CommandTimedOut:
            return KvmFinding(works=False, reason=f"/dev/kvm opens, but a guest hung on it for {PROBE_SECONDS:g} s")
        except CommandFailed as error:
            return KvmFinding(works=False, reason=f"QEMU failed on it: {error.details.splitlines()[-1]}")
        if BOOT_MARK not in tail(console):
            return KvmFinding(works=False, reason="a guest ended on it without having booted")
    return KvmFinding(works=True, reason="a guest has booted")


def _fingerprint(kernel: Path) -> str:
    # To ask QEMU for its version takes longer than all else that a restore needs of us.
    qemu = require_tool(qemu_binary(), package="qemu-system-x86").resolve()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    parts = [os.uname().release, boot, file_mark(qemu), file_mark(kernel)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
