"""Which programs with a data root a container runs, and how sure that is: a case for each, made of the signals. Pure.

Each signal has a weight (see `images.CERTAIN`). Clients and monitors have no case, nor has an image that is told to do
something else.
"""

from __future__ import annotations

from dataclasses import dataclass

from kata_dind.pod.argv import FROM_IMAGE, basename, place_of
from kata_dind.pod.container import USUAL_ROOTS, Container
from kata_dind.pod.flags import flags_weight
from kata_dind.pod.images import CERTAIN, LIKELY
from kata_dind.pod.launches import FoundLaunch, Start
from kata_dind.pod.model import Launch, Program
from kata_dind.pod.reading import mapping
from kata_dind.pod.volumes import IMAGE_VOLUMES, clean_path
from kata_dind.pod.wrapper import NO_PROGRAM, wrapped_words

STARTING_VARIABLES = {
    "DOCKER_IN_DOCKER": (("start",), ""),
    "DOCKER_IN_DOCKER_ENABLED": (("true", "1", "yes", "True"), "/docker-graph"),
}
"""Variables with which images of many names start a dockerd: the values that say so, and the data root."""


@dataclass(slots=True)
class Case:
    """The case for a program in a container."""

    program: Program
    weight: int
    evidence: tuple[str, ...]
    start: Start | None = None
    launch: Launch = Launch.IMAGE
    root: str = ""


def cases_of(container: Container, launch: FoundLaunch) -> list[Case]:
    """Return the case for each program that a container may run."""
    cases = _started(container, launch)
    if not cases:
        case = _by_variable(container, launch) or _by_image(container, launch) or _by_volume(container, launch)
        cases = [case] if case else []
    if launch.is_wrapped and not any(case.weight >= CERTAIN for case in cases):
        only_makes_disk = wrapped_words(container.command) == [*NO_PROGRAM]
        cases = [] if only_makes_disk else [_wrapped(container)]
    return [_with_extras(container, case) for case in cases]


def _wrapped(container: Container) -> Case:
    """Return the case for what the guest entrypoint starts: it is there for nothing else."""
    word = container.variables.get("KATA_DIND_PROGRAM", "")
    program = Program(word) if word in tuple(Program) else container.known.program or Program.DOCKERD
    path = container.variables.get("KATA_DIND_PATH", "")
    root = clean_path(path) if path.startswith("/") and "\0" not in path else ""
    said = tuple(filter(None, (container.known.said,)))
    return Case(program, CERTAIN, said, launch=Launch.COMMAND, root=root)


def _started(container: Container, launch: FoundLaunch) -> list[Case]:
    """Return the cases for what command and arguments start by themselves."""
    known = container.known
    if known.is_client and not container.command:
        return []
    if not container.command and known.variable is not None and container.variables.get(known.variable[0]) is None:
        return []
    if _is_off(container):
        return []
    cases: dict[Program, Case] = {}
    for start in launch.starts:
        weight = start.weight
        if start.needs_image:
            weight = CERTAIN if known.has_systemd else 0
        elif known.program is start.program and not (container.command and known.weight == 0):
            # The image and what is started in it agree.
            weight = max(weight, known.weight) if not container.command else max(weight, min(CERTAIN, weight + 2))
            weight = _undecided(container, weight)
        elif known.program is None and start.weight == 1 and container.is_privileged and not known.is_client:
            weight = LIKELY
        if weight > 0 and _is_better(container, start, weight, cases.get(start.program)):
            by_image = known.said if known.program is start.program else ""
            by_itself = start.said if place_of(start.words[0]) != FROM_IMAGE or not by_image else ""
            by_args = _said_of_args(container) if by_image and not container.command and known.weight < CERTAIN else ""
            evidence = tuple(filter(None, (by_image, by_itself, by_args)))
            cases[start.program] = Case(start.program, weight, evidence, start, launch_of(container, start))
    if Program.CONTAINERD in cases and len(cases) > 1:
        del cases[Program.CONTAINERD]
    return list(cases.values())


def _is_better(container: Container, start: Start, weight: int, before: Case | None) -> bool:
    """Tell whether a start says more than an earlier one of the same program.

    A script that has both ways, as Docker's entrypoint has, takes the one with rootlesskit for other users only.
    """
    if before is None or weight != before.weight or before.start is None:
        return before is None or weight > before.weight
    return before.start.rootless and not start.rootless and not container.user(container.known)


def _said_of_args(container: Container) -> str:
    return f"its arguments are dockerd's, as in `{container.args[0][:60]}`" if flags_weight(container.args) else ""


def _undecided(container: Container, weight: int) -> int:
    """Return the weight for an image that is a client or a daemon, started without anything that tells."""
    known = container.known
    if container.command or known.weight >= CERTAIN:
        return weight
    if not container.args:
        # A client would have nothing to do, unless somebody types.
        types = container.fields.get("tty") is True or container.fields.get("stdin") is True
        return max(known.weight, LIKELY) if not types else known.weight
    if basename(container.args[0]) == "dockerd":
        return CERTAIN
    return known.weight + flags_weight(container.args)


def _is_off(container: Container) -> bool:
    unless = container.known.unless
    return unless is not None and container.variables.get(unless[0]) in unless[1] and not container.command


def _by_variable(container: Container, launch: FoundLaunch) -> Case | None:
    """Return the case for a daemon that the image's own starter runs, since a variable says so."""
    known = container.known
    name, root = "", ""
    values: tuple[str, ...] = ()
    if known.variable is not None:
        (name, values), root = known.variable, known.root
    else:
        for candidate, (words_of_it, its_root) in STARTING_VARIABLES.items():
            if container.variables.get(candidate) in words_of_it:
                name, values, root = candidate, words_of_it, its_root
    is_on = bool(name) and container.variables.get(name) in values
    if not is_on and name.endswith("_ENABLED"):
        labels = mapping(mapping(container.scene.pod.get("metadata")).get("labels"))
        is_on = labels.get("preset-dind-enabled") in ("true", True)
    if not is_on or (container.command and not _goes_on(container, launch)):
        return None
    weight = CERTAIN if known.variable is not None else LIKELY
    said = f"{name} says that a Docker daemon is started"
    return Case(Program.DOCKERD, weight, (said,), launch=Launch.VARIABLE, root=root)


def _goes_on(container: Container, launch: FoundLaunch) -> bool:
    """Tell whether a command may go through the image's own starter, or through a script that can't be read."""
    return bool(launch.unknown) or any(basename(word) in container.known.starters for word in container.command)


def _by_image(container: Container, launch: FoundLaunch) -> Case | None:
    known = container.known
    if known.program is None or not known.weight or known.variable is not None or _is_off(container):
        return None
    if _runs_another_program(container, launch):
        return None
    if container.command:
        if not _goes_on(container, launch):
            return None
        is_starters = any(basename(word) in known.starters for word in container.command)
        weight = CERTAIN if is_starters else 1
    elif container.args and _is_told_otherwise(container, launch):
        return None
    else:
        weight = known.weight
    return Case(known.program, weight, (known.said,), launch=launch_of(container, None))


def _runs_another_program(container: Container, launch: FoundLaunch) -> bool:
    """Tell whether the configuration of the image shows that it starts something else, whatever its name says.

    A script of somebody's may start a daemon, and a VOLUME at a data root means that something does.
    """
    known = container.known
    if not known.is_read or container.command or launch.unknown:
        return False
    return not (known.volumes and known.volumes.intersection(USUAL_ROOTS | IMAGE_VOLUMES))


def _is_told_otherwise(container: Container, launch: FoundLaunch) -> bool:
    """Tell whether the arguments are a command of its own for an image that would start a daemon."""
    known = container.known
    if known.starters or known.program is not Program.DOCKERD:
        return False  # its starter runs the daemon first, and then the arguments
    if container.args[0].startswith("-"):
        return False
    return not launch.unknown or (bool(known.entrypoint) and not known.is_read)


def _by_volume(container: Container, launch: FoundLaunch) -> Case | None:
    """Return the case where nothing names a daemon, but flags of one are there, or a volume at a data root."""
    known = container.known
    if known.is_client or (container.command and not launch.unknown) or _runs_another_program(container, launch):
        return None
    if not container.command and container.args:
        weight = flags_weight(container.args)
        if weight >= LIKELY:
            return Case(Program.DOCKERD, weight, (_said_of_args(container),), launch=Launch.IMAGE)
        if not container.args[0].startswith("-") and not launch.unknown:
            return None
    if container.is_privileged and container.own_volume():
        return Case(Program.DOCKERD, 0, ("a privileged container has a volume there",), launch=Launch.IMAGE)
    return None


def _with_extras(container: Container, case: Case) -> Case:
    """Add what is weak alone: privileges, variables, a volume at the data root, a client beside it."""
    weight = case.weight
    evidence = list(case.evidence)
    if container.is_privileged:
        weight += 1
        evidence.append("it is privileged")
    if container.has_docker_variables():
        weight += 1
        evidence.append("it has variables of dockerd's")
    volume = container.own_volume()
    if volume:
        weight += 2
        evidence.append(f"it has a volume of its own at {volume}")
    if weight < CERTAIN and container.has_client():
        weight += 1
        evidence.append("another container uses a Docker daemon in the pod")
    says_nothing = container.known.is_either and not container.command and not container.args
    if says_nothing and container.uses_host_socket():
        weight = 0
    case.weight, case.evidence = weight, tuple(evidence)
    return case


def launch_of(container: Container, start: Start | None) -> Launch:
    """Return how a program is started, by what was found to start it; None where only the image does."""
    if container.known.variable is not None and start is None:
        return Launch.VARIABLE
    if start is not None and start.in_script and (container.command or container.args):
        return Launch.SCRIPT
    return Launch.COMMAND if container.command else Launch.IMAGE
