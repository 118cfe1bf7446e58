"""Why an image's configuration could not be read: an exception that `Lookup` turns into an answer."""

from __future__ import annotations


class Unread(Exception):
    """A configuration could not be read; its text is a clause without a full stop. It never leaves this room."""

    def __init__(self, because: str, *, is_hosts: bool = False, is_late: bool = False, is_denied: bool = False) -> None:
        super().__init__(because)
        self.because = because
        self.is_hosts = is_hosts
        """The host does not answer, so that other images of it are not asked for in a while."""
        self.is_late = is_late
        """The host may just have been given too little time."""
        self.is_denied = is_denied
        """Other credentials may be allowed to see it."""
