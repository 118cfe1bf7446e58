"""`kata-dind webhook manifest`: the objects that install the webhook in a cluster, without Helm."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.options import Json, flag, option, require_word, takes_session, whole_number
from kata_dind.cli.options.pods import PolicyFile
from kata_dind.cli.output import print_json
from kata_dind.cli.session import Session
from kata_dind.version import __version__
from kata_dind.vocabulary import CertificateSource, FailurePolicy

Namespace = Annotated[
    str,
    option(
        "--namespace", "-n", variable="WEBHOOK_NAMESPACE", metavar="NAME", help_text="The namespace of the webhook."
    ),
]
CreateNamespace = Annotated[
    bool,
    flag("--create-namespace", variable="WEBHOOK_CREATE_NAMESPACE", help_text="Print the namespace as well."),
]
Image = Annotated[
    str,
    option(
        "--image",
        variable="WEBHOOK_IMAGE",
        metavar="REFERENCE",
        help_text="The image of kata-dind.",
        show_default="kata-dind.io/kata-dind, with the version as its tag",
    ),
]
Replicas = Annotated[
    int,
    option("--replicas", variable="WEBHOOK_REPLICAS", metavar="N", help_text="How many run.", parser=whole_number),
]
OnFailure = Annotated[
    str,
    option(
        "--failure-policy",
        variable="WEBHOOK_FAILURE_POLICY",
        metavar="|".join(FailurePolicy),
        help_text="What becomes of a pod while none answers: Ignore admits it as it is, Fail refuses it.",
        autocompletion=completion.words(FailurePolicy),
    ),
]
AskOnce = Annotated[
    bool,
    flag(
        "--ask-once",
        variable="WEBHOOK_ASK_ONCE",
        help_text="Let the API server ask about a pod only once. With Ignore it asks again if the pod is not repaired.",
    ),
]
Certs = Annotated[
    str,
    option(
        "--certs",
        variable="WEBHOOK_CERTS",
        metavar="|".join(CertificateSource),
        help_text="Where the certificate comes from: a job of kata-dind's, cert-manager, or a Secret of yours.",
        autocompletion=completion.words(CertificateSource),
    ),
]
Secret = Annotated[
    str,
    option(
        "--secret",
        variable="WEBHOOK_SECRET",
        metavar="NAME",
        help_text="With --certs provided: the Secret that has tls.crt and tls.key.",
        show_default=False,
    ),
]
CaBundle = Annotated[
    str,
    option(
        "--ca-bundle",
        variable="WEBHOOK_CA_BUNDLE",
        metavar="FILE",
        help_text="With --certs provided: the certificate of the authority, in PEM.",
        show_default=False,
    ),
]
ServiceMonitor = Annotated[
    bool,
    flag(
        "--service-monitor",
        variable="WEBHOOK_SERVICE_MONITOR",
        help_text="Print a ServiceMonitor as well, for Prometheus' operator.",
    ),
]
Dashboard = Annotated[
    bool,
    flag("--dashboard", variable="WEBHOOK_DASHBOARD", help_text="Print a dashboard as well, for Grafana's sidecar."),
]
PullSecretNamespaces = Annotated[
    list[str] | None,
    option(
        "--pull-secret-namespace",
        variable="WEBHOOK_PULL_SECRET_NAMESPACE",
        metavar="NAME",
        help_text="A namespace whose Secrets the webhook may read; required by a policy with pullSecrets. May be "
        "repeated; '*' is every Secret of the cluster.",
    ),
]


@takes_session
def manifest(
    session: Session,
    *,
    namespace: Namespace = "kata-dind",
    create_namespace: CreateNamespace = False,
    policy: PolicyFile = "",
    image: Image = "",
    replicas: Replicas = 2,
    failure_policy: OnFailure = "Ignore",
    ask_once: AskOnce = False,
    certs: Certs = "job",
    secret: Secret = "",
    ca_bundle: CaBundle = "",
    service_monitor: ServiceMonitor = False,
    dashboard: Dashboard = False,
    pull_secret_namespace: PullSecretNamespaces = None,
    json: Json = False,
) -> None:
    """Print what installs the webhook, which repairs pods when they are created.

    It is what the Helm chart installs: kata-dind webhook manifest --create-namespace | kubectl apply -f -

    The policy's classes and guards are in the MutatingWebhookConfiguration, too: after a change of the policy, apply
    the manifest again.
    """
    require_word("--certs", certs, CertificateSource)
    require_word("--failure-policy", failure_policy, FailurePolicy)
    from kata_dind.host.small_files import read_small_text
    from kata_dind.policies import policy_from_text, policy_text
    from kata_dind.webhook.manifest import IMAGE_REPOSITORY, Installation, manifest_text, objects

    text = policy_text(policy)
    installation = Installation(
        policy=policy_from_text(text, name=policy),
        policy_text=text,
        namespace=namespace,
        create_namespace=create_namespace,
        image=image or f"{IMAGE_REPOSITORY}:{__version__}",
        replicas=replicas,
        failure_policy=FailurePolicy(failure_policy),
        ask_again=not ask_once,
        certs=CertificateSource(certs),
        secret=secret,
        ca_bundle=read_small_text(ca_bundle, most_bytes=1 << 20, what="a certificate") if ca_bundle else "",
        service_monitor=service_monitor,
        dashboard=dashboard,
        pull_secret_namespaces=tuple(pull_secret_namespace or ()),
    )
    if json:
        print_json({"apiVersion": "v1", "kind": "List", "items": objects(installation)})
    else:
        print(manifest_text(installation), end="")
