"""Calls to containerd over its Unix socket: CRI, and the few of its own that an import of an image needs.

Every call has a deadline. This is the one border at which gRPC's errors become ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kata_dind.backend.containerd.failures import explained, explained_socket, not_a_socket
from kata_dind.errors import KataDindError, ToolMissing

DEFAULT_ADDRESS = Path("/run/containerd/containerd.sock")

CALL_SECONDS = 20.0
"""For a call that only looks something up or writes a record; measured: under 10 ms, on a busy machine under 1 s."""

_NAMESPACE = (("containerd-namespace", "k8s.io"),)
"""CRI keeps its images and containers in this one, whoever calls; containerd's own calls must be told."""

_MOST_BYTES = 16 << 20
_CONNECT_SECONDS = 5.0


class _Method(NamedTuple):
    path: str
    request: Any
    response: Any


class Containerd:
    """A connection to a containerd. It connects again by itself, so it outlives a containerd that is started anew."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self._grpc = _grpc()
        options = [
            ("grpc.max_receive_message_length", _MOST_BYTES),
            ("grpc.enable_http_proxy", 0),
            # A containerd that was started again is found soon.
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        self._channel = self._grpc.insecure_channel(f"unix:{address}", options=options)

    def close(self) -> None:
        """Hang up; calls that still run are cancelled."""
        self._channel.close()

    def call(self, name: str, *, failing: str, timeout_seconds: float = CALL_SECONDS, **fields: Any) -> Any:
        """Make a call and return its answer; `name` is `RuntimeService/Version`, and `fields` are the request's.

        `failing` says what could not be done, as a sentence. Raises ContainerdError and others of `failures`.
        """
        call = self._start(name, fields, timeout_seconds)
        try:
            return call.result()
        except self._grpc.RpcError as error:
            raise self._explained(error, failing) from error
        finally:
            call.cancel()

    async def ask(self, name: str, *, failing: str, timeout_seconds: float = CALL_SECONDS, **fields: Any) -> Any:
        """Do as `call` inside an event loop; a cancelled task cancels the call, too."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        call = self._start(name, fields, timeout_seconds)

        def tell(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the caller has ended
                loop.call_soon_threadsafe(done.set)

        call.add_done_callback(tell)
        try:
            await done.wait()
            return call.result()
        except self._grpc.RpcError as error:
            raise self._explained(error, failing) from error
        finally:
            call.cancel()

    def exchange(
        self,
        name: str,
        requests: Iterable[Any],
        *,
        failing: str,
        timeout_seconds: float,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> Iterator[Any]:
        """Make a call that streams in both directions; `requests` are its messages."""
        method = _method(name)
        stream = self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            yield from stream(iter(requests), timeout=timeout_seconds, metadata=[*_NAMESPACE, *metadata])
        except self._grpc.RpcError as error:
            raise self._explained(error, failing) from error

    def _start(self, name: str, fields: dict[str, Any], timeout_seconds: float) -> Any:
        method = _method(name)
        unary = self._channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        metadata = [*_NAMESPACE, *fields.pop("metadata_of_call", ())]
        return unary.future(method.request(**fields), timeout=timeout_seconds, metadata=metadata)

    def _explained(self, error: Any, failing: str) -> KataDindError:
        code, text = error.code().name, str(error.details() or "")
        if code == "UNAVAILABLE":
            require_socket(self.address)  # whose error says more
        return explained(code, text, failing=failing, address=self.address)


@contextlib.contextmanager
def connected(address: Path) -> Iterator[Containerd]:
    """Connect to a containerd for the length of the block. Raises what `require_socket` raises."""
    require_socket(address)
    containerd = Containerd(address)
    try:
        yield containerd
    finally:
        containerd.close()


def require_socket(address: Path) -> None:
    """Raise ContainerdError or PermissionMissing where nobody answers at a socket, or we may not ask."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(os.fspath(address))
        except OSError as error:
            if isinstance(error, ConnectionRefusedError) and not address.is_socket():
                raise not_a_socket(address) from error
            raise explained_socket(error, address) from error


def pid_behind(address: Path) -> int:
    """Return who listens at a socket; 0 where that can't be seen."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(address))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return 0
    return int(struct.unpack("3i", credentials)[0])


def _grpc() -> Any:
    # It writes to standard error what its callers are told as well.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import grpc
    except ModuleNotFoundError as error:
        raise ToolMissing(
            "the Python package grpcio is not installed, with which kata-dind speaks to containerd",
            id="host.tool-missing",
            hint="pipx install --force 'kata-dind[containerd]'",
        ) from error
    return grpc


def get_ready() -> None:
    """Import what the first call needs, which takes a tenth of a second. Raises ToolMissing."""
    _grpc()
    _method("RuntimeService/Version")


_STUBS = {"Content": "content_pb2", "Images": "images_pb2", "Leases": "leases_pb2"}
"""By service: the module with its messages, where that isn't CRI's. Only an import of an image needs them."""


@functools.cache
def _method(name: str) -> _Method:
    from google.protobuf.message_factory import GetMessageClass

    service_name, _, method_name = name.partition("/")
    module = _STUBS.get(service_name, "cri_pb2")
    file = importlib.import_module(f"kata_dind.backend.containerd.stubs.{module}").DESCRIPTOR
    service = file.services_by_name[service_name]
    method = service.methods_by_name[method_name]
    return _Method(f"/{service.full_name}/{method.name}", GetMessageClass(method.input_type),
                   GetMessageClass(method.output_type))  # fmt: skip
