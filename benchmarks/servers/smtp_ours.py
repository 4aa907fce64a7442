"""Our SMTP actor: ``smtp_ours MAILDIR fsync|no-fsync``, with STARTTLS followed by ``CERT KEY TICKETS starttls``.

Limits and checks are as ``scripts/serve`` has them.
"""

from __future__ import annotations

import sys

from actors.smtp.server import SmtpServer
from benchmarks.servers.launch import BACKLOG, announce
from benchmarks.servers.tls_launch import Launch
from theater_tcp import ServerTls, Theater

__all__ = ["main"]


def main() -> None:
    """Serve until standard input closes."""
    maildir, durability, *rest = sys.argv[1:]
    if durability not in {"fsync", "no-fsync"}:
        sys.exit(f"smtp_ours: {durability!r} is neither fsync nor no-fsync")
    launch = Launch.from_arguments(rest) if rest else None
    tls = ServerTls(cert=launch.cert, key=launch.key, auto_handshake=launch.at_accept) if launch else None
    with Theater() as theater:
        server = theater.spawn(
            SmtpServer, maildir=maildir, fsync=durability == "fsync", hostname="mx.example.org", domains=["example.org"]
        )
        listener = theater.listen_for(server, "127.0.0.1:0", backlog=BACKLOG, server_tls=tls)
        announce(int(listener.address.rpartition(":")[2]))
        theater.wait()


if __name__ == "__main__":
    main()
