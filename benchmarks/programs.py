"""The compiled programs: the load generators, the servers in C and Erlang; built where a source is newer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["BUILD", "LOAD", "LOAD_TLS", "ROOT", "BuildFailed", "build", "build_tls", "missing_headers"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds ``benchmarks`` and ``theater_tcp``."""

BUILD = ROOT / "benchmarks" / "build"
"""Where the built programs are."""

LOAD = BUILD / "load"
"""The load generator."""

LOAD_TLS = BUILD / "load-tls"
"""The same over TLS, with OpenSSL."""

_SOURCES = ROOT / "benchmarks"
_LOAD_SOURCES = [_SOURCES / name for name in ("load.c", "load_plain.c", "load_dialogue.c", "load_latency.c", "load.h")]


class BuildFailed(Exception):
    """A program could not be built; the text says which and why."""


def build() -> None:
    """Build what is missing or older than its source. Without ``erlc`` the Erlang server is left out.

    Raises:
        BuildFailed: there is no C compiler, or a source does not compile.
    """
    compiler = _compiler()
    _make(_LOAD_SOURCES, LOAD, compiler)
    _make([_SOURCES / "echo_epoll.c"], BUILD / "echo_epoll", compiler)
    if shutil.which("erlc"):
        _make([_SOURCES / "servers" / "echo.erl"], BUILD / "echo.beam", ["erlc"])


def build_tls() -> None:
    """Build the load generator that speaks TLS.

    Raises:
        BuildFailed: there is no C compiler, OpenSSL's headers are missing, or a source does not compile.
    """
    compiler = _compiler()
    if missing := missing_headers():
        raise BuildFailed(f"OpenSSL's headers are not installed (Debian: {missing})")
    _make([*_LOAD_SOURCES, _SOURCES / "load_tls.c"], LOAD_TLS, [*compiler, "-DTRANSPORT=tls"], ["-lssl", "-lcrypto"])


def missing_headers() -> str:
    """The Debian package that has OpenSSL's headers, if they are missing; empty also without a compiler to ask."""
    try:
        probe = [*_compiler(), "-E", "-x", "c", "-"]
    except BuildFailed:
        return ""
    done = subprocess.run(probe, input="#include <openssl/ssl.h>\n", capture_output=True, text=True, check=False)
    return "libssl-dev" if done.returncode else ""


def _compiler() -> list[str]:
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise BuildFailed(f"the C compiler {compiler!r} is not installed; the load generator is written in C")
    return [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra"]


def _make(sources: list[Path], target: Path, command: list[str], libraries: Sequence[str] = ()) -> None:
    if target.exists() and target.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return
    BUILD.mkdir(exist_ok=True)
    # erlc wants the folder, cc the file; cc's goes in one step, so that two runs at once never start half a program.
    half = target.with_name(f"{target.name}.{os.getpid()}")
    output = BUILD if target.suffix == ".beam" else half
    compiled = [str(source) for source in sources if source.suffix != ".h"]
    done = subprocess.run(
        [*command, "-o", str(output), *compiled, *libraries], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildFailed(f"{target.name} does not compile: {(done.stderr + done.stdout).strip()}")
    if output == half:
        half.replace(target)
