"""``scripts/serve`` as somebody who follows what it prints."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SERVE = Path(__file__).resolve().parent.parent / "scripts" / "serve"

# The first run after a change of setup.cfg makes .venv, which the package index may take its time for.
pytestmark = pytest.mark.timeout(300)


class Served(NamedTuple):
    """A running ``scripts/serve``, and what it printed until it was ready."""

    process: subprocess.Popen[str]
    printed: list[str]
    maildir: Path

    def command(self, program: str) -> str:
        """The one line among the printed ones that runs the program."""
        [line] = [line.strip() for line in self.printed if f"{program} " in f" {line}" and line.startswith("  ")]
        return line


@pytest.fixture(scope="module", autouse=True)
def _venv() -> None:
    """``.venv`` is there, so that making it says nothing in the tests."""
    subprocess.run(["bash", "-c", '. "$0" && need_venv', str(SERVE.with_name("venv"))], check=True, capture_output=True)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    maildir = tmp_path / "the mail's folder"
    command = [str(SERVE), "--listen", free_address(), "--maildir", str(maildir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line.rstrip("\n"))
            if line.startswith("ready"):
                break
        yield Served(process, printed, maildir)
        process.kill()


@pytest.mark.parametrize(
    "program",
    [
        "python3",
        pytest.param("curl", marks=pytest.mark.program("curl")),
        pytest.param("swaks", marks=pytest.mark.program("swaks")),
    ],
)
def test_the_printed_commands_send_the_first_mail_and_show_it(served: Served, program: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-c", served.command(program)], check=True, capture_output=True, env={**os.environ, "PATH": path}
    )
    shown = subprocess.run(["sh", "-c", served.command("cat")], check=True, capture_output=True, text=True)
    assert "Delivered-To: you@localhost" in shown.stdout
    assert len(list((served.maildir / "new").iterdir())) == 1


def test_sigterm_reaches_the_server_and_ends_it_cleanly(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait() == 0


@pytest.mark.parametrize("listen", ["", "2525", "127.0.0.1:", "127.0.0.1:smtp", "127.0.0.1:99999"])
def test_a_wrong_address_is_refused_in_one_line(listen: str) -> None:
    refused = subprocess.run([str(SERVE), "--listen", listen], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "listen" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_an_address_in_use_is_refused_in_one_line_before_anything_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = subprocess.run([str(SERVE), "--listen", listen], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert f"can't listen on {listen}: address already in use" in refused.stderr
    assert refused.stderr.count("\n") == 1
