"""`kata-dind render`: a manifest for a new Docker daemon on Kata."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.options import Json, flag, option, require_word, takes_session
from kata_dind.cli.options.pods import PolicyFile
from kata_dind.cli.output import print_json
from kata_dind.cli.session import Session
from kata_dind.errors import SpecError
from kata_dind.vocabulary import DataRootKind, RenderOutput, Workload

Kind = Annotated[
    str,
    option(
        "--kind",
        variable="RENDER_KIND",
        metavar="|".join(DataRootKind),
        help_text="The kind of data root.",
        autocompletion=completion.words(DataRootKind),
    ),
]
Size = Annotated[
    str, option("--size", variable="RENDER_SIZE", metavar="SIZE", help_text="The size of the data root, such as 50G.")
]
RuntimeClassName = Annotated[
    str,
    option(
        "--runtime-class", variable="RENDER_RUNTIME_CLASS", metavar="NAME", help_text="The RuntimeClass, one of Kata's."
    ),
]
WorkloadKind = Annotated[
    str,
    option(
        "--workload",
        variable="RENDER_WORKLOAD",
        metavar="|".join(Workload),
        help_text="What makes the pod.",
        autocompletion=completion.words(Workload),
    ),
]
Sidecar = Annotated[
    bool,
    flag(
        "--sidecar",
        variable="RENDER_SIDECAR",
        help_text="Make the daemon a sidecar of a container that uses it, whose image and command you change. A job "
        "always has one, since a daemon never ends.",
    ),
]
Rootless = Annotated[
    bool, flag("--rootless", variable="RENDER_ROOTLESS", help_text="Run dockerd without root, in docker:dind-rootless.")
]
Image = Annotated[
    str,
    option(
        "--image",
        variable="RENDER_IMAGE",
        metavar="REFERENCE",
        help_text="The image that has dockerd.",
        show_default="docker:29-dind, or docker:29-dind-rootless",
    ),
]
Name = Annotated[str, option("--name", variable="RENDER_NAME", metavar="NAME", help_text="The name of the object.")]
Namespace = Annotated[
    str,
    option(
        "--namespace",
        "-n",
        variable="RENDER_NAMESPACE",
        metavar="NAME",
        help_text="Its namespace.",
        show_default="none",
    ),
]
Cpus = Annotated[
    str,
    option(
        "--cpus", variable="RENDER_CPUS", metavar="N", help_text="Processors, such as 2 or 500m.", show_default="none"
    ),
]
Memory = Annotated[
    str,
    option("--memory", variable="RENDER_MEMORY", metavar="SIZE", help_text="Memory, such as 4Gi.", show_default="none"),
]
StorageClass = Annotated[
    str,
    option(
        "--storage-class",
        variable="RENDER_STORAGE_CLASS",
        metavar="NAME",
        help_text="The storage class of the volume, for the block kind and for a StatefulSet.",
        show_default="the cluster's own default",
    ),
]
Output = Annotated[
    str,
    option(
        "--output",
        "-o",
        variable="RENDER_OUTPUT",
        metavar="|".join(RenderOutput),
        help_text="How to print it.",
        autocompletion=completion.words(RenderOutput),
    ),
]


@takes_session
def render(
    session: Session,
    *,
    kind: Kind = "auto",
    size: Size = "20G",
    runtime_class: RuntimeClassName = "kata",
    workload: WorkloadKind = "pod",
    sidecar: Sidecar = False,
    rootless: Rootless = False,
    image: Image = "",
    name: Name = "dind",
    namespace: Namespace = "",
    cpus: Cpus = "",
    memory: Memory = "",
    storage_class: StorageClass = "",
    policy: PolicyFile = "",
    output: Output = "yaml",
    json: Json = False,
) -> None:
    """Print a manifest for a new Docker daemon on Kata, with a data root that is proven to work.

    The guest entrypoint is in it; nothing else is needed: kata-dind render | kubectl apply -f -
    """
    require_word("--kind", kind, DataRootKind)
    require_word("--workload", workload, Workload)
    require_word("--output", output, RenderOutput)
    from kata_dind.fixing.manifest_text import manifest_text
    from kata_dind.image.entrypoint_for_pods import entrypoint_for_pods
    from kata_dind.pod import render as rendering
    from kata_dind.policies import load_policy

    has_client = sidecar or workload == Workload.JOB
    spec = rendering.RenderSpec(
        kind=DataRootKind(kind),
        size=size,
        runtime_class=runtime_class,
        workload=Workload(workload),
        name=name,
        namespace=namespace,
        image=image,
        sidecar_for="docker:29-cli" if has_client else "",
        sidecar_command=("docker", "run", "--rm", "hello-world") if has_client else (),
        rootless=rootless,
        storage_class=storage_class,
        cpu=cpus,
        memory=memory,
    )
    administrators = load_policy(policy)
    try:
        manifest = rendering.render(spec, script=entrypoint_for_pods, policy=administrators)
    except SpecError as error:
        raise _named_as_option(error) from error
    if json or output == "json":
        print_json(manifest)
    else:
        print(manifest_text(manifest), end="")


def _named_as_option(error: SpecError) -> SpecError:
    """Name the one field that has another name than its option."""
    summary = error.summary.replace("--cpu: ", "--cpus: ", 1)
    return SpecError(summary, id=error.id, details=error.details, hint=error.hint)
