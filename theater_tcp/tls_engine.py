"""TLS as a pure engine: ciphertext in, plaintext out, and the other way round.

:class:`TlsEngine` is ``ssl.SSLObject`` between two ``ssl.MemoryBIO``: no socket, no clock. Whoever has it moves the
bytes. It differs from the object inside of it in what makes a connection safe to operate:

- *Bounded.* It holds the ciphertext that it was fed and could not use yet, and what it has decrypted of one record.
  What it wants to send is to be taken away after every call (:meth:`TlsEngine.take_output`).
- *It says when a read is of use* (:attr:`TlsEngine.buffered`), since no selector knows of bytes that are here.
- *Half-close works.* OpenSSL's ``SSL_shutdown`` by way of Python looks for the peer's close_notify at once, and takes
  data that stands before it for a violation of the protocol. So what was received is put aside for that moment.
- *An end is one of three*: close_notify came (:attr:`TlsEngine.ended`), it did not (``tls-truncated``), or the protocol
  was violated (``tls: …``). A failure behind data is told after the data.
"""

from __future__ import annotations

import re
import ssl
import sys
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import msgspec

from theater_tcp.certificates import CertificateFacts, facts_from_der
from theater_tcp.client_hello import MAX_HELLO, ClientHello, asked_name, is_retry_request
from theater_tcp.errors import InvalidArgument, TheaterError, TlsFailed, TlsTruncated

__all__ = ["RECORD", "TlsEngine", "TlsInfo", "server_name_of"]

RECORD = 16 << 10
"""Bytes of plaintext in the largest record (RFC 8446, 5.1)."""

MAX_HELD = 1 << 20
"""Bytes of plaintext that wait for the peer to end a message."""

_ILLEGAL_PARAMETER = 47
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_ALERT_(\w+)|TLSV1_(UNRECOGNIZED_NAME|UNSUPPORTED_EXTENSION)")
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
_BAD_RECORD = {"RECORD_LAYER_FAILURE", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_TOO_SMALL"}
"""OpenSSL's words for a record that is not as it was sent: from its version 3.2 on it has but the first for nearly all
of these mistakes, also for one that never was a record."""


class TlsInfo(msgspec.Struct, frozen=True):
    """What the two ends of a TLS connection agreed on.

    Args:
        version: ``TLSv1.2`` or ``TLSv1.3``.
        cipher: the name of the cipher suite.
        alpn: the protocol that was chosen (RFC 7301), if one was.
        server_name: the name that the client asked for (RFC 6066, 3), if it did.
        peer_certificate: the peer's certificate, if it showed one.
        resumed: whether an earlier session was taken up again instead of a full handshake.
    """

    version: str
    cipher: str
    alpn: str | None
    server_name: str | None
    peer_certificate: CertificateFacts | None
    resumed: bool


class TlsEngine:
    """One end of a TLS connection.

    Args:
        context: certificates, trust and versions.
        server_side: which end.
        server_name: for a client, the name (or address) that is asked for and that the certificate must show.
        session: for a client, an earlier session with this server, by the same context, that may be taken up again.

    Raises:
        InvalidArgument: ``server_name`` is no name.
    """

    __slots__ = (
        "_agreed",
        "_ahead",
        "_at_eof",
        "_closing",
        "_failure",
        "_hello",
        "_incoming",
        "_object",
        "_raw",
        "ended",
        "held",
        "outgoing",
        "secured",
        "starved",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        """What is to be sent to the peer; :meth:`take_output` empties it."""
        try:
            self._object = context.wrap_bio(
                self._incoming, self.outgoing, server_side=server_side, server_hostname=server_name
            )
        except (ValueError, TypeError):  # not encodable as an IDNA name, or with a NUL in it
            raise InvalidArgument(f"{server_name!r} is no server name") from None
        if session is not None:
            self._object.session = session
        # What the object calls for itself, without a frame of Python's for each call; both have the same methods.
        self._raw: Any = getattr(self._object, "_sslobj", self._object)
        self._ahead = b""  # decrypted, and not asked for yet
        self._closing = False  # the end is to be said behind what is held
        self._at_eof = False
        self._hello = ClientHello() if server_side else None  # until it is whole
        self._agreed: tuple[str, str, str | None, bytes | None, bool] | None = None
        self.starved = True
        """Nothing comes of OpenSSL before more ciphertext does."""
        self._failure: TheaterError | None = None
        self.held = bytearray()
        """Plaintext that can't go out yet: :meth:`write_held` after the next read."""
        self.secured = False
        """Whether the handshake is complete."""
        self.ended = False
        """Whether close_notify has come, and all before it has been read."""

    @property
    def buffered(self) -> bool:
        """Whether :meth:`read` has something to say without more ciphertext: bytes, mostly."""
        return bool(self._ahead) or self._failure is not None or not (self.starved or self.ended)

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a client may take this session up with again, if the server allows it."""
        session = self._object.session
        return session if session is not None and session.has_ticket else None

    # -- the handshake -------------------------------------------------------------------------------------------

    def handshake(self) -> bool:
        """Go one step on, with what was fed. To be called once before anything was, on the client's side.

        Returns:
            whether it is complete. The peer's first data may be here then already (:attr:`buffered`).

        Raises:
            TlsFailed: it can't succeed any more; the alert for the peer is in the output.
        """
        while (hello := self._hello) is not None:
            if not self._is_whole(hello):
                return False
            self._hello = None
            self._incoming.write(hello.taken())
            if self._at_eof:
                self._incoming.write_eof()
            if self._step():
                return True
            sent, rest = self.outgoing.read(), hello.rest()
            self.outgoing.write(sent)
            if is_retry_request(sent):
                self._hello = ClientHello(rest)
            elif rest and not self._at_eof:
                self._incoming.write(rest)
            else:
                return False
        return self._step()

    def _step(self) -> bool:
        sslobject = self._object
        try:
            sslobject.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise self._failed(error, "the peer ended the connection") from None
        self.secured = True
        self.starved = not self._incoming.pending and not self._at_eof
        cipher = sslobject.cipher()
        self._agreed = (  # now: after a failure OpenSSL says nothing of it any more
            sys.intern(sslobject.version() or ""),
            sys.intern(cipher[0] if cipher else ""),
            sslobject.selected_alpn_protocol(),
            sslobject.getpeercert(binary_form=True),
            bool(sslobject.session_reused),
        )
        return True

    def _is_whole(self, hello: ClientHello) -> bool:
        """Whether a ClientHello is there, and may go on to OpenSSL: its server name is one."""
        message = hello.message()
        if message is None and not self._at_eof:
            if len(hello.received) > MAX_HELLO:
                raise self._refused(_ILLEGAL_PARAMETER, f"a ClientHello of more than {MAX_HELLO} bytes")
            return False
        name = asked_name(message) if message else None
        if name is not None and not name.isascii():
            raise self._refused(_ILLEGAL_PARAMETER, "the server name is not ASCII")
        return True

    def _refused(self, alert: int, reason: str) -> TlsFailed:
        self.outgoing.write(bytes((0x15, 3, 1, 0, 2, 2, alert)))  # a fatal alert in plaintext (RFC 8446, 6.2)
        return TlsFailed(reason)

    # -- ciphertext -----------------------------------------------------------------------------------------------

    def feed(self, ciphertext: bytes | bytearray | memoryview) -> None:
        """Take what came from the peer."""
        if self._hello is None:
            self._incoming.write(ciphertext)
            self.starved = False
        else:
            self._hello.feed(ciphertext)

    def feed_eof(self) -> None:
        """The peer's TCP stream has ended."""
        self._at_eof = True
        if self._hello is None:
            self._incoming.write_eof()
            self.starved = False

    def take_output(self) -> bytes:
        """What is to be sent to the peer, all of it; empty if there is nothing."""
        return self.outgoing.read() if self.outgoing.pending else b""

    # -- plaintext ------------------------------------------------------------------------------------------------

    def read(self, limit: int) -> bytes:
        """What the peer sent, decrypted.

        Args:
            limit: bytes at most.

        Returns:
            the bytes; none if more ciphertext is needed, or if the peer has ended (:attr:`ended`).

        Raises:
            TlsFailed: a record is wrong; an alert for the peer is in the output.
            TlsTruncated: the stream ended without close_notify.
        """
        if self._ahead:
            ahead, self._ahead = self._ahead[:limit], self._ahead[limit:]
            return ahead
        if self._failure is not None:
            raise self._take_failure()
        if self.starved or self.ended or not self.secured:
            return b""
        # Python allocates what is asked for; no more than a record comes at a time, and mostly not more than what it is
        # made of.
        size = min(limit, self._incoming.pending or RECORD, RECORD)
        try:
            data: bytes = self._raw.read(size)
        except ssl.SSLWantReadError:
            self.starved = True
            return b""
        except ssl.SSLError as error:
            self._end(error)
            if self.ended:
                return b""
            raise self._take_failure() from None
        if not data:
            self.ended = True
            return b""
        # Asked first, since an exception costs more than that.
        if not self._incoming.pending and (len(data) < size or not self._raw.pending()):
            self.starved = not self._at_eof  # at the end the next read tells of it
            return data
        return self._read_more(data, limit)

    def _read_more(self, first: bytes, limit: int) -> bytes:
        """Join the records that are here, as far as they fit."""
        read, incoming, pending = self._raw.read, self._incoming, self._raw.pending
        pieces, size = [first], len(first)
        try:
            while size < limit:
                if not incoming.pending and not pending():
                    self.starved = not self._at_eof
                    break
                piece = read(min(limit - size, RECORD))
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
                size += len(piece)
        except ssl.SSLWantReadError:
            self.starved = True
        except ssl.SSLError as error:
            self._end(error)
        return b"".join(pieces)

    def look_ahead(self) -> bool:
        """Decrypt at most one record if nothing is here yet, and leave it to be read.

        Returns:
            whether there are bytes for :meth:`read`. Errors as there.
        """
        if not self._ahead:
            self._ahead = self.read(RECORD)
        return bool(self._ahead)

    def write(self, plaintext: bytes | bytearray | memoryview) -> None:
        """Encrypt; the result is in the output, or will be when the peer has ended a message that it began.

        Raises:
            TlsFailed: OpenSSL refused, as after :meth:`close`.
        """
        try:
            self._raw.write(plaintext)
        except ssl.SSLWantReadError:  # half of a ticket or key update is here, and until the rest is, nothing goes out
            if len(self.held) + len(plaintext) > MAX_HELD:
                raise TlsFailed("the peer does not end a message that it began") from None
            self.held += plaintext
        except ssl.SSLError as error:
            if self._failure is None:  # else reading tells what is wrong, and this goes nowhere
                raise self._failed(error, "the peer ended the connection") from None

    def write_held(self) -> None:
        """The peer has sent more: what is held may go out now, and the end behind it. Errors as in :meth:`write`."""
        held, self.held = self.held, bytearray()
        self.write(held)
        if self._closing and not self.held:
            self.close()

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Say that nothing more will be sent (close_notify, RFC 8446, 6.1); reading goes on."""
        if not self.secured or self._failure is not None:
            return
        aside = b""
        if self._at_eof:  # what is here is all there will be, and OpenSSL reads nothing more after this
            pieces, self._ahead = [self._ahead], b""
            try:
                while not self.starved and not self.ended:
                    pieces.append(self.read(RECORD))
            except TheaterError as error:
                self._failure = error
            self._ahead = b"".join(pieces)
        else:
            while pending := self._object.pending():
                self._ahead += self._object.read(pending)
            aside = self._incoming.read()
        self._closing = bool(self.held)
        try:
            if not self._closing:
                self._object.unwrap()
        except ssl.SSLError:
            pass  # it wants to read the peer's close_notify, or there is nobody to say it to any more
        if aside:
            self._incoming.write(aside)

    def info(self) -> TlsInfo:
        """What was agreed on. After the handshake.

        Raises:
            TlsFailed: the peer's certificate, which nobody verified, can't be read.
        """
        assert self._agreed is not None
        version, cipher, alpn, certificate, resumed = self._agreed
        try:
            shown = facts_from_der(certificate) if certificate else None
        except InvalidArgument as error:  # OpenSSL could, and nobody verified it
            raise TlsFailed(f"the peer's certificate can't be read: {error.detail}") from None
        return TlsInfo(version, cipher, alpn, server_name_of(self._object), shown, resumed)

    @property
    def resumed(self) -> bool:
        """Whether an earlier session was taken up again."""
        return self._agreed is not None and self._agreed[-1]

    def _take_failure(self) -> TheaterError:
        failure, self._failure = self._failure, None
        assert failure is not None
        self.starved = True
        return failure

    def _end(self, error: ssl.SSLError) -> None:
        if isinstance(error, ssl.SSLZeroReturnError):
            self.ended = True
        elif isinstance(error, ssl.SSLEOFError):
            self._failure = TlsTruncated()
        else:
            self._failure = self._failed(error, "")

    def _failed(self, error: ssl.SSLError, at_eof: str) -> TlsFailed:
        """The error in words that name the reason, not the place in OpenSSL's source."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsFailed(f"certificate verify failed: {_lowered(error.verify_message).rstrip('.')}")
        if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) and at_eof:
            return TlsFailed(at_eof)
        reason = error.reason or ""
        alert = _ALERT.fullmatch(reason)
        if alert:
            return TlsFailed(f"the peer's alert: {(alert[1] or alert[2]).lower().replace('_', ' ')}")
        words = reason.lower().replace("_", " ") or "protocol error"
        if reason in _NOT_TLS or (reason == "RECORD_LAYER_FAILURE" and not self.secured):
            words = f"the peer's bytes are not TLS ({words})"
        elif reason in _BAD_RECORD:
            words = f"a record is wrong ({words})"
        return TlsFailed(words)


def server_name_of(sslobject: ssl.SSLObject) -> str | None:
    """The name that the client asked for. On a server, the context's SNI callback leaves it on the object."""
    name: str | None = getattr(sslobject, "theater_server_name", None) or sslobject.server_hostname
    if name is not None:
        with suppress(ValueError):
            ip_address(name)
            return None  # an address is verified, and not asked for (RFC 6066, 3)
    return name


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text  # "IP address mismatch" stays
