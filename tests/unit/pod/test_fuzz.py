"""The corpus, damaged at random: whatever a document has become, nothing crashes, hangs, or makes valid pods invalid.

`scripts/fuzz` does the same for as long as one likes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kata_dind.errors import SpecError
from kata_dind.manifest import edited, read_documents
from kata_dind.pod.detect import detect
from kata_dind.pod.model import Place
from kata_dind.pod.places import config_maps_in, find_pods, translate
from kata_dind.pod.policy import Policy
from kata_dind.pod.repair import repair
from tests.unit.pod.cases import CORPUS, read_corpus
from tests.unit.pod.test_corpus import assert_valid, patched, policy_of, script, without_aliases

CASES = read_corpus()
DOCUMENTS = [
    without_aliases(document.data)
    for case in CASES
    for document in read_documents(case.text, case.file)
    if isinstance(document.data, Mapping)
]
POLICIES = ["", *sorted(path.stem for path in (CORPUS / "policies").iterdir())]
_SECONDS = 10.0
"""Far more than any document of this size takes on a busy machine; a hang is what it is there for."""

# To make an example smaller takes minutes, with a validation at each step.
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_FEW = settings(max_examples=120, phases=_PHASES, suppress_health_check=list(HealthCheck))

_WORDS = (
    *(
        "dockerd",
        "dockerd-entrypoint.sh",
        "docker:dind",
        "docker:27-dind",
        "docker:29-dind-rootless",
        "kata",
        "kata-fc",
    ),
    *(
        "--data-root",
        "--data-root=",
        "--data-root=../..",
        "--storage-driver=vfs",
        "-s",
        "-g",
        "$(A",
        "$(A)",
        "$$",
        "sh",
    ),
    *(
        "-c",
        "/var/lib/docker",
        "/",
        "",
        ".",
        "..",
        "//",
        "~",
        "1e9Gi",
        "-1",
        "0",
        "NaN",
        "20Gi",
        "Memory",
        "true",
        "off",
    ),
    *("sh -c 'dockerd", "dockerd <<EOF", "mount -o loop x /var/lib/docker;dockerd", "`", '"', "'", "\\", "${A:-$(b)}"),
    *("\u0000", "\u2028", "🐋" * 40, "a." * 20_000 + "!", "x" * 100_000, "(" * 3000, "$(" * 3000, "{" * 500, "\ud800"),
    *("kata-dind.io/repair", "kata-dind.io/size", "runtimeClassName: kata", "{runtimeClassName: [", "&a [*a]", "!!x y"),
)
_KEYS = (
    *("spec", "template", "podTemplate", "containers", "initContainers", "image", "command", "args", "env", "name"),
    *("value", "valueFrom", "volumeMounts", "mountPath", "subPath", "volumes", "emptyDir", "medium", "sizeLimit"),
    *("securityContext", "privileged", "runAsUser", "hostUsers", "runtimeClassName", "annotations", "metadata", "kind"),
    *("containerMode", "podSpecPatch", "sidecars", "taskSpec", "items", "yaml", "resources", "limits", "memory", "~1/"),
)


def _value(random: Random) -> Any:
    depth = random.choice((3, 40, 200))
    return random.choice(
        [
            *(None, True, False, 0, -1, 2**80, 1.5, float("inf"), [], {}, [None], {"": None}, [[]], [{}], {"a": [1]}),
            *(random.choice(_WORDS) for _ in range(12)),
            {random.choice(_KEYS): random.choice(_WORDS) for _ in range(4)},
            [{"name": "A", "value": "$(A)"}, {"name": "A", "value": "$(B)"}, {"name": "B", "value": "$(A)$(A)"}],
            [random.choice(_WORDS[:50]) for _ in range(6)],
            _nested(depth, random),
        ]
    )


def _nested(depth: int, random: Random) -> Any:
    value: Any = random.choice(_WORDS[:40])
    key = random.choice(_KEYS)
    for _ in range(depth):
        value = [value] if random.random() < 0.5 else {key: value}
    return value


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield all lists and mappings, each with each of its keys."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, child in pairs:
        yield value, key
        yield from _spots(child)


def damage(document: Any, random: Random) -> None:
    """Change a document in place, at up to five spots."""
    for _ in range(random.randint(1, 5)):
        spots = list(_spots(document))
        if not spots:
            return
        holder, key = random.choice(spots)
        match random.randrange(7):
            case 0:
                del holder[key]
            case 1 | 2:
                holder[key] = _value(random)
            case 3:
                other, place = random.choice(spots)
                holder[key] = without_aliases(other[place])
            case 4 if isinstance(holder, list):
                holder.insert(random.randrange(len(holder) + 1), without_aliases(holder[key]))
            case 5 if isinstance(holder, dict):
                holder[random.choice(_KEYS)] = holder.pop(key)
            case 6 if isinstance(holder[key], str):
                text = holder[key]
                at = random.randrange(len(text) + 1)
                holder[key] = text[:at] + random.choice(_WORDS) + text[at + random.randrange(3) :]
            case _:
                holder[key] = random.choice(_WORDS)


def examine(document: Mapping[str, Any], policy: Policy) -> None:
    """Find, repair and patch all pods of a document, and look at what came out."""
    config_maps = config_maps_in([document])
    was_valid = _is_valid(document)
    for place in find_pods(document):
        detection = detect(place.pod, policy, config_maps=config_maps, claim_templates=place.claim_templates)
        result = repair(
            place.pod,
            policy,
            script=script,
            config_maps=config_maps,
            claim_templates=place.claim_templates,
            detection=detection,
        )
        after = patched(place.pod, result.patch)
        again = repair(after, policy, script=script, config_maps=config_maps, claim_templates=place.claim_templates)
        assert again.patch == (), again.reasons
        _check_document(document, place, result.patch, was_valid=was_valid)


def _check_document(document: Mapping[str, Any], place: Place, patch: Any, *, was_valid: bool) -> None:
    own, elsewhere = translate(place, patch)
    if any(not operation["path"].startswith("/metadata") for operation in elsewhere):
        return
    after = patched(document, own)
    if was_valid:
        assert_valid(after)


def _is_valid(document: Mapping[str, Any]) -> bool:
    try:
        assert_valid(document)
    except Exception:  # noqa: BLE001 the validator has its limits, too: lone surrogates, kinds without a schema
        return False
    return True


@_FEW
@given(st.integers(0, len(DOCUMENTS) - 1), st.sampled_from(POLICIES), st.integers(0, 2**32))
def test_a_damaged_document_is_examined_and_patched(which: int, policy: str, seed: int) -> None:
    document = without_aliases(DOCUMENTS[which])
    damage(document, Random(seed))
    started = time.process_time()
    examine(document, policy_of(policy))
    assert time.process_time() - started < _SECONDS


_SNIPPETS = (
    *(
        "---\n",
        "...\n",
        "- ",
        ": ",
        "\t",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<: *a\n",
        "!!binary ",
        "!t ",
        "| \n",
        ">-\n",
    ),
    *(
        "'",
        '"',
        "#",
        "%YAML 1.1\n",
        "\r\n",
        "\ufeff",
        "\u0085",
        "\x00",
        "? ",
        "yes",
        "0o17",
        "1_000",
        ".nan",
        "~",
        "= ",
    ),
    *(
        "&a [*a, *a]",
        "{{ .Values.x }}",
        "spec:\n",
        "  containers:\n",
        "{a: &x [*x]}",
        "\n\n\n",
        "  ",
        "'''",
        '"""',
        "[[x]]\n",
    ),
)


def damaged_text(text: str, random: Random) -> str:
    """Return a text with up to six changes."""
    for _ in range(random.randint(1, 6)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((0, 1, 1, 2, 8, 60)))
        match random.randrange(4):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:start] + random.choice(_SNIPPETS) + text[start:]
            case 2:
                text = text[:end] + text[start:end] * random.randint(1, 3) + text[end:]
            case _:
                text = text[:start] + random.choice(_SNIPPETS) + text[end:]
    return text


def read_and_edit(text: str | bytes, name: str, policy: Policy) -> None:
    """Read a text, and write the repair of each document into it; a SpecError is the only way to refuse it."""
    try:
        documents = list(read_documents(text, name))
    except SpecError:
        return
    for document in documents:
        if not isinstance(document.data, Mapping):
            continue
        for place in find_pods(document.data):
            result = repair(place.pod, policy, script=script, claim_templates=place.claim_templates)
            own, elsewhere = translate(place, result.patch)
            if own and not any(not operation["path"].startswith("/metadata") for operation in elsewhere):
                (read,) = read_documents(edited(document, own), name)
                assert read.data == patched(document.data, own)


@_FEW
@given(st.integers(0, len(CASES) - 1), st.integers(0, 2**32))
def test_a_damaged_text_is_read_or_refused(which: int, seed: int) -> None:
    case = CASES[which]
    text = damaged_text(case.text, Random(seed))
    started = time.process_time()
    read_and_edit(text, case.file, policy_of(case.policy))
    assert time.process_time() - started < _SECONDS


def test_deep_documents_are_walked_or_refused() -> None:
    for depth in (100, 900, 20_000):
        text = "a: " + "[" * depth + "]" * depth
        read_and_edit(text, "deep.yaml", Policy())
        read_and_edit('{"a": ' + "[" * depth + "]" * depth + "}", "deep.json", Policy())
        read_and_edit("".join(" " * i + "a:\n" for i in range(min(depth, 900))), "deep.yaml", Policy())
    document: dict[str, Any] = {"spec": {"containers": [{"image": "docker:dind"}], "runtimeClassName": "kata"}}
    for _ in range(800):
        document = {"spec": document, "items": [{}]}
    assert list(find_pods(document)) == [], "nobody nests as deep"


def test_bombs_of_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 {image: x, name: y}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    started = time.process_time()
    read_and_edit("\n".join(lines) + "\n", "bomb.yaml", Policy())
    read_and_edit("kind: List\nitems: *x\nx: &x []\n", "order.yaml", Policy())
    read_and_edit("x: &x {kind: List, items: [*x]}\n", "self.yaml", Policy())
    assert time.process_time() - started < _SECONDS
