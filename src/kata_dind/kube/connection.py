"""The connection to an API server: TLS with what a kubeconfig says, and the proxy on the way."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from kata_dind.errors import KubernetesError
from kata_dind.host.nameless_files import nameless_file
from kata_dind.kube.access import Access
from kata_dind.kube.credentials import Credentials, auth_for, run_plugin
from kata_dind.version import __version__

TIMEOUT = httpx2.Timeout(30.0, connect=10.0)


@contextlib.contextmanager
def open_connection(access: Access, timeout: httpx2.Timeout = TIMEOUT) -> Iterator[httpx2.Client]:
    """Yield an HTTP client for an API server. Raises KubernetesError for an address or credentials of no use."""
    with _client(access, timeout) as client:
        yield client


def _client(access: Access, timeout: httpx2.Timeout) -> httpx2.Client:
    # A plugin may answer with a certificate, which the first handshake needs.
    answered = run_plugin(access.user.plugin, access) if access.user.plugin else None
    verify = tls_context(access, answered)
    try:
        return httpx2.Client(
            base_url=access.server,
            verify=verify,
            auth=auth_for(access, answered),
            proxy=proxy_for(access) or None,
            trust_env=False,  # its reading of NO_PROXY knows no ranges; proxy_for has read the environment
            timeout=timeout,
            headers=_headers(access),
        )
    except (httpx2.InvalidURL, ValueError) as error:
        raise KubernetesError(
            f"the address of {access.name}'s server, or that of its proxy, is not one: {error}",
            id="kubernetes.kubeconfig-unusable",
            hint="kubectl config view --minify",
        ) from error


def tls_context(access: Access, answered: Credentials | None = None) -> ssl.SSLContext:
    """Return what the handshake needs. Raises KubernetesError."""
    if access.trusts_all:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context()
        if access.authority:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _load(lambda: context.load_verify_locations(cadata=access.authority.decode()), what="certificate-authority")
        # Python is strict since 3.13; the authorities of many clusters lack the identifiers of keys that it then wants.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    certificate, key = access.user.certificate, access.user.key
    if answered and answered.certificate:
        certificate, key = answered.certificate, answered.key
    if certificate:
        _load(lambda: _load_pair(context, certificate + b"\n" + key), what="client-certificate")
    return context


def proxy_for(access: Access) -> str:
    """Return the proxy on the way to a server: the cluster's own, or the environment's; empty for none.

    NO_PROXY may have ranges of addresses, as it has in clusters.
    """
    if access.proxy:
        return access.proxy
    url = urlsplit(access.server)
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all") or ""
    host = url.hostname or ""
    if not found or proxy_bypass(host) or _is_in_range(host, proxies.get("no", "")):
        return ""
    return found if "://" in found else f"http://{found}"


def _is_in_range(host: str, ranges: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for each in ranges.split(","):
        with contextlib.suppress(ValueError):
            if "/" in each and address in ipaddress.ip_network(each.strip(), strict=False):
                return True
    return False


def _load(load: Callable[[], None], *, what: str) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise KubernetesError(f"the {what} can't be used: {error}", id="kubernetes.kubeconfig-unusable") from error


def _load_pair(context: ssl.SSLContext, pem: bytes) -> None:
    with nameless_file(pem) as path:
        context.load_cert_chain(path)


def _headers(access: Access) -> list[tuple[str, str]]:
    headers = [("Accept", "application/json"), ("User-Agent", f"kata-dind/{__version__}")]
    if access.user.acts_as:
        headers.append(("Impersonate-User", access.user.acts_as))
        headers += [("Impersonate-Group", group) for group in access.user.acts_as_groups]
    return headers
