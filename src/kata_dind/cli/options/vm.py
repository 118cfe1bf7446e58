"""The options that only the vm backend has, by their names in `SandboxSpec`."""

from __future__ import annotations

from kata_dind.cli import completion
from kata_dind.cli.options.declare import choice, several, switch, word
from kata_dind.vocabulary import Accelerator

OPTIONS = {
    "accelerator": choice(
        "--accel",
        Accelerator,
        "How the guest's instructions are run: by the processor (kvm) or by an emulator (tcg). "
        "With auto, it is kvm where a guest has booted on KVM.",
        default="auto",
    ),
    "seed": word(
        "--seed",
        "NAME",
        "Start from this seed; `kata-dind seed ls` lists them.",
        default="a seed that is made when the first such machine is started",
        of_one_start=True,
        autocompletion=completion.seed_names,
    ),
    "cold": switch(
        "--cold", "Boot the guest, even where it could be restored from a seed.", default=False, of_one_start=True
    ),
    "allow_link_local": switch(
        "--allow-link-local",
        "Let the guest reach link-local addresses, such as a cloud's metadata service.",
        default=False,
    ),
    "host_ports": several(
        "--host-port",
        "PORT",
        "Let containers reach this port of the host's 127.0.0.1, as host.docker.internal:PORT. May be repeated.",
        of_one_start=True,
    ),
    "watch": switch(
        "--watch",
        "Let programs in containers that watch shared files see what this host changes in them, as dev servers do.",
        default=False,
        of_one_start=True,
    ),
    "virtiofs_xattr": switch(
        "--virtiofs-xattr",
        "Give a virtiofs data root the extended attributes that overlay needs. "
        "Without them, as in Kata's default, the kernel refuses overlay there.",
        default=True,
        of_one_start=True,
    ),
}
