"""Put together the root of the image: an interpreter, the libraries that it loads, kata-dind, and little else.

    python3 assemble.py WHEELS ROOT

Runs in the first stage of the Containerfile, with the standard library alone.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from py_compile import PycInvalidationMode

_UNUSED_MODULES = (
    *("__pycache__", "config-*", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages"),
    *("sitecustomize.py", "test", "tests", "tkinter", "turtle.py", "turtledemo", "venv", "curses", "distutils"),
    *("sqlite3", "unittest", "xmlrpc", "_sqlite3.*", "_dbm.*", "_gdbm.*", "_curses*", "_test*"),
    *("_codecs_*", "_multibytecodec.*", "_crypt.*", "_tkinter.*", "audioop.*", "nis.*", "ossaudiodev.*", "readline.*"),
    *("_pyrepl", "antigravity.py", "bdb.py", "cProfile.py", "colorsys.py", "dbm", "doctest.py", "ftplib.py"),
    *("imaplib.py", "mailbox.py", "modulefinder.py", "pdb.py", "poplib.py", "profile.py", "pstats.py", "pyclbr.py"),
    *("rlcompleter.py", "shelve.py", "smtplib.py", "tabnanny.py", "this.py", "trace.py", "wave.py", "webbrowser.py"),
    "xx*",
)
"""Of the standard library: what is for developers, for terminals and for windows, and protocols that nobody speaks."""

_UNUSED_PACKAGES = (
    *("bin", "inotify_simple*", "rich*", "pygments*", "markdown_it*", "mdurl*", "qemu*"),
    # cryptography needs the module that cffi has been compiled to, not what generates such modules.
    *("cffi", "pycparser*"),
)
"""Of what comes with kata-dind: what only its commands for a developer's machine use."""

_SOURCES = ("*.c", "*.h", "*.pxd", "*.pyi", "*.pyx", "py.typed")
"""What modules were compiled from, and what type checkers read."""

_ALSO_LOADED = ("libgcc_s.so.1",)
"""By glibc itself, when a thread ends early."""


def main(wheels: Path, root: Path) -> None:
    site = _under(root, Path(sysconfig.get_path("purelib")))
    stdlib = _under(root, Path(sysconfig.get_path("stdlib")))
    shutil.copytree(
        sysconfig.get_path("stdlib"), stdlib, ignore=shutil.ignore_patterns(*_UNUSED_MODULES), symlinks=True
    )
    _install(wheels, site)
    _copy_interpreter(root)
    _copy_libraries(root, [Path(sys.executable).resolve(), *root.rglob("*.so"), *root.rglob("*.so.*")])
    _copy_settings(root)
    _add_entrypoint(root, site)
    for directory in {stdlib, site}:
        # The files have other times in the image; that they are what was compiled needs no check.
        mode = PycInvalidationMode.UNCHECKED_HASH
        shown = f"/{directory.relative_to(root)}"
        if not compileall.compile_dir(directory, ddir=shown, quiet=1, invalidation_mode=mode, workers=0):
            sys.exit(f"{shown} could not be compiled")


def _under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _install(wheels: Path, site: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", f"--find-links={wheels}", "--no-compile"]
    subprocess.run([*pip, "--root-user-action=ignore", f"--target={site}", "kata-dind[webhook]"], check=True)
    for path in (path for pattern in _UNUSED_PACKAGES for path in site.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in (path for pattern in _SOURCES for path in site.rglob(pattern)):
        path.unlink()


def _copy_interpreter(root: Path) -> None:
    program = Path(sys.executable).resolve()
    _copy(root, program)
    link = root / "usr/bin/python3"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(program)


def _copy_libraries(root: Path, programs: Iterable[Path]) -> None:
    """Copy what programs and modules load, and with it what tells a scanner of which package it is."""
    found: set[Path] = set()
    for program in programs:
        found |= {*_libraries(program)}
    found |= {path for name in _ALSO_LOADED for path in _known_library(name)}
    for library in sorted(path for path in found if not _under(root, path).exists()):
        _copy(root, library)
        _note_package(root, library)


def _libraries(program: Path) -> Iterator[Path]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if found := re.search(r"(?:=> )?(/\S+) \(0x", line):
            yield Path(found[1])


def _known_library(name: str) -> Iterator[Path]:
    for line in subprocess.run(
        ["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if line.strip().startswith(f"{name} "):
            yield Path(line.rpartition("=> ")[2])


def _note_package(root: Path, library: Path) -> None:
    """Keep dpkg's entry of a library's package, by which scanners know its version."""
    for path in (library, library.resolve(), Path("/usr") / library.relative_to("/")):
        if name := _package_of(path):
            entry = subprocess.run(["dpkg-query", "--status", name], capture_output=True, text=True, check=True).stdout
            notes = root / "var/lib/dpkg/status.d" / name.partition(":")[0]
            notes.parent.mkdir(parents=True, exist_ok=True)
            notes.write_text(entry, encoding="utf-8")
            return


def _package_of(path: Path) -> str | None:
    done = subprocess.run(["dpkg-query", "--search", path], capture_output=True, text=True, check=False)
    # Where a package has moved a file of another's, lines such as `diversion by libc6 from: PATH` come as well.
    owners = (line.partition(": ")[0] for line in done.stdout.splitlines() if not line.startswith("diversion "))
    return next(owners, None)


def _copy(root: Path, path: Path) -> None:
    """Copy a file to where it was found, although that may be behind a symbolic link."""
    target = _under(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def _copy_settings(root: Path) -> None:
    for name in ("/etc/os-release", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(name).exists():
            _copy(root, Path(name))
    etc = root / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "passwd").write_text("nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n", encoding="utf-8")
    (etc / "group").write_text("nonroot:x:65532:\n", encoding="utf-8")
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)


def _add_entrypoint(root: Path, site: Path) -> None:
    """Add the guest entrypoint, and the program that copies it."""
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", "kata_dind", "entrypoint"]
    script = subprocess.run(argv, env=environment, capture_output=True, check=True).stdout
    (root / "entrypoint.sh").write_bytes(script)
    (root / "entrypoint.sh").chmod(0o755)
    copier = root / "bin/cp"
    copier.parent.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("cp.py"), copier)
    copier.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
