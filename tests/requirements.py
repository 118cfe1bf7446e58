"""What tests may require of this machine: each probe tries the ability, not the file, and says why it is missing.

A test says `@pytest.mark.requires("qemu", "loop")`. It is skipped with the probe's reason where that fails, and fails
instead when `--require` names it. A probe leaves nothing behind; its answer holds for the whole session.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.memory_limit import explain_no_limit

Probe = Callable[[], str | None]
"""Returns None when the ability is there, else why not."""


def explain_missing(name: str) -> str | None:
    """Return why a requirement is not met, None when it is. Raises KeyError for an unknown name."""
    return _answer(name)


def required(config: pytest.Config) -> set[str]:
    """Return what `--require` names."""
    options: list[str] = config.getoption("--require")
    return {name for option in options for name in option.split(",") if name}


def refuse(config: pytest.Config, name: str, reason: str) -> NoReturn:
    """Skip a test that requires something which is not there, or fail where `--require` names it."""
    if name in required(config):
        pytest.fail(f"--require={name}: {reason}", pytrace=False)
    pytest.skip(f"requires {name}: {reason}")


@functools.cache
def _answer(name: str) -> str | None:
    return PROBES[name]()


def _try(argv: Sequence[str], *, timeout_seconds: float = 20) -> str | None:
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/libexec:/usr/lib/qemu"}
    program = shutil.which(argv[0], path=environment["PATH"])
    if program is None:
        return f"{argv[0]} is not installed"
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{argv[0]} did not answer within {timeout_seconds:g} s"
    last_line = (done.stderr or done.stdout).strip().rpartition("\n")[2]
    return None if done.returncode == 0 else f"{argv[0]}: {last_line or f'exit {done.returncode}'}"


def _tool(*argv: str) -> Probe:
    return lambda: _try(argv)


def _virtiofsd() -> str | None:
    """Look for the program: the C daemon drops its groups even to tell its version, which only root may do."""
    from kata_dind.machine.virtiofsd import find_virtiofsd

    return None if find_virtiofsd() else "virtiofsd is not installed"


def _root() -> str | None:
    return None if os.geteuid() == 0 else "the tests don't run as root"


def _kvm() -> str | None:
    from kata_dind.host.directories import cache_directory
    from kata_dind.image.kernel import require_guest_kernel
    from kata_dind.image.source import default_source
    from kata_dind.machine.accelerator import ProbeSettings, find_kvm, find_obstacle
    from kata_dind.progress import silent

    if obstacle := find_obstacle():
        return obstacle.reason
    kernel = require_guest_kernel(None, default_source(), report=silent)
    finding = find_kvm(
        kernel=kernel.vmlinuz, initramfs=kernel.initramfs, settings=ProbeSettings(cache_directory()), report=silent
    )
    return None if finding.works else finding.reason


def _userns() -> str | None:
    return _try(["unshare", "--user", "--map-root-user", "--mount", "true"])


def _netns() -> str | None:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return _try(["unshare", *user, "--net", "ip", "link", "set", "lo", "up"])


def _loop() -> str | None:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(1 << 20)
        # The shell detaches in any case; attaching is what a container without loop devices cannot do.
        return _try(["sh", "-c", 'loop=$(losetup --find --show -- "$0") && losetup --detach "$loop"', file.name])


def find_cgroup2() -> Path | None:
    """Return where cgroups of the second version are mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return Path(line.split()[4])
    return None


def _cgroup2() -> str | None:
    path = find_cgroup2()
    if path is None:
        return "there are no cgroups of the second version"
    return _try(["sh", "-c", 'mkdir "$0" && rmdir "$0"', str(path / f"kata-dind-probe-{os.getpid()}")])


def _fuse() -> str | None:
    with tempfile.TemporaryDirectory() as directory:
        # The mount ends with the namespace.
        return _try(["unshare", "--mount", "--pid", "--fork", "--kill-child", "bindfs", directory, directory])


def _assemblers() -> str | None:
    reasons = (
        _try([f"{machine}-linux-gnu-{tool}", "--version"])
        for machine in ("x86_64", "aarch64")
        for tool in ("as", "objcopy")
    )
    return next(filter(None, reasons), None)


def _ordinary_user() -> str | None:
    if os.geteuid() != 0:
        return None
    missing = [tool for tool in ("useradd", "userdel", "runuser") if not shutil.which(tool, path="/usr/sbin:/sbin")]
    return f"{', '.join(missing)} not installed" if missing else None


def _docker29() -> str | None:
    from scripts import build_dind29

    if build_dind29.find_programs():
        return None
    if missing := _go_modules(build_dind29.VERSIONS, build_dind29.MOBY):
        return f"Docker 29 cannot be built: {missing}"
    program = "#include <seccomp.h>\nint main(void) { return !seccomp_version(); }\n"
    with tempfile.TemporaryDirectory() as directory:
        script = f'printf "$0" | cc -x c - -static -lseccomp -o {directory}/out'
        if missing := _try(["sh", "-c", script, program]):
            return f"Docker 29 cannot be built (gcc libc6-dev libseccomp-dev): {missing}"
    return None


def _go_modules(versions: Path, module: str) -> str | None:
    # A Go of 1.21 or later fetches the one that is asked for, if it may.
    fetch = ["env", "GOTOOLCHAIN=auto", "go", "mod", "download", "-C", str(versions), module]
    return _try(["go", "version"]) or _try(fetch, timeout_seconds=120)


def _buildkit_modules() -> str | None:
    from scripts import build_buildkit

    if build_buildkit.find_programs():
        return None
    missing = _go_modules(build_buildkit.VERSIONS, build_buildkit.MODULE)
    return f"BuildKit cannot be built: {missing}" if missing else None


def _compose() -> str | None:
    from scripts import build_compose

    if build_compose.find_plugins():
        return None
    missing = _go_modules(build_compose.VERSIONS, build_compose.COMPOSE)
    return f"docker-compose cannot be built: {missing}" if missing else None


def _of_kubernetes(name: str) -> Probe:
    def probe() -> str | None:
        from scripts import build_kube

        if found := build_kube.find_program(name):
            return _try([str(found), "version", "--client"] if name == "kubectl" else [str(found), "--version"])
        missing = _go_modules(build_kube.VERSIONS, build_kube.MODULE)
        return f"{name} is not in $KUBEBUILDER_ASSETS, and cannot be built: {missing}" if missing else None

    return probe


def _helm() -> str | None:
    from scripts import build_helm

    if found := build_helm.find_helm():
        return _try([str(found), "version", "--short"])
    missing = _go_modules(build_helm.VERSIONS, build_helm.MODULE)
    return f"helm cannot be built: {missing}" if missing else None


def _containerd() -> str | None:
    from tests.kube import node

    programs = (_tool(name, "--version") for name in ("containerd", "runc", "ctr"))
    if missing := next(filter(None, (probe() for probe in (_root, _fuse, _loop, _netns, *programs))), None):
        return missing
    return None if node.find_cni_programs() else "there are no CNI plugins (containernetworking-plugins)"


def _kubelet() -> str | None:
    return _of_kubernetes("kubelet")() or _containerd()


def _etcd() -> str | None:
    from scripts import build_kube

    return _try([str(build_kube.find_etcd() or "etcd"), "--version"])


PROBES: dict[str, Probe] = {
    "aarch64": _tool("qemu-aarch64-static", "-version"),
    "assemblers": _assemblers,
    # No distribution that we test on has it: go build github.com/moby/buildkit/cmd/buildkitd and its buildctl.
    "buildkitd": _tool("buildkitd", "--version"),
    "buildkit-modules": _buildkit_modules,
    "busybox": _tool("busybox", "ash", "-c", "true"),
    "cgroup2": _cgroup2,
    "compose": _compose,
    "containerd": _containerd,
    "docker": _tool("dockerd", "--version"),
    "docker29": _docker29,
    "docker-cli": _tool("docker", "--version"),
    "etcd": _etcd,
    "fuse": _fuse,
    "helm": _helm,
    "kube-apiserver": _of_kubernetes("kube-apiserver"),
    "kube-controller-manager": _of_kubernetes("kube-controller-manager"),
    "kube-scheduler": _of_kubernetes("kube-scheduler"),
    "kubectl": _of_kubernetes("kubectl"),
    "kubelet": _kubelet,
    "kvm": _kvm,
    "loop": _loop,
    "memory-limit": explain_no_limit,
    "mmdebstrap": _tool("mmdebstrap", "--version"),
    "netns": _netns,
    "npm": _tool("npm", "--version"),
    "openssl": _tool("openssl", "version"),
    "ordinary-user": _ordinary_user,
    "qemu": _tool(f"qemu-system-{os.uname().machine}", "--version"),
    "registry": _tool("docker-registry", "--version"),
    "root": _root,
    "sys-resource": _tool("prlimit", "--msgqueue=1000000:1000000", "true"),
    "userns": _userns,
    "usr-python": _tool("/usr/bin/python3", "--version"),
    "virtiofsd": _virtiofsd,
    "xfs": _tool("mkfs.xfs", "-V"),
}
