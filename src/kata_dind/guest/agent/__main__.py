"""Process 1 of the guest: sets the machine up, then serves the channel until it is told to power off."""

from __future__ import annotations

import os
import signal
import sys

from . import container, plugged, spawn, system
from .loop import READ, WRITE, Loop
from .ports import Ports
from .protocol import (
    CLOSE,
    CONTROL,
    CREDIT,
    DATA,
    END,
    EVENTS,
    HELLO,
    OPEN,
    PENDING_BYTES,
    Frame,
    Mux,
    load_message,
)
from .shares import Shares, users_of
from .space import Space
from .streams import ProcessStream, SocketStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .streams import Handler

_KILL_GRACE_SECONDS = 2.0
_HOST_GONE_SECONDS = 0.05
"""How long to wait before a port whose other end is closed is looked at again."""


class Agent:
    """Answers the host's requests; one dind container at a time."""

    def __init__(self, loop: Loop, port: int) -> None:
        self._loop = loop
        self._port = port
        self._mux = Mux(is_host=False)
        self._handlers: dict[int, Handler] = {}
        self._container: spawn.Child | None = None
        self._container_pid = 0
        self._container_environment: dict[str, str] = {}
        self._names: dict[str, Any] = {}
        """The request that gave the guest its names."""
        self._check: container.Check | None = None
        """Checks the data root of a container that is renewed; it was prepared when the guest flushed."""
        self._throttled = False
        self._ports: Ports | None = None
        self._last_bytes: int | None = None
        """How much a guest that flushes may still send, up to its answer; nothing follows until the next epoch."""
        self._host_gone = False
        self._space = Space()
        self._shares = Shares(loop)
        loop.watch(port, READ, self._port_ready)

    # --- the channel

    def _port_ready(self, events: int) -> None:
        if events & READ:
            self._receive()
        self._send_pending()

    def _receive(self) -> None:
        try:
            data = os.read(self._port, 65536)
        except BlockingIOError:
            return
        if not data:  # the other end is closed, which poll would report again and again
            self._host_gone = True
            self._loop.unwatch(self._port)
            self._loop.after(_HOST_GONE_SECONDS, self._look_for_host)
            return
        for frame in self._mux.receive(data):
            self._act(frame)

    def _look_for_host(self) -> None:
        self._host_gone = False
        self._loop.watch(self._port, READ, self._port_ready)

    def _send_pending(self) -> None:
        """Send what fits, and watch the port as long as there is more."""
        if self._host_gone:
            return
        # Before anything is sent: a reader may have stopped at a backlog that is gone a moment later.
        self._throttled = self._throttled or self._mux.pending_bytes >= PENDING_BYTES
        while data := self._mux.peek(65536 if self._last_bytes is None else self._last_bytes):
            try:
                count = os.write(self._port, data)
            except BlockingIOError:
                break
            self._mux.took(count)
            if self._last_bytes is not None:
                self._last_bytes -= count
        self._loop.watch(self._port, READ | WRITE if data else READ, self._port_ready)
        if self._throttled and self._mux.pending_bytes < PENDING_BYTES:
            self._throttled = False
            for handler in list(self._handlers.values()):
                handler.may_send()

    def send_soon(self) -> None:
        """Send output that was queued outside of a port event."""
        if self._mux.pending_bytes:
            self._send_pending()

    def _event(self, name: str, **fields: Any) -> None:
        self._mux.control(EVENTS, {"event": name, "uptime_seconds": round(system.uptime_seconds(), 3), **fields})

    # --- requests

    def _act(self, frame: Frame) -> None:
        if frame.kind == HELLO:
            self._begin(load_message(frame.payload))
        elif frame.kind == OPEN:
            self._open(frame.stream, load_message(frame.payload))
        else:
            handler = self._handlers.get(frame.stream)
            if handler is not None:
                self._pass_on(handler, frame)

    def _pass_on(self, handler: Handler, frame: Frame) -> None:
        if frame.kind == DATA:
            handler.data(frame.payload)
        elif frame.kind == CREDIT:
            handler.may_send()
        elif frame.kind == END:
            handler.end()
        elif frame.kind == CONTROL:
            handler.control(load_message(frame.payload))
        elif frame.kind == CLOSE:
            del self._handlers[frame.stream]
            handler.close()

    def _begin(self, message: dict[str, Any]) -> None:
        """Begin a new epoch: drop the streams of the old one, and take the host's clock."""
        self._last_bytes = None
        for handler in self._handlers.values():
            handler.close()
        self._handlers.clear()
        system.set_clock(float(message["time"]))
        self._event("agent", kernel=os.uname().release)

    def _open(self, stream: int, request: dict[str, Any]) -> None:
        try:
            handler = self._handler_for(stream, request)
        except (OSError, LookupError, TypeError, ValueError) as error:
            self._mux.close(stream, {"error": f"{type(error).__name__}: {error}"})
            return
        if handler is not None:
            self._handlers[stream] = handler

    def _handler_for(self, stream: int, request: dict[str, Any]) -> Handler | None:
        kind = request["kind"]
        if kind == "docker":
            return SocketStream(self._loop, self._mux, stream, f"{container.RUN}/docker.sock", on_end=self._forget)
        if kind == "exec":
            return ProcessStream(self._loop, self._mux, stream, self._exec(request), on_end=self._forget)
        if kind == "container":
            return self._start_container(stream, request)
        if kind == "renew":
            return self._renew(stream, request)
        if kind == "ports":
            if self._ports is None:
                raise ProcessLookupError("no container runs")
            return self._ports.connect(stream)
        if kind == "touch":
            return ProcessStream(self._loop, self._mux, stream, self._start_toucher(), on_end=self._forget)
        if kind == "flush":
            self._flush(stream, request)
            return None
        if kind in ("attach", "detach"):
            self._change_shares(stream, request)
            return None
        if kind == "freeze":
            self._shares.freeze(lambda why: self._mux.close(stream, {"error": why} if why else {}))
            return None
        if kind == "space":
            self._mux.close(stream, {"refusing": self._mind_space(request)})
            return None
        if kind == "poweroff":
            self._power_off(float(request["timeout_seconds"]))
            return None
        raise ValueError(f"unknown request {kind!r}")

    def _forget(self, stream: int) -> None:
        self._handlers.pop(stream, None)

    # --- the container

    def _start_container(self, stream: int, request: dict[str, Any]) -> Handler:
        system.set_clock(float(request["time"]))
        system.configure(request)
        self._names = request
        os.makedirs(container.RUN, exist_ok=True)
        self._container_environment = dict(request["environment"])
        device = system.find_disk("data")
        if device:
            self._container_environment["KATA_DIND_DEVICE"] = device
        layout = container.Layout(
            image=_require_disk("image"),
            layer=_require_disk("layer"),
            device=device,
            shares=list(request["shares"]),
        )
        address = request["network"]["address"].partition("/")[0] if request["network"] else ""
        self._ports = self._ports or Ports(self._loop, self._mux, container.PORTS, address)
        child = container.start(layout, request["argv"], self._container_environment)
        self._event("container")
        return self._follow_container(stream, child)

    def _follow_container(self, stream: int, child: spawn.Child) -> Handler:
        self._container, self._container_pid = child, child.pid
        return ProcessStream(self._loop, self._mux, stream, child, on_end=self._forget, on_exit=self._container_ended)

    def _container_ended(self, code: int) -> None:
        self._container, self._container_pid = None, 0
        self._event("container-ended", exit_code=code)

    def _exec(self, request: dict[str, Any]) -> spawn.Child:
        size = (int(request["rows"]), int(request["columns"])) if request.get("tty") else None
        environment = dict(request.get("environment") or {})
        cwd = request.get("cwd") or "/"
        if request["where"] == "guest":
            guest_environment = {**os.environ, "HOME": "/root", **environment}
            return spawn.spawn(spawn.program(request["argv"], guest_environment, cwd=cwd), size=size)
        if not self._container_pid:
            raise ProcessLookupError("no container runs")
        container_environment = {**self._container_environment, "HOME": "/root", **environment}
        return container.enter(self._container_pid, request["argv"], container_environment, cwd=cwd, size=size)

    def _start_toucher(self) -> spawn.Child:
        if not self._container_pid:
            raise ProcessLookupError("no container runs")
        root = f"/proc/{self._container_pid}/root"  # which has the shares that containers have

        def become() -> None:
            from . import touching  # which most guests never need

            touching.serve(root)

        return spawn.spawn(become, size=None)

    # --- seeds

    def _flush(self, stream: int, request: dict[str, Any]) -> None:
        """Write everything out, and fall silent after the answer, so that no frame is cut in the machine's state."""
        check = container.Check(self._container_pid, str(request["data_root"]))
        check.prepare()
        self._check = check
        # For practice, so that what Python looks up the first time is in the memory of every clone.
        system.write_names(self._names)
        os.sync()
        self._mux.close(stream, {})
        self._last_bytes = self._mux.pending_bytes

    def _renew(self, stream: int, request: dict[str, Any]) -> Handler:
        """Renew the guest after it was restored or resumed; the stream is the container's from here on."""
        if self._container is None:
            raise ProcessLookupError("no container runs")
        system.set_clock(float(request["time"]))
        system.reseed(bytes.fromhex(request["entropy"]))
        system.write_names(request)
        self._names = request
        # It is missing where no request to flush has reached this agent.
        check = self._check or container.Check(self._container_pid, str(request["data_root"]))
        checked_seconds = check.look()
        handler = self._follow_container(stream, self._container)
        self._take_steps(stream, handler, self._plugged(request), request, checked_seconds)
        return handler

    def _change_shares(self, stream: int, request: dict[str, Any]) -> None:
        """Attach shares to the container, or detach one; containers that stand still run on."""
        pid, shares = self._container_pid, list(request["shares"])

        def ended(failure: str) -> None:
            self._shares.run_on()
            self._mux.close(stream, {"error": failure} if failure else {})

        if request["kind"] == "attach":
            step = self._attaching(shares)
        elif users := users_of(shares[0].partition(" ")[0], pid):
            return ended(f"it is in use by {', '.join(users)}")
        else:
            step = plugged.Step("detached", lambda: None, lambda: container.detach_share(pid, shares[0]))
        return plugged.run_step(self._loop, step, on_end=ended)

    def _attaching(self, shares: list[str]) -> plugged.Step:
        pid, places = self._container_pid, self._shares.places
        return plugged.Step("shared", container.mount_shared, lambda: container.attach_shares(pid, shares, places))

    def _take_steps(
        self,
        stream: int,
        handler: Handler,
        steps: list[plugged.Step],
        request: dict[str, Any],
        checked_seconds: float,
    ) -> None:
        def take_next_step() -> None:
            if self._handlers.get(stream) is not handler:
                return  # the host is gone, or has begun a new epoch
            if steps:
                plugged.run_step(self._loop, steps[0], on_end=step_ended)
            else:
                self._shares.run_on()
                ports = {"ports": self._ports.published} if self._ports and self._ports.published else {}
                self._event("renewed", check_seconds=round(checked_seconds, 4), **self._size(request), **ports)

        def step_ended(failure: str) -> None:
            if not failure:
                self._event(steps.pop(0).name)
                return take_next_step()
            self._forget(stream)
            handler.close()
            return self._mux.close(stream, {"error": failure})

        self._loop.after(0, take_next_step)  # once the stream has its handler

    def _size(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the new size of a data root that has grown; nothing for one that has not."""
        if not request["disk_bytes"]:
            return {}
        return {"size_bytes": container.data_root_bytes(self._container_pid, str(request["data_root"]))}

    def _plugged(self, request: dict[str, Any]) -> list[plugged.Step]:
        pid, shares, disk_bytes = self._container_pid, list(request["shares"]), int(request["disk_bytes"])
        cpus, memory_mib = int(request["cpus"]), int(request["memory_mib"])
        steps = []
        if memory_mib:
            steps.append(plugged.Step("memory", lambda: system.require_memory(memory_mib)))
        if cpus:
            steps.append(plugged.Step("processors", lambda: system.require_cpus(cpus), lambda: system.start_cpus(cpus)))
        if shares:
            steps.append(self._attaching(shares))
        if disk_bytes:
            path = str(request["data_root"])
            steps.append(
                plugged.Step(
                    "grown",
                    lambda: system.require_disk_size("data", disk_bytes),
                    lambda: container.grow_data_root(pid, path, disk_bytes),
                )
            )
        return steps

    def _mind_space(self, request: dict[str, Any]) -> list[str]:
        """Bound dirty memory and refuse new data, or no longer; return the devices that refuse it."""
        if request["time"] is not None:  # the guest was paused, and its clock with it
            system.set_clock(float(request["time"]))
        if request["bound"]:
            self._space.bound_dirty()
        else:
            self._space.unbound_dirty()
        if request["refuse"]:
            return self._space.refuse_data(f"/proc/{self._container_pid}")
        self._space.take_data(f"/proc/{self._container_pid}")
        return []

    def _power_off(self, timeout_seconds: float) -> None:
        """Stop dockerd, whose file systems are unmounted with it, and switch off."""
        if not self._container_pid:
            system.power_off()
        self._loop.when_child_ends(self._container_pid, lambda _code: system.power_off())
        os.kill(self._container_pid, signal.SIGTERM)
        self._loop.after(timeout_seconds, self._kill_container)
        self._loop.after(timeout_seconds + _KILL_GRACE_SECONDS, system.power_off)

    def _kill_container(self) -> None:
        self._event("container-killed")
        if self._container_pid:
            os.kill(self._container_pid, signal.SIGKILL)  # its pid namespace goes with it


def _require_disk(serial: str) -> str:
    disk = system.find_disk(serial)
    if disk is None:
        raise FileNotFoundError(f"no disk has the serial number {serial}")
    return disk


def main() -> None:
    """Serve; ends only with the machine."""
    os.environ.setdefault("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    # While no other process runs: when the first cgroup is made Linux patches its allocators, with a breakpoint for a
    # moment, and QEMU before 8.1 can keep a translation of that breakpoint, on which the guest then hangs.
    # https://lore.kernel.org/lkml/20230808072835.GT7636@redhat.com/
    os.mkdir(spawn.CONTAINER_CGROUP)
    system.load_modules()
    loop = Loop()
    agent = Agent(loop, system.require_port())
    loop.before_waiting = agent.send_soon
    loop.run()


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - whatever it is, it is printed and the machine goes off
        # Process 1 must not end silently: the host reads the console when the guest does not answer.
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        system.power_off()
