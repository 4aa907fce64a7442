"""A server under measurement: a process of its own, its port, its CPU clock, its memory, its end."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.programs import ROOT

__all__ = ["Memory", "Server", "ServerFailed"]

START_LIMIT_S = 30.0
END_LIMIT_S = 20.0


class ServerFailed(Exception):
    """A server that did not start, or went away; the text names it and gives its last words."""


@dataclass(frozen=True)
class Memory:
    """What a process has in memory, in KiB: resident (RSS), and with shared pages counted by their share (PSS)."""

    rss_kib: float
    pss_kib: float


class Server:
    """Starts a server and waits for its ``READY <port>``. As a context manager it ends the server.

    Args:
        name: what messages call it.
        command: program and arguments.

    Raises:
        ServerFailed: it ended, or did not say ``READY`` within 30 s.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the server
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,
        )
        self.pid = self._process.pid
        try:
            words = self._read_line(START_LIMIT_S).split()
            if len(words) != 2 or words[0] != "READY" or not words[1].isdigit():
                raise ServerFailed(f"{name} did not say READY and its port: {' '.join(words) or self.last_words()}")
        except ServerFailed:
            self.close()
            raise
        self.port = int(words[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_line(self, limit_s: float) -> str:
        assert self._process.stdout is not None
        line, deadline = b"", time.monotonic() + limit_s
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ServerFailed(f"{self.name} said nothing for {limit_s:g} s")
            read = os.read(self._process.stdout.fileno(), 4096)
            if not read:
                break
            line += read
        return line.decode()

    def last_words(self) -> str:
        """The last line that the server wrote to its standard error."""
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def ask(self, word: str) -> str:
        """Write a word to the server's standard input and read the line it answers with."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        return self._read_line(START_LIMIT_S).strip()

    def cpu_us(self) -> float:
        """CPU time of all threads so far, those that ended included, in microseconds (``clock_getcpuclockid(3)``)."""
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e3

    def memory(self) -> Memory:
        """What the process has in memory now (``/proc/PID/smaps_rollup``)."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return Memory(*(float(re.findall(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)[0]) for key in ("Rss", "Pss")))

    def close(self) -> None:
        """End the server by closing its standard input; kill it when it does not heed that."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
