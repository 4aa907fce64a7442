"""Drives a session in tests: what a server says goes in by hand, and what the session says is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from actors.smtp_client import ClientSettings, Receipt, Session, Step, Submission

NAME = "client.example.org"
MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
SUBMISSION = Submission("a@example.net", ("b@example.org", "c@example.org"), MESSAGE)
GREETING = b"220 mx.example.org ESMTP\r\n"
NO_TLS = b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 HELP\r\n"
WITH_TLS = NO_TLS.replace(b"250 HELP", b"250 STARTTLS")
NO_PIPELINING = NO_TLS.replace(b"250-PIPELINING\r\n", b"")
BARE = b"250 mx.example.org\r\n"


def settings(**changes: Any) -> ClientSettings:
    """Settings of a client that is content with plaintext, unless ``changes`` say otherwise."""
    return ClientSettings(**{"server": "mx.example.org:25", "tls": "none", "name": NAME, **changes})


class Talk:
    """A session and all that came out of it.

    Args:
        submission: what it sends.
        changes: of the settings.
    """

    def __init__(self, submission: Submission = SUBMISSION, **changes: Any) -> None:
        self.session = Session(settings(**changes), submission)
        self.said = b""
        self.steps: list[Step] = []
        self.tls = ""
        self.is_closed = False
        self.session.connected("[192.0.2.1]")

    def hear(self, data: bytes) -> bytes:
        """What the session says to it; a message that it may send now included."""
        return self.follow(self.session.receive(data))

    def hear_all(self, pieces: Iterable[bytes]) -> bytes:
        """What it says to all of them, one after the other."""
        return b"".join([self.hear(piece) for piece in pieces])

    def secure(self) -> bytes:
        """The handshake has succeeded."""
        assert self.steps[-1].start_tls
        self.tls = "TLSv1.3 TLS_AES_256_GCM_SHA384"
        return self.follow(self.session.tls_started(self.tls))

    def fail(self, reason: str) -> Receipt:
        """The connection has ended."""
        self.follow(self.session.fail(reason))
        return self.session.receipt

    def follow(self, step: Step | None) -> bytes:
        if step is None:
            return b""
        self.steps.append(step)
        said = step.output
        if step.send_content:
            said += b"".join(self.session.content())
        self.said += said
        self.is_closed |= step.close
        return said

    @property
    def receipt(self) -> Receipt:
        return self.session.receipt

    @property
    def statuses(self) -> list[str]:
        """The status of each recipient."""
        return [outcome.status for outcome in self.receipt.outcomes]

    @property
    def summary(self) -> list[str]:
        """The outcomes in words, without the addresses."""
        return [str(outcome).partition(": ")[2] for outcome in self.receipt.outcomes]


def greeted(hello: bytes = NO_TLS, submission: Submission = SUBMISSION, **changes: Any) -> Talk:
    """A session that has heard the greeting and the reply to EHLO."""
    talk = Talk(submission, **changes)
    assert talk.hear(GREETING) == f"EHLO {NAME}\r\n".encode()
    talk.hear(hello)
    return talk


def sending(submission: Submission = SUBMISSION) -> Talk:
    """A session whose recipients were all accepted, and which waits for the reply to DATA."""
    talk = greeted(submission=submission)
    assert talk.hear(b"250 ok\r\n" + b"250 ok\r\n" * len(submission.recipients)) == b""
    return talk


class HonestServer:
    """A server that answers each command, and nothing before it.

    Args:
        hello: its reply to EHLO.
        reply: its reply to any other line, by what the line begins with; 250 to what isn't named.
    """

    def __init__(self, hello: bytes = NO_TLS, **reply: bytes) -> None:
        self._replies = {"EHLO": hello, "DATA": b"354 go\r\n", "QUIT": b"221 2.0.0 bye\r\n", **reply}
        self._is_in_message = False
        self.messages: list[bytes] = []

    def answer(self, said: bytes) -> list[bytes]:
        """The replies to whole commands and whole messages."""
        replies = []
        while said:
            if self._is_in_message:
                message, end, said = (b"\r\n" + said).partition(b"\r\n.\r\n")
                assert end, "the message came in several steps"
                self.messages.append(message[2:])
                self._is_in_message = False
                replies.append(self._replies.get("END", b"250 2.0.0 Ok: queued as 7\r\n"))
                continue
            line, _, said = said.partition(b"\r\n")
            verb = line.decode().partition(":")[0].partition(" ")[0]
            reply = self._replies.get(line.decode(), self._replies.get(verb, b"250 ok\r\n"))
            self._is_in_message = verb == "DATA" and reply.startswith(b"354")
            replies.append(reply)
        return replies


def converse(talk: Talk, server: HonestServer, cut: Callable[[bytes], Iterable[bytes]] = lambda data: [data]) -> None:
    """Let the two talk to the end.

    Args:
        talk: the session; TLS succeeds where it wants it.
        server: who answers.
        cut: cuts what the server says at one time into the pieces that arrive.
    """
    said = talk.hear_all(cut(GREETING))
    while not talk.is_closed:
        if talk.steps[-1].start_tls:
            said = talk.secure()
        assert said, "both wait"
        said = talk.hear_all(cut(b"".join(server.answer(said))))
