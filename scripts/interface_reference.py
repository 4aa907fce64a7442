"""Writes ``docs/interface.md``, the reference of the interface, from the files in ``wit/``.

``--check`` writes nothing and fails where the page is not what the files say. Of WIT it reads what these files have:
interfaces with functions, records and enums; worlds; the comments in front of them.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Interface", "Item", "Package", "WitError", "World", "main", "page_of", "read"]

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "wit"
PAGE = ROOT / "docs" / "interface.md"

HEAD = """\
# The interface

<!-- Written by scripts/interface-reference from wit/; what is changed here is lost. -->

What a [WebAssembly guest](writing-a-guest.md) has of the world: package `{package}`, as the files in `wit/` have it.

- Ids of connections, listeners and actors are texts.
- An error is a text: one of the [kinds](errors.md#the-kinds), or a kind, a colon, a space and a detail.
- In a core module the function `f` of the interface `i` is imported as `f` from the module `{package}/i`, and exported
  as `{package}/i#f`.
"""

WIDTH = 120
"""Characters of the page's lines."""

_TOKEN = re.compile(r"(///[^\n]*)|//[^\n]*|->|[{}()<>,;:=]|%?[a-z_][a-z0-9-]*|\s+", re.IGNORECASE)
_PACKAGE = re.compile(r"^package ([a-z0-9-]+:[a-z0-9-]+);[ \t]*$", re.MULTILINE)


class WitError(Exception):
    """A file that is not as this program expects it; the text names the file, the line and the reason."""


class Item(NamedTuple):
    """Something in an interface, or a field of a record.

    Args:
        kind: ``func``, ``record``, ``enum``, ``field`` or ``case``.
        name: its name.
        text: its type in WIT's words, or empty.
        about: what the comment says.
        parts: fields or cases.
    """

    kind: str
    name: str
    text: str
    about: str
    parts: tuple[Item, ...] = ()


class Interface(NamedTuple):
    """An interface: its items in their order."""

    name: str
    about: str
    items: tuple[Item, ...]


class World(NamedTuple):
    """A world, and what stands in it: pairs as (``import``, ``tcp``)."""

    name: str
    about: str
    statements: tuple[tuple[str, str], ...]


class Package(NamedTuple):
    """All files together."""

    name: str
    interfaces: dict[str, Interface]
    worlds: dict[str, World]


class _Reading:
    """The words of one file, one after the other."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._tokens = list(self._split())
        self._next = 0

    def interfaces_and_worlds(self) -> Iterator[Interface | World]:
        while self._next < len(self._tokens):
            about = self._comment()
            kind, name = self._word(), self._word()
            if kind == "interface":
                yield Interface(name, about, tuple(self._items()))
            elif kind == "world":
                yield World(name, about, tuple(self._statements()))
            else:
                raise self._wrong(f"expected an interface or a world, got {kind!r}")

    def _items(self) -> Iterator[Item]:
        self._take("{")
        while self._peek() != "}":
            about, name = self._comment(), self._word()
            if self._peek() == ":":
                self._take(":")
                yield Item("func", name, self._up_to(";"), about)
                self._take(";")
            elif name in ("record", "enum"):
                kind = "field" if name == "record" else "case"
                yield Item(name, self._word(), "", about, tuple(self._parts(kind)))
            else:
                raise self._wrong(f"expected a function, a record or an enum, got {name!r}")
        self._take("}")

    def _parts(self, kind: str) -> Iterator[Item]:
        self._take("{")
        while self._peek() != "}":
            about, name, text = self._comment(), self._word(), ""
            if kind == "field":
                self._take(":")
                text = self._up_to(",")
            yield Item(kind, name, text, about)
            if self._peek() != "}":
                self._take(",")
        self._take("}")

    def _statements(self) -> Iterator[tuple[str, str]]:
        self._take("{")
        while self._peek() != "}":
            what = self._word()
            if what not in ("include", "import", "export"):
                raise self._wrong(f"expected include, import or export, got {what!r}")
            yield what, self._word()
            self._take(";")
        self._take("}")

    # -- words --------------------------------------------------------------------------------------------------------

    def _split(self) -> Iterator[tuple[str, int]]:
        package = _PACKAGE.search(self._text)
        at = package.end() if package else 0
        while at < len(self._text):
            found = _TOKEN.match(self._text, at)
            if found is None:
                raise WitError(f"{self._file}:{self._line(at)}: unexpected {self._text[at]!r}")
            if found[1] is not None or not found[0].startswith(("//", " ", "\n", "\t", "\r")):
                yield found[0], at
            at = found.end()

    def _comment(self) -> str:
        """What the comment here says: paragraphs, each in one line."""
        lines = []
        while self._peek().startswith("///"):
            lines.append(self._take().removeprefix("///").strip())
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in "\n".join(lines).split("\n\n"))

    def _word(self) -> str:
        word = self._take()
        if not word[0].isalpha():
            raise self._wrong(f"expected a name, got {word!r}")
        return word

    def _up_to(self, end: str) -> str:
        """A type: what stands in front of ``end``, or of the bracket around it."""
        found, depth = "", 0
        while depth > 0 or self._peek() not in (end, "}"):
            word = self._take()
            depth += {"(": 1, "<": 1, ")": -1, ">": -1}.get(word, 0)
            found += {"->": " -> ", ",": ", ", ":": ": "}.get(word, word)
        return found.replace(", )", ")")

    def _peek(self) -> str:
        if self._next >= len(self._tokens):
            raise WitError(f"{self._file}: ends in the middle")
        return self._tokens[self._next][0]

    def _take(self, expected: str = "") -> str:
        word = self._peek()
        self._next += 1
        if expected and word != expected:
            raise self._wrong(f"expected {expected!r}, got {word!r}")
        return word

    def _wrong(self, reason: str) -> WitError:
        return WitError(f"{self._file}:{self._line(self._tokens[self._next - 1][1])}: {reason}")

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1


def read(files: Iterable[tuple[str, str]]) -> Package:
    """The package that some files make.

    Args:
        files: the name and the text of each.

    Raises:
        WitError: one of them is not as expected.
    """
    package = Package("", {}, {})
    for file, text in files:
        named = _PACKAGE.search(text)
        if named is None:
            raise WitError(f"{file}: names no package")
        package = package._replace(name=named[1])
        for found in _Reading(file, text).interfaces_and_worlds():
            if isinstance(found, World):
                package.worlds[found.name] = found
            else:
                package.interfaces[found.name] = found
    return package


def page_of(package: Package) -> str:
    """The page."""
    imported = _in_worlds(package, "import")
    exported = _in_worlds(package, "export")
    for name in package.interfaces:
        if name not in (*imported, *exported):
            raise WitError(f"the interface {name} is in no world")
    parts = [HEAD.format(package=package.name), "## Worlds\n", _table_of(package)]
    for title, names in (("## What a guest imports\n", imported), ("## What a guest exports\n", exported)):
        parts.append(title)
        for name in names:
            if name not in package.interfaces:
                raise WitError(f"there is no interface {name}, which a world has")
            parts += _interface(package.interfaces[name])
    return "\n".join(parts)


def _in_worlds(package: Package, what: str) -> list[str]:
    """The interfaces that some world imports or exports, in the order of the worlds."""
    return list(
        dict.fromkeys(name for world in package.worlds.values() for kind, name in world.statements if kind == what)
    )


def _reaches(package: Package, world: World, what: str) -> list[str]:
    """What a world imports or exports, with what it includes."""
    found = []
    for kind, name in world.statements:
        if kind == "include":
            if name not in package.worlds:
                raise WitError(f"there is no world {name}, which {world.name} includes")
            found += _reaches(package, package.worlds[name], what)
        elif kind == what:
            found.append(name)
    return found


def _table_of(package: Package) -> str:
    rows = ["| world | imports | exports | |", "|---|---|---|---|"]
    for world in package.worlds.values():
        cells = [
            ", ".join(f"[`{name}`](#interface-{name})" for name in _reaches(package, world, what)) or "nothing"
            for what in ("import", "export")
        ]
        rows.append(f"| `{world.name}` | {' | '.join(cells)} |{world.about and f' {world.about}'} |")
    return "\n".join(rows) + "\n"


def _interface(interface: Interface) -> Iterator[str]:
    yield f"### Interface `{interface.name}`\n"
    yield from _prose(interface.about)
    for item in interface.items:
        yield f"#### `{interface.name}.{item.name}`\n"
        if item.kind == "func":
            yield f"```wit\n{item.name}: {item.text}\n```\n"
        yield from _prose(item.about)
        if item.kind == "enum":
            yield "".join(f"- `{case.name}`{case.about and f': {case.about}'}\n" for case in item.parts)
        if item.kind == "record":
            rows = (
                f"| `{field.name}` | `{field.text}` |{field.about and f' {field.about}'} |\n" for field in item.parts
            )
            yield "| field | type | |\n|---|---|---|\n" + "".join(rows)


def _prose(text: str) -> Iterator[str]:
    for paragraph in filter(None, text.split("\n\n")):
        yield textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` compare; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print(f"interface-reference: unknown argument {arguments[0]!r}; it knows --check", file=sys.stderr)
        return 2
    files = sorted(FOLDER.glob("*.wit"))
    try:
        written = page_of(read((f"wit/{file.name}", file.read_text(encoding="utf-8")) for file in files))
    except WitError as error:
        print(f"interface-reference: {error}", file=sys.stderr)
        return 1
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == written:
        return 0
    if arguments:
        print(f"docs/{PAGE.name} is not what wit/ says: run scripts/interface-reference")
        return 1
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
