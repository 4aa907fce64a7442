"""A running server for tests, and a plain socket that speaks to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pykka

from actors.smtp.server import SmtpServer
from theater_tcp import Theater

TIMEOUT_S = 10.0


class Served:
    """A server under test.

    Args:
        theater: it runs in.
        server: its actor.
        address: where it listens.
        maildir: what it delivers to.
    """

    def __init__(self, theater: Theater, server: pykka.ActorRef[SmtpServer], address: str, maildir: Path) -> None:
        self.theater = theater
        self.server = server
        self.address = address
        self.maildir = maildir

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def delivered(self) -> list[bytes]:
        """The messages in ``new/`` in the order of their delivery."""
        files = [self.maildir / "new" / name for name in os.listdir(self.maildir / "new")]
        return [file.read_bytes() for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    def begun(self) -> list[str]:
        """The files in ``tmp/``."""
        return os.listdir(self.maildir / "tmp")

    def dial(self) -> Dialog:
        """A plain socket that has read the greeting."""
        dialog = Dialog(self.host, self.port)
        assert dialog.reply().startswith("220 ")
        return dialog


class Dialog:
    """A client of plain bytes."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Dialog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> str:
        """The next reply's last line; empty at the end of the stream."""
        while True:
            line = self._file.readline().decode()
            if line[3:4] != "-":
                return line.rstrip("\r\n")

    def code(self) -> str:
        """The next reply's codes, as ``"250 2.1.0"``."""
        return self.reply()[:9].strip()

    def ask(self, data: bytes, replies: int = 1) -> list[str]:
        """Send, and the codes of so many replies."""
        self.send(data)
        return [self.code() for _ in range(replies)]

    def open_message(self) -> None:
        """Say all that comes before the message."""
        data = b"EHLO c\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
        assert self.ask(data, 4)[3] == "354 Go ah"


@contextmanager
def serving(folder: Path, address: str = "127.0.0.1:0", **init: Any) -> Iterator[Served]:
    """A server with a Maildir in ``folder``."""
    maildir = folder / "mail"
    with Theater() as theater:
        init = {"hostname": "mx.example.org", "domains": ["example.org"], "maildir": str(maildir), **init}
        server = theater.spawn(SmtpServer, **init)
        info = theater.listen_for(server, address, half_open=True)
        yield Served(theater, server, info.address, maildir)
