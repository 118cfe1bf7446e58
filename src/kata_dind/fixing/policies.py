"""The administrator's policy, from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kata_dind.errors import SpecError
from kata_dind.fixing.inputs import unreadable
from kata_dind.manifest import parse_yaml
from kata_dind.pod.policy import Policy, parse_policy

_MOST_BYTES = 4 << 20


def load_policy(name: str) -> Policy:
    """Return the policy in a file, or the default one for an empty name. Raises SpecError with file, line or field."""
    if not name:
        return Policy()
    data = _read(name)
    try:
        return parse_policy(data)
    except SpecError as error:
        raise SpecError(f"{name}: {error.summary}", id=error.id, details=error.details, hint=error.hint) from error


def _read(name: str) -> Any:
    path = Path(name)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SpecError(f"{name}: it is too large for a policy", id="spec.unreadable-file")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{name}: it is not text in UTF-8", id="spec.not-text") from error
    except OSError as error:
        raise unreadable(name, error) from error
    found = list(parse_yaml(text, name=name))
    if len(found) > 1:
        raise SpecError(f"{name}: it has {len(found)} documents, and a policy is one", id="spec.wrong-value")
    return found[0] if found else None


DEFAULT_TEXT = """\
# A policy for `kata-dind fix --policy FILE` and for the webhook. Each field is optional, and what is written here holds
# without it. `kata-dind policy check FILE` explains a policy; `kata-dind policy schema` is for editors.

# Which RuntimeClasses are Kata's. The first that matches a pod's class counts; a class that none matches is left alone.
# What a class can do is known from its handler's name; the fields in comments say otherwise.
runtimeClasses:
  - match: kata                 # a name, or a pattern
  - match: kata-*
    # kata: true                # false: leave the pods of this class alone
    # handler: kata-qemu        # if the handler isn't named as the class
    # version: 4.1.0            # Kata's version on the nodes
    # emptyDir: block-plain    # Kata's emptydir_mode: shared-fs, block-plain or block-encrypted
    # snapshotter: overlayfs    # containerd's: overlayfs, devmapper, erofs or nydus
    # sharing: virtio-fs        # Kata's shared_fs: virtio-fs, inline-virtio-fs, virtio-9p, virtio-fs-nydus or none
    # virtiofsFit: false       # true: virtiofsd runs with --xattr and --modcaps=+sys_admin
    # enableAnnotations: []     # hypervisor annotations that the handler obeys, such as virtio_fs_extra_args
    # blockStorageClass: ""   # a storage class whose volumes can be had with volumeMode: Block
    # directAssigned: []       # storage classes whose file systems Kata mounts in the guest

# Whether a pod without the annotation kata-dind.io/repair is repaired.
repair: true

# What a data root is made of, if the pod's annotations don't say.
dataRoot:
  kind: auto                    # auto, memory, loop, block or virtiofs
  size: 20Gi

# Images of your own, of which the name doesn't tell what they run.
images: []
#  - match: registry.example/ci/builder:*
#    program: dockerd           # dockerd, buildkitd, containerd, dagger or earthly; null: no daemon, whatever its name
#    version: "27.5"
#    entrypoint: [dockerd-entrypoint.sh]   # without it the image gets no wrapper
#    user: 0

# Containers that run dockerd although nothing shows it, by name or pattern.
containers: []

# Mirrors that a repaired dockerd is told to use.
registryMirrors: []

# Certificates of registries, from a ConfigMap or a Secret in the pod's namespace.
certificates: []
#  - host: registry.example:5000
#    configMap: registry-ca     # or secret: its keys are the names of files, such as ca.crt

# How the guest entrypoint comes into a repaired pod: inline (in the manifest itself), image (an image volume, for
# Kubernetes 1.33 and later) or init (copied by an init container). The last two need the image that has it.
delivery: inline
deliveryImage: ""

# What is done about a pod that can't be repaired, and about what the guards find: off, warn or deny.
unrepaired: warn
guards:
  sharedKernel: "off"          # a privileged Docker daemon outside of a virtual machine
  noBoundary: "off"            # a Kata whose version is no boundary for privileged containers
  hostDocker: "off"            # the node's own Docker, by its socket or its data root
  openAnnotations: "off"       # virtio_fs_extra_args in a pod's annotations
"""
"""The default policy as YAML with comments; a test parses it."""
