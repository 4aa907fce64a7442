"""Programs that speak TLS, run by tests: to their end, in a conversation, or as a server while a test needs it."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.peers import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

__all__ = ["Conversation", "Ended", "run", "serving_program"]

DEADLINE = 30.0
"""Seconds after which a program that should have ended hangs."""


class Ended(NamedTuple):
    """A program that has run.

    Args:
        code: its exit code.
        said: all that it wrote, to either stream.
    """

    code: int
    said: str


def run(*command: str, stdin: str = "") -> Ended:
    """Run a program to its end, with this text as its input."""
    done = subprocess.run(
        command,
        input=stdin.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(errors="replace"))


class Conversation:
    """A program that is told something when it has said something.

    Args:
        command: what to run.
    """

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.__exit__(kind, error, traceback)

    def tell(self, line: str) -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def expect(self, pattern: str) -> str:
        """The next line of it in which the regular expression is found."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            if re.search(pattern, text):
                return text
        raise AssertionError(f"it ended without {pattern!r}")


@contextmanager
def serving_program(*command: str, ready: str, log: Path, preload: Path | None = None) -> Iterator[re.Match[str]]:
    """Run a server, and end it.

    Args:
        command: what to run.
        ready: a regular expression that is found in what it writes when it listens.
        log: the file for what it writes.
        preload: a library that the system's loader puts before all others.

    Returns:
        the match of ``ready``.
    """
    env = {**os.environ, "LD_PRELOAD": str(preload)} if preload is not None else None
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        ) as process,
    ):
        try:
            eventually(
                lambda: re.search(ready, log.read_text(errors="replace")) is not None or process.poll() is not None
            )
            match = re.search(ready, log.read_text(errors="replace"))
            assert match is not None, f"{command[0]} ended: {log.read_text(errors='replace')}"
            yield match
        finally:
            process.kill()
