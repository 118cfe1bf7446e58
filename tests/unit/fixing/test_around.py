"""What else lies in a file: which of it a pod of a namespace may mount, and that this is worked out once."""

from __future__ import annotations

from typing import Any

from kata_dind.fixing.around import around_with


def config_map(name: str, namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"kind": "ConfigMap", "metadata": metadata, "data": {"key": name}}


def test_a_pod_reaches_what_is_in_its_namespace_or_names_none() -> None:
    around = around_with([config_map("own", "a"), config_map("other", "b"), config_map("any")], None)
    reached = {namespace: set(around.config_maps_of(namespace)) for namespace in ("a", "b", "c", "")}
    assert reached == {"a": {"own", "any"}, "b": {"other", "any"}, "c": {"any"}, "": {"own", "other", "any"}}


def test_thousands_of_pods_do_not_gather_thousands_of_objects_each() -> None:
    around = around_with([config_map("own", "a"), config_map("any")], None)
    assert around.config_maps_of("a") is around.config_maps_of("a")
    assert around.claims_of("") is around.claims_of("")
    assert around.config_maps_of("c") is around.config_maps_of("d")
