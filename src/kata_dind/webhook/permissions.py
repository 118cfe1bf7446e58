"""What the webhook and `kata-dind webhook certs` may do in a cluster: the least that they need, as rules of RBAC.

A test compares the chart with it, and tests on an API server run with these rights and no others.
"""

from __future__ import annotations

from typing import Any

Rule = dict[str, Any]


def secret_rules(secret: str) -> list[Rule]:
    """Return the rules of a Role in the webhook's namespace, where the Secret exists, be it empty."""
    return [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get", "patch"]}]


def creation_rules() -> list[Rule]:
    """Return what that Role needs as well where the Secret has to be made.

    The name of what is created can't be limited by a rule, since a request to create has none. Source: "Using RBAC
    Authorization" in the documentation of Kubernetes.
    """
    return [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]


def pull_secret_rules() -> list[Rule]:
    """Return the rules of a ClusterRole, or of Roles in the pods' namespaces, for a policy with `pullSecrets`."""
    return [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]


def configuration_rules(configuration: str) -> list[Rule]:
    """Return the rules of a ClusterRole: the configuration is in no namespace."""
    return [
        {
            "apiGroups": ["admissionregistration.k8s.io"],
            "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": [configuration],
            "verbs": ["get", "patch"],
        }
    ]
