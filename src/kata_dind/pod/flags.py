"""The flags of dockerd, which give it away where its name is not known. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kata_dind.pod.argv import names

# Flags of dockerd's that no other program is known to have.
_OWN_FLAGS = names(
    "--userland-proxy --default-address-pool --live-restore --userns-remap --default-ulimit --exec-root --exec-opt "
    "--max-concurrent-downloads --max-concurrent-uploads --max-download-attempts --default-runtime --add-runtime "
    "--init-path --allow-nondistributable-artifacts --default-shm-size --disable-legacy-registry --firewall-backend "
    "--network-control-plane-mtu --default-network-opt --ip6tables --icc --seccomp-profile"
)
# Those that a few have, such as kaniko and Podman.
_RARE_FLAGS = names("--storage-driver --storage-opt --registry-mirror --insecure-registry --data-root --graph")
# Those that many have, such as Flannel and controllers, and so say nothing alone. Some are of Docker's client, too.
_COMMON_FLAGS = names(
    "--mtu --iptables --ip-forward --ip-masq --bip --fixed-cidr --fixed-cidr-v6 --containerd --group --bridge "
    "--metrics-addr --cgroup-parent --shutdown-timeout --config-file --pidfile --oom-score-adjust --selinux-enabled "
    "--no-new-privileges --raw-logs --dns --dns-opt --dns-search --feature --experimental --log-driver --log-opt "
    "--ipv6 --label -g -s -G -b -p -H --host --tls --tlsverify --tlscacert --tlscert --tlskey -D --debug -l --log-level"
)
_DOCKERD_FLAGS = _OWN_FLAGS | _RARE_FLAGS | _COMMON_FLAGS

_FLAG_END = re.compile(r"[=\s]")


def flag_of(word: str) -> str:
    """Return the name of the flag in a word, without its value: `-H unix://x`, `--mtu=1450`, `-s=vfs`, `-svfs`."""
    if word.startswith("--"):
        return _FLAG_END.split(word, maxsplit=1)[0]
    return word[:2]


def flags_weight(words: Sequence[str]) -> int:
    """Return how much arguments look like those of a dockerd whose name isn't known; 0 without a flag of it first."""
    if not words or flag_of(words[0]) not in _DOCKERD_FLAGS:
        return 0
    flags = {flag_of(word) for word in words[:64] if word.startswith("-")} & _DOCKERD_FLAGS
    if flags & _OWN_FLAGS:
        return 3
    if flags & _RARE_FLAGS:
        return 3 if len(flags) > 1 else 2
    return 1
