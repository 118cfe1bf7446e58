"""Write the messages of CRI and of containerd's own interface to src/kata_dind/backend/containerd/stubs.

    pip install grpcio-tools && .venv/bin/python -m scripts.generate_cri

The definitions come from the Go modules in cri/go.mod: cri-api's own api.proto, and of containerd's what an import of
an image needs. Only messages are written, since calls are found in descriptors. The compiler (28 MB) is not one of the
tools of development, since a test tells when what is here is not of these versions.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from scripts import go_modules

VERSIONS = Path(__file__).parent / "cri"
STUBS = Path(__file__).parents[1] / "src/kata_dind/backend/containerd/stubs"
_PACKAGE = "kata_dind/backend/containerd/stubs"
_CONTAINERD = "github.com/containerd/containerd/api"
FILES = {
    "cri": ("k8s.io/cri-api", "pkg/apis/runtime/v1/api.proto"),
    "content": (_CONTAINERD, "services/content/v1/content.proto"),
    "descriptor": (_CONTAINERD, "types/descriptor.proto"),
    "images": (_CONTAINERD, "services/images/v1/images.proto"),
    "leases": (_CONTAINERD, "services/leases/v1/leases.proto"),
}
"""By the name here: the module, and the file in it."""

HEAD = '''"""The messages of CRI and of containerd's interface. Made by scripts/generate_cri.py.

{versions}
"""
'''


def main() -> int:
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / _PACKAGE
        source.mkdir(parents=True)
        for name, (module, path) in FILES.items():
            text = (go_modules.module_directory(module, versions=VERSIONS) / path).read_text()
            text = re.sub(r'import "types/descriptor.proto"', f'import "{_PACKAGE}/descriptor.proto"', text)
            (source / f"{name}.proto").write_text(text)
        google = str(Path(protoc.__file__).parent / "_proto")
        target = f"--python_out=pyi_out:{STUBS.parents[3]}"
        status = protoc.main(["protoc", f"-I{directory}", f"-I{google}", target, *map(str, sorted(source.iterdir()))])
    (STUBS / "__init__.py").write_text(HEAD.format(versions=versions()))
    return int(status)


def versions() -> str:
    """Return which versions of the modules the messages are of."""
    modules = sorted({module for module, _ in FILES.values()})
    return "\n".join(f"{module} {go_modules.version_of(module, versions=VERSIONS)}" for module in modules)


if __name__ == "__main__":
    sys.exit(main())
