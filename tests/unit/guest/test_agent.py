"""The agent's loop, processes and streams on this host, over a real channel; only the machine around it is absent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from kata_dind.guest.agent import protocol
from kata_dind.guest.agent.protocol import WINDOW_BYTES
from kata_dind.guest.agent.streams import EXIT_GRACE_SECONDS
from kata_dind.wire.channel import Channel, ChannelStream
from tests.unit.guest.conftest import AgentProcess, Output, collect, read_line, start_command, start_shell


def run_shell(agent: AgentProcess, script: str, *, stdin: bytes = b"", **request: object) -> Output:
    outputs = []

    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, script, **request)
        await stream.send(stdin)
        stream.end()
        outputs.append(await collect(stream))

    agent.call(scenario)
    return outputs[0]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def wait_until_ended(pid: int, *, timeout_seconds: float = 5) -> None:
    async with asyncio.timeout(timeout_seconds):
        while is_running(pid):  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(0.01)


# --- requests


def test_a_hello_is_answered_by_an_event_that_names_the_kernel(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        await collect(start_command(channel, ["true"]))

    agent.call(scenario)
    (event,) = agent.events
    assert (event["event"], event["kernel"]) == ("agent", os.uname().release)
    assert event["uptime_seconds"] > 0


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"kind": "dance"}, "ValueError: unknown request 'dance'"),
        ({"argv": ["true"]}, "KeyError: 'kind'"),
        ({"kind": "exec", "where": "guest"}, "KeyError: 'argv'"),
        ({"kind": "exec", "where": "container", "argv": ["true"]}, "ProcessLookupError: no container runs"),
        ({"kind": "docker"}, "FileNotFoundError: [Errno 2] No such file or directory"),
    ],
    ids=["unknown", "no kind", "no argv", "no container", "no daemon"],
)
def test_a_request_that_cannot_be_met_closes_its_stream_with_the_reason(
    agent: AgentProcess, request_: dict[str, object], error: str
) -> None:
    async def scenario(channel: Channel) -> None:
        assert (await collect(channel.open(request_))).result == {"error": error}
        assert (await collect(start_command(channel, ["true"]))).result == {"exit_code": 0}

    agent.call(scenario)


def test_streams_that_have_ended_are_forgotten(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        async with echo_server(agent):
            for _ in range(3):
                await collect(start_command(channel, ["true"]))
                stream = channel.open({"kind": "docker"})
                stream.end()
                await collect(stream)
                start_command(channel, ["sleep", "60"]).close()
        channel.open({"kind": "poweroff", "timeout_seconds": 1})
        await channel.lost.wait()

    agent.call(scenario)
    assert agent.process.stdout is not None
    assert agent.process.stdout.read() == b"0\n"


# --- processes


def test_both_outputs_and_the_exit_code_arrive(agent: AgentProcess) -> None:
    output = run_shell(agent, "echo out; echo err >&2; exit 3")
    assert output == Output(b"out\n", b"err\n", False, {"exit_code": 3})


@pytest.mark.parametrize(
    ("script", "code"),
    [("true", 0), ("exit 255", 255), ("kill -KILL $$", 128 + 9), ("kill -TERM $$", 128 + 15)],
)
def test_exit_codes_are_those_of_a_shell(agent: AgentProcess, script: str, code: int) -> None:
    assert run_shell(agent, script).result == {"exit_code": code}


def test_a_program_that_cannot_be_started_says_so_as_a_shell_would(agent: AgentProcess, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")

    async def scenario(channel: Channel) -> None:
        absent = await collect(start_command(channel, ["/no/such/program"]))
        assert (absent.result, absent.stderr) == ({"exit_code": 127}, b"/no/such/program: No such file or directory\n")
        refused = await collect(start_command(channel, [str(plain)]))
        assert (refused.result, refused.stderr) == ({"exit_code": 126}, f"{plain}: Permission denied\n".encode())

    agent.call(scenario)


def test_a_megabyte_goes_through_a_process_and_its_end_closes_the_input(agent: AgentProcess) -> None:
    data = os.urandom(1 << 20)

    async def scenario(channel: Channel) -> None:
        stream = start_command(channel, ["cat"])
        received = asyncio.ensure_future(collect(stream))
        await stream.send(data)
        stream.end()
        assert await received == Output(data, b"", False, {"exit_code": 0})

    agent.call(scenario)


def test_a_process_that_does_not_read_its_input_ends_all_the_same(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, "exec <&-; sleep 0.2; exit 4")
        await stream.send(bytes(1 << 20))  # more than the window: what is not read must be dropped
        stream.end()
        assert (await collect(stream)).result == {"exit_code": 4}

    agent.call(scenario)


def test_the_environment_and_the_directory_are_those_asked_for(agent: AgentProcess, tmp_path: Path) -> None:
    output = run_shell(agent, 'echo "$HOME $GREETING"; pwd', environment={"GREETING": "a b"}, cwd=str(tmp_path))
    assert output.stdout == f"/root a b\n{tmp_path}\n".encode()


def test_a_child_left_in_the_background_does_not_hold_the_stream(agent: AgentProcess) -> None:
    began = time.monotonic()
    output = run_shell(agent, "sleep 60 & echo $!; exit 5")
    os.kill(int(output.stdout), signal.SIGKILL)
    assert output.result == {"exit_code": 5}
    assert time.monotonic() - began < 5


def test_what_a_background_child_says_soon_still_arrives(agent: AgentProcess) -> None:
    output = run_shell(agent, "(sleep 0.1; echo late) & echo early")
    assert output.stdout == b"early\nlate\n"


def test_a_signal_reaches_the_whole_group(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, "sleep 60 & echo $!; wait")
        child = int(await read_line(stream))
        stream.control({"signal": int(signal.SIGTERM)})
        assert (await collect(stream)).result == {"exit_code": 128 + signal.SIGTERM}
        await wait_until_ended(child)

    agent.call(scenario)


def test_closing_a_stream_ends_its_processes(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, "sleep 60 & echo $! $$; wait")
        pids = (await read_line(stream)).split()
        stream.close()
        for pid in pids:
            await wait_until_ended(int(pid))

    agent.call(scenario)


def test_closing_a_stream_at_once_ends_its_process(agent: AgentProcess, tmp_path: Path) -> None:
    # The leak check of every test is what fails when one of these survives.
    async def scenario(channel: Channel) -> None:
        for _ in range(10):
            start_command(channel, ["sleep", "60"]).close()
        await collect(start_command(channel, ["true"]))

    agent.call(scenario)
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
    deadline = time.monotonic() + 5
    while children.read_text(encoding="utf-8").strip():
        assert time.monotonic() < deadline, "a process outlives its stream"
        time.sleep(0.01)


def test_a_new_epoch_ends_what_the_old_one_ran(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, "echo $$; exec sleep 60")
        pid = int(await read_line(stream))
        channel.begin()
        await wait_until_ended(pid)
        assert (await collect(start_command(channel, ["true"]))).result == {"exit_code": 0}

    agent.call(scenario)


# --- terminals


def test_a_terminal_has_the_size_that_was_asked_for_and_follows_resizes(agent: AgentProcess) -> None:
    script = "trap 'stty size' WINCH; tty >/dev/null && stty size; while read -r line; do :; done"

    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, script, tty=True, rows=30, columns=90)
        assert await read_line(stream) == b"30 90\r\n"
        stream.control({"rows": 40, "columns": 100})
        assert await read_line(stream) == b"40 100\r\n"
        stream.end()
        assert (await collect(stream)).result == {"exit_code": 0}

    agent.call(scenario)


def test_a_terminal_makes_its_program_a_session_leader_that_ctrl_c_interrupts(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, "echo ready; exec sleep 60", tty=True, rows=24, columns=80)
        assert await read_line(stream) == b"ready\r\n"
        await stream.send(b"\x03")
        assert (await collect(stream)).result == {"exit_code": 128 + signal.SIGINT}

    agent.call(scenario)


def test_ending_a_terminal_that_its_program_has_let_go_of_is_harmless(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, "exec <&- >&- 2>&-; sleep 0.3", tty=True, rows=24, columns=80)
        await asyncio.sleep(0.15)
        stream.end()
        assert (await collect(stream)).result == {"exit_code": 0}
        assert (await collect(start_command(channel, ["true"]))).result == {"exit_code": 0}

    agent.call(scenario)


def test_what_a_program_has_said_arrives_however_late_it_is_read(agent: AgentProcess) -> None:
    count = WINDOW_BYTES + 60_000  # the window is full, and the rest waits in the pipe when the program ends

    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, f"head -c {count} /dev/zero; exit 6")
        terminal = start_shell(channel, "seq 60000; exit 7", tty=True, rows=24, columns=80)
        await asyncio.sleep(EXIT_GRACE_SECONDS + 0.3)
        output = await collect(stream)
        assert (len(output.stdout), output.result) == (count, {"exit_code": 6})
        output = await collect(terminal)
        assert (output.stdout[-7:], output.result) == (b"60000\r\n", {"exit_code": 7})

    agent.call(scenario)


def test_a_talkative_child_left_in_the_background_does_not_hold_the_stream(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_shell(channel, "yes & echo $! >&2; exit 5")
        output = await collect(stream)
        os.kill(int(output.stderr), signal.SIGKILL)
        assert output.result == {"exit_code": 5}

    agent.call(scenario)


@pytest.mark.parametrize(
    "message",
    [{"rows": 70000, "columns": 1}, {"rows": 5}, {"rows": "many", "columns": None}, {"signal": 1000}, {"signal": "x"}],
)
def test_a_message_that_makes_no_sense_does_not_end_the_guest(agent: AgentProcess, message: dict[str, object]) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_command(channel, ["cat"], tty=True, rows=24, columns=80)
        stream.control(message)
        stream.end()
        await collect(stream)
        assert (await collect(start_command(channel, ["true"]))).result == {"exit_code": 0}

    agent.call(scenario)


# --- backpressure


def test_a_reader_that_stops_stops_its_stream_alone(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        before_kib = agent.memory_kib()
        stalled = start_command(channel, ["cat", "/dev/zero"])
        await asyncio.sleep(0.3)
        waiting = sum(len(frame.payload) for frame in stalled._incoming)
        assert waiting == WINDOW_BYTES
        assert len((await collect(start_command(channel, ["head", "-c", "3000000", "/dev/zero"]))).stdout) == 3000000
        assert agent.memory_kib() - before_kib < 4096
        for _ in range(100):
            await stalled.receive()
        stalled.close()

    agent.call(scenario)


def test_a_process_that_does_not_read_holds_up_its_sender_alone(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        stream = start_command(channel, ["sleep", "60"])
        sending = asyncio.ensure_future(stream.send(bytes(4 << 20)))
        await asyncio.sleep(0.3)
        assert not sending.done()
        assert channel.mux.credit(stream._number) == 0
        assert (await collect(start_command(channel, ["true"]))).result == {"exit_code": 0}
        stream.close()
        await sending
        # Answered after the close was acted upon, so that the agent does not end before the process.
        assert (await collect(start_command(channel, ["true"]))).result == {"exit_code": 0}

    agent.call(scenario)


def test_fifty_streams_at_once_all_arrive_in_full(agent: AgentProcess) -> None:
    count = 400_000  # together far more than the agent keeps for the channel before it stops reading

    async def scenario(channel: Channel) -> None:
        streams = [start_command(channel, ["head", "-c", str(count), "/dev/zero"]) for _ in range(50)]
        outputs = await asyncio.gather(*(collect(stream) for stream in streams))
        assert [len(output.stdout) for output in outputs] == [count] * 50
        assert {output.result["exit_code"] for output in outputs} == {0}

    agent.call(scenario, timeout_seconds=15)


def test_many_streams_that_pause_after_a_full_backlog_are_read_again(agent: AgentProcess) -> None:
    # Each says less than a grant of credit, so that only the channel's own backlog can wake its reader again.
    async def scenario(channel: Channel) -> None:
        script = "head -c 33000 /dev/zero; sleep 0.1; head -c 20000 /dev/zero"
        streams = [start_shell(channel, script) for _ in range(50)]
        outputs = await asyncio.gather(*(collect(stream) for stream in streams))
        assert [len(output.stdout) for output in outputs] == [53000] * 50

    agent.call(scenario, timeout_seconds=15)


def test_a_host_that_has_closed_the_port_costs_no_time(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        await collect(start_command(channel, ["true"]))

    agent.call(scenario)
    agent.port.close()
    before = agent.cpu_seconds()
    time.sleep(0.4)
    assert agent.cpu_seconds() - before < 0.1


# --- the Docker socket

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def socket_server(agent: AgentProcess, serve: Serve) -> AsyncIterator[None]:
    server = await asyncio.start_unix_server(serve, agent.run_directory / "docker.sock")
    try:
        yield
    finally:
        server.close()


def echo_server(agent: AgentProcess) -> contextlib.AbstractAsyncContextManager[None]:
    return socket_server(agent, echo)


async def round_trip(stream: ChannelStream, data: bytes) -> None:
    received = asyncio.ensure_future(collect(stream))
    await stream.send(data)
    stream.end()
    assert await received == Output(data, b"", True, {})


def test_fifty_connections_at_once_carry_their_own_bytes(agent: AgentProcess) -> None:
    async def scenario(channel: Channel) -> None:
        async with echo_server(agent):
            streams = [channel.open({"kind": "docker"}) for _ in range(50)]
            await asyncio.gather(
                *(round_trip(stream, os.urandom(50_000 + index)) for index, stream in enumerate(streams))
            )

    agent.call(scenario)


def test_a_half_closed_connection_still_answers(agent: AgentProcess) -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(len(await reader.read())).encode())
        writer.close()

    async def scenario(channel: Channel) -> None:
        async with socket_server(agent, count):
            stream = channel.open({"kind": "docker"})
            await stream.send(b"x" * 100_000)
            stream.end()
            assert await collect(stream) == Output(b"100000", b"", True, {})

    agent.call(scenario)


def test_a_daemon_that_half_closes_is_still_sent_to(agent: AgentProcess) -> None:
    received = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        received.append(await reader.read())
        writer.close()

    async def scenario(channel: Channel) -> None:
        async with socket_server(agent, serve):
            stream = channel.open({"kind": "docker"})
            frame = await stream.receive()
            assert frame is not None
            assert frame.kind == protocol.END
            await stream.send(b"after your end")
            stream.end()
            assert (await collect(stream)).result == {}

    agent.call(scenario)
    assert received == [b"after your end"]


def test_a_daemon_that_hangs_up_with_input_waiting_closes_the_stream(agent: AgentProcess) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        writer.write_eof()
        await asyncio.sleep(0.2)
        writer.transport.abort()

    async def scenario(channel: Channel) -> None:
        async with socket_server(agent, serve):
            stream = channel.open({"kind": "docker"})
            await stream.send(bytes(WINDOW_BYTES))  # more than the socket holds, and nothing follows
            stream.end()
            assert (await collect(stream)).result == {}

    agent.call(scenario, timeout_seconds=5)


def test_a_client_that_leaves_hangs_up_on_the_daemon(agent: AgentProcess) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()
        writer.close()

    async def scenario(channel: Channel) -> None:
        async with socket_server(agent, serve):
            stream = channel.open({"kind": "docker"})
            await stream.send(b"x")
            stream.close()
            await gone.wait()

    agent.call(scenario)
