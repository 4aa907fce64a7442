"""TLS of a peer: the standard library's own ``ssl.SSLObject``. What the runtime says is heard by somebody else."""

from __future__ import annotations

import ssl

__all__ = ["PeerTls", "trusting_context"]

_CHUNK = 1 << 16


class PeerTls:
    """One end of a TLS connection; whoever has it moves the bytes.

    Args:
        context: as the standard library makes it.
        server_side: which end.
        server_name: for a client, the name that is asked for, and verified if the context says so.
        session: for a client, an earlier session of the same context, to take up again.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name, session)
        self.secured = False
        """Whether the handshake is complete."""
        self.ended = False
        """Whether close_notify has come."""
        self._said_goodbye = False

    def feed(self, ciphertext: bytes) -> None:
        """Take what came; nothing stands for the end of the TCP stream.

        Without close_notify that is no end of the TLS stream. So it is kept from a session that is secured: the
        standard library's contexts would have OpenSSL pass over the difference.
        """
        if ciphertext:
            self._incoming.write(ciphertext)
        elif not self.secured:
            self._incoming.write_eof()

    def handshake(self) -> bool:
        """One step; whether it is complete.

        Raises:
            ssl.SSLError: it fails.
        """
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.secured = True
        return True

    def read(self) -> bytes:
        """All that can be decrypted now.

        Raises:
            ssl.SSLError: a record is wrong, or the other end has sent an alert.
        """
        data = b""
        while not self.ended:
            try:
                piece = self.object.read(_CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                piece = b""
            self.ended = not piece
            data += piece
        return data

    def write(self, plaintext: bytes) -> bytes:
        """Encrypt; what is to be sent for it."""
        if plaintext:
            self.object.write(plaintext)
        return self.take_output()

    def take_output(self) -> bytes:
        """What is to be sent: of the handshake, alerts, answers to key updates."""
        return self._outgoing.read()

    def close(self) -> bytes:
        """Say that nothing more will be sent, once: close_notify, if the handshake is complete."""
        if self.secured and not self._said_goodbye:
            self._said_goodbye = True
            try:
                self.object.unwrap()
            except ssl.SSLError:
                pass  # it waits for the other end's, which comes when it comes
        return self.take_output()


def trusting_context() -> ssl.SSLContext:
    """A client's context that takes any certificate of anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
