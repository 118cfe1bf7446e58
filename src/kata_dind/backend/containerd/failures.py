"""What containerd's refusals mean to users: one table, from its texts to ids, sentences and hints. Pure."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import NamedTuple

from kata_dind.errors import ContainerdError, ImageError, KataDindError, NoSpace, PermissionMissing


class _Known(NamedTuple):
    pattern: str
    """Of the text that containerd gives."""
    id: str
    summary: str
    """With the pattern's groups in it."""
    hint: str
    error: type[KataDindError] = ContainerdError


_KNOWN = (
    _Known(
        r"no space left on device",
        id="containerd.no-space",
        summary="containerd has no space left on this host",
        hint="free space where it keeps images and containers, which is /var/lib/containerd unless its config.toml "
        "names another root",
        error=NoSpace,
    ),
    _Known(
        r"no runtime for \"(?P<handler>[^\"]*)\" is configured",
        id="containerd.unknown-handler",
        summary="containerd has no runtime handler {handler}",
        hint="kata-dind backends lists those that it has",
    ),
    _Known(
        r"(?:failed to get sandbox image|^failed to pull image) \"(?P<image>[^\"]*)\"",
        id="containerd.no-pause-image",
        summary="containerd lacks the image {image}, in which every pod begins, and could not pull it",
        hint="name one that this host can reach in containerd's config.toml, as sandbox_image (in its version 3 as "
        "pinned_images.sandbox), or import it into the namespace k8s.io",
    ),
    _Known(
        r"cni plugin not initialized|cni config (?:load failed|uninitialized)|no network config found",
        id="containerd.no-cni",
        summary="containerd has no network for pods",
        hint="put a configuration of CNI into /etc/cni/net.d and its plugins into /opt/cni/bin (on Debian "
        "containernetworking-plugins, with bin_dir = \"/usr/lib/cni\" in containerd's config.toml)",
    ),
    _Known(
        r"failed to find plugin \"(?P<plugin>[^\"]*)\" in path \[(?P<path>[^\]]*)\]",
        id="containerd.no-cni-plugin",
        summary="the plugin {plugin}, which this host's network for pods names, is not in {path}",
        hint="install it there (on Debian containernetworking-plugins), or set bin_dir for cni in containerd's "
        "config.toml",
    ),
    _Known(
        r"failed to setup network.*?(?:plugin type=\"(?P<plugin>[^\"]*)\"|$)",
        id="containerd.network-failed",
        summary="the pod's network could not be made by CNI",
        hint="the details have what its plugin {plugin} said; its configuration is in /etc/cni/net.d",
    ),
    _Known(
        r"SETTINGS frame|http2 frame|HTTP/1\.x",
        id="containerd.not-containerd",
        summary="what listens at {address} is not a containerd",
        hint="name containerd's socket with --containerd-address, mostly /run/containerd/containerd.sock",
    ),
    _Known(
        r"unknown service runtime\.v1",
        id="containerd.no-cri",
        summary="this containerd has no CRI, by which kata-dind makes pods",
        hint="take \"cri\" out of disabled_plugins in /etc/containerd/config.toml, and restart containerd; one before "
        "1.6 speaks only an earlier CRI",
    ),
    _Known(
        r"(?:binary not installed \"|exec: \"|fork/exec )(?P<shim>[^\": ]*containerd-shim-[^\": ]*)\"?: "
        r"(?:file does not exist|executable file not found|no such file)",
        id="containerd.no-shim",
        summary="containerd can't find {shim}, the program of this handler",
        hint="put it on containerd's PATH, such as by a link in /usr/local/bin; containerd 1.7 or later also takes its "
        "place as runtime_path in config.toml",
    ),
    _Known(
        r"unable to retrieve OCI runtime error.*: (?:fork/exec |exec: \")(?P<program>[^\": ]+)",
        id="containerd.no-runtime-program",
        summary="the handler's program {program} can't be started",
        hint="install it, or name another as BinaryName among the handler's options in containerd's config.toml",
    ),
    _Known(
        r"exec: \"/bin/sh\": |the file /bin/sh was not found",
        id="containerd.image-without-shell",
        summary="the image has no /bin/sh, in which the guest entrypoint runs",
        hint="choose an --image with Docker and a shell, such as docker:dind",
        error=ImageError,
    ),
    _Known(
        r"lstat (?P<device>/dev/[^:]*): no such file|(?:not a device node)",
        id="containerd.no-device",
        summary="containerd does not see the loop device {device} that has the data root's disk",
        hint="use --data-root loop, whose loop device is the guest's",
    ),
    _Known(
        r"hot-?plug|QMP command failed|failed to online \d+ CPU",
        id="containerd.device-refused",
        summary="the virtual machine did not take a device, processors or memory that the sandbox needs",
        hint="use --data-root loop, fewer --cpus or less --memory, or set static_sandbox_resource_mgmt = true in "
        "Kata's configuration, so that processors and memory are there from the start; the details have what Kata said",
    ),
    _Known(
        r"annotation (?:io\.katacontainers\.config\.hypervisor\.)?(?P<name>\S+) is not enabled",
        id="containerd.annotation-refused",
        summary="the handler does not obey the annotation {name}, which the sandbox needs",
        hint="add \"{name}\" to enable_annotations in Kata's configuration: kata-dind backends --json has its place",
    ),
    _Known(
        r"ould not access KVM|open /dev/kvm|/dev/kvm: ",
        id="containerd.no-kvm",
        summary="Kata can't use KVM on this host",
        hint="load the module kvm_intel or kvm_amd; in a virtual machine, its host must allow nested ones",
    ),
    _Known(
        r"vhost-?_?vsock",
        id="containerd.no-vsock",
        summary="Kata can't reach its machines on this host, for want of /dev/vhost-vsock",
        hint="modprobe vhost_vsock",
    ),
    _Known(
        r"name \"(?P<name>[^\"]*)\" is reserved for",
        id="containerd.name-reserved",
        summary="containerd has not ended an earlier start of this sandbox yet, which was broken off",
        hint="try the same again in a minute; if it stays so, restart containerd, which leaves other pods running",
    ),
    _Known(
        r"Failed to Check if grpc server is working|timed out connecting to (?:hybrid )?vsock",
        id="containerd.agent-silent",
        summary="the virtual machine runs, and Kata's agent in it did not answer in time",
        hint="on a slow host, raise dial_timeout (of the Rust runtime reconnect_timeout_ms) below [agent.kata] in "
        "Kata's configuration, whose place kata-dind backends --json tells",
    ),
    _Known(
        r"Unix syslog delivery error",
        id="containerd.no-syslog",
        summary="Kata's shim found no system log on this host, without which it does not start",
        hint="start the service that has the socket /dev/log, such as systemd-journald or rsyslog",
    ),
)  # fmt: skip
"""The first that is found in a text counts."""


def explained(code: str, text: str, *, failing: str, address: Path) -> KataDindError:
    """Return the error of a call that failed with a status of gRPC's and a text."""
    for known in _KNOWN:
        if match := re.search(known.pattern, text, re.DOTALL):
            words = {"address": str(address), **{name: value or "" for name, value in match.groupdict().items()}}
            summary, hint = (" ".join(part.format(**words).split()) for part in (known.summary, known.hint))
            return known.error(summary, id=known.id, details=f"{failing}: {text}", hint=hint)
    match code:
        case "DEADLINE_EXCEEDED":
            return ContainerdError(
                f"{failing}: containerd did not answer in time",
                id="containerd.timed-out",
                details=text,
                hint="journalctl -t containerd -t kata shows what its shim does; a slow host needs a longer --timeout",
            )
        case "UNAVAILABLE" | "CANCELLED":
            return ContainerdError(f"{failing}: containerd at {address} hung up", id="containerd.hung-up",
                                   details=text, hint="systemctl status containerd")  # fmt: skip
        case "NOT_FOUND":
            return ContainerdError(f"{failing}: containerd does not know it", id="containerd.not-found", details=text)
    return ContainerdError(failing, id="containerd.failed", details=text,
                           hint="journalctl -t containerd -t kata has more of what happened")  # fmt: skip


def no_cni(details: str) -> KataDindError:
    """Return the error of a containerd that has no network for pods."""
    known = next(each for each in _KNOWN if each.id == "containerd.no-cni")
    return known.error(known.summary, id=known.id, details=details, hint=known.hint)


def explained_pull(error: KataDindError, reference: str) -> KataDindError:
    """Return the error of an image that could not be pulled, from that of the call."""
    if error.id in ("containerd.hung-up", "containerd.timed-out", "containerd.no-cri"):
        return error
    hint = "see that the reference is right and this host reaches its registry"
    if re.search(r"401|403|unauthorized|denied|authorization failed", error.details, re.IGNORECASE):
        hint = "log in with `docker login`, whose credentials are used"
    return ImageError(f"containerd could not pull the image {reference}", id="containerd.pull-failed",
                      details=error.details, hint=hint)  # fmt: skip


def explained_socket(error: OSError, address: Path) -> KataDindError:
    """Return the error of a socket that can't be connected to."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionMissing(
            f"only root may use containerd's socket {address}",
            id="containerd.not-permitted",
            hint="run the command as root, or use --backend vm, which needs no root",
        )
    if error.errno is None:  # Python's own, before the kernel is asked
        return ContainerdError(
            f"{address} can't be containerd's socket: its path is too long for one",
            id="containerd.no-socket",
            details=str(error),
            hint="name containerd's socket with --containerd-address",
        )
    why = "there is no socket" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "nobody answers at the socket"
    return ContainerdError(
        f"{why} {address} of a containerd",
        id="containerd.no-socket",
        details=str(error),
        hint="start containerd (systemctl start containerd), or name its socket with --containerd-address",
    )


def not_a_socket(address: Path) -> KataDindError:
    """Return the error of a path at which there is something else."""
    return ContainerdError(
        f"{address} is not a socket, so there is no containerd",
        id="containerd.no-socket",
        hint="name containerd's socket with --containerd-address, mostly /run/containerd/containerd.sock",
    )


def is_gone(error: KataDindError) -> bool:
    """Tell whether an error says that the thing asked about does not exist."""
    return error.id == "containerd.not-found"


def is_passing(error: KataDindError) -> bool:
    """Tell whether an error may be gone soon, as while containerd is started again."""
    return error.id in ("containerd.hung-up", "containerd.no-socket", "containerd.timed-out")
