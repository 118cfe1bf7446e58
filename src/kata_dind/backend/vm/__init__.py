"""The embedded backend: a QEMU microVM of our own, made like Kata's; nothing else to install, no root needed."""
