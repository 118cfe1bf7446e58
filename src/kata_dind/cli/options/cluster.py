"""The options of the commands that talk to a cluster."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.options.declare import option

KubeContext = Annotated[
    str,
    option(
        "--context",
        variable="KUBE_CONTEXT",
        metavar="NAME",
        help_text="Use the cluster and the user of this context of kubectl's.",
        show_default="kubectl's current one; in a pod, its service account",
        autocompletion=completion.kube_contexts,
    ),
]
Kubeconfig = Annotated[
    str,
    option(
        "--kubeconfig",
        variable="KUBECONFIG",
        metavar="FILE",
        help_text="Read kubectl's configuration from this file.",
        show_default="$KUBECONFIG, or ~/.kube/config",
    ),
]
