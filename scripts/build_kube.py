"""Build Kubernetes' own programs from the Go module proxy, for tests on a real API server and a real kubelet.

    .venv/bin/python -m scripts.build_kube [kube-apiserver|kube-controller-manager|kube-scheduler|kubectl|kubelet]...

The module k8s.io/kubernetes replaces each of its libraries by a directory of its repository, which a module can't have.
So kube/go.mod replaces them by the modules of the same release. What is in $KUBEBUILDER_ASSETS is taken as it is. The
others stay in the cache, and are built again only when their versions change. Measured on two processors, with an empty
build cache: kube-apiserver takes eleven minutes of processor time, kubectl after it one more, and kubelet three.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

from kata_dind.errors import KataDindError
from kata_dind.host.directories import cache_directory
from kata_dind.host.process import find_tool
from kata_dind.image.cache import content_key, require_built
from kata_dind.image.workspace import Goal, Workspace
from scripts import go_modules

VERSIONS = Path(__file__).parent / "kube"
MODULE = "k8s.io/kubernetes"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
_STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def main(argv: list[str]) -> int:
    if not set(argv) <= set(PROGRAMS):
        print(f"usage: python -m scripts.build_kube [{'|'.join(PROGRAMS)}]...", file=sys.stderr)
        return 2
    try:
        for name in argv or PROGRAMS[:1]:
            print(require_program(name))
    except KataDindError as error:
        print("\n".join(filter(None, (error.summary, error.details, error.hint))), file=sys.stderr)
        return 1
    return 0


def find_program(name: str) -> Path | None:
    """Return a program of $KUBEBUILDER_ASSETS or of the cache, None when it has to be built."""
    return _find_asset(name) or next(filter(_is_program, [_place(name) / name]), None)


def find_etcd() -> Path | None:
    """Return the etcd of $KUBEBUILDER_ASSETS, or the one on PATH."""
    return _find_asset("etcd") or find_tool("etcd")


def _find_asset(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    return next(filter(_is_program, [Path(assets) / name]), None) if assets else None


def _is_program(path: Path) -> bool:
    return os.access(path, os.X_OK)


def require_program(name: str) -> Path:
    """Return a program, built when there is none."""
    found = find_program(name)
    if found is not None:
        return found

    def build(workspace: Workspace, product: Path) -> None:
        _build(name, workspace, product)

    goal = Goal(f"build {name} from Go modules", needs_mib=4096)
    return require_built(_place(name), build, cache=cache_directory(), goal=goal) / name


def version() -> str:
    """Return the version that the programs say they have."""
    return go_modules.version_of(MODULE, versions=VERSIONS)


def package_of(name: str) -> str:
    """Return a program's Go package."""
    return f"{MODULE}/cmd/{name}"


def _place(name: str) -> Path:
    key = content_key(go_modules.texts(VERSIONS), name, _stamps(), platform.machine())
    return cache_directory() / "kube" / key


def _stamps() -> str:
    major, minor, _ = version().removeprefix("v").split(".")
    stamps = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X {path}.{key}={value}" for path in _STAMPED for key, value in stamps.items())])


def _build(name: str, workspace: Workspace, product: Path) -> None:
    print(f"building {name} {version()} from Go modules; this takes some minutes", file=sys.stderr)
    began = time.monotonic()
    product.mkdir()
    flags = f"-ldflags={_stamps()}"
    go_modules.go_build([package_of(name)], flags, versions=VERSIONS, workspace=workspace, product=product)
    print(f"built after {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
