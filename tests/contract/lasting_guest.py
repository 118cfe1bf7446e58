"""The guest of the lasting fake: a process of its own, which serves a socket until it is told to stop.

`python -m tests.contract.lasting_guest DIRECTORY IMAGE`. A connection begins with a request, a JSON object on a line;
`docker` is followed by plain bytes, all else by a JSON object a line in either direction.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.contract.fake_dockerd import FakeDockerd, serve_dockerd

_READY = {"kata_dind": "info", "step": "ready", "kind": "memory", "path": "/var/lib/docker", "filesystem": "tmpfs"}


class Guest:
    """What the connections share."""

    def __init__(self, directory: Path, image: str) -> None:
        self._dockerd = directory / "dockerd.sock"
        self._log = directory / "guest.log"
        self._image = image
        self._container_started = False
        self._dockerd_over = asyncio.Event()
        self._running = contextlib.ExitStack()
        self.over = asyncio.Event()

    def note(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{line}\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            request = json.loads(await reader.readline() or b"{}")
            match request.get("kind"):
                case "docker":
                    await self._docker(reader, writer)
                case "container":
                    await self._container(writer, check=request["check"])
                case "exec":
                    await self._exec(request["argv"], reader, writer)
                case "watch":
                    await self.over.wait()
                case "stop":
                    self._stop()
        writer.close()

    def _stop(self) -> None:
        self.note("dockerd stopped")
        self._dockerd_over.set()
        self._running.close()
        self.over.set()

    async def _docker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._dockerd)
        except OSError:
            # It does not answer yet. A close with the question unread would be a reset, which is a guest's end.
            writer.write_eof()
            await reader.read()
            return
        up = asyncio.ensure_future(_copy(reader, inner_writer))
        await _copy(inner_reader, writer)
        up.cancel()
        inner_writer.close()

    async def _container(self, writer: asyncio.StreamWriter, *, check: bool) -> None:
        if not self._container_started:
            self._container_started = True
            self.note(f"container started, check {check}")
            _say(writer, err=json.dumps(_READY, separators=(",", ":")).encode() + b"\n")
            if self._image == "crashes":
                _say(writer, exit=1)
                await writer.drain()
                return
            self._running.enter_context(serve_dockerd(FakeDockerd(), self._dockerd))
        else:
            self.note("container followed")
        await self._dockerd_over.wait()
        _say(writer, exit=0)

    async def _exec(self, argv: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if argv == ["die"]:
            self.note("died")
            os._exit(1)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin
        assert process.stdout
        assert process.stderr
        feeding = asyncio.ensure_future(_feed(reader, process.stdin))
        await asyncio.gather(_tell(process.stdout, writer, "out"), _tell(process.stderr, writer, "err"))
        feeding.cancel()
        _say(writer, exit=await process.wait())
        await writer.drain()


def _say(writer: asyncio.StreamWriter, **what: Any) -> None:
    encoded = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in what.items()}
    writer.write(json.dumps(encoded).encode() + b"\n")


async def _tell(source: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
    while data := await source.read(8192):
        _say(writer, **{name: data})
        await writer.drain()


async def _feed(reader: asyncio.StreamReader, stdin: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        told = json.loads(line)
        if "in" in told:
            stdin.write(base64.b64decode(told["in"]))
        else:
            stdin.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(32768):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _main(directory: Path, image: str) -> None:
    guest = Guest(directory, image)
    server = await asyncio.start_unix_server(guest.serve, directory / "guest.new", limit=1 << 20)
    (directory / "guest.new").rename(directory / "guest.sock")  # a client that finds it may connect
    guest.note("booted")
    if not (directory / "wanted").exists():
        guest.over.set()
    await guest.over.wait()
    (directory / "guest.sock").unlink()
    server.close()
    await asyncio.sleep(0.05)  # for what the connections have to say yet
    guest.note("ended")


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))
