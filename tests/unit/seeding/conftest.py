"""The same seeds without machines as the shelf's tests have."""

from tests.unit.store.conftest import home, make_seed

__all__ = ["home", "make_seed"]
