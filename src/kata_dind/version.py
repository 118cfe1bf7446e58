"""The version of kata-dind, in a file that every room may read."""

__version__ = "0.1.0"
