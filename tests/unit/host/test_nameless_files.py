"""Files without a name."""

from __future__ import annotations

from pathlib import Path

from kata_dind.host.nameless_files import nameless_file


def test_it_has_its_content_and_ends_with_the_block() -> None:
    with nameless_file(b"one") as one, nameless_file(b"two" * 100_000) as two:
        assert Path(one).read_bytes() == b"one"
        assert Path(two).read_bytes() == b"two" * 100_000
        assert str(Path(one).readlink()).startswith("/memfd:")
    assert not Path(one).exists()
