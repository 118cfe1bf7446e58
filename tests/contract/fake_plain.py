"""The fake backend without snapshots, as a module of its own, for that is how backends are found."""

from tests.contract.fake_backend import PLAIN

BACKEND = PLAIN
