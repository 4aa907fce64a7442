"""Drives a session in tests: stores at once, and remembers what was said and stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.smtp import Encryption, Envelope, LocalDomains, Session, SessionSettings, Step

PEER = "192.0.2.7:40000"
SETTINGS = SessionSettings(hostname="mx.example.org", domains=("example.org",))
GREETED = b"EHLO client.example.net\r\n"
ENVELOPE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\n"
ENCRYPTION = Encryption("TLSv1.3", "TLS_AES_256_GCM_SHA384")


class Client:
    """A session and all that came out of it.

    Args:
        settings: of the session.
        refuse_with: the reply of a store that refuses everything; ``None``: it takes everything.
        offers_tls, encryption: see :class:`~actors.smtp.session.Session`.
    """

    def __init__(
        self,
        settings: SessionSettings = SETTINGS,
        refuse_with: bytes | None = None,
        *,
        offers_tls: bool = False,
        encryption: Encryption | None = None,
    ) -> None:
        self.session = Session(
            settings, PEER, LocalDomains(settings.domains), offers_tls=offers_tls, encryption=encryption
        )
        self.output = b""
        self.messages: list[tuple[Envelope, bytes]] = []
        self.parts: list[bytes] = []
        self.is_closed = False
        self.is_upgrading = False
        self.has_injected = False
        self._refuse_with = refuse_with

    def send(self, data: bytes) -> bytes:
        """The replies to it."""
        return self.follow(self.session.receive(data))

    def follow(self, step: Step) -> bytes:
        """Do what a step says, and what the steps after it say; the replies are returned."""
        before = len(self.output)
        while True:
            self.output += step.reply
            self.is_closed |= step.close
            self.is_upgrading |= step.upgrade
            self.has_injected |= step.injection
            if step.delivery is None:
                if self.parts and not self.session.has_parts_out:
                    self.parts.clear()
                return self.output[before:]
            step = self._store(step)

    def upgrade(self) -> bytes:
        """The handshake is done; what is said at once then."""
        assert self.is_upgrading
        self.is_upgrading = False
        return self.follow(self.session.secured(ENCRYPTION))

    def _store(self, step: Step) -> Step:
        assert step.delivery is not None
        if self._refuse_with is not None:
            self.parts.clear()
            return self.session.failed(self._refuse_with)
        self.parts += step.delivery.content
        if not step.delivery.complete:
            return self.session.stored()
        self.messages.append((step.delivery.envelope, b"".join(self.parts)))
        self.parts.clear()
        return self.session.delivered(f"id{len(self.messages)}")

    def codes(self, data: bytes) -> list[str]:
        """The code and the enhanced code of each reply, as ``"250 2.1.0"``; continuation lines left out."""
        return codes_of(self.send(data))

    @property
    def contents(self) -> list[bytes]:
        """The stored messages."""
        return [content for _, content in self.messages]


def codes_of(output: bytes) -> list[str]:
    found = []
    for line in output.decode().splitlines():
        if line[3] == " ":
            code, enhanced = line.split(" ")[:2]
            found.append(f"{code} {enhanced}" if enhanced[1:2] == "." else code)
    return found


def greeted(settings: SessionSettings = SETTINGS) -> Client:
    """A client that has said EHLO."""
    client = Client(settings)
    client.send(GREETED)
    return client


def ready(settings: SessionSettings = SETTINGS) -> Client:
    """A client that may send DATA or BDAT now."""
    client = greeted(settings)
    assert client.codes(ENVELOPE) == ["250 2.1.0", "250 2.1.5"]
    return client


def run(pieces: Iterable[bytes], settings: SessionSettings = SETTINGS) -> Client:
    """A client that has sent these pieces."""
    client = Client(settings)
    for piece in pieces:
        client.send(piece)
    return client


def bytewise(data: bytes) -> Sequence[bytes]:
    return [data[index : index + 1] for index in range(len(data))]
