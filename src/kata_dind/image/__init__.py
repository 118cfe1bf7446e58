"""The guest OS, the guest kernel and the dind images: built from distribution packages, or pulled from a registry.

All of it lies in the cache, content-addressed, published whole or not at all; nothing is installed on the host.
"""
