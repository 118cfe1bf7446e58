"""The guest's agent as a process of this host: `python -m tests.unit.guest.agent_process PORT_FD RUN_DIRECTORY`.

The machine around it is what differs: the port is a socket, the clock is left alone, there is a place for questions
about published ports without a container, files are touched below the root of this host, and powering off ends the
process after it has printed how many streams the agent still knows.
"""

from __future__ import annotations

import os
import sys

from kata_dind.guest.agent import container, system
from kata_dind.guest.agent.__main__ import Agent
from kata_dind.guest.agent.loop import Loop
from kata_dind.guest.agent.ports import Ports
from kata_dind.guest.agent.spawn import Child

GUEST_ADDRESS = "127.0.0.99"
"""The address that the guest has for the host; any address of a loopback interface would do."""


def main() -> None:
    port = int(sys.argv[1])
    container.RUN = sys.argv[2]
    os.set_blocking(port, False)
    os.set_inheritable(port, False)
    loop = Loop()
    agent = Agent(loop, port)
    agent._ports = Ports(loop, agent._mux, f"{container.RUN}/ports", GUEST_ADDRESS)

    def power_off() -> None:
        os.write(1, f"{len(agent._handlers)}\n".encode())
        os._exit(0)

    start_toucher = agent._start_toucher

    def start_toucher_here() -> Child:
        agent._container_pid = os.getpid()
        try:
            return start_toucher()
        finally:
            agent._container_pid = 0

    agent._start_toucher = start_toucher_here  # type: ignore[method-assign]
    system.set_clock = lambda seconds: None
    system.power_off = power_off
    loop.before_waiting = agent.send_soon
    loop.run()


if __name__ == "__main__":
    main()
