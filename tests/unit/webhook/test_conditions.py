"""Which pods the API server asks about: all that the policy speaks of, and hardly any other."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata_dind.pod.policy import Policy, RuntimeClass, parse_policy
from kata_dind.webhook.conditions import pods_condition

CLASS = "object.spec.?runtimeClassName.orValue('')"

_NAME_SIGNS = "ka12.-"
_PATTERNS = st.text(alphabet=f"{_NAME_SIGNS}*?[]!^K", min_size=1, max_size=7)
_SIMPLE_PATTERNS = st.lists(st.sampled_from([*_NAME_SIGNS, "*", "?", "[1-2k]", "[!a]"]), min_size=1, max_size=5)


def holds(expression: str, runtime_class: str) -> bool:
    """Evaluate an expression of ours as an API server does; tests/kube asks a real one."""

    def matched(found: re.Match[str]) -> str:
        return str(re.search(found[1], runtime_class) is not None)

    words = re.sub(rf"{re.escape(CLASS)}\.matches\('([^']*)'\)", matched, expression)
    for sign, word in (("&&", "and"), ("||", "or"), ("!", "not "), ("true", "True"), ("false", "False")):
        words = words.replace(sign, word)
    assert re.fullmatch(r"(True|False|and|or|not|[() ])+", words), words
    return bool(eval(words))


@pytest.mark.parametrize(
    ("rules", "expression"),
    [
        ([{"match": "kata"}, {"match": "kata-*"}], f"{CLASS}.matches('^(kata|kata-.*)$')"),
        ([{"match": "vm.?"}], f"{CLASS}.matches('^(vm[.].)$')"),
        ([{"match": "kata-[a-c1][!0-9]"}], f"{CLASS}.matches('^(kata-[a-c1][^0-9])$')"),
        (
            [{"match": "kata-old", "kata": False}, {"match": "kata-*"}],
            f"({CLASS}.matches('^(kata-.*)$') && !{CLASS}.matches('^(kata-old)$'))",
        ),
        (
            [{"match": "a"}, {"match": "b*", "kata": False}, {"match": "bc"}, {"match": "d"}],
            f"{CLASS}.matches('^(a)$') || ({CLASS}.matches('^(bc|d)$') && !{CLASS}.matches('^(b.*)$'))",
        ),
        ([{"match": "gvisor", "kata": False}], "false"),
        ([], "false"),
    ],
)
def test_rules_become_an_expression(rules: list[dict[str, object]], expression: str) -> None:
    assert pods_condition(parse_policy({"runtimeClasses": rules})) == expression


@pytest.mark.parametrize("pattern", ["K*", "kata_*", "kata-[c-a]", "kata-[", "[]", "[^a]", "it's", "a|b", "x\\"])
def test_a_pattern_that_no_class_needs_lets_all_classes_through_and_takes_none_out(pattern: str) -> None:
    every = f"{CLASS}.matches('^(.*)$')"
    assert pods_condition(Policy(runtime_classes=(RuntimeClass(match=pattern),))) == every
    taken_out = RuntimeClass(match=pattern, kata=False)
    kata = RuntimeClass(match="kata")
    assert pods_condition(Policy(runtime_classes=(taken_out, kata))) == f"{CLASS}.matches('^(kata)$')"


@pytest.mark.parametrize("guard", ["sharedKernel", "hostDocker"])
def test_guards_of_pods_without_a_vm_look_at_every_pod(guard: str) -> None:
    assert pods_condition(parse_policy({"guards": {guard: "warn"}})) == "true"


@pytest.mark.parametrize("guard", ["noBoundary", "openAnnotations"])
def test_guards_of_kata_look_at_no_other_class(guard: str) -> None:
    assert pods_condition(parse_policy({"guards": {guard: "deny"}})) == pods_condition(Policy())


@given(st.lists(st.tuples(_PATTERNS, st.booleans()), max_size=5), st.text(alphabet=_NAME_SIGNS, max_size=5))
def test_no_pod_of_a_class_of_katas_is_ever_missed(rules: list[tuple[str, bool]], name: str) -> None:
    policy = Policy(runtime_classes=tuple(RuntimeClass(match=pattern, kata=kata) for pattern, kata in rules))
    assert holds(pods_condition(policy), name) or policy.class_of(name) is None


@given(st.lists(st.tuples(_SIMPLE_PATTERNS, st.booleans()), max_size=5), st.text(alphabet=_NAME_SIGNS, max_size=5))
def test_by_patterns_that_people_write_only_classes_of_katas_come_through(
    rules: list[tuple[list[str], bool]], name: str
) -> None:
    policy = Policy(runtime_classes=tuple(RuntimeClass(match="".join(parts), kata=kata) for parts, kata in rules))
    assert holds(pods_condition(policy), name) == (policy.class_of(name) is not None)
