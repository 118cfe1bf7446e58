"""How the tests read our Containerfile: all of it, or not at all."""

from __future__ import annotations

import pytest

from scripts.build_wheels import REPOSITORY
from tests.own_image import parse_containerfile

_TEXT = (REPOSITORY / "deploy" / "image" / "Containerfile").read_text(encoding="utf-8")


def test_the_containerfile_is_followed() -> None:
    file = parse_containerfile(_TEXT)
    assert file.copied == (("wheels", "/wheels"), ("assemble.py", "cp.py", "/"))
    assert file.command == ("python3", "/assemble.py", "/wheels", "/image")
    assert file.kept == "/image"
    assert file.config == {
        "Env": ["PATH=/usr/bin:/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
        "User": "65532:65532",
        "Entrypoint": ["/usr/bin/python3", "-I", "-m", "kata_dind"],
    }


@pytest.mark.parametrize("line", ["WORKDIR /srv", "RUN true", "USER 0", "VOLUME /data"])
def test_an_instruction_that_would_not_be_followed_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="other instructions"):
        parse_containerfile(f"{_TEXT}{line}\n")
