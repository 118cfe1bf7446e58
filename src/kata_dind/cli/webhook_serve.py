"""`kata-dind webhook serve`: the webhook itself."""

from __future__ import annotations

from typing import Annotated

from kata_dind.cli import completion
from kata_dind.cli.extras import needs_extra
from kata_dind.cli.options import option, require_word, seconds, takes_session
from kata_dind.cli.options.pods import PolicyFile
from kata_dind.cli.session import Session
from kata_dind.vocabulary import LogFormat

Listen = Annotated[
    str,
    option(
        "--listen",
        variable="WEBHOOK_LISTEN",
        metavar="ADDRESS:PORT",
        help_text="Where the API server reaches the webhook, over HTTPS.",
    ),
]
HttpListen = Annotated[
    str,
    option(
        "--http-listen",
        variable="WEBHOOK_HTTP_LISTEN",
        metavar="ADDRESS:PORT",
        help_text="Where /healthz, /readyz and /metrics are served without TLS.",
        show_default="nowhere",
    ),
]
Cert = Annotated[
    str,
    option(
        "--cert",
        variable="WEBHOOK_CERT",
        metavar="FILE",
        help_text="The certificate in PEM, with what lies between it and its CA. It is read again when it changes.",
    ),
]
Key = Annotated[
    str, option("--key", variable="WEBHOOK_KEY", metavar="FILE", help_text="The key of the certificate, in PEM.")
]
Format = Annotated[
    str,
    option(
        "--log-format",
        variable="WEBHOOK_LOG_FORMAT",
        metavar="|".join(LogFormat),
        help_text="How the log on standard error is written: a line for each review.",
        autocompletion=completion.words(LogFormat),
    ),
]
ReloadEvery = Annotated[
    float,
    option(
        "--reload-every",
        variable="WEBHOOK_RELOAD_EVERY",
        metavar="SECONDS",
        help_text="How often certificate, key and policy are looked at for changes.",
        parser=seconds,
    ),
]
Grace = Annotated[
    float,
    option(
        "--grace",
        variable="WEBHOOK_GRACE",
        metavar="SECONDS",
        help_text="How long connections may take to end after SIGTERM.",
        parser=seconds,
    ),
]


@takes_session
def serve(
    session: Session,
    *,
    cert: Cert,
    key: Key,
    listen: Listen = "[::]:8443",
    http_listen: HttpListen = "",
    policy: PolicyFile = "",
    log_format: Format = "json",
    reload_every: ReloadEvery = 5.0,
    grace: Grace = 10.0,
) -> None:
    """Serve the admission webhook that repairs pods when they are created.

    It answers AdmissionReviews under /mutate, keeps no state, and ends with exit code 0 after SIGTERM.
    """
    require_word("--log-format", log_format, LogFormat)
    with needs_extra("webhook"):
        from kata_dind.webhook.serving import Settings, parse_address, serve
    from kata_dind.webhook.logs import log_to

    settings = Settings(
        listen=parse_address(listen, option="--listen"),
        http_listen=parse_address(http_listen, option="--http-listen") if http_listen else None,
        certificate_file=cert,
        key_file=key,
        policy_file=policy,
        reload_seconds=reload_every,
        grace_seconds=grace,
    )
    log_to(as_json=log_format == LogFormat.JSON)
    serve(settings)
