"""The load generator as Python calls it: one run of a load against a server, and connections that are held."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.programs import LOAD
from benchmarks.server import Server, ServerFailed

__all__ = ["HeldConnections", "Load", "LoadResult", "run_load"]


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Args:
        name: the name of the case.
        about: the case in words.
        scenario: ``echo`` or ``churn``, as ``load.c`` has them.
        connections: how many at once.
        size: bytes of a message.
        window: messages on their way on each connection.
    """

    name: str
    about: str
    scenario: str
    connections: int
    size: int = 64
    window: int = 1

    def arguments(self) -> list[str]:
        """The load generator's arguments for it."""
        numbers = {"connections": self.connections, "size": self.size, "window": self.window}
        return ["--scenario", self.scenario, *(f"--{key}={value}" for key, value in numbers.items())]


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

    def figures(self) -> dict[str, float]:
        """The run in the figures that a comparison keeps: CPU for each operation first."""
        operations = max(self.operations, 1)
        return {
            "cpu_us": self.server_cpu_us / operations,
            "per_second": self.operations / max(self.seconds, 1e-9),
            "megabytes_per_second": self.bytes / max(self.seconds, 1e-9) / 1e6,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "client_cpu_us": self.client_cpu_us / operations,
            "operations": self.operations,
            "errors": self.errors,
        }


def run_load(server: Server, load: Load, *, seconds: float, warmup: float = 0.1, verify: bool = False) -> LoadResult:
    """One run of a load.

    Args:
        server: who bears it.
        load: what is asked.
        seconds: how long it is measured.
        warmup: how long it goes on before that, in seconds.
        verify: compare every byte that comes back (slows the client down).

    Raises:
        ServerFailed: nothing came back, or something wrong.
    """
    command = [str(LOAD), f"--port={server.port}", f"--cpu-of={server.pid}", *load.arguments()]
    command += [f"--seconds={seconds}", f"--warmup={warmup}", *(["--verify"] if verify else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ServerFailed(f"{server.name} under {load.name}: {done.stderr.strip()}")
    result = msgspec.json.decode(done.stdout, type=LoadResult)
    if not result.operations:
        raise ServerFailed(
            f"{server.name} under {load.name}: no operation; {result.first_error or server.last_words()}"
        )
    return result


class HeldConnections:
    """Opens connections to a server, sends one message over each, and keeps them idle until it is closed.

    Args:
        server: the server.
        count: how many connections.

    Raises:
        ServerFailed: not all of them could be opened.
    """

    def __init__(self, server: Server, count: int) -> None:
        command = [str(LOAD), f"--port={server.port}", "--scenario=hold", f"--connections={count}"]
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
