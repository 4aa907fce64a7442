"""A running server for tests, and a plain socket that speaks to it.

There are two servers: the actor in Python, and the guest with the store behind it. What a test says of the one is true
of the other; a test that asks for the fixture ``server`` (or has the mark :data:`by_both`) is run with each.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import msgspec
import pykka
import pytest

from actors.lmtp_store.store import LmtpStore
from actors.smtp.server import SmtpServer
from theater_tcp import CertificateFiles, Options, ServerTls, Settings, Theater

TIMEOUT_S = 10.0
GUEST = Path(__file__).resolve().parents[3] / "actors" / "smtp_guest" / "smtp.wasm"
OF_THE_STORE = {"domains", "maildir", "fsync"}
"""Settings that are the store's, where there is one."""
OF_EACH = {"max_text_line", "spool_size"}
"""Settings that the store has as well."""

current_server: ContextVar[Literal["python", "guest"]] = ContextVar("current_server", default="python")
"""Which one :func:`serving` starts."""
by_both = pytest.mark.usefixtures("server")


class Served:
    """A server under test.

    Args:
        theater: it runs in.
        server: its actor; of the guest, the one that accepts for it.
        address: where it listens.
        implicit: where it listens for TLS from the first byte; empty: nowhere.
        maildir: what it delivers to.
    """

    def __init__(
        self, theater: Theater, server: pykka.ActorRef[Any], address: str, implicit: str, maildir: Path
    ) -> None:
        self.warnings: list[str] = []
        """What the server wrote into the log, as the guest does."""
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
        if current_server.get() == "guest":
            return sum("plaintext came behind STARTTLS" in warning for warning in self.warnings)
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


class Listening(logging.Handler):
    """Keeps the lines of a logger."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@contextmanager
def serving(
    folder: Path,
    address: str = "127.0.0.1:0",
    certificate: CertificateFiles | None = None,
    handshake_timeout: float = 10.0,
    **init: Any,
) -> Iterator[Served]:
    """The current server with a Maildir in ``folder``; with a certificate it has STARTTLS."""
    maildir = folder / "mail"
    tls = None if certificate is None else ServerTls(**msgspec.structs.asdict(certificate), auto_handshake=False)
    options = Options(half_open=True, handshake_timeout=handshake_timeout, server_tls=tls)
    init = {"hostname": "mx.example.org", "domains": ["example.org"], "maildir": str(maildir), **init}
    with Theater(Settings(options=options)) as theater:
        if current_server.get() == "guest":
            server, implicit = start_guest(theater, folder, tls, init)
        else:
            server = theater.spawn(SmtpServer, **init)
            implicit = "".join(info.address for info in theater.listeners())
        info = theater.listen_for(server, address)
        served = Served(theater, server, info.address, implicit, maildir)
        listening = Listening(served.warnings)
        logging.getLogger("theater_tcp.guest").addHandler(listening)
        try:
            yield served
        finally:
            logging.getLogger("theater_tcp.guest").removeHandler(listening)


def start_guest(
    theater: Theater, folder: Path, tls: ServerTls | None, init: dict[str, Any]
) -> tuple[pykka.ActorRef[Any], str]:
    """The store at a Unix socket in ``folder``, and the guest in front of it.

    Returns:
        who accepts for the guest, and the address where TLS begins with the first byte; empty: there is none.
    """
    listen = init.pop("implicit_tls", [])
    stored = {name: init[name] for name in (OF_THE_STORE | OF_EACH) & init.keys()}
    init = {name: init[name] for name in init.keys() - OF_THE_STORE}
    store = theater.spawn(LmtpStore, **stored)
    address = theater.listen_for(store, f"unix:{folder}/lmtp.sock", server_tls=None).address
    guest = theater.load_guest(the_guest(), ["clock"])
    server = theater.spawn_guest(guest, {**init, "store": address}, name="smtp", per_connection=True, permissions=None)
    implicit = ""
    for address in listen:
        assert tls is not None
        implicit = theater.listen_for(
            server, address, server_tls=msgspec.structs.replace(tls, auto_handshake=True)
        ).address
    return server, implicit


@functools.cache
def the_guest() -> bytes:
    return GUEST.read_bytes()
