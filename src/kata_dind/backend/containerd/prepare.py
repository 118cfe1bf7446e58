"""From a spec to a plan on this host's containerd: its handler, the kind of the data root, the image."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from kata_dind.backend import StoredRoot, Wish
from kata_dind.backend.containerd.client import Containerd, connected
from kata_dind.backend.containerd.handlers import Ability, Handler, Hole, choose_handler
from kata_dind.backend.containerd.images import PodImage, require_image
from kata_dind.backend.containerd.plan import NAME, VOLUME, Annotation, Pod, PodPlan, PodShare, pod_plan, volume_label
from kata_dind.backend.containerd.pods import POD_READY
from kata_dind.backend.containerd.survey import survey
from kata_dind.backend.dockerd import ASKS_FOR_PORTS, dockerd_argv, why_not_told
from kata_dind.backend.host_checks import check_against_host, require_compatible
from kata_dind.backend.plan import Plan, PlannedImage
from kata_dind.dataroot.kinds import KINDS, DataRootNeeds
from kata_dind.errors import ContainerdError, DataRootBusy, PermissionMissing, PlanOutdated, SpecError
from kata_dind.progress import Report
from kata_dind.spec import SandboxSpec
from kata_dind.vocabulary import DataRootKind

_ABILITIES = {
    DataRootKind.BLOCK: Ability.BLOCK,
    DataRootKind.LOOP: Ability.LOOP,
    DataRootKind.MEMORY: Ability.MEMORY,
    DataRootKind.VIRTIOFS: Ability.VIRTIOFS,
}
_BY_PREFERENCE = (DataRootKind.BLOCK, DataRootKind.LOOP, DataRootKind.MEMORY)


def prepare(wish: Wish, *, report: Report) -> PodPlan:
    """Check a wish against this host, let containerd have its image, and plan; the sandbox's directory is not touched.

    Raises SpecError, PermissionMissing, ContainerdError, ImageError, DataRootBusy.
    """
    spec = wish.spec
    if os.geteuid() != 0:
        raise PermissionMissing(
            "--backend: containerd is for root only",
            id="containerd.not-permitted",
            hint="run the command as root, or use --backend vm, which needs no root",
        )
    check_against_host(spec)
    before = _before(wish)
    with connected(spec.containerd_address) as containerd:
        handler = require_handler(survey(containerd).handlers, spec)
        needs, reason = _data_root(handler, spec, wish.stored)
        _require_kernel(handler, spec)
        if wish.stored:
            _require_unused(containerd, wish.stored, identity=before.own.identity if before else "")
        image = require_image(containerd, spec.image, earlier=before.image.reference if before else "", report=report)
    if wish.stored:
        require_compatible(wish.stored, image.docker_version, spec.dockerd_args, fallback=spec.fallback)
    return _plan(wish, _Chosen(handler, needs, reason, image), identity=before.own.identity if before else "")


def _before(wish: Wish) -> PodPlan | None:
    try:
        return pod_plan(wish.before) if wish.before and wish.before.backend == NAME else None
    except PlanOutdated:
        return None


# --- the handler


def require_handler(handlers: tuple[Handler, ...], spec: SandboxSpec) -> Handler:
    """Return the handler that a spec names, or the best of Kata's.

    Raises SpecError for one that is unknown or must be allowed, ContainerdError where none fits.
    """
    if not spec.handler:
        return _chosen(handlers)
    handler = next((each for each in handlers if each.name == spec.handler), None)
    if handler is None:
        known = ", ".join(each.name for each in handlers) or "none"
        raise SpecError(f"--handler: {spec.handler!r} is not one of containerd's, which are {known}",
                        id="containerd.unknown-handler", hint="kata-dind backends")  # fmt: skip
    if not handler.is_kata and not spec.allow_shared_kernel:
        raise SpecError(
            f"--handler: {spec.handler!r} does not run a virtual machine (its type is {handler.runtime_type}), so root "
            "in the sandbox would be root on this host",
            id="containerd.shared-kernel",
            hint="choose one of Kata's (kata-dind backends), or say --allow-shared-kernel",
        )
    verdict = handler.can(Ability.START)
    if not verdict.can:
        raise ContainerdError(f"the handler {spec.handler} can't run a sandbox: {verdict.why}",
                              id="containerd.handler-unfit", hint=verdict.change)  # fmt: skip
    sure = [hole for hole in handler.holes if hole.is_sure]
    if sure and not spec.allow_known_holes:
        raise SpecError(
            f"--handler: {spec.handler!r} has a known way out of its virtual machine: {sure[0].fault}",
            id="containerd.known-hole",
            details="\n".join([f"Kata is {handler.version}", *(hole.fault for hole in sure[1:])]),
            hint=f"{_closing(sure)}, or say --allow-known-holes",
        )
    return handler


def _closing(holes: Sequence[Hole]) -> str:
    """Return what closes all of some holes."""
    changes = [hole.change for hole in holes]
    return "; ".join(changes) if all(changes) else "use a later Kata"


def _chosen(handlers: tuple[Handler, ...]) -> Handler:
    handler = choose_handler(handlers)
    if handler is not None:
        return handler
    katas = [each for each in handlers if each.is_kata]
    if not katas:
        known = ", ".join(f"{each.name} ({each.runtime_type})" for each in handlers) or "none"
        raise ContainerdError(
            "containerd has no handler of Kata's",
            id="containerd.no-kata",
            details=f"its handlers are: {known}",
            hint="install Kata Containers and name its shim in containerd's config.toml, "
            "or use --backend vm, which needs no Kata",
        )
    reasons = [_why_unfit(each) for each in katas]
    raise ContainerdError("none of Kata's handlers is fit for a sandbox", id="containerd.handler-unfit",
                          details="\n".join(reasons), hint="kata-dind backends tells which line to change")  # fmt: skip


def _why_unfit(handler: Handler) -> str:
    verdict = handler.can(Ability.START)
    faults = [hole.fault for hole in handler.holes]
    return f"{handler.name}: {verdict.why or '; '.join(faults)}"


# --- the data root


def _data_root(handler: Handler, spec: SandboxSpec, stored: StoredRoot | None) -> tuple[DataRootNeeds, str]:
    if spec.data_root is DataRootKind.AUTO:
        kind = next(each for each in _BY_PREFERENCE if handler.can(_ABILITIES[each]).can)
        return KINDS[kind], f"{kind} is the fastest kind that the handler {handler.name} has"
    verdict = handler.can(_ABILITIES[spec.data_root])
    if not verdict.can:
        whose = f"the volume '{stored.volume}' is of the kind {spec.data_root}" if stored else f"'{spec.data_root}'"
        raise SpecError(
            f"--data-root: {whose}, which the handler {handler.name} can't give: {verdict.why}",
            id="containerd.data-root-unfit",
            hint=verdict.change,
        )
    return KINDS[spec.data_root], (
        f"the volume '{stored.volume}' has a data root of this kind" if stored else "as asked"
    )


def _require_kernel(handler: Handler, spec: SandboxSpec) -> None:
    verdict = handler.can(Ability.KERNEL)
    if spec.kernel is not None and not verdict.can:
        raise SpecError(f"--kernel: the handler {handler.name} takes none from a sandbox: {verdict.why}",
                        id="containerd.kernel-unfit", hint=verdict.change)  # fmt: skip


def _require_unused(containerd: Containerd, stored: StoredRoot, *, identity: str) -> None:
    """Raise DataRootBusy where a pod has the volume, although nobody holds its lock: its owner may have been killed."""
    labels = {VOLUME: volume_label(stored.directory)}
    pods = containerd.call("RuntimeService/ListPodSandbox", filter={"label_selector": labels},
                           failing="the pods could not be listed")  # fmt: skip
    for pod in pods.items:
        if pod.state == POD_READY and pod.metadata.uid != identity:
            raise DataRootBusy(
                f"the volume '{stored.volume}' is in use by the sandbox '{pod.metadata.name}'",
                id="volume.used-by-running-sandbox",
                hint=f"kata-dind stop {pod.metadata.name}, or use another volume",
            )


# --- the plan


class _Chosen(NamedTuple):
    handler: Handler
    needs: DataRootNeeds
    reason: str
    image: PodImage


def _plan(wish: Wish, chosen: _Chosen, *, identity: str) -> PodPlan:
    spec, handler, needs = wish.spec, chosen.handler, chosen.needs
    kernel = str(spec.kernel.absolute()) if spec.kernel else ""
    annotations = handler.annotations_for(virtiofs=needs.xattr, kernel=kernel)
    argv = (*dockerd_argv(chosen.image), ASKS_FOR_PORTS, *spec.dockerd_args)
    return Plan(
        backend=NAME,
        name=spec.name,
        image=PlannedImage(chosen.image.reference, chosen.image.image_id),
        accelerator=handler.name,
        accelerator_reason="as asked" if spec.handler else "the first of Kata's handlers that can do most",
        kernel_version="",
        cpus=spec.cpus,
        memory_mib=spec.memory_bytes >> 20,
        data_root=needs.kind,
        data_root_reason=chosen.reason,
        data_root_mib=spec.size_bytes >> 20 if needs.sized else 0,
        fallback=spec.fallback,
        timeout_seconds=spec.timeout_seconds,
        own=Pod(
            address=spec.containerd_address.absolute(),
            handler=handler.name,
            identity=identity or uuid.uuid4().hex,
            isolated=handler.is_kata,
            argv=argv,
            filesystem=spec.filesystem,
            network=spec.network,
            data_directory=wish.stored.directory if wish.stored else wish.directory,
            shares=tuple(
                PodShare(share.host_path.absolute(), str(share.guest_path), share.read_only) for share in spec.shares
            ),
            annotations=tuple(Annotation(name, value) for name, value in annotations.items()),
        ),
        volume=wish.stored.volume if wish.stored else "",
        warnings=tuple(filter(None, (*_warnings(handler), why_not_told(argv)))),
        outlives_owner=True,
    )


def _warnings(handler: Handler) -> list[str]:
    if not handler.is_kata:
        return [
            f"nothing isolates this sandbox: the handler {handler.name} runs no virtual machine, so root in it is "
            "root on this host"
        ]
    return [
        f"the virtual machine {'is' if hole.is_sure else 'may be'} no boundary: {hole.fault}" for hole in handler.holes
    ]
