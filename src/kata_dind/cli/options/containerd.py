"""The options that only the containerd backend has, by their names in `SandboxSpec`."""

from __future__ import annotations

from kata_dind.cli.options.declare import switch, word

OPTIONS = {
    "handler": word(
        "--handler",
        "NAME",
        "containerd's runtime handler; `kata-dind backends` lists them.",
        default="the one of Kata's that can do most",
    ),
    "allow_shared_kernel": switch(
        "--allow-shared-kernel",
        "Accept a handler that runs no virtual machine: then root in the sandbox is root on this host.",
        default=False,
    ),
    "allow_known_holes": switch(
        "--allow-known-holes",
        "Accept a handler of Kata with a known way out of its virtual machine.",
        default=False,
    ),
    "containerd_address": word(
        "--containerd-address", "PATH", "containerd's socket.", default="/run/containerd/containerd.sock"
    ),
}
