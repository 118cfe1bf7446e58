"""The options that say where packages come from, when an image, a guest OS or a kernel has to be made."""

from __future__ import annotations

from kata_dind.cli.options.declare import several, word

TITLE = "Options for what is built from packages"

OPTIONS = {
    "suite": word(
        "--suite",
        "RELEASE",
        "Use packages of this release: bookworm, trixie, noble …",
        default="the host's own release",
    ),
    "mirror": word("--mirror", "URL", "Fetch packages from this mirror.", default="the release's own"),
    "apt_options": several("--apt-option", "LINE", "Add this line to apt.conf; may be repeated."),
}
