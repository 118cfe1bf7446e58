"""Choosing the cluster and the user: a context of kubectl's, or the service account of the pod that we run in."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kata_dind.errors import KubernetesError
from kata_dind.kube.kubeconfig import Entry, Kubeconfig, find_kubeconfigs, read_kubeconfig

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet puts a pod's credentials."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A program that makes credentials, as `aws` and `gke-gcloud-auth-plugin`."""

    version: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    install_hint: str = ""
    wants_cluster: bool = False
    wants_terminal: bool = False


@dataclass(frozen=True, slots=True)
class User:
    """Who we are; what is secret never shows in a representation."""

    token: str = field(default="", repr=False)
    token_file: Path | None = None
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    name: str = ""
    password: str = field(default="", repr=False)
    plugin: Plugin | None = None
    acts_as: str = ""
    acts_as_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """A cluster, and who we are there."""

    name: str
    """For people, as in `the context 'prod'`."""
    server: str
    namespace: str
    user: User
    authority: bytes = b""
    """Certificates in PEM; without any, those of the system."""
    trusts_all: bool = False
    server_name: str = ""
    """The name in the server's certificate, if it is not the one in its address."""
    proxy: str = ""


def find_access(*, kubeconfig: str = "", context: str = "", service_account: Path = SERVICE_ACCOUNT) -> Access:
    """Choose as kubectl does: a file or context that is named, the user's own files, else the pod's service account.

    Raises KubernetesError with a hint when there is none of them, and SpecError for a named file that does not exist.
    """
    if paths := find_kubeconfigs(kubeconfig):
        config = read_kubeconfig(paths)
        if kubeconfig or context or config.current:
            return _access_of(config, context or config.current)
    if not context and os.environ.get("KUBERNETES_SERVICE_HOST") and (service_account / "token").is_file():
        return _access_in_cluster(service_account)
    what = f"the context {context!r} is in no file" if context else "there is no cluster to talk to"
    raise KubernetesError(
        f"{what}: neither a kubeconfig nor a pod's service account was found",
        id="kubernetes.no-kubeconfig",
        hint="give --kubeconfig FILE, or set KUBECONFIG",
    )


def _access_of(config: Kubeconfig, name: str) -> Access:
    if name not in config.contexts:
        known = ", ".join(sorted(config.contexts)) or "none"
        raise KubernetesError(
            f"{config.names} has no context {name!r}" if name else f"{config.names} chooses no context",
            id="kubernetes.no-context",
            hint=f"give --context NAME; there are: {known}",
        )
    context = config.contexts[name]
    cluster = _require(config.clusters, context.text("cluster"), kind="cluster", config=config, context=name)
    user = Entry({}, Path())
    if wanted := context.text("user"):
        user = _require(config.users, wanted, kind="user", config=config, context=name)
    server = cluster.text("server").rstrip("/")
    if not server.startswith(("https://", "http://")):
        raise KubernetesError(
            f"{config.names}: the cluster of the context {name!r} has no server", id="kubernetes.kubeconfig-unusable"
        )
    return Access(
        name=f"the context {name!r}",
        server=server,
        namespace=context.text("namespace") or "default",
        user=_user(user),
        authority=_material(cluster, "certificate-authority"),
        trusts_all=cluster.content.get("insecure-skip-tls-verify") is True,
        server_name=cluster.text("tls-server-name"),
        proxy=cluster.text("proxy-url"),
    )


def _require(entries: Mapping[str, Entry], name: str, *, kind: str, config: Kubeconfig, context: str) -> Entry:
    if name not in entries:
        raise KubernetesError(
            f"{config.names}: the context {context!r} names the {kind} {name!r}, which is not there",
            id="kubernetes.kubeconfig-unusable",
        )
    return entries[name]


def _user(entry: Entry) -> User:
    if "auth-provider" in entry.content and not entry.text("token"):
        raise KubernetesError(
            "the user has an auth-provider, which Kubernetes gave up in version 1.26",
            id="kubernetes.kubeconfig-unusable",
            hint="replace it by a credential plugin (exec), as your cluster's provider describes",
        )
    return User(
        token=entry.text("token"),
        token_file=entry.path("tokenFile"),
        certificate=_material(entry, "client-certificate"),
        key=_material(entry, "client-key"),
        name=entry.text("username"),
        password=entry.text("password"),
        plugin=_plugin(entry),
        acts_as=entry.text("as"),
        acts_as_groups=tuple(map(str, _list(entry.content.get("as-groups")))),
    )


def _plugin(entry: Entry) -> Plugin | None:
    settings = entry.content.get("exec")
    if not isinstance(settings, Mapping):
        return None
    command = str(settings.get("command", ""))
    if "/" in command:
        command = str(entry.directory / command)
    return Plugin(
        version=str(settings.get("apiVersion", "")),
        argv=(command, *map(str, _list(settings.get("args")))),
        environment=_environment(settings.get("env")),
        install_hint=str(settings.get("installHint") or "").strip(),
        wants_cluster=settings.get("provideClusterInfo") is True,
        wants_terminal=settings.get("interactiveMode") == "Always",
    )


def _environment(entries: Any) -> dict[str, str]:
    found = [each for each in _list(entries) if isinstance(each, Mapping)]
    return {str(each.get("name")): str(each.get("value", "")) for each in found}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _material(entry: Entry, key: str) -> bytes:
    """Return the content of a certificate or key, which stands in the file, or has a file of its own."""
    if data := entry.text(f"{key}-data"):
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            raise KubernetesError(f"{key}-data is not base64", id="kubernetes.kubeconfig-unusable") from None
    path = entry.path(key)
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise KubernetesError(
            f"{key}: {path} can't be read: {error.strerror}", id="kubernetes.kubeconfig-unusable"
        ) from error


def _access_in_cluster(directory: Path) -> Access:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        authority = (directory / "ca.crt").read_bytes()
        namespace = (directory / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise KubernetesError(
            f"the pod's service account can't be read: {error}", id="kubernetes.no-kubeconfig"
        ) from error
    return Access(
        name="the pod's cluster",
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=namespace,
        user=User(token_file=directory / "token"),
        authority=authority,
    )
