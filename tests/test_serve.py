"""``scripts/serve`` as somebody who follows what it prints."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from theater_tcp.certificates import DevelopmentAuthority

SERVE = Path(__file__).resolve().parent.parent / "scripts" / "serve"

# The first run after a change of setup.cfg makes .venv, which the package index may take its time for.
pytestmark = pytest.mark.timeout(300)


class Served(NamedTuple):
    """A running ``scripts/serve``, and what it printed until it was ready."""

    process: subprocess.Popen[str]
    printed: list[str]
    folder: Path

    def commands(self, program: str) -> list[str]:
        """The lines among the printed ones that run the program."""
        return [line.strip() for line in self.printed if f"{program} " in f" {line}" and line.startswith("  ")]

    def delivered(self) -> list[Path]:
        return list((self.folder / "the mail's folder" / "new").iterdir())


@pytest.fixture(scope="module", autouse=True)
def _venv() -> None:
    """``.venv`` is there, so that making it says nothing in the tests."""
    made = need_venv(SERVE.with_name("venv"))
    if made.returncode == 2:
        pytest.skip(made.stderr)
    assert made.returncode == 0, made.stderr


def need_venv(script: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", '. "$0" && need_venv', str(script)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for certificates that the tests share; the first start finds it empty."""
    return tmp_path_factory.mktemp("serve") / "the server's certificates"


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def serving(folder: Path, certs: Path) -> Iterator[Served]:
    addresses = ["--listen", free_address(), "--listen-tls", free_address()]
    command = [str(SERVE), *addresses, "--maildir", "the mail's folder", "--certs", str(certs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line.rstrip("\n"))
            if line.startswith("ready"):
                break
        yield Served(process, printed, folder)
        process.kill()


@pytest.fixture(scope="module")
def serving_all(tmp_path_factory: pytest.TempPathFactory, certs: Path) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("serving"), certs) as served:
        yield served


@pytest.fixture
def served(serving_all: Served) -> Served:
    """The server of all these tests, without their mail."""
    for message in serving_all.delivered():
        message.unlink()
    return serving_all


def run(command: str) -> str:
    """What a printed command writes; it has to end well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        ["sh", "-c", command], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(("number", "protocol"), [(0, "ESMTP"), (1, "ESMTPS")], ids=["plaintext", "tls"])
@pytest.mark.parametrize(
    "program",
    [
        "python3",
        pytest.param("curl", marks=pytest.mark.program("curl")),
        pytest.param("swaks", marks=pytest.mark.program("swaks")),
    ],
)
def test_the_printed_commands_send_the_first_mail_and_show_it(
    served: Served, program: str, number: int, protocol: str
) -> None:
    commands = served.commands(program)
    assert len(commands) == 2
    run(commands[number])
    (shown,) = served.commands("cat")
    message = run(shown)
    assert "Delivered-To: you@localhost" in message
    assert f" with {protocol} id " in message
    assert len(served.delivered()) == 1


@pytest.mark.program("openssl")
def test_the_printed_commands_show_the_certificate_and_that_it_is_right(served: Served) -> None:
    commands = served.commands("openssl")
    assert ["-starttls" in command for command in commands] == [True, False]
    for command in commands:
        assert "Verification: OK" in run(command)


def test_sigterm_reaches_the_server_and_ends_it_cleanly(tmp_path: Path, certs: Path) -> None:
    with serving(tmp_path, certs) as served:
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait() == 0


def test_the_certificate_is_made_on_first_use_kept_after_it_and_renewed_when_it_has_expired(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    with serving(tmp_path, certs) as served:
        assert f"Made a development certificate in {certs} (once)." in served.printed
    first = (certs / "server.pem").read_bytes()
    with serving(tmp_path, certs) as served:
        assert not [line for line in served.printed if "certificate in" in line]
    assert (certs / "server.pem").read_bytes() == first

    authority = DevelopmentAuthority.load((certs / "ca.pem").read_bytes(), (certs / "ca.key").read_bytes())
    long_ago = authority.issue(["localhost"], days=1, now=datetime.now(UTC) - timedelta(days=2))
    (certs / "server.pem").write_bytes(long_ago.cert_pem)
    (certs / "server.key").write_bytes(long_ago.key_pem)
    with serving(tmp_path, certs) as served:
        assert f"Renewed the development certificate in {certs}, which had expired." in served.printed
    assert (certs / "server.pem").read_bytes() not in (first, long_ago.cert_pem)


@pytest.mark.parametrize("option", ["--listen", "--listen-tls"])
@pytest.mark.parametrize("address", ["", "2525", "127.0.0.1:", "127.0.0.1:smtp", "127.0.0.1:99999"])
def test_a_wrong_address_is_refused_in_one_line(option: str, address: str) -> None:
    refused = subprocess.run([str(SERVE), option, address], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "listen" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(("option", "other"), [("--listen", "--listen-tls"), ("--listen-tls", "--listen")])
def test_an_address_in_use_is_refused_in_one_line_before_anything_is_said(option: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [str(SERVE), option, address, other, free_address()]
        refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert f"can't listen on {address}: address already in use ({option} 127.0.0.1:" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_virtual_environment_of_somebody_elses_making_is_left_alone(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "venv"
    script.parent.mkdir()
    shutil.copy(SERVE.with_name("venv"), script)
    other = tmp_path / ".venv" / "mine"
    other.parent.mkdir()
    other.write_text("kept")
    done = need_venv(script)
    assert done.returncode == 2
    assert f"{tmp_path}/.venv is not of these scripts' making" in done.stderr
    assert other.read_text() == "kept"
