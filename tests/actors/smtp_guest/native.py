"""The guest's session, built for this machine and driven through a pipe; it looks like the Python one's client."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import tempfile
from pathlib import Path

from actors.smtp import SessionSettings
from tests.actors.smtp.driver import SETTINGS

DRIVER = Path(__file__).with_name("driver.rs")
_SETTINGS = ("hostname", "require_tls", "max_message_size", "max_recipients", "max_errors", "max_asides")
_LIMITS = ("max_command_line", "max_text_line")


class Sessions:
    """A process that runs one session after the other."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        program = f"{self._folder.name}/driver"
        build = ["rustc", "--edition", "2021", "-C", "opt-level=1", "-C", "debug-assertions=on", "-o", program]
        subprocess.run([*build, str(DRIVER)], check=True, timeout=120)
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        self._process.__exit__(None, None, None)
        self._folder.cleanup()

    def begin(self, settings: SessionSettings = SETTINGS, *, kind: str = "P") -> NativeClient:
        """A session in plaintext (``P``), one that can become TLS (``O``), or an encrypted one (``E``)."""
        values = {name: getattr(settings, name) for name in (*_SETTINGS, *_LIMITS)}
        self.exchange(kind, json.dumps({**values, "store": "127.0.0.1:1"}).encode())
        return NativeClient(self)

    def exchange(self, letter: str, data: bytes) -> tuple[str, bytes, list[bytes]]:
        """What is to be done next, the replies, the messages."""
        assert self._process.stdin is not None
        self._process.stdin.write(letter.encode() + struct.pack(">I", len(data)) + data)
        self._process.stdin.flush()
        step = self._read(1).decode()
        output, messages = (self._read(struct.unpack(">I", self._read(4))[0]) for _ in range(2))
        return step, output, _cut(messages)

    def _read(self, length: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(length)
        assert len(data) == length, "the session has panicked"
        return data


class NativeClient:
    """A session and all that came out of it."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.output = b""
        self.messages: list[bytes] = []
        self.step = "l"

    def send(self, data: bytes) -> bytes:
        """The replies to it."""
        return self._exchange("S", data) if self.step == "l" else b""

    def upgrade(self) -> None:
        """The handshake is done."""
        assert self.step == "u"
        self._exchange("U", b"")

    def _exchange(self, letter: str, data: bytes) -> bytes:
        self.step, output, messages = self._sessions.exchange(letter, data)
        self.output += output
        self.messages += messages
        return output


def _cut(messages: bytes) -> list[bytes]:
    found = []
    while messages:
        length = struct.unpack_from(">I", messages)[0]
        found.append(messages[4 : 4 + length])
        messages = messages[4 + length :]
    return found


def as_stored(text: bytes) -> bytes:
    """What the store makes of the text that it gets: dots are no longer stuffed, and lines end with LF."""
    return re.sub(rb"(?m)^\.", b"", text.replace(b"\r\n", b"\n"))
