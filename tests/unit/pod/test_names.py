"""Names as an API server takes them, and others that look like them."""

from __future__ import annotations

import pytest

from kata_dind.pod.names import is_label, is_label_key, is_label_value, is_subdomain


@pytest.mark.parametrize("name", ["a", "0", "kata-dind", "a--b", "x" * 63])
def test_labels_are_also_subdomains(name: str) -> None:
    assert is_label(name)
    assert is_subdomain(name)


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a\n", "ä", "٣", "../x", "a b"])
def test_what_is_neither(name: str) -> None:
    assert not is_label(name)
    assert not is_subdomain(name)


@pytest.mark.parametrize("name", ["a.b", "kata-dind.tls.ci", "x" * 64, "a." * 126 + "a"])
def test_subdomains_that_are_not_labels(name: str) -> None:
    assert not is_label(name)
    assert is_subdomain(name)


@pytest.mark.parametrize("name", [".a", "a.", "a..b", "a.-b", "a-.b", "a." * 127 + "a", "x" * 254, "-" * 100_000])
def test_subdomains_have_no_empty_parts_and_an_end(name: str) -> None:
    assert not is_subdomain(name)


def test_labels_of_objects() -> None:
    assert all(map(is_label_key, ["team", "example.com/Team_1", "a.b/c.d"]))
    assert not any(map(is_label_key, ["", "/a", "a/", "a/b/c", "Example.com/a", "x" * 64, "-a"]))
    assert all(map(is_label_value, ["", "CI", "a_b.c-d", "x" * 63]))
    assert not any(map(is_label_value, ["-", "a b", "x" * 64, "a/b"]))
