"""`kata-dind fix`: find the Docker in pods of others, say what is wrong, repair it."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from kata_dind.cli import completion
from kata_dind.cli.failure import print_error, say
from kata_dind.cli.options import Json, flag, option, require_word, takes_session
from kata_dind.cli.options.cluster import Kubeconfig
from kata_dind.cli.options.pods import PolicyFile
from kata_dind.cli.output import printable, progress
from kata_dind.cli.session import Session
from kata_dind.errors import SpecError
from kata_dind.vocabulary import FixOutput

if TYPE_CHECKING:
    from kata_dind.fixing.cluster import Cluster
    from kata_dind.fixing.formats import Format
    from kata_dind.fixing.inputs import Input
    from kata_dind.fixing.mend import Mender
    from kata_dind.fixing.reports import DocumentReport, Totals
    from kata_dind.pod.policy import Policy

Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE...", show_default=False, help="Files and directories, as with --filename."),
]
Filenames = Annotated[
    list[str] | None,
    option(
        "--filename",
        "-f",
        variable="FIX_FILENAME",
        metavar="FILE|DIR|-",
        help_text="Read manifests from this file, from all below this directory, or from standard input. "
        "May be repeated.",
    ),
]
Output = Annotated[
    str,
    option(
        "--output",
        "-o",
        variable="FIX_OUTPUT",
        metavar="|".join(FixOutput),
        help_text="What to print: yaml, the whole input with the repairs in it; diff; patch, as JSON patches; json, "
        "all that was found; explain, in prose; findings, a line each; github or sarif, for CI.",
        show_default="yaml; findings with --check and for a cluster; changes with --in-place",
        autocompletion=completion.words(FixOutput),
    ),
]
InPlace = Annotated[
    bool,
    flag(
        "--in-place",
        "-i",
        variable="FIX_IN_PLACE",
        help_text="Write the repairs into the files, and print what changed.",
    ),
]
Check = Annotated[
    bool,
    flag(
        "--check",
        variable="FIX_CHECK",
        help_text="Change nothing; exit with 1 if anything needs a repair, also where it can't be made in the file.",
    ),
]
Improve = Annotated[
    bool,
    flag(
        "--improve",
        variable="FIX_IMPROVE",
        help_text="Also change what works, such as a disk that a pod's own script makes, to what works better.",
    ),
]
LookupImages = Annotated[
    bool,
    flag(
        "--lookup-images",
        variable="FIX_LOOKUP_IMAGES",
        help_text="Ask registries what images run whose names don't tell, as registry.lookup in the policy does. "
        "The credentials are the pods' pull secrets and those of Docker's config.json.",
    ),
]
Context = Annotated[
    str,
    option(
        "--context",
        variable="FIX_CONTEXT",
        metavar="NAME",
        help_text="Read the cluster of this context of kubectl's, and no files.",
        show_default="kubectl's current one, if a cluster is read",
        autocompletion=completion.kube_contexts,
    ),
]
Namespace = Annotated[
    str,
    option(
        "--namespace",
        "-n",
        variable="FIX_NAMESPACE",
        metavar="NAME",
        help_text="Read this namespace of the cluster.",
        show_default="the context's",
    ),
]
All = Annotated[bool, flag("--all", variable="FIX_ALL", help_text="Read all workloads in a namespace of the cluster.")]
AllNamespaces = Annotated[
    bool,
    flag("--all-namespaces", "-A", variable="FIX_ALL_NAMESPACES", help_text="Read the workloads of all namespaces."),
]

_UNENCODABLE = "backslashreplace"
_SPOOLED_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is done with what was found."""

    format: Format
    output: str
    in_place: bool
    mender: Mender


@takes_session
def fix(
    session: Session,
    files: Paths = None,
    *,
    filename: Filenames = None,
    output: Output = "",
    in_place: InPlace = False,
    check: Check = False,
    improve: Improve = False,
    lookup_images: LookupImages = False,
    policy: PolicyFile = "",
    kube_context: Context = "",
    kubeconfig: Kubeconfig = "",
    namespace: Namespace = "",
    all: All = False,
    all_namespaces: AllNamespaces = False,
    json: Json = False,
) -> None:
    """Repair pods that run Docker on a Kata RuntimeClass.

    Manifests in YAML and JSON, and GitLab Runner's config.toml, are read: pods, all that makes pods, Lists, and chart
    values. What has no Docker in it, or is not Kata's, is printed as it was. A cluster is only read, through kubectl.
    """
    from kata_dind.fixing.cluster import Cluster
    from kata_dind.fixing.formats import format_of
    from kata_dind.policies import load_policy

    given = [*(filename or ()), *(files or ())]
    is_cluster = kube_context or kubeconfig or namespace or all or all_namespaces
    cluster = Cluster(kube_context, namespace, all_namespaces, kubeconfig) if is_cluster else None
    _refuse_contradictions(given, cluster, output=output, in_place=in_place, check=check)
    output = output or ("json" if json else "changes" if in_place else "findings" if check or cluster else "yaml")
    wish = _Wish(format_of(output), output, in_place, _mender(load_policy(policy), improve, lookup_images))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What others read is UTF-8 in every locale; names of files may be no text at all.
        sys.stdout.reconfigure(encoding="utf-8", errors=_UNENCODABLE)
    totals = _fix_cluster(session, cluster, wish) if cluster else _fix_files(session, given, wish)
    if not session.quiet and output in ("changes", "findings", "yaml"):
        _say_totals(totals, output)
    if totals.errors:
        raise typer.Exit(SpecError.exit_code)
    if check and totals.need_repair:
        raise typer.Exit(1)


def _mender(policy: Policy, improve: bool, lookup_images: bool) -> Mender:
    from kata_dind.fixing.mend import Mender
    from kata_dind.fixing.told import images_of

    return Mender(policy, improve, images_of(policy) if lookup_images or policy.registry.lookup else None)


def _refuse_contradictions(
    given: Sequence[str], cluster: Cluster | None, *, output: str, in_place: bool, check: bool
) -> None:
    if output:
        require_word("--output", output, FixOutput)
    if not given and cluster is None:
        raise SpecError(
            "what to read is missing: a file, a directory or - for standard input; or --all for a cluster's workloads",
            id="spec.wrong-usage",
            hint="kata-dind fix -f pod.yaml -o explain",
        )
    if given and cluster is not None:
        raise SpecError(
            "files and a cluster can't be read at once; leave out -f, or --context, --kubeconfig, -n, --all and -A",
            id="spec.wrong-usage",
        )
    if cluster is not None and (in_place or output in ("yaml", "diff")):
        what = "--in-place" if in_place else f"-o {output}"
        raise SpecError(f"{what} is for files; a cluster is only read", id="spec.wrong-usage")
    if in_place and (check or output == "yaml"):
        what = "--check" if check else "-o yaml"
        raise SpecError(f"--in-place changes files, and {what} does not; leave one of them out", id="spec.wrong-usage")
    if in_place and "-" in given:
        raise SpecError("--in-place: standard input can't be changed; leave out -", id="spec.wrong-usage")


def _fix_files(session: Session, given: Sequence[str], wish: _Wish) -> Totals:
    from kata_dind.fixing.inputs import find_inputs
    from kata_dind.fixing.reports import Totals

    totals = Totals()
    inputs = find_inputs(given)
    _refuse_mixture(inputs, wish)
    _write(wish.format.head())
    first = True
    for each in inputs:
        with tempfile.SpooledTemporaryFile(
            _SPOOLED_CHARACTERS, "w+", encoding="utf-8", errors=_UNENCODABLE, newline=""
        ) as spool:
            notes: list[str] = []
            try:
                seen = _fix_file(each, wish, printed=spool, first=first, notes=notes)
            except SpecError as error:
                # Of a file that can't be read to its end nothing is printed, and the others are.
                if len(inputs) == 1:
                    raise
                print_error(error, session, as_json=session.json)
                totals.errors += 1
                continue
            totals.add(seen)
            first = first and not spool.tell()
            spool.seek(0)
            while part := spool.read(1 << 16):
                _write(part if wish.output not in _FOR_PEOPLE else printable(part))
        if notes and not session.quiet:
            say(printable("".join(notes)).rstrip("\n"))
    _write(wish.format.tail(totals))
    return totals


_FOR_PEOPLE = frozenset(("explain", "findings", "changes"))


def _refuse_mixture(inputs: Sequence[Input], wish: _Wish) -> None:
    toml = next((each.name for each in inputs if each.name.endswith(".toml")), "")
    if toml and len(inputs) > 1 and wish.output == "yaml":
        raise SpecError(
            f"{toml}: it is TOML, which can't be printed among other files; use -o diff or --in-place",
            id="spec.wrong-usage",
        )


def _fix_file(each: Input, wish: _Wish, *, printed: IO[str], first: bool, notes: list[str]) -> Totals:
    from kata_dind.fixing.around import look_around
    from kata_dind.fixing.inputs import open_input, require_regular
    from kata_dind.fixing.replace import replacing
    from kata_dind.fixing.reports import Totals

    totals = Totals()
    if wish.in_place:
        require_regular(each)
    with contextlib.ExitStack() as stack:
        text = stack.enter_context(open_input(each))
        around = look_around(
            text, source=each.name, policy=wish.mender.policy, with_secrets=wish.mender.images is not None
        )
        reports: Iterable[DocumentReport] = wish.mender.documents(text, source=each.name, around=around)
        reports = _counted(reports, totals, notes if wish.output == "yaml" else None)
        if not wish.in_place:
            _spool(wish.format.of_file(reports, first=first), printed)
            return totals
        new = stack.enter_context(replacing(Path(each.name), opened=text))
        _spool(wish.format.of_file(_written(reports, new.file), first=first), printed)
        if totals.repaired:
            new.keep()
            totals.changed_files.append(each.name)
    return totals


def _spool(parts: Iterable[str], printed: IO[str]) -> None:
    # Its writelines() would keep all of it in memory until the end.
    for part in parts:
        printed.write(part)


def _counted(reports: Iterable[DocumentReport], totals: Totals, notes: list[str] | None) -> Iterator[DocumentReport]:
    from kata_dind.fixing.formats.as_changes import changes

    for report in reports:
        totals.count(report)
        if notes is not None:
            notes += changes(report)
        yield report


def _written(reports: Iterable[DocumentReport], file: IO[str]) -> Iterator[DocumentReport]:
    for report in reports:
        file.write(report.mended())
        yield report


def _fix_cluster(session: Session, cluster: Cluster, wish: _Wish) -> Totals:
    from kata_dind.fixing.cluster import examine_cluster
    from kata_dind.fixing.reports import Totals

    totals = Totals()
    with progress(session) as shown:
        reports = _counted(examine_cluster(cluster, wish.mender, report=shown.report), totals, None)
        begun = False
        for part in wish.format.of_file(reports, first=True):
            # The head waits for the first answer: an error of kubectl's comes before anything is printed.
            if not begun:
                _write(wish.format.head())
            begun = True
            _write(printable(part) if wish.output in _FOR_PEOPLE else part)
    if not begun:
        _write(wish.format.head())
    _write(wish.format.tail(totals))
    return totals


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text)


def _say_totals(totals: Totals, output: str) -> None:
    sys.stdout.flush()
    pods = "1 pod" if totals.pods == 1 else f"{totals.pods} pods"
    if not totals.with_engines and not totals.need_repair:
        say(f"kata-dind: {pods}, none with Docker")
        return
    left = f", {totals.unrepaired} not to be repaired here" if totals.unrepaired else ""
    word = "repaired" if output in ("changes", "yaml") else "to be repaired"
    say(f"kata-dind: {pods}, {totals.with_engines} with Docker, {totals.repaired} {word}{left}")
