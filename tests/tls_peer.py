"""A peer that speaks TLS by hand: it decides which bytes of the ciphertext go out, when, and in how many pieces.

:class:`TlsPeer` is Python's own TLS between two memory buffers, on top of a plain blocking socket. Nothing moves unless
a test says so: a ClientHello can be made and withheld, ciphertext can be cut, sent byte by byte, mixed with plaintext
or left without its end, and what the other side says at the end (a close_notify, an alert, a bare FIN, a reset) is told
apart.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import socket

    from theater_tcp.tls_settings import CertificateFiles

__all__ = ["TlsPeer", "client_context", "records_of", "rest_of", "server_context"]

PIECE = 1 << 16
ALERT, HANDSHAKE, DATA = 21, 22, 23
RECORD_TYPES = {20: "change cipher spec", ALERT: "alert", HANDSHAKE: "handshake", DATA: "application data"}


def client_context(
    ca: str | None,
    *,
    version: ssl.TLSVersion | None = None,
    files: CertificateFiles | None = None,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """What a client trusts and shows.

    Args:
        ca: the file of the CA that it trusts; None to take any certificate.
        version: the only version that it speaks; None for all that Python does.
        files: its own certificate.
        alpn: the protocols that it offers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    return _prepared(context, version, files)


def server_context(
    files: CertificateFiles, *, version: ssl.TLSVersion | None = None, client_ca: str | None = None
) -> ssl.SSLContext:
    """What a server shows, and whether it asks for the client's certificate.

    Args:
        files: its certificate.
        version: the only version that it speaks; None for all that Python does.
        client_ca: the CA that clients' certificates must come from; None asks for none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return _prepared(context, version, files)


def _prepared(
    context: ssl.SSLContext, version: ssl.TLSVersion | None, files: CertificateFiles | None
) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


def records_of(ciphertext: bytes) -> list[bytes]:
    """TLS records one by one, each with its header (RFC 8446, 5.1); every byte must belong to one.

    This is what shows that nothing went out in plaintext.
    """
    records = []
    while ciphertext:
        size = 5 + int.from_bytes(ciphertext[3:5], "big")
        whole = len(ciphertext) >= size and ciphertext[0] in RECORD_TYPES and ciphertext[1] == 3
        assert whole, f"{ciphertext[:40]!r} is no TLS record"
        records.append(ciphertext[:size])
        ciphertext = ciphertext[size:]
    return records


def rest_of(sock: socket.socket) -> bytes:
    """All that still comes over a plain socket, to its end by FIN or by reset."""
    data = bytearray()
    try:
        while piece := sock.recv(PIECE):
            data += piece
    except ConnectionResetError:
        pass
    return bytes(data)


class TlsPeer:
    """One end of TLS over a plain socket.

    Args:
        sock: a connected, blocking socket; plaintext goes over it directly.
        context: from :func:`client_context` or :func:`server_context`, which also tells which end this is.
        server_name: for a client, the name that it asks for and verifies.
        session: for a client, a session to take up again.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        server_name: str | None = "localhost",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.seen = bytearray()
        """All ciphertext that has come."""
        server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server, server_hostname=None if server else server_name, session=session
        )

    # -- by hand ---------------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """The ciphertext that is ready to be sent, taken away."""
        return self.outgoing.read()

    def step(self) -> bool:
        """Go on with the handshake as far as what has come leads; whether it is complete. Sends nothing."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def pull(self) -> bool:
        """Wait for ciphertext and take it in; whether there was any before the end of the TCP stream."""
        piece = self.sock.recv(PIECE)
        self.seen += piece
        self.incoming.write(piece)
        return bool(piece)

    def hello(self) -> bytes:
        """A client's first message; not sent."""
        assert not self.step()
        return self.take()

    def finished(self) -> bytes:
        """Shake hands up to this end's last message (a client's Finished), which is not sent."""
        while not self.step():
            self.flush()
            assert self.pull(), "the other side ended the connection during the handshake"
        return self.take()

    def seal(self, data: bytes) -> bytes:
        """The records that carry ``data``; not sent."""
        self.tls.write(data)
        return self.take()

    def goodbye(self) -> bytes:
        """The record with close_notify; not sent. What has come and was not read stays to be read."""
        aside = self.incoming.read()
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # it looked for the other side's close_notify too
        self.incoming.write(aside)
        return self.take()

    # -- as it is usual --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send the ciphertext that is ready."""
        self.sock.sendall(self.take())

    def handshake(self) -> Self:
        """Shake hands, to the end."""
        self.sock.sendall(self.finished())
        return self

    def send(self, data: bytes) -> None:
        """Send ``data``, encrypted."""
        self.sock.sendall(self.seal(data))

    def receive(self, size: int = PIECE) -> bytes:
        """The next data, decrypted, at most ``size`` bytes; empty at close_notify."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLZeroReturnError:  # close_notify, after this end's own
                return b""
            except ssl.SSLWantReadError:
                assert self.pull(), "the stream ended without close_notify"

    def receive_exactly(self, size: int) -> bytes:
        """``size`` bytes, decrypted."""
        data = bytearray()
        while len(data) < size:
            piece = self.receive(size - len(data))
            assert piece, f"the stream ended after {len(data)} of {size} bytes"
            data += piece
        return bytes(data)

    def receive_to_end(self) -> bytes:
        """All data up to close_notify, which must come."""
        data, end = self.ending()
        assert end == "close_notify", f"the stream ended by {end} after {len(data)} bytes"
        return data

    def ending(self) -> tuple[bytes, str]:
        """All data up to the end, and how it ended: ``close_notify``, ``eof`` (FIN without it), ``reset``, or the
        reason that OpenSSL gives, as for an alert."""
        data = bytearray()
        while True:
            try:
                piece = self.tls.read(PIECE)
            except ssl.SSLWantReadError:
                try:
                    if not self.pull():
                        return bytes(data), "eof"
                except ConnectionResetError:
                    return bytes(data), "reset"
            except ssl.SSLZeroReturnError:  # after this end's own
                return bytes(data), "close_notify"
            except ssl.SSLError as error:
                return bytes(data), str(error.reason)
            else:
                if not piece:
                    return bytes(data), "close_notify"
                data += piece

    def refusal(self) -> str:
        """Shake hands and read on until the other side or this one refuses; OpenSSL's name for why.

        Since a client of TLS 1.3 has its Finished out before the server judges its certificate, the alert may come as
        late as with the first read (RFC 8446, 4.4.2.4).
        """
        try:
            self.handshake()
        except ssl.SSLError as error:
            try:
                self.flush()  # this end's alert
            except OSError:
                pass
            return str(error.reason)
        except AssertionError:
            return "eof"
        except OSError:
            return "reset"
        return self.ending()[1]
