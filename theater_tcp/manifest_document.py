"""The text of a manifest: YAML to a mapping, with the line of each key, and the problems that were found with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from theater_tcp.errors import InvalidArgument

__all__ = ["MAX_MANIFEST", "ManifestDocument", "ManifestError", "Problem", "yaml_reason", "yaml_type"]

MAX_MANIFEST = 1 << 20
"""Bytes of the largest manifest that is read."""

MAX_WRITTEN_OUT = 4 * MAX_MANIFEST
"""Characters of a value with its aliases written out; no manifest without an alias has as many."""

MAX_DEPTH = 100
"""Lists and mappings inside of each other, with aliases written out."""

_WRITTEN_OUT = "with its aliases written out"


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one key of one manifest, or with the command line.

    Args:
        file: the manifest's path as it was given, or another file's; empty where the command line is wrong.
        key: the path of the key, as ``tcp.listen[0]``; empty where it is the file itself.
        reason: one line.
        line: where it stands, from 1; None where it stands nowhere (a missing key, a value from the command line).
        actor: the name of the manifest's actor, where that is to be told in the file's place.
    """

    file: str
    key: str
    reason: str
    line: int | None = None
    actor: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (self.actor or place, self.key, self.reason) if part)


class ManifestError(InvalidArgument):
    """A manifest, or several that don't fit together, can't be used.

    Args:
        problems: all that was found, at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")
        self.problems = tuple(problems)


class ManifestDocument:
    """One manifest on its way from text to value, and what was found wrong with it so far.

    Args:
        file: its path.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.folder = Path(file).parent
        self.lines: dict[str, int] = {}
        self.overridden: set[str] = set()
        self.problems: list[Problem] = []

    def read(self) -> dict[Any, Any]:
        """The file's top mapping; the lines of its keys are noted on the way.

        Raises:
            ManifestError: there is no such file, or it holds no mapping.
        """
        try:
            self.folder = self.folder.absolute()
            with open(self.file, "rb") as stream:
                content = stream.read(MAX_MANIFEST + 1)
        except OSError as error:
            raise self.fatal((error.strerror or str(error)).lower()) from None
        except ValueError:  # a NUL in the path
            raise self.fatal("is no path") from None
        if len(content) > MAX_MANIFEST:
            raise self.fatal(f"is larger than {MAX_MANIFEST} bytes")
        try:
            document = self.parse(content)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            raise self.fatal(yaml_reason(error), None if mark is None else mark.line + 1) from None
        if document is None:
            raise self.fatal("the file is empty")
        if not isinstance(document, dict):
            raise self.fatal(f"expected keys and values, got a {yaml_type(document)}")
        return document

    def parse(self, content: bytes | str, key: str = "") -> Any:
        """The value of a YAML text; the lines of its keys, and those that are there twice, are noted on the way.

        Args:
            content: the text.
            key: the path of the key whose value it is; empty where it is the whole manifest.

        Raises:
            ManifestError: with its aliases written out it is too large or too deep.
            yaml.YAMLError: it is not YAML; so are ValueError and RecursionError (see :func:`yaml_reason`).
        """
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        if node is None:
            return None
        self._note_lines(node, key, {})
        return loader.construct_document(node)

    def _note_lines(self, node: yaml.Node, key: str, seen: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Notes the line of each key below ``node`` (aliases make circles); a key that is there twice is a problem.

        Returns:
            how large it is with its aliases written out, in characters, and how deep; without the circles.
        """
        self.lines.setdefault(key, node.start_mark.line + 1)
        if id(node) in seen:
            return seen[id(node)]
        seen[id(node)] = 0, 0
        size = 1
        inside: list[tuple[int, int]] = []
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                inside.append(self._note_lines(item, f"{key}[{index}]", seen))
        elif isinstance(node, yaml.MappingNode):
            known = set()
            for name, value in node.value:
                called = name.value if isinstance(name, yaml.ScalarNode) else "?"  # which is no key, as is told later
                inner = f"{key}.{called}" if key else called
                if (name.tag, called) in known:
                    reason = f"is there twice (line {self.lines[inner]} too)"
                    self.problem(inner, reason, name.start_mark.line + 1)
                known.add((name.tag, called))
                self.lines.setdefault(inner, name.start_mark.line + 1)
                size += len(called)
                inside.append(self._note_lines(value, inner, seen))
        else:
            size += len(node.value)
        size += sum(each for each, _ in inside)
        depth = 1 + max((each for _, each in inside), default=0)
        # Before anything writes it out: the JSON of a guest, an error that shows it.
        if size > MAX_WRITTEN_OUT:
            raise self.fatal(f"is larger than {MAX_WRITTEN_OUT} characters {_WRITTEN_OUT}", self.lines[key], key)
        if depth > MAX_DEPTH:
            raise self.fatal(f"is nested deeper than {MAX_DEPTH} times {_WRITTEN_OUT}", self.lines[key], key)
        seen[id(node)] = size, depth
        return size, depth

    def override(self, document: dict[Any, Any], key: str, value: Any) -> None:
        """Replaces a key's value in what :meth:`read` gave, making the mappings around it where they are missing.

        Args:
            document: the top mapping.
            key: its path, as ``tcp.idle_timeout``.
            value: in place of what is there.
        """
        *outer, last = key.split(".")
        self.overridden.add(key)
        target = document
        for depth, name in enumerate(outer, 1):
            if target.get(name) is None:
                target[name] = {}
            target = target[name]
            if not isinstance(target, dict):
                self.problem(key, f"{'.'.join(outer[:depth])} is no mapping")
                return
        target[last] = value

    def problem(self, key: str, reason: str, line: int | None = None) -> None:
        """Notes a problem.

        Args:
            key: the path of the key; empty where it is the file itself.
            reason: one line.
            line: where it stands; None for the line of the key.
        """
        if any(key == other or key.startswith((f"{other}.", f"{other}[")) for other in self.overridden):
            self.problems.append(Problem(self.file, key, f"{reason} (by --set)"))
        else:
            alone = key.removesuffix("[0]")  # where one address stands for a list of one
            self.problems.append(Problem(self.file, key, reason, line or self.lines.get(key, self.lines.get(alone))))

    def problem_of(self, prefix: str, error: InvalidArgument) -> None:
        """A problem from an error of the settings, which reads ``field: reason``."""
        name, _, reason = error.detail.partition(": ")
        self.problem(prefix + name, reason)

    def fatal(self, reason: str, line: int | None = None, key: str = "") -> ManifestError:
        """The error for what no reading can go on after, with the problems so far."""
        return ManifestError([*self.problems, Problem(self.file, key, reason, line)])


def yaml_reason(error: Exception, *, marks: bool = True) -> str:
    """Why a text can't be read, in one line.

    Args:
        error: what reading it raised.
        marks: whether the line and column are told.
    """
    if isinstance(error, RecursionError):
        return "not readable: it is nested too deep"
    if isinstance(error, yaml.MarkedYAMLError):
        text = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark if marks else None
        if error.context == "while scanning an alias":
            text += "; a text that begins with '*' stands in quotes"
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        return f"not YAML: {' '.join(text.split())}{where}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"not YAML: {error.reason} (position {error.position})"
    return f"not YAML: {' '.join(str(error).split())}"


def yaml_type(value: object) -> str:
    """What a value is called in YAML."""
    names = {dict: "mapping", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
