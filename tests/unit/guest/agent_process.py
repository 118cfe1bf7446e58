"""The guest's agent as a process of this host: `python -m tests.unit.guest.agent_process PORT_FD RUN_DIRECTORY`.

The machine around it is what differs: the port is a socket, the clock is left alone, and powering off ends the process
after it has printed how many streams the agent still knows.
"""

from __future__ import annotations

import os
import sys

from kata_dind.guest.agent import container, system
from kata_dind.guest.agent.__main__ import Agent
from kata_dind.guest.agent.loop import Loop


def main() -> None:
    port = int(sys.argv[1])
    container.RUN = sys.argv[2]
    os.set_blocking(port, False)
    os.set_inheritable(port, False)
    loop = Loop()
    agent = Agent(loop, port)

    def power_off() -> None:
        os.write(1, f"{len(agent._handlers)}\n".encode())
        os._exit(0)

    system.set_clock = lambda seconds: None
    system.power_off = power_off
    loop.before_waiting = agent.send_soon
    loop.run()


if __name__ == "__main__":
    main()
