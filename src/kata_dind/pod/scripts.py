"""Shell text taken apart into its commands: what stands where a command stands, and what is only mentioned.

One pass without backtracking, for text that may be anything: words with quotes, comments, here-documents, `case`
patterns, functions. It is no shell: substitutions stay as they are, and each branch counts as if it were taken.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kata_dind.pod.arrays import MARK, all_elements, appended, array_of, elements_of, first_of, opens_array

LONGEST_SCRIPT = 131_072
"""Characters; of a longer script nothing is read."""

# What a script can make of its variables: `a=$a$a` again and again must not fill the memory.
_LONGEST_WORD = 65_536
_MOST_WORDS = 4096

# A dollar sign that the shell leaves alone, in a word until its variables are replaced.
_LITERAL_DOLLAR = "\x01"
# The beginning of a word without quotes, whose variables may become several words.
_SPLITS = "\x02"

_OPERATOR = re.compile(r";;&|<<<|<<-|&>>|;;|;&|&&|\|\||\|&|<<|>>|<&|>&|&>|>\||<>|[;&|<>()\n]")
_SINGLE = ";&|<>()\n"
_REDIRECTIONS = frozenset(("<", ">", "<<", "<<-", "<<<", ">>", "<&", ">&", "&>", "&>>", ">|", "<>"))
_PREFIXES = frozenset(("if", "then", "else", "elif", "while", "until", "do", "!", "{", "coproc"))
_CLOSERS = frozenset(("fi", "done", "esac", "}"))
_PLAIN = re.compile(r"[^\s;&|<>()'\"\\`$#\x01]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(slots=True)
class Command:
    """A simple command."""

    words: list[str] = field(default_factory=list)
    """Quotes are gone; variables are still to be replaced, see `expanded`."""
    writes: str = ""
    """The file that its output goes to."""
    stdin: str | None = None
    """The text of its here-document."""
    is_piped: bool = False
    """Its input is the output of the command before it."""


@dataclass(slots=True)
class Script:
    """The commands of a script."""

    main: list[Command] = field(default_factory=list)
    functions: dict[str, list[Command]] = field(default_factory=dict)


@functools.lru_cache(maxsize=64)
def parse_script(text: str) -> Script:
    """Take a script apart. It never fails: what is not a script gives commands that nobody knows."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text[:LONGEST_SCRIPT].replace("\r\n", "\n")
        for sign in (_LITERAL_DOLLAR, _SPLITS, MARK):
            if sign in self._text:
                self._text = self._text.replace(sign, "")
        self._at = 0
        self._script = Script()
        self._command = Command()
        self._bare: list[bool] = []
        # Here-documents whose text begins after the end of the line: the word that ends each, and whether tabs go.
        self._pending: list[tuple[Command, str, bool, bool]] = []
        # What is open: a function's name for its body, an empty string for other braces and parentheses.
        self._scopes: list[tuple[str, str]] = []
        self._defines = ""
        self._cases = 0
        self._wants_pattern = False

    def parse(self) -> Script:
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\r\v\f":
                self._at += 1
            elif char == "\\" and text.startswith("\\\n", self._at):
                self._at += 2
            elif char == "#":
                end = text.find("\n", self._at)
                self._at = end if end >= 0 else len(text)
            elif char in _SINGLE:
                self._operator()
            else:
                word, bare = self._word()
                self._take(word, bare=bare)
        self._end_command()
        return self._script

    def _operator(self) -> None:
        text = self._text
        found = _OPERATOR.match(text, self._at)
        operator = found.group() if found is not None else text[self._at]
        self._at += len(operator)
        if operator in _REDIRECTIONS:
            self._redirect(operator)
            return
        if operator == ")":
            self._close_parenthesis()
            return
        if operator == "(":
            self._open_parenthesis()
            return
        self._end_command()
        self._command.is_piped = operator in ("|", "|&")
        if operator in (";;", ";&", ";;&") and self._cases:
            self._wants_pattern = True
        if operator == "\n":
            self._read_here_documents()

    def _redirect(self, operator: str) -> None:
        words = self._command.words
        if words and self._bare[-1] and words[-1].isdigit() and self._touches_operator(operator):
            words.pop()
            self._bare.pop()
        self._skip_blanks()
        target, bare = (
            self._word() if self._at < len(self._text) and self._text[self._at] not in _SINGLE else ("", True)
        )
        if operator in ("<<", "<<-"):
            self._pending.append((self._command, target, operator == "<<-", bare))
        elif operator == "<<<":
            self._command.stdin = target
        elif operator in (">", ">>", ">|", "&>", "&>>"):
            self._command.writes = target

    def _touches_operator(self, operator: str) -> bool:
        before = self._at - len(operator) - 1
        return before >= 0 and self._text[before].isdigit()

    def _skip_blanks(self) -> None:
        while self._at < len(self._text) and self._text[self._at] in " \t":
            self._at += 1

    def _open_parenthesis(self) -> None:
        words = self._command.words
        if self._wants_pattern:
            return
        if words and self._bare[-1] and self._text[self._at - 2] == "=" and opens_array(words[-1]):
            words[-1] += array_of(self._elements())
            return
        name = words[0] if len(words) == 1 else words[1] if len(words) == 2 and words[0] == "function" else ""
        if name and self._text.startswith(")", self._at):
            self._at += 1
            self._defines = name
            self._drop_command()
            return
        self._end_command()
        self._scopes.append(("(", self._defines))
        self._defines = ""

    def _elements(self) -> list[str]:
        """Read the words of an array, up to and with the parenthesis that closes it."""
        elements = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == ")":
                self._at += 1
                break
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = end if end >= 0 else len(self._text)
            elif char.isspace() or char in _SINGLE:
                self._at += 1
            elif self._text.startswith("\\\n", self._at):
                self._at += 2
            else:
                word, bare = self._word()
                elements.append(_marked(word, bare=bare))
        return elements

    def _close_parenthesis(self) -> None:
        if self._wants_pattern:
            self._wants_pattern = False
            self._drop_command()
            return
        self._end_command()
        if self._scopes and self._scopes[-1][0] == "(":
            self._scopes.pop()

    def _take(self, word: str, *, bare: bool) -> None:
        """Put a word into the command, or follow it if it is one of the shell's own."""
        words = self._command.words
        if self._wants_pattern:
            if bare and word == "esac":
                self._wants_pattern = False
                self._cases -= 1
            return
        if bare and not words:
            if word in _PREFIXES:
                if word == "{":
                    self._scopes.append(("{", self._defines))
                    self._defines = ""
                return
            if word in _CLOSERS:
                self._close(word)
                return
        if bare and word == "{" and len(words) == 2 and words[0] == "function":
            self._scopes.append(("{", words[1]))
            self._drop_command()
            return
        words.append(_marked(word, bare=bare))
        self._bare.append(bare)
        if word == "in" and bare and len(words) == 3 and words[0] == "case":
            self._drop_command()
            self._cases += 1
            self._wants_pattern = True

    def _close(self, word: str) -> None:
        if word == "esac" and self._cases:
            self._cases -= 1
        if word == "}" and self._scopes and self._scopes[-1][0] == "{":
            self._scopes.pop()

    def _drop_command(self) -> None:
        command = self._command
        if command.words or command.is_piped or command.writes or command.stdin is not None or self._pending:
            self._command = Command()
            self._bare = []

    def _end_command(self) -> None:
        command = self._command
        if command.words or (self._pending and any(pending is command for pending, *_ in self._pending)):
            self._commands().append(command)
        self._drop_command()

    def _commands(self) -> list[Command]:
        name = next((name for _, name in reversed(self._scopes) if name), "")
        return self._script.functions.setdefault(name, []) if name else self._script.main

    def _read_here_documents(self) -> None:
        pending, self._pending = self._pending, []
        for command, end_word, strips_tabs, is_expanded in pending:
            lines: list[str] = []
            while self._at < len(self._text):
                end = self._text.find("\n", self._at)
                line = self._text[self._at : end if end >= 0 else len(self._text)]
                self._at = end + 1 if end >= 0 else len(self._text)
                line = line.lstrip("\t") if strips_tabs else line
                if line == end_word:
                    break
                lines.append(line)
            body = "\n".join(lines)
            command.stdin = body if is_expanded else body.replace("$", _LITERAL_DOLLAR)

    def _word(self) -> tuple[str, bool]:
        """Read a word from here; the second value tells that no part of it was quoted."""
        text = self._text
        parts: list[str] = []
        bare = True
        start = self._at
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\n\r\v\f;&|<>()":
                break
            plain = _PLAIN.match(text, self._at)
            if plain is not None:
                parts.append(plain.group())
                self._at = plain.end()
            elif char == "'":
                parts.append(self._until("'").replace("$", _LITERAL_DOLLAR))
                bare = False
            elif char == '"':
                parts.append(self._double_quoted())
                bare = False
            elif char == "\\":
                self._escape(parts)
                bare = False
            elif char == "$" and text.startswith("$'", self._at):
                self._at += 1
                parts.append(self._until("'").replace("$", _LITERAL_DOLLAR))
                bare = False
            elif char == "$" and text.startswith(("$(", "${"), self._at):
                parts.append(self._substitution())
            elif char == "`":
                parts.append("$(" + self._until("`") + ")")
            else:  # `$`, or a `#` within a word
                parts.append(char)
                self._at += 1
        if self._at == start:  # so that nothing can stop the parser where it stands
            self._at += 1
        return "".join(parts), bare

    def _escape(self, parts: list[str]) -> None:
        escaped = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if escaped != "\n":
            parts.append(_LITERAL_DOLLAR if escaped == "$" else escaped)

    def _until(self, quote: str) -> str:
        """Read what stands between two quotes, the first of which is here."""
        end = self._text.find(quote, self._at + 1)
        end = end if end >= 0 else len(self._text)
        inside = self._text[self._at + 1 : end]
        self._at = end + 1
        return inside

    def _double_quoted(self) -> str:
        text = self._text
        parts: list[str] = []
        self._at += 1
        start = self._at
        while self._at < len(text) and text[self._at] != '"':
            char = text[self._at]
            if char == "\\":
                parts.append(text[start : self._at])
                escaped = text[self._at + 1 : self._at + 2]
                if escaped == "$":
                    parts.append(_LITERAL_DOLLAR)
                elif escaped in ('"', "\\", "`"):
                    parts.append(escaped)
                elif escaped != "\n":
                    parts.append("\\" + escaped)
                self._at += 2
                start = self._at
            elif char == "$" and text.startswith(("$(", "${"), self._at):
                parts.append(text[start : self._at])
                parts.append(self._substitution())
                start = self._at
            else:
                self._at += 1
        parts.append(text[start : self._at])
        self._at += 1
        return "".join(parts)

    def _substitution(self) -> str:
        """Read `$(…)` or `${…}` with all that is nested in it, as it stands."""
        text = self._text
        start = self._at
        closers = [")" if text[start + 1] == "(" else "}"]
        self._at += 2
        while self._at < len(text) and closers:
            char = text[self._at]
            if char == "\\":
                self._at += 2
                continue
            if char == closers[-1]:
                closers.pop()
            elif closers[-1] != '"' and char == "'":
                end = text.find("'", self._at + 1)
                self._at = end if end >= 0 else len(text)
            elif char == '"':
                closers.append('"')
            elif char == "$" and text.startswith(("$(", "${"), self._at):
                closers.append(")" if text[self._at + 1] == "(" else "}")
                self._at += 1
            elif char == "(" and closers[-1] == ")":
                closers.append(")")
            self._at += 1
        self._at = min(self._at, len(text))
        return text[start : self._at]


def _marked(word: str, *, bare: bool) -> str:
    return _SPLITS + word if bare and "$" in word and not _ASSIGNMENT.match(word) else word


def expanded(words: Sequence[str], variables: Mapping[str, str], positional: Sequence[str]) -> list[str]:
    """Replace the variables in words as far as their values are known; others stay as they are.

    `${NAME:=VALUE}` gives the variable its value.
    `"$@"` becomes the positional parameters (from `$1` on), each the very object that was given.
    """
    result: list[str] = []
    for marked in words[:_MOST_WORDS]:
        if len(result) >= _MOST_WORDS:
            break
        splits = marked.startswith(_SPLITS)
        word = marked[1:] if splits else marked
        if word in ("$@", "$*", "${@}", "${*}"):
            result.extend(positional[1:])
        elif MARK in word:
            name, *elements = word.split(MARK)
            whole = name + array_of(expanded(elements, variables, positional))
            result.append(appended(whole, result, variables))
        elif (found := all_elements(word, variables)) is not None:
            result.extend(found)
        elif splits:
            value = expanded_text(word, variables, positional)
            # A substitution is not run, and stays one word.
            result.extend([value] if "$(" in value else value.split()[:_MOST_WORDS])
        elif "$" in word or _LITERAL_DOLLAR in word:
            result.append(appended(expanded_text(word, variables, positional), result, variables))
        else:
            result.append(appended(word, result, variables) if "+=" in word else word)
    return result[:_MOST_WORDS]


def expanded_text(text: str, variables: Mapping[str, str], positional: Sequence[str] = ()) -> str:
    """Replace the variables in a text as far as their values are known."""
    parts: list[str] = []
    at = length = 0
    while (dollar := text.find("$", at)) >= 0 and length < _LONGEST_WORD:
        parts.append(text[at:dollar])
        value, at = _value(text, dollar, variables, positional)
        parts.append(value[:_LONGEST_WORD])
        length += len(parts[-1])
    parts.append(text[at:])
    return "".join(parts).replace(_LITERAL_DOLLAR, "$")


def _value(text: str, dollar: int, variables: Mapping[str, str], positional: Sequence[str]) -> tuple[str, int]:
    """Return the value of the variable at `dollar` (or the text of it, if unknown), and where the text goes on."""
    follower = text[dollar + 1 : dollar + 2]
    if follower.isdecimal() and follower.isascii():
        index = int(follower)
        return (positional[index] if index < len(positional) else ""), dollar + 2
    if follower != "{":
        name = _NAME.match(text, dollar + 1)
        if name is None:
            return "$", dollar + 1
        return first_of(variables.get(name.group(), name.group().join(("$", "")))), name.end()
    close = text.find("}", dollar)
    if close < 0:
        return text[dollar:], len(text)
    name = _NAME.match(text, dollar + 2)
    whole = text[dollar : close + 1]
    if name is None:
        inside = text[dollar + 2 : close]
        if inside.isascii() and inside.isdecimal() and len(inside) < 3:
            index = int(inside)
            return (positional[index] if index < len(positional) else ""), close + 1
        return whole, close + 1
    rest = text[name.end() : close]
    known = variables.get(name.group())
    if known is not None and rest in ("[@]", "[*]"):
        return " ".join(elements_of(known)), close + 1
    if known is not None and rest[:1] == "[" and rest[-1] == "]" and rest[1:-1].isdecimal() and len(rest) < 6:
        return next(iter(elements_of(known)[int(rest[1:-1]) :]), ""), close + 1
    known = first_of(known) if known is not None else None
    if not rest:
        return (known if known is not None else whole), close + 1
    for operator in (":-", ":=", "-", "="):
        if rest.startswith(operator):
            empty_counts = not operator.startswith(":")
            if known or (known is not None and empty_counts):
                return known, close + 1
            default = rest[len(operator) :]
            # A default that is a variable itself has another closing brace; it stays unknown.
            if "$" in default:
                return whole, close + 1
            if operator.endswith("=") and isinstance(variables, dict):
                variables[name.group()] = default
            return default, close + 1
    return whole, close + 1
