"""What a policy means: which classes are Kata's, what a Docker pod of each would get, and what looks like a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kata_dind.pod.guard import advisories
from kata_dind.pod.handlers import KATA_4_1_CLASSES, Runtime, Shim, find_handler, runtime_of
from kata_dind.pod.policy import Delivery, EmptyDirMode, Policy, RuntimeClass, Sharing, matches
from kata_dind.pod.sentences import quoted
from kata_dind.vocabulary import DataRootKind

_WILDCARDS = re.compile(r"[*?\[]")
_CLASS_NAME = re.compile(r"[a-z0-9.*?\[\]!-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClassKind:
    """What a Docker pod without a volume at its data root gets in some RuntimeClasses."""

    classes: tuple[str, ...]
    kind: str
    """`block-plain`, `block`, `loop` or `memory`; empty if nothing is changed."""
    because: str
    """A clause, without a full stop."""


@dataclass(frozen=True, slots=True)
class ClassExplanation:
    """What a policy's entry in runtimeClasses means."""

    match: str
    is_kata: bool
    about: str
    """Clauses: which handler it is, and what is known of it."""
    kinds: tuple[ClassKind, ...]
    """For a name, one; for a pattern, what Kata's own classes get that it matches."""
    warnings: tuple[str, ...]


def explain_policy(policy: Policy) -> list[ClassExplanation]:
    """Return what each entry of runtimeClasses means, in their order."""
    return [_explained(policy, index) for index in range(len(policy.runtime_classes))]


def policy_warnings(policy: Policy) -> list[str]:
    """Return what looks like a mistake in the rest of a policy, each with its field first, and without a full stop."""
    found = []
    kata = [rule for rule in policy.runtime_classes if rule.kata]
    if not kata:
        found.append("runtimeClasses: none of them is Kata's, so nothing is ever repaired")
    for index, rule in enumerate(policy.images):
        if earlier := _covering([other.match for other in policy.images[:index]], rule.match):
            found.append(f"images[{index}]: {rule.match!r} is never reached, since {earlier!r} stands before it")
        if rule.program is None and (rule.entrypoint or rule.version):
            found.append(f"images[{index}]: it names no program, so its other fields do nothing")
    if policy.delivery is Delivery.INLINE and policy.delivery_image:
        found.append("deliveryImage: it is not used, since the delivery is inline")
    found += _registry_warnings(policy)
    if policy.data_root.kind is DataRootKind.VIRTIOFS and not any(rule.virtiofs_fit for rule in kata):
        found.append("dataRoot.kind: no runtime class has virtiofsFit, so no pod can get the kind virtiofs")
    return found


def _registry_warnings(policy: Policy) -> Iterator[str]:
    registry = policy.registry
    if registry.lookup and not registry.allowed:
        yield "registry.allowed: it is empty, so no registry is asked"
    for index, pattern in enumerate(registry.allowed):
        if not pattern.strip("*?.:/"):
            yield (
                f"registry.allowed[{index}]: with {pattern!r}, whoever may create a pod chooses which host is asked; "
                "then only private addresses are refused"
            )
        if "://" in pattern:
            yield f"registry.allowed[{index}]: {pattern!r} is a URL, and matches no registry; leave out its scheme"
    for index, host in enumerate(registry.insecure):
        if not any(matches(pattern.partition("/")[0], host) for pattern in registry.allowed):
            yield f"registry.insecure[{index}]: {host!r} is not one of registry.allowed, so it is not asked"


def usual_kind(runtime: Runtime, policy: Policy) -> tuple[str, str]:
    """Return what a privileged Docker pod without a volume at its data root gets, and why; empty for nothing."""
    asked = policy.data_root.kind
    if runtime.left_alone:
        return "", runtime.left_alone
    if runtime.virtiofs_fit:
        return "", "overlay works on the share, so nothing needs a repair"
    if asked is DataRootKind.MEMORY:
        return "memory", "the policy asks for it"
    if asked is DataRootKind.VIRTIOFS:
        return "", "the policy asks for the kind virtiofs, but overlay does not work on the share"
    if asked is not DataRootKind.LOOP:
        if runtime.empty_dir is EmptyDirMode.BLOCK_PLAIN:
            return "block-plain", "Kata makes a disk of each plain emptyDir, so one is enough"
        if runtime.block_storage_class and runtime.block_hotplug:
            return "block", f"the storage class {quoted(runtime.block_storage_class)} gives block devices"
        if asked is DataRootKind.BLOCK:
            return "", "the policy asks for the kind block, but the class has no storage class for block devices"
    if not runtime.loop_works:
        return "", "the guest kernel of Kata 3.13 can't mount a loop disk (kata#10808)"
    if not runtime.shares and runtime.empty_dir is EmptyDirMode.SHARED_FS:
        return "", "the handler shares no directories with its guest, so there is no place for a loop disk"
    if asked is DataRootKind.LOOP:
        return "loop", "the policy asks for it"
    return "loop", "nothing better is there: Kata makes no disks of emptyDirs, and no storage class gives block devices"


def _explained(policy: Policy, index: int) -> ClassExplanation:
    rule = policy.runtime_classes[index]
    earlier = _covering([other.match for other in policy.runtime_classes[:index]], rule.match)
    unreached = f"it is never reached, since {earlier!r} stands before it" if earlier else ""
    if not rule.kata or unreached:
        about = unreached or "its pods are not Kata's, and are left as they are"
        return ClassExplanation(rule.match, rule.kata, about, (), (unreached,) if unreached else ())
    katas = [name for name in KATA_4_1_CLASSES if policy.class_of(name) is rule]
    is_told_by_name = bool(_WILDCARDS.search(rule.match) and katas) and not rule.handler
    # All classes of a pattern with a handler are alike, and the pattern stands for them.
    names = katas if is_told_by_name else [rule.match]
    runtimes = [runtime for name in names if (runtime := runtime_of(name, {}, policy)) is not None]
    about = "what a class can do is told by its name" if is_told_by_name else "; ".join(r.because for r in runtimes)
    handler = "" if is_told_by_name else rule.handler or rule.match
    warnings = (*_rule_warnings(rule, handler), *(said for each in runtimes for said in _class_warnings(each)))
    return ClassExplanation(rule.match, True, about, _grouped(runtimes, policy), tuple(dict.fromkeys(warnings)))


def _grouped(runtimes: list[Runtime], policy: Policy) -> tuple[ClassKind, ...]:
    groups: dict[tuple[str, str], list[str]] = {}
    for runtime in runtimes:
        kind, because = usual_kind(runtime, policy)
        # The reason names the handler, and is the same otherwise.
        key = (kind, because.replace(f" {quoted(runtime.handler)}", "") if len(runtimes) > 1 else because)
        groups.setdefault(key, []).append(runtime.name)
    return tuple(ClassKind(tuple(names), kind, because) for (kind, because), names in groups.items())


def _rule_warnings(rule: RuntimeClass, handler: str) -> Iterator[str]:
    if _CLASS_NAME.fullmatch(rule.match) is None:
        yield "match: the name of a RuntimeClass has a-z, 0-9, - and . alone, so none matches"
    if handler and find_handler(handler) is None:
        yield f"handler: {quoted(handler)} is not one of Kata's own; name the one that it is based on, like kata-qemu"
    if not rule.version:
        yield "version: it is not given, so what depends on it is assumed; give it, like '4.1.0'"
    if rule.virtiofs_fit and rule.sharing not in (None, Sharing.VIRTIO_FS):
        yield f"virtiofsFit: it does nothing with the sharing {rule.sharing}"
    if any(matches(pattern, "virtio_fs_extra_args") for pattern in rule.enable_annotations):
        yield (
            "enableAnnotations: with virtio_fs_extra_args a pod can share any directory of the node with its guest "
            "(GHSA-rr59-xxvx-96qr)"
        )


def _class_warnings(runtime: Runtime) -> Iterator[str]:
    if runtime.left_alone:
        return
    if runtime.direct_assigned and runtime.shim is not Shim.RS and not runtime.is_before(3, 26):
        yield (
            "directAssigned: from Kata 3.26 on, the Go runtime does that only with disable_block_device_use = false "
            "in its configuration"
        )
    if runtime.block_storage_class and not runtime.block_hotplug:
        yield f"blockStorageClass: whether {runtime.vmm} can plug in a block device is not known, so it is not used"
    if runtime.empty_dir is EmptyDirMode.BLOCK_PLAIN and not runtime.block_hotplug:
        yield f"emptyDir: whether {runtime.vmm} can plug in a block device is not known"
    if not runtime.loop_works:
        yield "version: the guest kernel of Kata 3.13 can't mount a loop disk (kata#10808)"
    yield from (f"version: {advisory.fault}" for advisory in advisories(runtime) if advisory.is_sure)


def _covering(earlier: list[str], pattern: str) -> str:
    """Return the first of earlier patterns that matches all that this one does, as far as that is easily told."""
    return next((other for other in earlier if _covers(other, pattern)), "")


def _covers(other: str, pattern: str) -> bool:
    # As a text, a pattern's `*` is matched by another's `*`, but also by its `?`, which must not count.
    is_safe = not _WILDCARDS.search(pattern) or not re.search(r"[?\[]", other)
    return other == pattern or (is_safe and matches(other, pattern))
