from __future__ import annotations

import inspect
import sys
from importlib.metadata import PackageNotFoundError, version
from subprocess import run

import pytest

import kata_dind
from kata_dind import errors


@pytest.mark.parametrize("name", kata_dind.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(getattr(kata_dind, name), "__name__", name) == name
    assert name in dir(kata_dind)


def test_all_is_sorted_and_has_the_errors_that_callers_react_to() -> None:
    assert kata_dind.__all__ == sorted(kata_dind.__all__)
    reactions = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__bases__ in ((Exception,), (errors.KataDindError,))
    }
    assert reactions - {"ProcessError", "WebhookError"} <= set(kata_dind.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = kata_dind.nothing


def test_importing_the_package_imports_nothing_else() -> None:
    script = (
        "import sys, kata_dind; print(*[name for name in sys.modules if name.startswith(('kata_dind.', 'pydantic'))])"
    )
    assert run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout == "\n"


def test_the_version_is_the_distributions() -> None:
    try:
        assert version("kata-dind") == kata_dind.__version__
    except PackageNotFoundError:
        pytest.skip("kata-dind is not installed here")
