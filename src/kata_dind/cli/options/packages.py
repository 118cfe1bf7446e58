"""The options that say where packages come from when an image, a guest OS or a kernel must be built."""

from __future__ import annotations

from kata_dind.cli.options.declare import several, word

TITLE = "Options for building from packages"

OPTIONS = {
    "suite": word(
        "--suite",
        "RELEASE",
        "Use the packages of this release, such as bookworm, trixie or noble.",
        default="the host's own release",
    ),
    "mirror": word("--mirror", "URL", "Fetch packages from this mirror.", default="the release's own"),
    "apt_options": several("--apt-option", "LINE", "Add this line to apt.conf. May be repeated."),
}
