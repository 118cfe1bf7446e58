"""The administrator's policy, from its file."""

from __future__ import annotations

from typing import Any

from kata_dind.errors import SpecError
from kata_dind.host.small_files import read_small_text
from kata_dind.manifest import parse_yaml
from kata_dind.pod.policy import Policy, parse_policy

_MOST_BYTES = 4 << 20


def load_policy(name: str) -> Policy:
    """Return the policy in a file, or the default one for an empty name. Raises SpecError with file, line or field."""
    return policy_from_text(policy_text(name), name=name) if name else Policy()


def policy_text(name: str) -> str:
    """Return the text of a policy's file, or that of the default one for an empty name. Raises SpecError."""
    return read_small_text(name, most_bytes=_MOST_BYTES, what="a policy") if name else DEFAULT_TEXT


def policy_from_text(text: str, *, name: str) -> Policy:
    """Return the policy in the text of a file. Raises SpecError with the file's name, and line or field."""
    data = _parsed(text, name)
    try:
        return parse_policy(data)
    except SpecError as error:
        raise SpecError(f"{name}: {error.summary}", id=error.id, details=error.details, hint=error.hint) from error


def _parsed(text: str, name: str) -> Any:
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

# The image of the init container that makes a disk where the daemon's own image has no mkfs.ext4: those of BuildKit and
# Earthly have none. Any image with a shell and e2fsprogs will do; "" for no such init container, and so no repair.
diskImage: docker:29-dind

# Whether registries are asked what images run whose names don't tell. Off, nothing is asked of anybody.
registry:
  lookup: false
  allowed:                      # HOST, HOST:PORT or HOST/REPOSITORY, or patterns of those
    - docker.io
    - ghcr.io
    - quay.io
    - gcr.io
    - "*.gcr.io"
    - "*.pkg.dev"
    - public.ecr.aws
    - registry.gitlab.com
    - mcr.microsoft.com
    - registry.k8s.io
  timeoutSeconds: 3             # for all lookups of one pod
  mirrors: []                   # asked before Docker Hub, as in https://mirror.example
  insecure: []                  # registries that are asked over http
  architecture: ""             # of the nodes, as in arm64; empty: amd64, or what there is
  pullSecrets: false            # true: the webhook reads the pods' pull secrets

# What is done about a pod that can't be repaired, and about what the guards find: off, warn or deny.
unrepaired: warn
guards:
  sharedKernel: "off"          # a privileged Docker daemon outside of a virtual machine
  noBoundary: "off"            # a Kata whose version is no boundary for privileged containers
  hostDocker: "off"            # the node's own Docker, by its socket or its data root
  openAnnotations: "off"       # virtio_fs_extra_args in a pod's annotations
"""
"""The default policy as YAML with comments; a test parses it."""
