"""The files of this host that a machine sees: the virtiofsd that serves them, which may be started late, and again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kata_dind.backend.vm.plan import PlannedShare
    from kata_dind.host.process import Daemon


class ServedShares:
    """A sandbox's virtiofsd; `daemon` is None while there is none. The end of the block ends it."""

    def __init__(self, directory: Path, *, unshare: Path, as_root: bool, xattr: bool, pass_fds: Sequence[int]) -> None:
        self.directory = directory
        self.daemon: Daemon | None = None
        self._unshare = unshare
        self._as_root = as_root
        self._xattr = xattr
        self._pass_fds = tuple(pass_fds)
        self._running = contextlib.ExitStack()

    def __enter__(self) -> ServedShares:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end()

    @property
    def socket(self) -> Path:
        """The socket to which QEMU connects."""
        return self.directory / "virtiofsd.sock"

    def start(self, shares: Sequence[PlannedShare]) -> None:
        """Serve shares. Raises ToolMissing, HostError."""
        from kata_dind.machine.virtiofsd import Bind, start_virtiofsd  # which most starts need not load

        binds = [Bind(share.name, share.host_path, share.read_only) for share in shares]
        self.daemon = self._running.enter_context(
            start_virtiofsd(self._root, binds, socket_path=self.socket, log=self.directory / "virtiofsd.log",
                            unshare=self._unshare, as_root=self._as_root, xattr=self._xattr, pass_fds=self._pass_fds)
        )  # fmt: skip

    def add(self, share: PlannedShare) -> None:
        """Serve a further share. Raises HostError."""
        from kata_dind.machine.virtiofsd import Bind, bind_later

        assert self.daemon is not None
        bind = Bind(share.name, share.host_path, share.read_only)
        bind_later(self.daemon, self._root, bind, as_root=self._as_root)

    def remove(self, share: PlannedShare) -> None:
        """Serve a share no longer. Raises HostError."""
        from kata_dind.machine.virtiofsd import unbind

        assert self.daemon is not None
        unbind(self.daemon, self._root, share.name, as_root=self._as_root)

    def end(self) -> None:
        """End virtiofsd."""
        self.daemon = None
        self._running.close()

    @property
    def _root(self) -> Path:
        return self.directory / "shared"
