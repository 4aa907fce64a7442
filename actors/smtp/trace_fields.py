"""The fields that a delivery puts in front of a message (RFC 5321, 4.4): Return-Path, Delivered-To, Received."""

from __future__ import annotations

from email.utils import formatdate

from actors.smtp.envelope import Envelope

__all__ = ["Trace"]


class Trace:
    """Writes the fields for one server.

    Args:
        hostname: the server's own name.
    """

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._date = (-1, "")  # of the last second that was asked for: messages come many in a second

    def fields(self, envelope: Envelope, identifier: str, now_s: float) -> bytes:
        """The fields with LF line ends, as the content has them.

        Return-Path comes first (RFC 5321, 4.4). Then one Delivered-To (RFC 9228) for each recipient, for the mailbox is
        one for all. Received names a recipient only where it is the only one, as its readers need not know the
        others (RFC 5321, 7.6). How the connection was encrypted stands in a comment.

        Args:
            envelope: of the message.
            identifier: what the message is called here; an atom.
            now_s: seconds since the epoch.
        """
        recipients = envelope.recipients
        lines = [f"Return-Path: <{envelope.sender}>"]
        lines += [f"Delivered-To: {recipient}" for recipient in recipients]
        lines.append(f"Received: from {envelope.helo} ({_tcp_info(envelope.peer)})")
        encryption = envelope.encryption
        if encryption is not None:
            lines.append(f"\t(version={encryption.version} cipher={encryption.cipher})")
        whom = f"\n\tfor <{recipients[0]}>" if len(recipients) == 1 else ""
        lines.append(f"\tby {self._hostname} with {envelope.protocol} id {identifier}{whom};")
        lines.append(f"\t{self._format_date(int(now_s))}\n")
        return "\n".join(lines).encode()

    def _format_date(self, second: int) -> str:
        cached, text = self._date
        if cached != second:
            text = formatdate(second, localtime=True)
            self._date = (second, text)
        return text


def _tcp_info(peer: str) -> str:
    """The client's address as an address literal (RFC 5321, 4.1.3); ``unix`` for a socket of this machine."""
    if peer.startswith("unix:"):
        return "unix"
    host = peer.rpartition(":")[0]
    return f"[IPv6:{host[1:-1].partition('%')[0]}]" if host.startswith("[") else f"[{host}]"
