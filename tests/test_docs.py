"""What the documentation says holds: its programs print what stands below them, its links lead somewhere, and its
tables name what there is.

A block of ``python`` that makes a ``Theater`` is a whole program: it is run as a reader would run it, and prints the
block of ``text`` that follows it. One that serves until it is told to stop is talked to instead. All else is a part of
a program, and has to compile.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from scripts import interface_reference
from tests.test_floors import FLOORS, MODULES, floor_of
from theater_tcp import (
    BlockingConnectionHandle,
    BlockingListenerHandle,
    ConnectionHandle,
    Limits,
    ListenerHandle,
    Metrics,
    Theater,
    __version__,
    errors,
)
from theater_tcp.fields import expected
from theater_tcp.guest_manifest import GuestKeys

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "actors/*/*.md", "benchmarks/*.md", "wit/*.md")
    for path in ROOT.glob(pattern)
)

TIMEOUT = 30.0
"""Seconds after which a program of the documentation hangs."""


class Program(NamedTuple):
    """A block of Python in a page.

    Args:
        page: the page.
        line: where the block begins, from 1.
        code: its text.
        output: the block of text that follows it; None if there is none.
    """

    page: Path
    line: int
    code: str
    output: str | None

    @property
    def is_whole(self) -> bool:
        """Whether it can be run as it is."""
        return "Theater(" in self.code

    @property
    def serves(self) -> bool:
        """Whether it goes on until somebody stops it."""
        return ".wait()" in self.code and "shutdown" not in self.code


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)


def programs_of(page: Path) -> list[Program]:
    text = text_of(page)
    blocks = re.finditer(r"^( *)```python\n(.*?)^ *```$(?:\n\n```text\n(.*?)^```$)?", text, re.MULTILINE | re.DOTALL)
    return [
        Program(page, text.count("\n", 0, block.start()) + 2, textwrap.dedent(block[2]), block[3]) for block in blocks
    ]


PROGRAMS = [program for page in PAGES for program in programs_of(page)]


def parametrized_by(programs: list[Program]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("program", programs, ids=[f"{name_of(p.page)}:{p.line}" for p in programs])


# -- programs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def development_certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``certs``, as the command makes it that the pages name."""
    folder = tmp_path_factory.mktemp("development")
    command = [sys.executable, "-m", "theater_tcp", "certs", "dev"]
    subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=TIMEOUT,
    )
    return folder / "certs"


@parametrized_by([program for program in PROGRAMS if program.is_whole and not program.serves])
def test_a_program_in_the_docs_runs_and_prints_what_stands_below_it(
    program: Program, tmp_path: Path, development_certificates: Path
) -> None:
    file = tmp_path / "program.py"
    file.write_text(program.code, encoding="utf-8")
    if "certs/" in program.code:
        (tmp_path / "certs").symlink_to(development_certificates)
    # In a folder with nothing else, and without complaints: a warning or a line in the log would be on stderr.
    ended = subprocess.run(
        [sys.executable, "-W", "error", file.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout == (program.output or "")


def answer_of(program: Program, question: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The first thing that a program which serves has to say, on a port of the system's choice."""
    answers = []

    def ask(theater: Theater) -> None:  # in place of waiting for Ctrl-C
        (listener,) = theater.listeners()
        host, _, port = listener.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as peer:
            peer.sendall(question)
            answers.append(peer.recv(1000))

    monkeypatch.setattr(Theater, "wait", ask)
    code = re.sub(r'"127\.0\.0\.1:\d+"', '"127.0.0.1:0"', program.code)
    exec(compile(code, name_of(program.page), "exec"), {"__name__": "__main__"})
    (answer,) = answers
    return answer


@parametrized_by([program for program in PROGRAMS if program.is_whole and program.serves])
def test_a_server_in_the_docs_answers_while_it_waits(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer_of(program, b"NOOP\r\n", monkeypatch)


def test_the_first_program_of_the_readme_echoes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer_of(programs_of(ROOT / "README.md")[0], b"hello", monkeypatch) == b"hello"


def test_the_echo_of_the_readme_has_at_most_twenty_lines() -> None:
    first = programs_of(ROOT / "README.md")[0]
    assert len([line for line in first.code.splitlines() if line.strip()]) <= 20


@parametrized_by([program for program in PROGRAMS if not program.is_whole])
def test_a_part_of_a_program_in_the_docs_compiles(program: Program) -> None:
    compile(program.code, name_of(program.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@EVERY_PAGE
def test_an_example_in_yaml_can_be_read_by_yaml(page: Path) -> None:
    for _, text in re.findall(r"^( *)```yaml\n(.*?)^ *```$", text_of(page), re.MULTILINE | re.DOTALL):
        yaml.safe_load(textwrap.dedent(text))


# -- links --------------------------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """What a link to a heading of the page may end in, by the rules that code hosts have in common."""
    headings = re.findall(r"^#+ (.+)$", without_code(text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert broken == []


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    readme = text_of(ROOT / "README.md")
    assert [name_of(page) for page in DOCS.glob("*.md") if f"({name_of(page)})" not in readme] == []


# -- tables -------------------------------------------------------------------------------------------------------


def first_cells(text: str) -> list[str]:
    """The first cell of each table row that begins with something in backquotes."""
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def section_of(page: Path, heading: str) -> str:
    """What stands below a heading, up to the next one of its rank or above."""
    rank = heading.index(" ")
    after = text_of(page).split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{rank}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def test_the_page_of_errors_has_each_kind_and_its_class() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \|", section_of(DOCS / "errors.md", "## The kinds"), re.MULTILINE)
    assert rows == [(kind, cls.__name__) for kind, cls in errors.by_kind.items()]


def test_a_reason_of_the_page_of_errors_begins_with_a_kind() -> None:
    reasons = first_cells(section_of(DOCS / "errors.md", "## Reasons"))
    assert reasons
    assert {reason.partition(":")[0] for reason in reasons} <= set(errors.by_kind)


def test_the_page_on_embedding_has_each_metric() -> None:
    metrics = first_cells(section_of(DOCS / "embedding.md", "## Looking inside"))
    assert metrics == list(Metrics.__struct_fields__)


def test_the_page_of_settings_has_each_limit_of_a_guest_with_its_default_and_its_range() -> None:
    section = section_of(DOCS / "configuration.md", "## What a guest may use: `Limits`")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ([^|]*) \|", section, re.MULTILINE)
    hints = inspect.get_annotations(Limits, eval_str=True)
    wanted = [(name, f"{getattr(Limits(), name):.15g}", expected(hints[name])) for name in Limits.field_names()]
    assert rows == wanted


def test_the_page_of_settings_has_each_key_of_a_guest() -> None:
    keys = first_cells(section_of(DOCS / "configuration.md", "## A guest in a manifest"))
    assert keys == list(GuestKeys.__struct_fields__)


def test_the_page_on_the_sandbox_has_each_limit() -> None:
    limits = first_cells(section_of(DOCS / "sandbox.md", "## Limits"))
    assert set(limits) == set(Limits.field_names())


HANDLES = [
    (ConnectionHandle, "| on a connection "),
    (BlockingConnectionHandle, "| on a connection "),
    (ListenerHandle, "| on a listener "),
    (BlockingListenerHandle, "| on a listener "),
]


@pytest.mark.parametrize(("handle", "head"), HANDLES, ids=[handle.__name__ for handle, _ in HANDLES])
def test_the_page_of_public_names_has_each_call_of_a_handle(handle: type, head: str) -> None:
    table = text_of(DOCS / "api.md").split(f"\n{head}", 1)[1].split("\n\n", 1)[0]
    calls = re.findall(r"`\.?(\w+)(?:\([^`]*)?`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert sorted(calls) == sorted(name for name in vars(handle) if not name.startswith("_"))


def floors_in_words() -> dict[str, int]:
    """Each module that ARCHITECTURE.md has a line for, with the floor it stands under."""
    floors = re.findall(r"^### Floor (\d)(.*?)(?=^##)", text_of(ROOT / "ARCHITECTURE.md"), re.MULTILINE | re.DOTALL)
    return {
        name.removesuffix(".py").removesuffix("/").replace("/", "."): int(number)
        for number, rows in floors
        for name in first_cells(rows)
    }


def test_the_architecture_has_each_module_under_its_floor() -> None:
    top = {module.partition(".")[0] for module in MODULES}
    guests = {module for module in MODULES if module.startswith("guest.")}  # they stand on two floors
    assert floors_in_words() == {module: floor_of(module) for module in top | guests}
    assert set(floors_in_words()) >= set().union(*FLOORS.values())


def test_the_architecture_says_why_each_dependency_is_there() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = {line.split()[0] for text in texts for line in text.splitlines() if re.match(r"\w", line)}
    required = {name for name in required if not name.startswith("theater-tcp")}
    assert set(first_cells(section_of(ROOT / "ARCHITECTURE.md", "## Dependencies"))) == required


def test_the_changelog_has_this_version() -> None:
    assert f"## {__version__}" in text_of(ROOT / "CHANGELOG.md")


# -- the reference of the interface ---------------------------------------------------------------------------------

WIT = """\
package some:thing;

/// What there is.
///
/// More of it.
interface things {
    // not for the page
    enum colour { red, /// As the grass. \n green }
    /// Two of them.
    record pair { first: list<u8>, /// Perhaps. \n second: option<tuple<u8, string>>, }
    /// Takes one.
    take: func(one: pair, other: result<_, string>) -> result<u64, string>;
    rest: func();
}

/// All.
world all { import things; export things; }
world more { include all; }
""".replace("\\n", "\n")


def test_the_page_of_the_interface_is_what_wit_says() -> None:
    assert interface_reference.main(["--check"]) == 0


def test_the_reference_has_what_a_file_says() -> None:
    package = interface_reference.read([("a.wit", WIT)])
    assert package.name == "some:thing"
    things = package.interfaces["things"]
    assert things.about == "What there is.\n\nMore of it."
    colour, pair, take, rest = things.items
    assert [(case.name, case.about) for case in colour.parts] == [("red", ""), ("green", "As the grass.")]
    assert [(field.name, field.text, field.about) for field in pair.parts] == [
        ("first", "list<u8>", ""),
        ("second", "option<tuple<u8, string>>", "Perhaps."),
    ]
    assert take.text == "func(one: pair, other: result<_, string>) -> result<u64, string>"
    assert (rest.text, rest.about) == ("func()", "")
    page = interface_reference.page_of(package)
    assert "| `more` | [`things`](#interface-things) | [`things`](#interface-things) | |" in page
    assert "- `green`: As the grass.\n" in page


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("interface a {}", "a.wit: names no package"),
        ("package a:b;\ninterface a {", "a.wit: ends in the middle"),
        ("package a:b;\nsomething a {}", "a.wit:2: expected an interface or a world, got 'something'"),
        ("package a:b;\ninterface a {\n  type b\n}", "a.wit:3: expected a function, a record or an enum, got 'type'"),
        ("package a:b;\nworld a { use b; }", "a.wit:2: expected include, import or export, got 'use'"),
        ("package a:b;\ninterface a { ? }", "a.wit:2: unexpected '?'"),
        ("package a:b;\ninterface a { }", "the interface a is in no world"),
        ("package a:b;\nworld a { import b; }", "there is no interface b, which a world has"),
        ("package a:b;\nworld a { include b; }", "there is no world b, which a includes"),
    ],
)
def test_a_file_that_the_reference_does_not_understand_is_named_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(interface_reference.WitError) as caught:
        interface_reference.page_of(interface_reference.read([("a.wit", text)]))
    assert str(caught.value) == reason
