"""Measures what a TLS handshake costs a server that has no sockets: ``handshakes CERT KEY TICKETS COUNT``.

Both ends are an ``ssl.SSLObject`` over two ``ssl.MemoryBIO`` in one thread. What is counted is the CPU time of the
thread in the server's part alone: making the object, and its steps. A line ``measure`` gets the figures.
"""

from __future__ import annotations

import ssl
import sys
import threading
import time

import msgspec

from benchmarks.servers.launch import announce
from benchmarks.servers.tls_launch import Launch

__all__ = ["MEASURE", "Handshakes", "main"]

MEASURE = "measure"
"""The line that is answered with figures."""


class Handshakes:
    """Handshakes of two ends in memory.

    Args:
        server: the server's context.
        count: handshakes of a measurement.
    """

    def __init__(self, server: ssl.SSLContext, count: int) -> None:
        self.server = server
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.check_hostname = False
        self.client.verify_mode = ssl.CERT_NONE
        self.client.minimum_version = ssl.TLSVersion.TLSv1_3
        self.count = count

    def measure(self) -> str:
        """The figures, as JSON."""
        spent = sum(self.shake_hands() for _ in range(self.count)) / 1e3
        figures = {"cpu_us": spent / self.count, "per_cpu_second": self.count / spent * 1e6}
        return msgspec.json.encode(figures).decode()

    def shake_hands(self) -> int:
        """One handshake; the nanoseconds of the server's part."""
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.client.wrap_bio(to_client, to_server, server_hostname="localhost")
        _step(client)
        begun = time.thread_time_ns()
        server = self.server.wrap_bio(to_server, to_client, server_side=True)
        _step(server)
        spent = time.thread_time_ns() - begun
        _step(client)
        begun = time.thread_time_ns()
        done = _step(server)
        spent += time.thread_time_ns() - begun
        if not done or server.cipher() is None or server.version() != "TLSv1.3":
            raise RuntimeError("no TLS 1.3 came about")
        return spent


def _step(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def main() -> None:
    """Answer until standard input closes."""
    launch, count = Launch.from_arguments([*sys.argv[1:4], "accept"]), int(sys.argv[4])
    measured = Handshakes(launch.context(), count)
    announce(0, {MEASURE: measured.measure})
    threading.Event().wait()


if __name__ == "__main__":
    main()
