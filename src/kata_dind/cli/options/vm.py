"""The options that the vm backend alone has, by their names in `SandboxSpec`."""

from __future__ import annotations

from kata_dind.cli import completion
from kata_dind.cli.options.declare import choice, switch, word
from kata_dind.vocabulary import Accelerator

OPTIONS = {
    "accelerator": choice(
        "--accel",
        Accelerator,
        "What runs the guest's instructions: the processor (kvm) or an emulator (tcg). "
        "With auto it is kvm where a guest has booted on it.",
        default="auto",
    ),
    "seed": word(
        "--seed",
        "NAME",
        "Start from this seed; `kata-dind seed ls` lists them.",
        default="one that is made for such machines when it is first needed",
        of_one_start=True,
        autocompletion=completion.seed_names,
    ),
    "cold": switch(
        "--cold", "Boot the guest, also where it could start from a seed.", default=False, of_one_start=True
    ),
    "allow_link_local": switch(
        "--allow-link-local",
        "Let the guest reach link-local addresses, such as a cloud's metadata service.",
        default=False,
    ),
    "virtiofs_xattr": switch(
        "--virtiofs-xattr",
        "Give a virtiofs data root the extended attributes that overlay needs. "
        "Without them it is as Kata mounts it by default, and overlay is refused.",
        default=True,
        of_one_start=True,
    ),
}
