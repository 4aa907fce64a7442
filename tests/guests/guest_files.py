"""The guests under ``actors/``, as they lie there, and built anew with the tools of this machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from theater_tcp.guest import wasmtime_internals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "ACTORS",
    "ENVIRONMENT",
    "GUESTS",
    "LANGUAGES",
    "GuestFolder",
    "build",
    "core_module",
    "every_guest",
    "made_once",
    "needs",
]

ACTORS = Path(__file__).resolve().parents[2] / "actors"

LANGUAGES = ("wat", "c", "rust")

TOOLS = {"wat": ("wasm-tools",), "c": ("wasm-tools", "python-zig"), "rust": ("wasm-tools", "rustc", "wasm-ld")}
"""The programs that build a guest, by its language."""

ENVIRONMENT = {
    **os.environ,
    "PYTHON": sys.executable,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
}
"""Pip has put its programs beside Python, where a search by name need not look."""

GUESTS = sorted(path.relative_to(ACTORS).parent.as_posix() for path in ACTORS.glob("*/*/build"))
"""The folders with a guest's sources, as ``echo/c``."""


class GuestFolder(NamedTuple):
    """A guest in one language, of one making, and how it is run.

    Args:
        actor: the folder under ``actors/``.
        language: the folder in that.
        making: ``committed``, or ``rebuilt`` by the tools of this machine.
        kind: ``component``, or ``core``: the core module in it.
        road: ``fibers``, or ``threads``: the slow road, where wasmtime's private parts are not as expected.
    """

    actor: str
    language: str
    making: str
    kind: str
    road: str = "fibers"

    def take_road(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on runtimes run guests by this road."""
        if self.road == "threads":
            monkeypatch.setattr(wasmtime_internals, "FAILURE", "a test wants the slow road")

    def content(self, name: str) -> bytes:
        """What a guest's file holds.

        Args:
            name: the file, without its suffix.
        """
        folder = ACTORS / self.actor / self.language if self.making == "committed" else build(self.actor, self.language)
        content = (folder / f"{name}.wasm").read_bytes()
        return core_module(content) if self.kind == "core" else content


def needs(language: str) -> pytest.MarkDecorator:
    """Marks a test that builds a guest: without the programs it is left out."""
    return pytest.mark.program(*(tool for tool in TOOLS[language] if not shutil.which(tool, path=ENVIRONMENT["PATH"])))


def every_guest(actor: str, by_threads: Sequence[str] = LANGUAGES) -> list[object]:
    """An actor in each language: as it lies there and built anew, component and core module, by each road.

    Args:
        actor: the folder under ``actors/``.
        by_threads: the languages of those that go by the slow road too: what it does is the same for all.
    """
    return [
        pytest.param(
            GuestFolder(actor, language, making, kind, road),
            id=f"{language}-{making}-{kind}-{road}",
            marks=needs(language) if making == "rebuilt" else (),
        )
        for language in LANGUAGES
        for making, kind, road in (
            ("committed", "component", "fibers"),
            ("committed", "core", "fibers"),
            ("committed", "component", "threads"),
            ("rebuilt", "component", "fibers"),
        )
        if road != "threads" or language in by_threads
    ]


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is filled once for all the processes that share out the tests among them.

    Args:
        name: the folder's, under that of the caches.
        make: fills it.
    """
    caches = Path(os.environ["XDG_CACHE_HOME"])
    with open(caches / f"{name}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = caches / name
        if not folder.exists():
            made = Path(tempfile.mkdtemp(dir=caches))
            make(made)
            made.rename(folder)
    return folder


def build(actor: str, language: str) -> Path:
    """Build a guest once; returns the folder that holds it."""

    def make(folder: Path) -> None:
        command = [ACTORS / actor / language / "build", folder]
        done = subprocess.run(command, env=ENVIRONMENT, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return made_once(f"{actor}-{language}", make)


def core_module(component: bytes) -> bytes:
    """The largest core module in a component: the guest itself, beside the shims that connect it."""
    assert component[4:8] == b"\x0d\x00\x01\x00", "it is no component"
    modules, at = [], 8
    while at < len(component):
        section, at = component[at], at + 1
        size = shift = 0
        while True:
            byte, at = component[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if section == 1:
            modules.append(component[at : at + size])
        at += size
    return max(modules, key=len)
