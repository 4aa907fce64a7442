"""A private Postfix: a real server that a test starts and ends, in a folder and on a port of its own.

It shares nothing with a mail system of the machine but the programs: configuration, queue, locks and log are in the
folder, and the only thing that listens to the network is one smtpd on 127.0.0.1. Mail for ``example.org`` goes into a
Maildir there, all else is refused. The queue's own daemons talk over Unix sockets in the folder.

Postfix is started by root alone, and most of its processes then become the user ``postfix``, which Debian's package
makes. So the folder is no subfolder of pytest's, which only root may enter.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.peers import TIMEOUT, eventually
from theater_tcp import CertificateFiles

__all__ = ["Postfix", "running_postfix"]

_QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace")
_SOCKETS = ("maildrop", "private", "public")

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
anvil unix - - n - 1 anvil
bounce unix - - n - 0 bounce
cleanup unix n - n - 0 cleanup
defer unix - - n - 0 bounce
error unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
tlsmgr unix - - n 1000? 1 tlsmgr
trace unix - - n - 0 bounce
virtual unix - n n - - virtual
"""

_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/data/log
maillog_file_prefixes = {folder}
myhostname = mx.example.org
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
virtual_mailbox_domains = example.org
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ b@example.org=inbox/ c@example.org=inbox/ }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_relay_restrictions = reject_unauth_destination
message_size_limit = 1000000
"""

_TLS = """\
smtpd_tls_security_level = may
smtpd_tls_chain_files = {key}, {cert}
smtpd_tls_received_header = yes
"""


class Postfix:
    """A running one.

    Args:
        folder: all that it has.
        port: on 127.0.0.1.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.port = port
        self.address = f"127.0.0.1:{port}"

    @property
    def log(self) -> str:
        """What it has logged."""
        log = self._folder / "data" / "log"
        return log.read_text() if log.exists() else ""

    def delivered(self, identifier: str) -> bytes:
        """The message that was queued under this name, when it is in the mailbox."""
        found: list[bytes] = []

        def look() -> bool:
            contents = (file.read_bytes() for file in self._folder.glob("mail/inbox/new/*"))
            found[:] = [content for content in contents if re.search(rf" id {identifier}\b".encode(), content)]
            return bool(found)

        eventually(look)
        return found[0]


@contextmanager
def running_postfix(certificate: CertificateFiles | None = None) -> Iterator[Postfix]:
    """A Postfix that ends with the block.

    Args:
        certificate: it offers STARTTLS with it; ``None``: it doesn't offer it.
    """
    if os.geteuid() != 0:
        pytest.fail("Postfix can only be started by root: run this test as root, in a container", pytrace=False)
    folder = Path(tempfile.mkdtemp(prefix="postfix-"))
    try:
        port = _free_port()
        _furnish(folder, port, certificate)
        master = Path(_default("daemon_directory")) / "master"
        with subprocess.Popen([master, "-c", folder / "config", "-d"], start_new_session=True) as process:
            try:
                postfix = Postfix(folder, port)
                eventually(lambda: process.poll() is not None or _greets(port))
                assert process.poll() is None, f"Postfix ended at once: {postfix.log}"
                yield postfix
            finally:
                process.send_signal(signal.SIGTERM)  # it passes that on to the processes that it has started
                process.wait(TIMEOUT)
                with suppress(ProcessLookupError):  # who was too busy to hear of it
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        shutil.rmtree(folder)


def _furnish(folder: Path, port: int, certificate: CertificateFiles | None) -> None:
    owner = pwd.getpwnam(_default("mail_owner"))
    folder.chmod(0o755)
    for name in ("config", "data", "mail", "queue", "queue/pid"):
        (folder / name).mkdir()
    for name in ("data", "mail", *(f"queue/{name}" for name in (*_QUEUES, *_SOCKETS))):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
        os.chown(folder / name, owner.pw_uid, owner.pw_gid)
    main = _MAIN.format(folder=folder, uid=owner.pw_uid, gid=owner.pw_gid)
    if certificate is not None:
        main += _TLS.format(key=certificate.key, cert=certificate.cert)
    for name, text in (("main.cf", main), ("master.cf", _MASTER.format(port=port))):
        file = folder / "config" / name
        file.write_text(text)
        os.utime(file, (0, 0))  # Postfix waits for seconds with a file that was written just now: it may still change


def _default(parameter: str) -> str:
    """The value of a parameter where nobody has set it."""
    done = subprocess.run(["postconf", "-dh", parameter], capture_output=True, text=True, check=True, timeout=TIMEOUT)
    return done.stdout.strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            return client.recv(4) == b"220 "
    except OSError:
        return False
