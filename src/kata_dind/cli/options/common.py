"""The options of a sandbox that mean the same on every backend, by their names in `SandboxSpec`."""

from __future__ import annotations

from kata_dind.cli import completion
from kata_dind.cli.options.declare import choice, duration, number, several, word
from kata_dind.vocabulary import BACKEND_MODULES, BackendName, DataRootKind, Fallback, Filesystem, NetworkMode

TITLE = "Options of the sandbox"

OPTIONS = {
    "backend": choice(
        "--backend", BACKEND_MODULES, "The software that runs the sandbox's virtual machine.", default=BackendName.VM
    ),
    "data_root": choice("--data-root", DataRootKind, "How dockerd's data root is backed.", default="auto"),
    "volume": word(
        "--volume",
        "NAME",
        "Keep the data root in the volume NAME, which is made if it does not exist. "
        "Without this option, the data root is removed with the sandbox.",
        of_one_start=True,
        autocompletion=completion.volume_names,
    ),
    "size": word(
        "--size",
        "SIZE",
        "The size of the data root. A disk is sparse: it takes only the space that is used. A volume can only grow.",
        default="20G, or the size that the volume has",
    ),
    "filesystem": choice(
        "--filesystem", Filesystem, "The file system of a new loop or block data root.", default="ext4"
    ),
    "fallback": choice(
        "--fallback",
        Fallback,
        "The storage driver that dockerd may use where overlay does not work; with none, the start fails there.",
        default="none",
    ),
    "cpus": number("--cpus", "N", "The number of the guest's processors.", default="2"),
    "memory": word("--memory", "SIZE", "The size of the guest's memory.", default="2G"),
    "image": word(
        "--image",
        "REFERENCE",
        "The dind image to run; `kata-dind image ls` lists them.",
        default="the image that is built from packages",
        autocompletion=completion.image_references,
    ),
    "kernel": word(
        "--kernel", "PATH", "The kernel of the guest.", default="Kata's if it is installed, else the distribution's"
    ),
    "network": choice(
        "--network",
        NetworkMode,
        "The network that the guest can reach: none, or the host's through NAT.",
        default="nat",
    ),
    "publish_addresses": several(
        "--publish-address",
        "ADDRESS",
        "Let published ports be reached on this address of the host as well, beside its loopback addresses; 0.0.0.0 "
        "stands for all. May be repeated.",
        of_one_start=True,
    ),
    "shares": several(
        "--share",
        "PATH|HOST:GUEST[:ro]",
        "Make a directory or a file of the host visible in the guest: under the same path, so that `docker run -v` and "
        "compose files find it, or under another. May be repeated.",
        of_one_start=True,
    ),
    "dockerd_args": several(
        "--dockerd-arg", "FLAG", "Start dockerd with this flag, such as --registry-mirror=URL. May be repeated."
    ),
    "timeout_seconds": duration("--timeout", "How long the start may take before it counts as failed.", default="180"),
}
