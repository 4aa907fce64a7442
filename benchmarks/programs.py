"""The compiled programs: the load generator, the servers in C and Erlang; built where their source is newer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["BUILD", "LOAD", "ROOT", "BuildFailed", "build"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds ``benchmarks`` and ``theater_tcp``."""

BUILD = ROOT / "benchmarks" / "build"
"""Where the built programs are."""

LOAD = BUILD / "load"
"""The load generator."""


class BuildFailed(Exception):
    """A program could not be built; the text says which and why."""


def build() -> None:
    """Build what is missing or older than its source. Without ``erlc`` the Erlang server is left out.

    Raises:
        BuildFailed: there is no C compiler, or a source does not compile.
    """
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise BuildFailed(f"the C compiler {compiler!r} is not installed; the load generator is written in C")
    BUILD.mkdir(exist_ok=True)
    sources = ROOT / "benchmarks"
    for name in ("load", "echo_epoll"):
        _make(sources / f"{name}.c", BUILD / name, [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o"])
    if shutil.which("erlc"):
        _make(sources / "servers" / "echo.erl", BUILD / "echo.beam", ["erlc", "-o"])


def _make(source: Path, target: Path, command: list[str]) -> None:
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return
    # erlc wants the folder, cc the file; cc's goes in one step, so that two runs at once never start half a program.
    half = target.with_name(f"{target.name}.{os.getpid()}")
    output = BUILD if target.suffix == ".beam" else half
    done = subprocess.run([*command, str(output), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{source.name} does not compile: {(done.stderr + done.stdout).strip()}")
    if output == half:
        half.replace(target)
