"""`kata-dind webhook certs`: make, renew and announce the certificates of the webhook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kata_dind.cli.extras import needs_extra
from kata_dind.cli.options import Json, flag, option, takes_session
from kata_dind.cli.options.cluster import Kubeconfig, KubeContext
from kata_dind.cli.options.declare import whole_number
from kata_dind.cli.output import print_json, printable, progress
from kata_dind.cli.session import Session
from kata_dind.errors import SpecError

if TYPE_CHECKING:
    from datetime import datetime

    from kata_dind.webhook.authority import Certificate
    from kata_dind.webhook.keeping import Outcome
    from kata_dind.webhook.rotation import Settings

Namespace = Annotated[
    str,
    option(
        "--namespace",
        "-n",
        variable="WEBHOOK_NAMESPACE",
        metavar="NAME",
        help_text="The namespace of the webhook.",
        show_default="that of the context, or of the pod; with --output, default",
    ),
]
Secret = Annotated[
    str,
    option(
        "--secret",
        variable="WEBHOOK_SECRET",
        metavar="NAME",
        help_text="The Secret that holds authority and certificate. It is made if it does not exist.",
    ),
]
ServiceName = Annotated[
    str,
    option(
        "--service",
        variable="WEBHOOK_SERVICE",
        metavar="NAME",
        help_text="The Service through which API servers call the webhook.",
    ),
]
Configuration = Annotated[
    str,
    option(
        "--configuration",
        variable="WEBHOOK_CONFIGURATION",
        metavar="NAME",
        help_text="The MutatingWebhookConfiguration. Those of its webhooks that call the Service learn whom to trust.",
    ),
]
Also = Annotated[
    list[str] | None,
    option(
        "--also",
        variable="WEBHOOK_ALSO",
        metavar="HOST",
        help_text="Another name or address at which the webhook is called. May be repeated.",
    ),
]
Days = Annotated[
    int,
    option(
        "--days",
        variable="WEBHOOK_DAYS",
        metavar="N",
        help_text="How long a certificate lives.",
        parser=whole_number,
    ),
]
RenewBefore = Annotated[
    int,
    option(
        "--renew-before",
        variable="WEBHOOK_RENEW_BEFORE",
        metavar="DAYS",
        help_text="Renew a certificate so many days before its end.",
        parser=whole_number,
    ),
]
Check = Annotated[
    bool,
    flag("--check", variable="WEBHOOK_CHECK", help_text="Change nothing; exit with 1 if there is something to do."),
]
DryRun = Annotated[
    bool, flag("--dry-run", variable="WEBHOOK_DRY_RUN", help_text="Change nothing; say what would be done, and why.")
]
Output = Annotated[
    str,
    option(
        "--output",
        "-o",
        variable="WEBHOOK_OUTPUT",
        metavar="DIRECTORY",
        help_text="Talk to no cluster: write ca.crt, tls.crt and tls.key into this directory.",
    ),
]

_MOST_DAYS = 825
"""Some TLS clients refuse a certificate that lives longer."""


@takes_session
def certs(
    session: Session,
    *,
    namespace: Namespace = "",
    secret: Secret = "",
    service: ServiceName = "",
    configuration: Configuration = "",
    also: Also = None,
    days: Days = 90,
    renew_before: RenewBefore = 30,
    check: Check = False,
    dry_run: DryRun = False,
    output: Output = "",
    kube_context: KubeContext = "",
    kubeconfig: Kubeconfig = "",
    json: Json = False,
) -> None:
    """Keep the certificates of the webhook good.

    A certificate authority and a serving certificate are made in a Secret, and the API servers learn through the
    webhook's configuration whom to trust. Run it again, and it renews what is near its end, in an order in which no
    admission fails; otherwise it changes nothing. Any number of these commands may run at once.
    """
    with needs_extra("webhook"):
        from kata_dind.kube.client import open_client
        from kata_dind.webhook.configuration import Service
        from kata_dind.webhook.keeping import Wanted, keep_certificates, look_at_certificates
    from kata_dind.kube.access import find_access

    settings = _settings(days=days, renew_before=renew_before)
    _require_hosts(also or [])
    _require_names(service=service, namespace=namespace, secret=secret, configuration=configuration)
    if output:
        _refuse_cluster(secret, configuration, kube_context, kubeconfig)
        _outside(
            session,
            Path(output),
            _names(service, namespace or "default", also),
            settings,
            change=not (check or dry_run),
            check=check,
        )
        return
    for name, value in {"--secret": secret, "--configuration": configuration}.items():
        if not value:
            raise SpecError(f"{name} is missing", id="spec.wrong-usage", hint=_EXAMPLE)
    access = find_access(kubeconfig=kubeconfig, context=kube_context)
    namespace = namespace or access.namespace
    wanted = Wanted(secret, configuration, Service(service, namespace, _names(service, namespace, also)), settings)
    act = look_at_certificates if check or dry_run else keep_certificates
    with progress(session) as shown, open_client(access) as client:
        outcome = act(client, wanted, report=shown.report)
    if json:
        print_json(outcome.as_fields())
    else:
        _print(session, outcome)
    if check and outcome.left:
        raise typer.Exit(1)


_EXAMPLE = (
    "kata-dind webhook certs --namespace kata-dind --service kata-dind --secret kata-dind-tls --configuration kata-dind"
)


def _settings(*, days: int, renew_before: int) -> Settings:
    from datetime import timedelta

    from kata_dind.webhook.rotation import Settings

    if days > _MOST_DAYS:
        raise SpecError(f"--days: {days} is more than {_MOST_DAYS}", id="spec.wrong-value")
    if renew_before >= days:
        raise SpecError(
            f"--renew-before: {renew_before} days before the end of a certificate that lives {days} is always",
            id="spec.wrong-value",
            hint=f"--renew-before {max(1, days // 3)}",
        )
    return Settings(timedelta(days=days), timedelta(days=renew_before))


def _require_names(*, service: str, namespace: str, secret: str, configuration: str) -> None:
    if not service:
        raise SpecError("--service is missing", id="spec.wrong-usage", hint=_EXAMPLE)
    from kata_dind.pod.names import LABEL_SIGNS, SUBDOMAIN_SIGNS, is_label, is_subdomain

    for option_name, value in {"--service": service, "--namespace": namespace}.items():
        if value and not is_label(value):
            raise SpecError(f"{option_name}: {value!r} is not {LABEL_SIGNS}", id="spec.wrong-value")
    for option_name, value in {"--secret": secret, "--configuration": configuration}.items():
        if value and not is_subdomain(value):
            raise SpecError(f"{option_name}: {value!r} is not {SUBDOMAIN_SIGNS}", id="spec.wrong-value")


def _require_hosts(also: list[str]) -> None:
    from kata_dind.pod.names import is_label, is_subdomain
    from kata_dind.webhook.authority import address_in

    for name in also:
        is_host = is_subdomain(name) and all(map(is_label, name.split(".")))
        if address_in(name) is None and not is_host:
            raise SpecError(f"--also: {name!r} is neither a DNS name nor an address", id="spec.wrong-value")


def _names(service: str, namespace: str, also: list[str] | None) -> tuple[str, ...]:
    from kata_dind.webhook.authority import address_in
    from kata_dind.webhook.configuration import service_names

    more = [str(address_in(name) or name) for name in also or ()]
    return tuple(dict.fromkeys([*service_names(service, namespace), *more]))


def _refuse_cluster(secret: str, configuration: str, context: str, kubeconfig: str) -> None:
    given = {"--secret": secret, "--configuration": configuration, "--context": context, "--kubeconfig": kubeconfig}
    if for_cluster := [name for name, value in given.items() if value]:
        raise SpecError(
            f"--output writes files and talks to no cluster; leave out {', '.join(for_cluster)}", id="spec.wrong-usage"
        )


def _outside(
    session: Session, directory: Path, names: tuple[str, ...], settings: Settings, *, change: bool, check: bool
) -> None:
    from kata_dind.webhook.outside import find_certificate, write_certificate

    found = find_certificate(directory, names, settings)
    made = write_certificate(directory, names, settings) if change and not found else None
    certificate = found or made
    if session.json:
        ends = certificate.ends.isoformat() if certificate else None
        print_json({"changed": made is not None, "directory": str(directory), "names": list(names), "ends": ends})
    elif certificate is None:
        print(printable(f"to do: make a certificate for {names[0]} in {directory}"))
    elif made or not session.quiet:
        print(printable(_line(certificate, certificate.ends - settings.renew_before, changed=made is not None)))
    if check and not found:
        raise typer.Exit(1)


def _print(session: Session, outcome: Outcome) -> None:
    if outcome.left:
        for step in outcome.left:
            print(printable(f"to do: {step.kind}: {step.why}"))
    elif outcome.certificate and outcome.renews and (outcome.done or not session.quiet):
        print(printable(_line(outcome.certificate, outcome.renews, changed=bool(outcome.done))))


def _line(certificate: Certificate, renews: datetime, *, changed: bool) -> str:
    found = "" if changed else "nothing to do: "
    name = next(iter(certificate.names), "the webhook")
    ends = f"{certificate.ends:%Y-%m-%d}"
    return f"{found}the certificate of {name} ends on {ends}, and is renewed from {renews:%Y-%m-%d} on"
