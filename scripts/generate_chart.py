#!/usr/bin/env python3
"""Write what follows from the chart's values: README.md, parts of values.schema.json, and the package's manifest.yaml.

    .venv/bin/python -m scripts.generate_chart [--check]

The comments in values.yaml become the tables of README.md and the descriptions of the schema, whose policy is the one
of `kata-dind policy schema`. The manifest is the chart itself, rendered by Helm with placeholders for what the options
of `kata-dind webhook manifest` say; it needs Go, unless helm is in the cache. With --check, fail when a file is stale;
that needs no helm, since the manifest names the digest of the chart that it was rendered from.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kata_dind.errors import KataDindError
from kata_dind.host.process import run
from kata_dind.manifest import dumped, parse_yaml
from kata_dind.manifest.yaml_text import Node, compose
from kata_dind.pod.policy import policy_schema
from kata_dind.vocabulary import CertificateSource
from kata_dind.webhook import manifest
from scripts import build_helm

REPOSITORY = Path(__file__).parents[1]
CHART = REPOSITORY / "deploy" / "helm" / "kata-dind"
_HEAD = """\
# kata-dind

<!-- Written by scripts/generate_chart.py; change the comments in values.yaml instead. -->

Repairs pods that run Docker on Kata Containers when they are created, whoever makes them.
[docs/install-webhook.md](../../../docs/install-webhook.md) tells how to install, upgrade and remove it, and what
happens when it doesn't answer.

```console
$ helm install kata-dind deploy/helm/kata-dind --namespace kata-dind --create-namespace
$ helm test kata-dind --namespace kata-dind
```

Needs Kubernetes 1.30 or later, and Helm 3.18 or 4. Unknown values are refused, and so are wrong ones.
"""
_BASE_HEAD = """\
# The chart, rendered with placeholders. Written by scripts/generate_chart.py; change deploy/helm/kata-dind instead.
# sha256 of the chart: {digest}
"""
_OUT_OF_RANGE = "(in values.yaml)"
_LONGEST_DEFAULT = 60


def main(argv: list[str]) -> int:
    checks = argv == ["--check"]
    if argv and not checks:
        print("usage: python -m scripts.generate_chart [--check]", file=sys.stderr)
        return 2
    try:
        stale = [path for path, make in _PRODUCTS.items() if not _is_current(path, make, write=not checks)]
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    if stale and checks:
        names = ", ".join(str(path.relative_to(REPOSITORY)) for path in stale)
        print(f"stale: {names}; run .venv/bin/python -m scripts.generate_chart", file=sys.stderr)
    return int(bool(stale) and checks)


def _is_current(path: Path, make: Callable[[], str], *, write: bool) -> bool:
    if path == manifest.BASE and path.exists() and rendered_digest() == chart_digest():
        return True
    if path == manifest.BASE and not write:
        return False
    text = make()
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return True
    if write:
        path.write_text(text, encoding="utf-8")
    return False


def readme() -> str:
    """Return the page of the chart."""
    values = list(_values())
    groups: dict[str, list[tuple[tuple[str, ...], Node, str]]] = {}
    for value in values:
        groups.setdefault(value[0][0] if len(value[0]) > 1 else "", []).append(value)
    parts = [_HEAD, "\n## Values\n"]
    for group, rows in groups.items():
        parts.append(f"\n### {group}\n" if group else "")
        parts.append("\n| value | default | |\n|---|---|---|\n")
        parts += [f"| `{'.'.join(path)}` | {_default(node)} | {comment} |\n" for path, node, comment in rows]
    return "".join(parts)


def _default(node: Node) -> str:
    text = json.dumps(node.data)
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else _OUT_OF_RANGE


def schema() -> str:
    """Return the schema of the values: the one that is there, with descriptions, and with the schema of policies."""
    whole = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    policy = policy_schema()
    definitions = policy.pop("$defs")
    # Helm reads YAML 1.1, in which the word `off` is a boolean.
    definitions["Answer"] = {**definitions["Answer"], "enum": [False, *definitions["Answer"]["enum"]]}
    del definitions["Answer"]["type"], policy["$schema"]
    whole["properties"]["policy"] = policy
    whole["$defs"] = definitions
    for path, _, comment in _values():
        _property(whole, path)["description"] = comment
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _property(schema_: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        schema_ = schema_["properties"][name]
    return schema_


def _values() -> Iterator[tuple[tuple[str, ...], Node, str]]:
    """Yield each value that has a comment: its path, its default, and the comment."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    (root,) = compose(text)
    yield from _commented(root, (), lines)


def _commented(node: Node, path: tuple[str, ...], lines: list[str]) -> Iterator[tuple[tuple[str, ...], Node, str]]:
    for key, value in node.entries:
        here = (*path, key.data)
        comment = _comment_above(lines, key.line)
        if comment:
            yield here, value, comment
        elif value.entries and not value.flow:
            yield from _commented(value, here, lines)
        else:
            raise ValueError(f"values.yaml: {'.'.join(here)} has no comment above it")


def _comment_above(lines: list[str], line: int) -> str:
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(text.lstrip("# ") for text in lines[first:line])


def chart_digest() -> str:
    """Return a digest of all in the chart that a rendered manifest depends on."""
    files = [
        CHART / "Chart.yaml",
        CHART / "values.yaml",
        *sorted(CHART.glob("templates/*")),
        *CHART.glob("dashboards/*"),
    ]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def rendered_digest() -> str:
    """Return the digest of the chart from which the package's manifest was rendered."""
    found = re.search(r"^# sha256 of the chart: (\w+)$", manifest.BASE.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def base_manifest() -> str:
    """Return what `kata-dind webhook manifest` begins with: the chart's objects, with placeholders."""
    rendered = {str(mode): list(_rendered(mode)) for mode in CertificateSource}
    first, *others = rendered.values()
    common = [item for item in first if all(item in other for other in others)]
    parts = {mode: [item for item in items if item not in common] for mode, items in rendered.items()}
    settings = {"policy.registry.lookup": "true"}
    lookups = {
        manifest.LOOKUPS: list(_of_lookups(first, settings)),
        manifest.PULL_SECRETS: list(
            _of_lookups(first, {**settings, "policy.registry.pullSecrets": "true", "pullSecretNamespaces": "{*}"})
        ),
    }
    return _BASE_HEAD.format(digest=chart_digest()) + dumped({manifest.COMMON: common, **parts, **lookups})


def _of_lookups(usual: list[dict[str, Any]], settings: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what settings of lookups change, but for what `kata_dind.webhook.manifest` computes."""
    for item in _rendered(CertificateSource.JOB, settings):
        if item not in usual and item["kind"] not in ("ConfigMap", "Deployment", "MutatingWebhookConfiguration"):
            yield item


def _rendered(mode: CertificateSource, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[dict[str, Any]]:
    settings = {
        "certs.mode": str(mode),
        "certs.secretName": manifest.SECRET if mode is CertificateSource.PROVIDED else "",
        "certs.caBundle": "LS0tCg==" if mode is CertificateSource.PROVIDED else "",
        "image.repository": manifest.IMAGE,
        "serviceMonitor.enabled": "true",
        "dashboard.enabled": "true",
        **more,
    }
    chart, place = str(CHART), f"--namespace={manifest.NAMESPACE}"
    flags = [f"--set={name}={value}" for name, value in settings.items()]
    argv = [str(build_helm.require_helm()), "template", "kata-dind", chart, place, "--skip-tests", *flags]
    rendered = run([*argv, "--kube-version=1.37.0"], timeout_seconds=60).stdout
    for item in parse_yaml(rendered, name=f"certs.mode={mode}"):
        # Helm has no part in what is printed without it.
        labels = item["metadata"]["labels"]
        del labels["helm.sh/chart"]
        labels["app.kubernetes.io/managed-by"] = "kata-dind"
        yield item


_PRODUCTS: dict[Path, Callable[[], str]] = {
    CHART / "README.md": readme,
    CHART / "values.schema.json": schema,
    manifest.BASE: base_manifest,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
