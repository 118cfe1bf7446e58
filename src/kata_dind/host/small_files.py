"""Files that users write and that are read whole: a policy, a certificate."""

from __future__ import annotations

from pathlib import Path

from kata_dind.errors import SpecError


def read_small_text(name: str, *, most_bytes: int, what: str) -> str:
    """Return the text of a file; `what` it is, as in `a policy`, is for the error. Raises SpecError."""
    return text_of(read_small_file(name, most_bytes=most_bytes, what=what), name=name)


def read_small_file(name: str, *, most_bytes: int, what: str) -> bytes:
    """Return the content of a file. Raises SpecError."""
    if not name:  # which would be the working directory
        raise SpecError(f"{what} is in no file: its name is empty", id="spec.unreadable-file")
    try:
        with Path(name).open("rb") as file:
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from error
    if len(content) > most_bytes:
        raise SpecError(f"{name}: it is too large for {what}", id="spec.unreadable-file")
    return content


def text_of(content: bytes, *, name: str) -> str:
    """Return the text in the content of a file. Raises SpecError for what is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{name}: it is not text in UTF-8", id="spec.not-text") from error


def unreadable(name: str, error: OSError | ValueError) -> SpecError:
    """Say that a file can't be read."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return SpecError(f"{name}: it cannot be read: {reason}", id="spec.unreadable-file")
