"""A running server for tests, and a plain socket that speaks to it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pykka

from actors.smtp.server import SmtpServer
from theater_tcp import CertificateFiles, Options, ServerTls, Settings, Theater

TIMEOUT_S = 10.0


class Served:
    """A server under test.

    Args:
        theater: it runs in.
        server: its actor.
        address: where it listens.
        implicit: where it listens for TLS from the first byte; empty: nowhere.
        maildir: what it delivers to.
    """

    def __init__(
        self, theater: Theater, server: pykka.ActorRef[SmtpServer], address: str, implicit: str, maildir: Path
    ) -> None:
        self.theater = theater
        self.server = server
        self.address = address
        self.implicit = implicit
        self.maildir = maildir

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def implicit_port(self) -> int:
        return int(self.implicit.rpartition(":")[2])

    @property
    def injections(self) -> int:
        """How many clients were closed for what they sent behind STARTTLS."""
        count: int = self.server.proxy().injections.get(timeout=TIMEOUT_S)
        return count

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
        # What is sent is there: the system does not wait for the server to acknowledge what was sent before (RFC 896).
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb", buffering=0)  # what is not asked for stays in the socket

    def __enter__(self) -> Dialog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def start_tls(self, trust: ssl.SSLContext) -> None:
        """Ask for TLS, and go through with it."""
        assert self.ask(b"STARTTLS\r\n") == ["220 2.0.0"]
        self.shake_hands(trust)

    def shake_hands(self, trust: ssl.SSLContext) -> None:
        """Go on in TLS."""
        self._file.close()
        self.socket = trust.wrap_socket(self.socket, server_hostname="localhost")
        self._file = self.socket.makefile("rb", buffering=0)

    def cipher(self) -> tuple[str, str]:
        """The version of TLS and the cipher suite that were agreed on."""
        assert isinstance(self.socket, ssl.SSLSocket)
        agreed = self.socket.cipher()
        assert agreed is not None
        return agreed[1], agreed[0]

    def rest(self) -> bytes:
        """All bytes up to the end of the stream, or up to its reset."""
        read = b""
        try:
            while piece := self.socket.recv(65_536):
                read += piece
        except ConnectionResetError:
            pass
        return read

    def lines(self) -> list[str]:
        """The lines of the next reply; one that is empty at the end of the stream."""
        lines = [self._file.readline().decode()]
        while lines[-1][3:4] == "-":
            lines.append(self._file.readline().decode())
        return [line.rstrip("\r\n") for line in lines]

    def reply(self) -> str:
        """The next reply's last line; empty at the end of the stream."""
        return self.lines()[-1]

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
def serving(
    folder: Path,
    address: str = "127.0.0.1:0",
    certificate: CertificateFiles | None = None,
    handshake_timeout: float = 10.0,
    **init: Any,
) -> Iterator[Served]:
    """A server with a Maildir in ``folder``; with a certificate it has STARTTLS."""
    maildir = folder / "mail"
    tls = None if certificate is None else ServerTls(**msgspec.structs.asdict(certificate), auto_handshake=False)
    options = Options(half_open=True, handshake_timeout=handshake_timeout, server_tls=tls)
    with Theater(Settings(options=options)) as theater:
        init = {"hostname": "mx.example.org", "domains": ["example.org"], "maildir": str(maildir), **init}
        server = theater.spawn(SmtpServer, **init)
        implicit = "".join(info.address for info in theater.listeners())
        info = theater.listen_for(server, address)
        yield Served(theater, server, info.address, implicit, maildir)
