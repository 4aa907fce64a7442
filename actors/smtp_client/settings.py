"""What can be set for a client: the server, TLS, the own name, how long to wait, how much to read.

All is frozen and checked when it is built; ``msgspec.convert(mapping, type=ClientSettings)`` names the wrong key.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

__all__ = ["ClientSettings", "Timeouts"]

_SERVER = re.compile(r"unix:.+|(?P<host>\[[0-9A-Za-z:.%]+\]|[^\s:\[\]/@]+):\d{1,5}")
_NAME = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?)*|\[[0-9A-Za-z:.]+\]"
)

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long each step may take, in seconds. Where RFC 5321, 4.5.3.2 names a time, it is the default.

    Args:
        connect: until the connection is there, the resolution of the name included.
        greeting: for the server's first reply (4.5.3.2.1).
        ehlo: for the reply to EHLO or HELO.
        starttls: for the reply to STARTTLS.
        handshake: for the TLS handshake.
        mail: for the reply to MAIL (4.5.3.2.2).
        rcpt: for the reply to a RCPT (4.5.3.2.3).
        data: for the reply to DATA (4.5.3.2.4).
        block: for which the server may take nothing of the message (4.5.3.2.5).
        end: for the reply to the final dot (4.5.3.2.6); who gives up early will send messages twice.
        quit: for the reply to QUIT, when all has been decided.
    """

    connect: Seconds = 30.0
    greeting: Seconds = 300.0
    ehlo: Seconds = 300.0
    starttls: Seconds = 300.0
    handshake: Seconds = 30.0
    mail: Seconds = 300.0
    rcpt: Seconds = 300.0
    data: Seconds = 120.0
    block: Seconds = 180.0
    end: Seconds = 600.0
    quit: Seconds = 10.0


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a client.

    Args:
        server: where the mail goes: ``host:port``, ``[v6]:port`` or ``unix:/path``. There is no lookup of MX records.
        tls: ``required``: STARTTLS has to be offered, to succeed and to verify the server, or nothing is sent.
            ``opportunistic``: STARTTLS where it is offered, with any certificate. ``implicit``: TLS from the first
            byte (RFC 8314, 3), verified. ``none``: plaintext.
        verify: with ``opportunistic``, whether the server's certificate has to be good where there is TLS. With
            ``required`` and ``implicit`` it always has to.
        ca_cert: file of the CA certificates (PEM) that the server's is verified with; ``None``: the system's.
        server_name: the name that the certificate has to have; ``None``: the host in ``server``.
        cert: file of the certificate (PEM) that the client shows of itself.
        key: file of its private key; ``None``: it stands in ``cert``.
        name: the client's own name, for EHLO: a domain name or an address literal; ``None``: the literal of the address
            that the connection is made from (RFC 5321, 4.1.4).
        timeouts: how long each step may take.
        max_reply_line: octets of a reply's line with its CR LF; servers keep to 512 (RFC 5321, 4.5.3.1.5).
        max_reply_lines: lines of a reply.
        max_reply_size: octets of a reply.
    """

    server: str
    tls: Literal["required", "opportunistic", "implicit", "none"] = "required"
    verify: bool | None = None
    ca_cert: Text | None = None
    server_name: Text | None = None
    cert: Text | None = None
    key: Text | None = None
    name: str | None = None
    timeouts: Timeouts = Timeouts()
    max_reply_line: Annotated[int, msgspec.Meta(ge=512)] = 4096
    max_reply_lines: Annotated[int, msgspec.Meta(ge=32)] = 128
    max_reply_size: Annotated[int, msgspec.Meta(ge=4096)] = 65_536

    def __post_init__(self) -> None:
        match = _SERVER.fullmatch(self.server)
        if match is None:
            raise ValueError(f"server: {self.server!r} is neither host:port, [v6]:port nor unix:/path")
        if self.name is not None and _NAME.fullmatch(self.name) is None:
            raise ValueError(f"name: {self.name!r} is neither a domain name nor an address literal")
        if self.tls == "none":
            for field in ("verify", "ca_cert", "server_name", "cert", "key"):
                if getattr(self, field):
                    raise ValueError(f"{field}: is of no use with tls 'none'")
        elif match["host"] is None and self.server_name is None:
            raise ValueError("server_name: a Unix socket has no name that could be verified")
        if self.tls in ("required", "implicit") and self.verify is False:
            raise ValueError(f"verify: tls {self.tls!r} always verifies; give it the ca_cert of the server")
        if self.tls == "opportunistic" and not self.verify and self.ca_cert is not None:
            raise ValueError("ca_cert: verifies nobody as long as verify is false")

    @property
    def host(self) -> str:
        """The name or address that the server's certificate has to have; empty where there will be none."""
        if self.server_name is not None:
            return self.server_name
        match = _SERVER.fullmatch(self.server)
        return ((match and match["host"]) or "").strip("[]")

    @property
    def verifies(self) -> bool:
        """Whether the server's certificate has to be good."""
        return self.verify or self.tls in ("required", "implicit")
