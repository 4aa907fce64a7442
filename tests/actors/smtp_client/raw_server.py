"""A server of plain bytes: a script on a thread of its own says what it likes, when it likes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.peers import TIMEOUT

__all__ = ["Line", "RawServer"]


class Line:
    """The server's end of one connection.

    Args:
        sock: connected and blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unread = b""

    def say(self, data: bytes) -> None:
        """Send it, in one piece."""
        self.sock.sendall(data)

    def hear(self, end: bytes = b"\r\n") -> bytes:
        """What comes, up to and with ``end``."""
        while end not in self._unread:
            data = self.sock.recv(65536)
            assert data, f"the client went after {self._unread!r}"
            self._unread += data
        heard, _, self._unread = self._unread.partition(end)
        return heard + end

    def answer(self, *replies: bytes) -> list[bytes]:
        """Hear a line and reply to it, for each of these; what was heard."""
        heard = []
        for reply in replies:
            heard.append(self.hear())
            self.say(reply)
        return heard

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while data := self._received():
            self._unread += data
        rest, self._unread = self._unread, b""
        return rest

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the handshake.

        Raises:
            OSError: it failed, as ``ssl.SSLError``, or the client went.
        """
        assert self._unread == b"", "the client did not wait for the reply"
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def _received(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionResetError:
            return b""


class RawServer:
    """Listens, and runs a script for each connection, one after the other. Its failure is the test's.

    Args:
        scripts: what to do with the first connection, the second, and so on.
    """

    def __init__(self, *scripts: Callable[[Line], object]) -> None:
        self._scripts = scripts
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(TIMEOUT)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="raw-server", daemon=True)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.join(TIMEOUT)
        self._listening.close()
        if error is None:
            assert not self._thread.is_alive(), "the server's script goes on"
            if self._error is not None:
                raise self._error

    def _run(self) -> None:
        try:
            for script in self._scripts:
                sock, _ = self._listening.accept()
                sock.settimeout(TIMEOUT)
                line = Line(sock)
                try:
                    script(line)
                finally:
                    line.sock.close()
        except BaseException as error:
            self._error = error
