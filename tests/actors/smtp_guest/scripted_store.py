"""A store that says what a test has it say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

from tests.actors.smtp.serving import TIMEOUT_S

GREETING = b"220 store LMTP\r\n"
LHLO = b"250-store\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-CHUNKING\r\n250 SMTPUTF8\r\n"
"""It would take chunks as well (BDAT), which nobody is to send it."""
OK = b"250 2.0.0 Ok\r\n"
GO_AHEAD = b"354 Go ahead\r\n"
HANG_UP = b""


class ScriptedStore:
    """Answers the commands of each connection in the order of its script, and remembers what it was sent.

    Args:
        scripts: for each connection the replies: to the connection itself (the greeting), to each command, to the text
            of a message. :data:`HANG_UP` ends it; where the script ends, the connection ends as well.
    """

    def __init__(self, scripts: Sequence[Sequence[bytes]]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(TIMEOUT_S)
        self._scripts = scripts
        self.heard: list[bytes] = []
        """The commands, and the texts of messages with the end."""
        self.rest = b""
        """What came behind the script."""
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes who waits for a connection
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        try:
            for script in self._scripts:
                connection, _ = self._listening.accept()
                with connection, suppress(ConnectionError):  # which it is to the guest to end as it likes
                    connection.settimeout(TIMEOUT_S)
                    self._answer(connection, script)
        except OSError:
            pass  # the test is over, or the guest has gone

    def _answer(self, connection: socket.socket, script: Sequence[bytes]) -> None:
        if script[0] == HANG_UP:
            return
        connection.sendall(script[0])
        with connection.makefile("rb") as reader:
            is_text = False
            for reply in script[1:]:
                line = reader.readline()
                self.heard.append(line)
                while is_text and line not in (b".\r\n", b""):
                    line = reader.readline()
                    self.heard[-1] += line
                if reply == HANG_UP or line == b"":
                    return
                connection.sendall(reply)
                is_text = reply.startswith(b"354")
            self.rest = reader.read()


@contextmanager
def playing(*scripts: Sequence[bytes]) -> Iterator[ScriptedStore]:
    """A store with a script for each connection."""
    store = ScriptedStore(scripts)
    try:
        yield store
    finally:
        store.close()


def scripted(*scripts: Sequence[bytes]) -> AbstractContextManager[ScriptedStore]:
    """The same; the greeting and the answer to LHLO come before each script."""
    return playing(*((GREETING, LHLO, *script) for script in scripts))


class StoreByHand:
    """A connection of the guest's to a store that the test itself plays, step by step.

    Args:
        connection: as it was accepted.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        self._connection = connection
        self._reader = connection.makefile("rb")

    def __enter__(self) -> StoreByHand:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._connection.close()

    def say(self, data: bytes) -> None:
        """Say something, whether it was asked for or not."""
        self._connection.sendall(data)

    def hear(self, end: bytes = b"") -> None:
        """Read a line, or all up to the line that is the end."""
        while (line := self._reader.readline()) != end and end:
            assert line

    def answer(self, *replies: bytes) -> None:
        """Answer as many commands; what follows a go-ahead is a message."""
        end = b""
        for reply in replies:
            self.hear(end)
            self.say(reply)
            end = b".\r\n" if reply == GO_AHEAD else b""

    def greet(self) -> None:
        """The greeting, and the answer to LHLO."""
        self.say(GREETING)
        self.answer(LHLO)


def accept(listening: socket.socket) -> StoreByHand:
    """Play the store of the next connection."""
    listening.settimeout(TIMEOUT_S)
    return StoreByHand(listening.accept()[0])
