"""The sending SMTP session (RFC 5321, RFC 3207): bytes in, commands and a receipt out. No socket, thread, clock or log.

::

    session = Session(settings, submission)
    session.connected("client.example.org")
    step = session.receive(data)        # send step.output, upgrade to TLS or send the message, close, in this order
    step = session.tls_started("TLSv1.3 ...")
    for piece in session.content(): ...
    session.fail("reset")               # the connection has ended, or nothing came in time
    session.receipt

A reply is only believed if it came after its command. What comes before that ends the session, since somebody on the
wire may have put it there: the answer to a command is not known before the command. So what is there behind the last
expected reply is never kept for the next command. Behind the 220 to STARTTLS it would be plaintext that is taken for
what came through TLS. All that the server said before TLS is forgotten (RFC 3207, 4.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from actors.smtp_client.extensions import Extensions, NotOffered
from actors.smtp_client.receipt import Outcome, Receipt
from actors.smtp_client.replies import BadReply, Reply, ReplyReader
from actors.smtp_client.settings import ClientSettings
from actors.smtp_client.submission import Submission

__all__ = ["Session", "Step"]

_WINDOW = 100
"""Commands that wait for their replies at one time, where the server takes them so (RFC 2920). What is on its way in
either direction fits into the buffers in between, however many recipients there are: neither side can block the other
(3.1)."""

Status = Literal["accepted", "refused", "unsent", "unknown"]
StepName = Literal["greeting", "ehlo", "helo", "starttls", "mail", "rcpt", "data", "end", "quit"]


class Step(msgspec.Struct, frozen=True, gc=False):
    """What to do next; then receive, unless it is to start TLS or to close.

    Args:
        output: bytes to send now; may be empty.
        start_tls: whether to do the TLS handshake after that.
        send_content: whether to send :meth:`Session.content` after that, as long as nothing is received.
        close: whether to close the connection after that.
    """

    output: bytes = b""
    start_tls: bool = False
    send_content: bool = False
    close: bool = False


class _Awaited(NamedTuple):
    """A command whose reply is to come."""

    step: StepName
    recipient: str = ""


class _Broken(Exception):
    """The session can't go on; the text is the reason."""


class Session:
    """One submission's session.

    Args:
        settings: what is wanted of TLS, and the limits.
        submission: what is to be sent.
    """

    __slots__ = (
        "_awaited",
        "_commands",
        "_error",
        "_extensions",
        "_has_sent_end",
        "_is_over",
        "_is_sending",
        "_name",
        "_outcomes",
        "_output",
        "_reader",
        "_settings",
        "_starts_tls",
        "_submission",
        "_tls",
    )

    def __init__(self, settings: ClientSettings, submission: Submission) -> None:
        self._settings = settings
        self._submission = submission
        self._name = ""
        self._tls = ""
        self._extensions = Extensions()
        self._commands: deque[tuple[_Awaited, str]] = deque()  # not sent yet
        self._awaited: deque[_Awaited] = deque()
        self._output: list[str] = []
        self._outcomes: dict[str, Outcome] = {}  # of the recipients that are decided
        self._error = ""
        self._starts_tls = False
        self._is_sending = False  # the message is going out
        self._has_sent_end = False
        self._is_over = False
        self._reader = self._new_reader()

    # -- what the owner of the connection tells -------------------------------------------------------------------

    def connected(self, name: str, tls: str = "") -> None:
        """The connection is there, and the server's greeting is to come.

        Args:
            name: the client's own name, where the settings have none.
            tls: version and cipher, where TLS began with the first byte.
        """
        self._name = self._settings.name or name
        self._tls = tls
        self._awaited.append(_Awaited("greeting"))

    def receive(self, data: bytes) -> Step | None:
        """Take what the server sent: any bytes, split anywhere; none are the end of the stream.

        Returns:
            what to do now; ``None``: no reply is whole yet.
        """
        if self._is_over:
            return Step(close=True)
        if not data:
            return self.fail("eof: the server ended the connection")
        begun = len(self._awaited)
        try:
            self._read(data)
        except BadReply as error:
            return self.fail(f"protocol: {error}")
        except _Broken as error:
            return self.fail(str(error))
        if self._awaited and len(self._awaited) == begun and not self._output and not self._is_over:
            return None
        if self._is_sending and self._reader.has_begun:
            return None  # a refusal of the message, it seems, and not all of it yet
        return self._step()

    def tls_started(self, tls: str) -> Step:
        """The handshake is done, and the server is verified where it had to be.

        Args:
            tls: version and cipher.
        """
        self._tls = tls
        self._extensions = Extensions()
        self._reader = self._new_reader()
        self._say("ehlo", f"EHLO {self._name}")
        return self._step()

    def content(self) -> Iterator[bytes]:
        """The message as it goes out. It ends early, without the final dot, when the session is over."""
        piece = b""
        for following in self._submission.content.pieces():
            if piece:
                yield piece
            if self._is_over:
                return
            piece = following
        self._has_sent_end = True  # from here on it may have arrived, whatever happens
        self._is_sending = False
        self._awaited.append(_Awaited("end"))
        yield piece

    def fail(self, reason: str) -> Step:
        """The session is at its end before its time. What was decided by a reply stays so.

        Args:
            reason: in one line, as ``reset`` or ``timeout: mail: no reply within 300 s``.
        """
        if self._undecided:
            self._error = reason
            self._decide("unknown" if self._has_sent_end else "unsent", 0, "", reason)
        self._end()
        return self._step()

    # -- what the owner of the connection asks --------------------------------------------------------------------

    @property
    def awaited(self) -> str:
        """What is waited for: the name of a field of :class:`~actors.smtp_client.settings.Timeouts`."""
        if not self._awaited:
            return "block"
        step = self._awaited[0].step
        return "ehlo" if step == "helo" else step

    @property
    def timeout(self) -> float:
        """Seconds that what is awaited may take."""
        seconds: float = getattr(self._settings.timeouts, self.awaited)
        return seconds

    @property
    def receipt(self) -> Receipt:
        """What became of the submission.

        Raises:
            RuntimeError: that is not decided yet.
        """
        if self._undecided:
            raise RuntimeError("the session goes on")
        outcomes = tuple(self._outcomes[recipient] for recipient in self._submission.recipients)
        return Receipt(outcomes, self._error, self._tls)

    # -- reading --------------------------------------------------------------------------------------------------

    def _new_reader(self) -> ReplyReader:
        settings = self._settings
        return ReplyReader(settings.max_reply_line, settings.max_reply_lines, settings.max_reply_size)

    def _read(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        was_sending = self._is_sending
        # What is sent below has its reply in a later call: no reply to it can be in this data.
        for _ in range(len(self._awaited)):
            reply = reader.next()
            if reply is None:
                return
            self._take(self._awaited.popleft(), reply)
            if self._is_over:
                return
        if reader.has_begun:
            self._take_unasked(was_sending)

    def _take_unasked(self, was_sending: bool) -> None:
        """Something came that answers no command; in the middle of the message, or not."""
        if self._starts_tls:
            raise _Broken("plaintext-before-tls: the server sent more than its reply to STARTTLS")
        reply = self._reader.next()
        if reply is None and was_sending:
            return
        # Before the final dot a server may say that it has seen enough, and at any time that it is going down (3.8).
        if reply is not None and (reply.code == 421 or (self._is_sending and reply.kind in (4, 5))):
            self._refuse(reply)
            self._end()
            return
        raise _Broken(f"protocol: the server sent a reply before its command{'' if reply is None else f': {reply}'}")

    def _take(self, awaited: _Awaited, reply: Reply) -> None:
        if reply.code == 421:
            self._refuse(reply)
            self._end()
            return
        match awaited.step:
            case "greeting":
                self._on_greeting(reply)
            case "ehlo":
                self._on_ehlo(reply)
            case "helo":
                self._on_helo(reply)
            case "starttls":
                self._on_starttls(reply)
            case "mail":
                self._on_mail(reply)
            case "rcpt":
                self._on_rcpt(reply, awaited.recipient)
            case "data":
                self._on_data(reply)
            case "end":
                self._on_end(reply)
            case "quit":
                self._end()
        if not (self._is_over or self._starts_tls):  # between 220 and TLS nothing is said, whatever is queued
            self._go_on()

    # -- before the message ---------------------------------------------------------------------------------------

    def _on_greeting(self, reply: Reply) -> None:
        if reply.code == 220:
            self._say("ehlo", f"EHLO {self._name}")
        else:
            self._refuse(_negative(reply, "the greeting"))

    def _on_ehlo(self, reply: Reply) -> None:
        if reply.kind == 2:
            self._extensions = Extensions(reply)
            self._begin()
        elif _negative(reply, "the reply to EHLO").kind == 4:
            self._refuse(reply)
        elif not (self._tls or self._allows_plaintext):
            self._stop(f"tls: the server does not know EHLO, so there is no STARTTLS: {reply}")
        else:
            self._say("helo", f"HELO {self._name}")

    @property
    def _allows_plaintext(self) -> bool:
        return self._settings.tls in ("opportunistic", "none")

    def _on_helo(self, reply: Reply) -> None:
        if reply.kind == 2:
            self._begin()
        else:
            self._refuse(_negative(reply, "the reply to HELO"))

    def _begin(self) -> None:
        """The server has said what it can do: go on to TLS, or to the message."""
        if self._tls or self._settings.tls == "none":
            self._begin_mail()
        elif "STARTTLS" in self._extensions:
            self._say("starttls", "STARTTLS")
        elif self._allows_plaintext:
            self._begin_mail()
        else:
            self._stop("tls: the server does not offer STARTTLS")

    def _on_starttls(self, reply: Reply) -> None:
        if reply.code == 220:
            self._starts_tls = True
            return
        refusal = _negative(reply, "the reply to STARTTLS")
        if self._allows_plaintext:
            self._begin_mail()
        else:
            self._stop(f"tls: the server refused STARTTLS: {refusal}")

    def _begin_mail(self) -> None:
        """Queue the commands of the message, unless the server can't take it."""
        submission = self._submission
        try:
            parameters = self._extensions.mail_parameters(submission)
        except NotOffered as missing:
            self._decide("refused", 0, missing.enhanced, missing.text)
            return
        self._commands.append((_Awaited("mail"), f"MAIL FROM:<{submission.sender}>{parameters}"))
        for recipient in submission.recipients:
            self._commands.append((_Awaited("rcpt", recipient), f"RCPT TO:<{recipient}>"))
        self._commands.append((_Awaited("data"), "DATA"))

    # -- the message ----------------------------------------------------------------------------------------------

    def _on_mail(self, reply: Reply) -> None:
        if reply.kind != 2:
            self._refuse(_negative(reply, "the reply to MAIL"))

    def _on_rcpt(self, reply: Reply, recipient: str) -> None:
        # One that is accepted is undecided up to the reply to the message; all are decided where MAIL was refused.
        if reply.kind != 2 and recipient not in self._outcomes:
            no = _negative(reply, "the reply to RCPT")
            self._outcomes[recipient] = Outcome(recipient, "refused", no.code, no.enhanced, no.text)

    def _on_data(self, reply: Reply) -> None:
        if reply.code == 354:
            if self._undecided:
                self._is_sending = True
            else:
                self._say("end", ".")  # nobody is left to get a message; the server waits for one (RFC 2920, 3.1)
        else:
            self._refuse(_negative(reply, "the reply to DATA"))

    def _on_end(self, reply: Reply) -> None:
        # Nothing is decided by it where it was a message for nobody.
        if reply.kind == 2:
            self._decide("accepted", reply.code, reply.enhanced, reply.text)
        else:
            self._refuse(_negative(reply, "the reply to the message"))

    # -- deciding -------------------------------------------------------------------------------------------------

    @property
    def _undecided(self) -> bool:
        return len(self._outcomes) < len(self._submission.recipients)

    def _decide(self, status: Status, code: int, enhanced: str, text: str) -> None:
        """Decide for all recipients that are not decided yet."""
        for recipient in self._submission.recipients:
            if recipient not in self._outcomes:
                self._outcomes[recipient] = Outcome(recipient, status, code, enhanced, text)

    def _refuse(self, reply: Reply) -> None:
        self._decide("refused", reply.code, reply.enhanced, reply.text)

    def _stop(self, reason: str) -> None:
        """Send nothing, and say QUIT."""
        self._error = reason
        self._decide("unsent", 0, "", reason)

    def _end(self) -> None:
        """The session is over: whatever was to be done next is not done."""
        self._is_over = True
        self._starts_tls = False
        self._is_sending = False
        self._output.clear()

    # -- writing --------------------------------------------------------------------------------------------------

    def _say(self, step: StepName, line: str) -> None:
        self._awaited.append(_Awaited(step))
        self._output.append(line)

    def _go_on(self) -> None:
        """Send the commands that may go out now."""
        if not self._undecided:
            if not self._awaited:
                self._say("quit", "QUIT")
            return
        window = _WINDOW if "PIPELINING" in self._extensions else 1
        while self._commands and len(self._awaited) < window:
            awaited, line = self._commands.popleft()
            self._awaited.append(awaited)
            self._output.append(line)

    def _step(self) -> Step:
        output = "".join(f"{line}\r\n" for line in self._output).encode()
        self._output.clear()
        starts_tls, self._starts_tls = self._starts_tls, False
        return Step(output, starts_tls, self._is_sending, self._is_over)


def _negative(reply: Reply, what: str) -> Reply:
    """The reply, where it is one that says no."""
    if reply.kind not in (4, 5):
        raise _Broken(f"protocol: {what} makes no sense there: {reply}")
    return reply
