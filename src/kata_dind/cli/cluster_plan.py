"""`kata-dind cluster plan`: what a cluster needs for dind pods, as files for helm and kubectl."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.failure import say
from kata_dind.cli.options import Json, option, require_word, takes_session
from kata_dind.cli.output import print_json, printable
from kata_dind.cli.session import Session
from kata_dind.errors import HostError
from kata_dind.vocabulary import PlanOutput

KataVersion = Annotated[
    str,
    option(
        "--kata-version",
        variable="CLUSTER_KATA_VERSION",
        metavar="VERSION",
        help_text="The version of Kata that is or will be on the nodes.",
        show_default="the newest that kata-dind knows",
    ),
]
HandlerNames = Annotated[
    list[str] | None,
    option(
        "--handler",
        variable="CLUSTER_HANDLER",
        metavar="NAME",
        help_text="The handler of Kata's on which the RuntimeClass builds. May be repeated, for a class of each.",
        show_default="qemu-runtime-rs, and qemu before Kata 4.0",
        autocompletion=completion.kata_handlers,
    ),
]
Distribution = Annotated[
    str,
    option(
        "--distribution",
        variable="CLUSTER_DISTRIBUTION",
        metavar="k8s|k3s|rke2|k0s|microk8s",
        help_text="The distribution of Kubernetes, which tells kata-deploy where containerd's configuration is.",
        autocompletion=completion.words(("k8s", "k3s", "rke2", "k0s", "microk8s")),
    ),
]
Output = Annotated[
    str,
    option(
        "--output",
        "-o",
        variable="CLUSTER_OUTPUT",
        metavar="|".join(PlanOutput),
        help_text="What to print: text, the plan in prose; yaml, the RuntimeClasses; values, for kata-deploy's chart.",
        autocompletion=completion.words(PlanOutput),
    ),
]
Directory = Annotated[
    str,
    option(
        "--directory",
        variable="CLUSTER_DIRECTORY",
        metavar="DIRECTORY",
        help_text="Also write the plan's files into this directory.",
    ),
]


@takes_session
def plan(
    session: Session,
    *,
    kata_version: KataVersion = "",
    handler: HandlerNames = None,
    distribution: Distribution = "k8s",
    output: Output = "text",
    directory: Directory = "",
    json: Json = False,
) -> None:
    """Say how a cluster is prepared for pods with Docker.

    The steps, in their order, and the files that helm and kubectl take: values for kata-deploy's chart, with a handler
    whose emptyDirs are disks; the RuntimeClasses; a policy for the webhook; and a pod to try it. No cluster is asked.
    """
    from kata_dind.cluster.needs import needs_of, written
    from kata_dind.cluster.plan import files_of, plan_cluster, plan_in_words, steps

    require_word("--output", output, PlanOutput)
    made = plan_cluster(version=kata_version, handlers=handler or (), distribution=distribution)
    if made.warning and not session.quiet:
        say(f"kata-dind: {made.warning}")
    files = {file.name: file for file in files_of(made)}
    if directory:
        _write(Path(directory), {name: file.text for name, file in files.items()})
    if json:
        print_json(
            {
                "kata_version": written(made.version),
                "needs": needs_of(made.version),
                "classes": [each.as_fields() for each in made.classes],
                "files": {name: file.text for name, file in files.items()},
                "steps": [{"what": what, "commands": commands} for what, commands in steps(made, directory)],
            }
        )
    elif output == PlanOutput.TEXT:
        print(printable(plan_in_words(made, directory)))
    else:
        name = "runtimeclasses.yaml" if output == PlanOutput.YAML else "kata-deploy-values.yaml"
        print(files[name].text, end="")


def _write(directory: Path, texts: dict[str, str]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"the plan can't be written to {directory}: {error.strerror}", id="cluster.files-not-written"
        ) from error
