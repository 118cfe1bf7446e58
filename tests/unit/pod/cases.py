"""The corpus: documents as people write them, each with what is to be found in it and done about it.

A case begins with a line `# corpus: NAME` and ends before the next one; all its documents are one file. A JSON file
has its lines in a file of the same name that ends in `.expect`. The lines that follow the first:

    # policy: NAME          a file in policies/; without it the default holds
    # pods: 1 | any         how many pods are found, one if it isn't said
    # finds: [POD:][LIST/]CONTAINER PROGRAM VERSION [rootless] [by-hand] [root=PATH [backing=B] [outcome=O]]...
    # finds: none | any
    # repair: KIND          loop, memory, block, emptydir: the data root's kind, as the patched pod shows it;
                            tidy: settings alone are taken out; none: all is well, or none of our business;
                            cannot: something is wrong that nobody can patch; not-here: this document can't hold it;
                            alone: no patch, whatever the reason; any: no exception is enough
    # strips: TEXT          no command, argument or variable of the container has this afterwards
    # keeps: NAME           the environment variable of this name stays
    # note: TEXT | TEXT     one of these is in a finding, a reason, or in what the place says
    # valid: no | schema    the documents are not valid; `schema`: the API server refuses what the schemas allow
    # size-below: QUANTITY  the disk's file is smaller than this
    # guard: ID ID | none    what the guards say
    # unrepaired: yes       something stays broken beside what the patch mends

Where more is right than one answer, they stand with `|` between them; `bad` is `slow|fails`, `-` any version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
_START = re.compile(r"^# corpus: *(\S+)\s*$", re.MULTILINE)
_LINE = re.compile(r"# (policy|pods|finds|repair|strips|keeps|note|valid|size-below|guard|unrepaired): *(.*)")
_KINDS = frozenset({"loop", "memory", "block", "emptydir", "tidy", "none", "cannot", "not-here", "alone", "any"})


@dataclass(frozen=True)
class ExpectedRoot:
    """A data root of an engine; an empty set says nothing."""

    paths: frozenset[str]
    backings: frozenset[str]
    outcomes: frozenset[str]


@dataclass(frozen=True)
class ExpectedEngine:
    """An engine that is to be found."""

    text: str
    pod: str
    containers: frozenset[str]
    programs: frozenset[str]
    version: str
    rootless: bool
    by_hand: bool
    roots: tuple[ExpectedRoot, ...]


@dataclass(frozen=True)
class Case:
    """A file's worth of documents, with what is expected."""

    name: str
    file: str
    text: str
    policy: str
    pods: str
    engines: tuple[ExpectedEngine, ...] | None
    """None: any."""
    repairs: frozenset[str]
    strips: str
    keeps: str
    notes: tuple[str, ...]
    valid: str
    size_below: str
    guards: frozenset[str] | None
    """None: not looked at."""
    unrepaired: bool

    @property
    def is_near_miss(self) -> bool:
        """Nothing may be changed in it."""
        return self.repairs <= {"none", "cannot", "not-here", "alone"}


def read_corpus() -> list[Case]:
    """Return all cases, by file and in its order."""
    return [case for path in sorted(CORPUS.iterdir()) if path.is_file() for case in _cases_of(path)]


def _cases_of(path: Path) -> list[Case]:
    if path.suffix == ".expect":
        return []
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return [_case(path.name, path.with_suffix(".expect").read_text(encoding="utf-8"), text)]
    starts = [found.start() for found in _START.finditer(text)]
    assert starts and starts[0] == 0, path
    blocks = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return [_case(path.name, block, block.removesuffix("---\n")) for block in blocks]


def _case(file: str, head: str, text: str) -> Case:
    first, *lines = head.splitlines()
    start = _START.match(first)
    assert start is not None, first
    fields: dict[str, list[str]] = {}
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            break
        fields.setdefault(found[1], []).append(found[2].strip())
    one = {name: values[0] for name, values in fields.items() if name != "finds"}
    assert all(len(values) == 1 for name, values in fields.items() if name != "finds"), head
    repairs = frozenset(one["repair"].split("|"))
    assert repairs <= _KINDS, head
    finds = fields["finds"]
    return Case(
        name=start[1],
        file=file,
        text=text,
        policy=one.get("policy", ""),
        pods=one.get("pods", "1"),
        engines=None if finds == ["any"] else tuple(_engine(line) for line in finds if line != "none"),
        repairs=repairs,
        strips=one.get("strips", ""),
        keeps=one.get("keeps", ""),
        notes=tuple(word.strip() for word in one.get("note", "").split("|") if word.strip()),
        valid=one.get("valid", "yes"),
        size_below=one.get("size-below", ""),
        guards=frozenset(one["guard"].split()) - {"none"} if "guard" in one else None,
        unrepaired=one.get("unrepaired", "no") == "yes",
    )


def _engine(line: str) -> ExpectedEngine:
    place, *words = line.split()
    pod, _, container = place.rpartition(":")
    assert container, line
    program = words.pop(0) if words and "=" not in words[0] else "any"
    version = words.pop(0) if words and "=" not in words[0] and words[0] not in {"rootless", "by-hand"} else "-"
    flags = [word for word in words if "=" not in word]
    assert set(flags) <= {"rootless", "by-hand"}, line
    roots: list[dict[str, str]] = []
    for name, _, value in (word.partition("=") for word in words if "=" in word):
        if name == "root" or not roots:
            roots.append({})
        roots[-1][name] = value
    return ExpectedEngine(
        text=line,
        pod=pod,
        containers=frozenset(container.split("|")),
        programs=frozenset(program.split("|")),
        version="" if version == "-" else version,
        rootless="rootless" in flags,
        by_hand="by-hand" in flags,
        roots=tuple(_root(root) for root in roots),
    )


def _root(fields: dict[str, str]) -> ExpectedRoot:
    assert set(fields) <= {"root", "backing", "outcome"}, fields
    return ExpectedRoot(
        paths=_alternatives(fields.get("root", "")),
        backings=_alternatives(fields.get("backing", "")),
        outcomes=_alternatives(fields.get("outcome", "").replace("bad", "slow|fails")),
    )


def _alternatives(text: str) -> frozenset[str]:
    return frozenset(text.split("|")) if text else frozenset()
