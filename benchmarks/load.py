"""The load generator as Python calls it: one run of a load against a server, and connections that are held."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.programs import LOAD, LOAD_TLS
from benchmarks.server import Server, ServerFailed

__all__ = ["AGREED", "Agreement", "HeldConnections", "Load", "LoadResult", "run_load"]

AGREED = "TLSv1.3, TLS_AES_256_GCM_SHA384, x25519"
"""What every TLS connection has to have negotiated: ``load_tls.c`` offers nothing else."""

_BEGIN = {"accept": [], "line": ["--starttls=line"], "smtp": ["--starttls=smtp"]}


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Args:
        name: the name of the case.
        about: the case in words.
        scenario: ``echo``, ``churn``, ``meet`` or ``mail``, as ``load.c`` has them.
        connections: how many at once.
        size: bytes of a message.
        window: messages on their way on each connection.
        tls: how TLS begins: ``accept`` with the first byte, ``line`` after a line ``STARTTLS``, ``smtp`` after SMTP's
            STARTTLS; empty without TLS.
        resume: each TLS connection resumes the session of the one before.
    """

    name: str
    about: str
    scenario: str
    connections: int
    size: int = 64
    window: int = 1
    tls: str = ""
    resume: bool = False

    def command(self) -> list[str]:
        """The load generator with its arguments for it."""
        numbers = {"connections": self.connections, "size": self.size, "window": self.window}
        command = [f"--scenario={self.scenario}", *(f"--{key}={value}" for key, value in numbers.items())]
        if not self.tls:
            return [str(LOAD), *command]
        return [str(LOAD_TLS), *command, *_BEGIN[self.tls], *(["--resume"] if self.resume else [])]


class Agreement(msgspec.Struct, frozen=True):
    """What was negotiated with a server, and how often while it was measured.

    Args:
        library: the client's OpenSSL.
        version, cipher, group: of all handshakes; empty where there was none.
        handshakes: how many there were.
        resumed: how many of them resumed a session.
        tickets: session tickets that the server sent over connections that ended.
        truncated: connections that the server ended without close_notify.
    """

    library: str
    handshakes: int
    resumed: int
    tickets: int
    truncated: int
    version: str = ""
    cipher: str = ""
    group: str = ""


class LoadResult(msgspec.Struct, frozen=True):
    """What one run gave; the fields are explained in ``load.c``. Times are microseconds, but for ``seconds``."""

    scenario: str
    connections: int
    size: int
    window: int
    seconds: float
    operations: int
    bytes: int
    opened: int
    errors: int
    first_error: str
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    client_cpu_us: float
    server_cpu_us: float
    lives: int
    tls: Agreement | None = None

    def figures(self) -> dict[str, float]:
        """The run in the figures that a comparison keeps: CPU for each operation first."""
        operations = max(self.operations, 1)
        shaken = {} if self.tls is None else {"tickets": self.tls.tickets / operations}
        return shaken | {
            "cpu_us": self.server_cpu_us / operations,
            "per_cpu_second": 1e6 * operations / max(self.server_cpu_us, 1e-9),
            "per_second": self.operations / max(self.seconds, 1e-9),
            "megabytes_per_second": self.bytes / max(self.seconds, 1e-9) / 1e6,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "client_cpu_us": self.client_cpu_us / operations,
            "operations": self.operations,
            "errors": self.errors,
        }


def run_load(
    server: Server, load: Load, *, seconds: float, warmup: float = 0.1, verify: bool = False, ca: Path | None = None
) -> LoadResult:
    """One run of a load.

    Args:
        server: who bears it.
        load: what is asked.
        seconds: how long it is measured.
        warmup: how long it goes on before that, in seconds.
        verify: compare every byte that comes back (slows the client down).
        ca: the file of the CA that the server's certificate is verified with; None verifies nothing.

    Raises:
        ServerFailed: nothing came back, or something wrong; or TLS is not what it has to be.
    """
    command = [*load.command(), f"--port={server.port}", f"--cpu-of={server.pid}"]
    command += [f"--seconds={seconds}", f"--warmup={warmup}", *(["--verify"] if verify else [])]
    command += [f"--ca={ca}"] if ca is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ServerFailed(f"{server.name} under {load.name}: {done.stderr.strip()}")
    result = msgspec.json.decode(done.stdout, type=LoadResult)
    if not result.operations:
        raise ServerFailed(
            f"{server.name} under {load.name}: no operation; {result.first_error or server.last_words()}"
        )
    if load.tls:
        _check(server, load, result.tls)
    return result


def _check(server: Server, load: Load, tls: Agreement | None) -> None:
    """Whether the server did what all of them are to do."""
    where = f"{server.name} under {load.name}"
    agreed = "no TLS" if tls is None else f"{tls.version}, {tls.cipher}, {tls.group}"
    if tls is None or agreed != AGREED:
        raise ServerFailed(f"{where}: negotiated {agreed} instead of {AGREED}")
    if tls.resumed != (tls.handshakes if load.resume else 0):
        raise ServerFailed(f"{where}: {tls.resumed} of {tls.handshakes} handshakes resumed a session")
    if tls.truncated:
        raise ServerFailed(f"{where}: {tls.truncated} connections ended without close_notify")


class HeldConnections:
    """Opens connections to a server, sends one message over each, and keeps them idle until it is closed.

    Args:
        server: the server.
        count: how many connections.
        tls: how TLS begins, as :class:`Load` has it; empty without TLS.

    Raises:
        ServerFailed: not all of them could be opened.
    """

    def __init__(self, server: Server, count: int, tls: str = "") -> None:
        command = [*Load("idle", "", "hold", count, tls=tls).command(), f"--port={server.port}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        result = msgspec.json.decode(line, type=LoadResult) if line else None
        if result is None or result.opened < count:
            self.close()
            what = f"{result.opened} of {count} ({result.first_error})" if result else "nothing"
            raise ServerFailed(f"{server.name} with {count} idle connections: {what} opened")
        self.dropped: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; then ``dropped`` is the number that the server had closed before."""
        rest, _ = self._process.communicate()
        self.dropped = msgspec.json.decode(rest)["dropped"] if rest else None
