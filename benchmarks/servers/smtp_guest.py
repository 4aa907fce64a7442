"""The SMTP server as a guest for each connection, with its store: ``smtp_guest MAILDIR``.

Both are in this process, so its CPU time is all that a message costs: the guest's part, the connection between them by
LMTP, and the store's delivery to the Maildir, without fsync. Pool and limits are those of
``actors/smtp_guest/smtp.yaml``.
"""

from __future__ import annotations

import sys

from actors.lmtp_store.store import LmtpStore
from benchmarks.programs import ROOT
from benchmarks.servers.launch import BACKLOG, announce
from theater_tcp import Limits, Permissions, Theater

__all__ = ["GUEST", "main"]

GUEST = ROOT / "actors" / "smtp_guest" / "smtp.wasm"
"""The guest's file."""


def main() -> None:
    """Serve until standard input closes."""
    (maildir,) = sys.argv[1:]
    with Theater() as theater:
        store = theater.spawn(
            LmtpStore, maildir=maildir, fsync=False, hostname="mx.example.org", domains=["example.org"]
        )
        behind = theater.listen_for(store, "127.0.0.1:0", backlog=BACKLOG, half_open=True).address
        guest = theater.spawn_guest(
            GUEST,
            {"hostname": "mx.example.org", "store": behind, "require_tls": False, "timeout": None},
            name="smtp-guest",
            grants=["clock"],
            limits=Limits(memory=16 << 20, cpu=2.0, connections=2),
            per_connection=True,
            pool=32,
            recycle_after=100,
            permissions=Permissions(enabled=True, allowlist=(behind,)),
        )
        listener = theater.listen_for(guest, "127.0.0.1:0", backlog=BACKLOG, half_open=True, receive_timeout=300)
        announce(int(listener.address.rpartition(":")[2]))
        theater.wait()


if __name__ == "__main__":
    main()
