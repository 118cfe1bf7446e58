"""Files that change while we run: looked at every few seconds, and taken into use when they are right.

Several files belong together, as a certificate and its key do. A swap between the reading of two of them is nobody's
mistake, so they are read until nothing changes any more. They are compared by content: kubelet swaps a symbolic link
above them, people replace or rewrite them, and inotify does not see the first on every mount.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from kata_dind.errors import KataDindError
from kata_dind.host.small_files import read_small_file
from kata_dind.webhook.logs import event
from kata_dind.webhook.metrics import Reloads

T = TypeVar("T")
_MOST_BYTES = 4 << 20
_MOST_READS = 4
"""More only if the files change each time; then what doesn't fit together is kept out, and looked at again later."""


class Followed(Generic[T]):
    """What is made of some files, and made again when they change; what is wrong is not taken into use."""

    def __init__(self, what: str, files: Sequence[str], make: Callable[..., T], reloads: Reloads) -> None:
        """Make it for the first time, from the files' contents. Raises what `make` raises, and SpecError."""
        self.what = what
        self.files = tuple(files)
        self.error = ""
        """Why the files as they are now are not in use; empty if they are."""
        self._make = make
        self._reloads = reloads
        self._contents = self._read()
        self.current = make(*self._contents)
        """What is in use."""
        self.loaded_at = time.time()

    async def follow(self, *, every_seconds: float) -> None:
        """Look at the files again and again; what is wrong with them is logged when it changes, and never raised."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.look()

    async def look(self) -> None:
        """Take the files into use if they have changed and are right."""
        try:
            # On a thread: the disk may be slow, and a policy of megabytes takes a while.
            contents = await asyncio.to_thread(self._read)
            if contents != self._contents:
                self.current = await asyncio.to_thread(self._make, *contents)
                self._contents, self.loaded_at = contents, time.time()
                self._reloads.results.labels("success").inc()
                event(logging.INFO, f"{self.what}-reloaded", files=", ".join(self.files))
        except KataDindError as error:
            self._keep(error)
        except Exception as bug:  # noqa: BLE001 - the old one serves on, whatever is in a file
            self._keep(KataDindError(f"a bug of kata-dind: {type(bug).__name__}", id="process.bug"), bug)
        else:
            self.error = ""
            self._reloads.error.set(0)

    def _read(self) -> tuple[bytes, ...]:
        """Return the contents of the files at one moment: read until they are twice the same."""
        contents = self._read_once()
        for _ in range(_MOST_READS - 1 if len(self.files) > 1 else 0):
            before, contents = contents, self._read_once()
            if contents == before:
                break
        return contents

    def _read_once(self) -> tuple[bytes, ...]:
        return tuple(read_small_file(name, most_bytes=_MOST_BYTES, what=f"a {self.what}") for name in self.files)

    def _keep(self, error: KataDindError, bug: Exception | None = None) -> None:
        if error.summary == self.error:
            return
        self.error = error.summary
        self._reloads.error.set(1)
        self._reloads.results.labels("failure").inc()
        event(logging.ERROR, f"{self.what}-kept", error=bug, reason=error.id, message=error.summary, hint=error.hint)
