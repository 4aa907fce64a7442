"""An SMTP server with aiosmtpd that puts each message into a Maildir.

``smtp_aiosmtpd MAILDIR own|lean``, or, with STARTTLS, ``smtp_aiosmtpd MAILDIR own|lean CERT KEY TICKETS starttls``.

``own`` is the handler that aiosmtpd ships for a Maildir, ``aiosmtpd.handlers.Mailbox``, which parses each message and
writes it out again; its ``os.fsync`` does nothing here. ``lean`` is the least that a handler can do: it writes the
bytes to ``tmp`` and renames the file to ``new``, and shows what is aiosmtpd's own part. Neither forces anything to the
disk.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import sys
import time
from pathlib import Path

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP, Envelope, Session

from benchmarks.servers.launch import BACKLOG, announce, listen
from benchmarks.servers.tls_launch import Launch

__all__ = ["main"]


class LeanHandler:
    """Delivers to a Maildir, without fsync.

    Args:
        maildir: its folder; made where it is missing.
    """

    def __init__(self, maildir: Path) -> None:
        for name in ("tmp", "new", "cur"):
            (maildir / name).mkdir(parents=True, exist_ok=True)
        self.tmp, self.new = f"{maildir}/tmp/", f"{maildir}/new/"
        self.serial = itertools.count()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        name = f"{time.time():.6f}.{os.getpid()}_{next(self.serial)}.localhost"
        content = envelope.original_content or b""
        descriptor = os.open(self.tmp + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.writev(descriptor, [f"Return-Path: <{envelope.mail_from}>\r\n".encode(), content])
        finally:
            os.close(descriptor)
        os.rename(self.tmp + name, self.new + name)
        return "250 2.0.0 accepted"


async def serve(handler: LeanHandler | Mailbox, context: ssl.SSLContext | None) -> None:
    listener = listen()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, hostname="mx.example.org", enable_SMTPUTF8=True, tls_context=context),
        sock=listener,
        backlog=BACKLOG,
    )
    announce(listener.getsockname()[1])
    await server.serve_forever()


def main() -> None:
    """Serve until standard input closes."""
    maildir, kind = Path(sys.argv[1]), sys.argv[2]
    context = Launch.from_arguments(sys.argv[3:]).context() if sys.argv[3:] else None
    if kind == "own":
        os.fsync = lambda fd: None
        asyncio.run(serve(Mailbox(maildir), context))
    elif kind == "lean":
        asyncio.run(serve(LeanHandler(maildir), context))
    else:
        sys.exit(f"smtp_aiosmtpd: {kind!r} is neither own nor lean")


if __name__ == "__main__":
    main()
