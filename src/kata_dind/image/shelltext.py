"""The text of a shell program: leaving comments, statements and functions out of it, whole lines at a time.

It reads the shell as the guest's scripts are written: a function ends with a `}` at the beginning of a line, what
belongs to a statement is indented deeper than it, and here-documents and strings of several lines have no comments.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

_ONLY = re.compile(r"# only: ([a-z0-9-]+)$")
_FUNCTION = re.compile(r"^([a-z_0-9]+)\(\) \{.*?^\}\n", re.MULTILINE | re.DOTALL)
_WORD = re.compile(r"[a-z_0-9]+")
_COMPUTED = re.compile(r"([a-z_0-9]*)\$(?:\w+|\{\w+\})([a-z_0-9]*)")
"""The name of a function with a variable in it, such as `prepare_$kind`."""


def only_for(features: Collection[str], script: str) -> str:
    """Return a script without the statements that are for other features.

    `# only: FEATURE` marks the statement that begins on its line, or on the next one if it has a line of its own: a
    simple command, an arm of a `case`, a function, or an `if`, `for` or `while` with all that is in it.
    """
    lines = script.splitlines(keepends=True)
    return "".join(lines[number] for number in lines_for(features, script))


def lines_for(features: Collection[str], script: str) -> Iterator[int]:
    """Yield the numbers of the lines that `only_for` keeps, from 0.

    Raises ValueError for a mark at a statement with an `else`, of which nobody could say how far it reaches.
    """
    lines = script.splitlines()
    number = 0
    while number < len(lines):
        found = _ONLY.search(lines[number])
        if found is None or found[1] in features:
            yield number
            number += 1
        else:
            number = _end_of_statement(lines, number + (lines[number].strip() == found[0]))


def _end_of_statement(lines: list[str], first: int) -> int:
    """Return the number of the line behind a statement."""
    end = first + 1
    code = without_comment(lines[first])
    while code.endswith(("\\", "||", "&&", "|")):
        code, end = without_comment(lines[end]), end + 1
    indentation = _indentation(lines[first])
    while end < len(lines) and (not lines[end].strip() or _indentation(lines[end]) > indentation):
        end += 1
    if re.match(r"\s*case .* in$", code):  # its arms are not indented
        end = next(number for number in range(end, len(lines)) if lines[number] == "\t" * indentation + "esac")
    if code.endswith((" then", " do", " {", " in")):
        if not re.match(r"\s*(?:fi|done|esac|\})(?:\W|$)", lines[end]):
            raise ValueError(f"a statement with a mark has another part: {lines[end].strip()}")
        end += 1
    return end


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip("\t"))


def without_comments(script: str) -> str:
    """Return a script without comments and blank lines.

    What it quotes over several lines, or has in a here-document, must have none of either.
    """
    kept = (without_comment(line) for line in script.splitlines())
    return "".join(f"{line}\n" for line in kept if line)


def without_comment(line: str) -> str:
    """Return a line without its comment and the blanks at its end."""
    for found in re.finditer(r"(?:^|[ \t])#", line):
        before = line[: found.start()]
        # Within quotes or braces a number sign begins no comment.
        plain = re.sub(r"\\.", "", before)
        if plain.count("'") % 2 == 0 and plain.count('"') % 2 == 0 and plain.count("${") <= plain.count("}"):
            return before.rstrip()
    return line.rstrip()


def only_needed(script: str) -> str:
    """Return a script without the functions that nothing in it calls, directly or by a name with a variable in it."""
    bodies = {found[1]: found[0] for found in _FUNCTION.finditer(script)}
    pending = [_FUNCTION.sub("", script)]
    needed: set[str] = set()
    while pending:
        called = {name for name in _called_in(pending.pop(), bodies) if name not in needed}
        needed |= called
        pending += [bodies[name].split("\n", 1)[1] for name in called]
    return _FUNCTION.sub(lambda found: found[0] if found[1] in needed else "", script)


def _called_in(text: str, bodies: Mapping[str, str]) -> Iterator[str]:
    code = without_comments(text)
    for word in _WORD.findall(code):
        if word in bodies:
            yield word
    for before, behind in _COMPUTED.findall(code):
        if before.endswith("_") or behind.startswith("_"):
            yield from (name for name in bodies if name.startswith(before) and name.endswith(behind))
