"""The guest OS, the guest kernel and the dind images: built from distribution packages, or pulled from a registry.

All of them lie in the cache, content-addressed, and appear there whole or not at all; the host gets no packages.
"""
