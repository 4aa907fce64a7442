"""Real mail clients send to the server, and the server is killed while they do."""

from __future__ import annotations

import email
import email.policy
import json
import os
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Self

import pytest

from tests.actors.smtp.serving import TIMEOUT_S, Served, by_both, serving
from tests.certificates_fixture import Certificates
from theater_tcp import CertificateFiles

ROOT = Path(__file__).resolve().parents[3]
TEXT = "Subject: hello\r\n\r\nFirst line.\r\n.A line with a dot.\r\n\r\nLast line.\r\n"


@pytest.fixture(params=[True, False], ids=["fsync", "no fsync"])
def served(tmp_path: Path, request: pytest.FixtureRequest, server: str) -> Iterator[Served]:
    """Either of the servers."""
    with serving(tmp_path, fsync=request.param) as served:
        yield served


def run(*command: str, stdin: str = "") -> str:
    """What the command wrote; it has to end well."""
    done = subprocess.run(
        command, input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=30
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


def swaks_is_refused(address: str) -> None:
    """swaks sends to a domain whose mail is not accepted, and is told so."""
    done = subprocess.run(
        ["swaks", "--server", address, "--from", "a@b.example", "--to", "a@b.example"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 24  # no recipient was accepted
    assert "<** 550 5.7.1 " in done.stdout


def why_not_run(manifest: Path, *settings: str) -> str:
    """The last line of the command line about a manifest that is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "theater_tcp", "run", str(manifest), *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def the_message(served: Served) -> EmailMessage:
    (content,) = served.delivered()
    return email.message_from_bytes(content, policy=email.policy.default)


def received_by_smtp(message: EmailMessage) -> str:
    """The Received field of the server that the client spoke to; above it may be the store's."""
    return " ".join(message.get_all("Received", [])[-1].split())


# -- smtplib ------------------------------------------------------------------------------------------------------


def test_smtplib_sends_to_several_recipients(served: Served) -> None:
    with smtplib.SMTP(served.host, served.port, timeout=TIMEOUT_S) as client:
        refused = client.sendmail(
            "a@example.net", ["b@example.org", "c@elsewhere.example", "postmaster"], TEXT.encode()
        )
    assert list(refused) == ["c@elsewhere.example"]
    assert refused["c@elsewhere.example"][0] == 550
    message = the_message(served)
    assert message.get_all("Delivered-To") == ["b@example.org", "postmaster"]
    assert message.get_content() == "First line.\n.A line with a dot.\n\nLast line.\n"


def test_smtplib_sends_utf_8_addresses_and_text(served: Served) -> None:
    message = EmailMessage(policy=email.policy.SMTPUTF8)
    message["From"], message["To"], message["Subject"] = "jürgen@exämple.net", "用户@example.org", "grüße"
    message.set_content("schön\n", cte="8bit")
    with smtplib.SMTP(served.host, served.port, timeout=TIMEOUT_S) as client:
        assert client.send_message(message) == {}
    received = the_message(served)
    assert received["Return-Path"] == "<jürgen@exämple.net>"
    assert received["Delivered-To"] == "用户@example.org"
    assert received["Subject"] == "grüße"
    assert received.get_content() == "schön\n"
    assert "with UTF8SMTP id" in received_by_smtp(received)


@by_both
def test_smtplib_hears_of_a_message_that_is_too_large_before_it_sends_it(tmp_path: Path) -> None:
    with (
        serving(tmp_path, max_message_size=65536) as served,
        smtplib.SMTP(served.host, served.port, timeout=TIMEOUT_S) as client,
    ):
        with pytest.raises(smtplib.SMTPSenderRefused, match="too large"):
            client.sendmail("a@example.net", ["b@example.org"], b"x" * 70_000)
        assert client.noop()[0] == 250


def test_smtplib_sends_many_messages_over_many_connections_at_once(served: Served) -> None:
    def send(number: int) -> None:
        with smtplib.SMTP(served.host, served.port, timeout=TIMEOUT_S) as client:
            for count in range(10):
                client.sendmail("a@example.net", ["b@example.org"], f"Subject: {number}-{count}\r\n\r\nhi\r\n")

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    subjects = {email.message_from_bytes(content)["Subject"] for content in served.delivered()}
    assert subjects == {f"{number}-{count}" for number in range(8) for count in range(10)}


# -- programs -----------------------------------------------------------------------------------------------------


@pytest.mark.program("curl")
def test_curl_sends_a_message(served: Served) -> None:
    addresses = ("--mail-from", "a@example.net", "--mail-rcpt", "b@example.org", "--mail-rcpt", "c@example.org")
    run("curl", "-sS", *addresses, "--upload-file", "-", f"smtp://{served.address}", stdin=TEXT)
    message = the_message(served)
    assert message["Return-Path"] == "<a@example.net>"
    assert message.get_content() == "First line.\n.A line with a dot.\n\nLast line.\n"


@pytest.mark.program("curl")
def test_curl_asks_whether_somebody_is_here(served: Served) -> None:
    output = run("curl", "-sS", "-v", "--request", "VRFY", "--mail-rcpt", "b", f"smtp://{served.address}")
    assert "< 252 2.5.0 " in output


@pytest.mark.program("swaks")
@pytest.mark.parametrize("options", [[], ["--pipeline"], ["--protocol", "SMTP"]], ids=["esmtp", "pipelined", "smtp"])
def test_swaks_sends_a_message(served: Served, options: list[str]) -> None:
    output = run(
        *("swaks", "--server", served.host, "--port", str(served.port), "--helo", "client.example.net"),
        *("--from", "a@example.net", "--to", "b@example.org,c@example.org"),
        *("--header", "Subject: hello", "--body", "First line.\n.A line with a dot.", *options),
    )
    assert "<-  221 2.0.0 Goodbye" in output
    message = the_message(served)
    assert message.get_content().startswith("First line.\n.A line with a dot.\n")
    protocol = "SMTP" if "SMTP" in options else "ESMTP"
    received = received_by_smtp(message)
    assert received.startswith(f"from client.example.net ([127.0.0.1]) by mx.example.org with {protocol} id ")


@pytest.mark.program("swaks")
def test_swaks_is_told_that_a_domain_is_not_handled_here(served: Served) -> None:
    swaks_is_refused(served.address)


@pytest.mark.program("msmtp")
def test_msmtp_sends_a_message(served: Served) -> None:
    server = (f"--host={served.host}", f"--port={served.port}", "--tls=off", "--auth=off")
    run("msmtp", *server, "--from=a@example.net", "b@example.org", stdin=TEXT.replace("\r\n", "\n"))
    message = the_message(served)
    assert message["Delivered-To"] == "b@example.org"
    assert message.get_content() == "First line.\n.A line with a dot.\n\nLast line.\n"


@pytest.mark.program("smtp-source")
def test_the_load_generator_of_postfix_loses_no_message(served: Served) -> None:
    load = ("-s", "10", "-m", "200", "-l", "4096", "-f", "a@example.net", "-t", "b@example.org")
    run("smtp-source", *load, served.address)
    assert len(served.delivered()) == 200


# -- the process --------------------------------------------------------------------------------------------------


def overrides(folder: Path, certificate: CertificateFiles, implicit: str = "127.0.0.1:0") -> list[str]:
    """What a test sets in the manifest: addresses that are free, a folder and files of its own."""
    values = {
        "tcp.listen": "['127.0.0.1:0']",
        "tcp.server_tls.cert": f"'{certificate.cert}'",
        "tcp.server_tls.key": f"'{certificate.key}'",
        "init.implicit_tls": f"['{implicit}']",
        "tcp.permissions.listen": f"['{implicit}']",
        "init.maildir": f"'{folder}/mail'",
    }
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


class Running:
    """What the command line runs, in a process of its own.

    Args:
        folder: for its ready file.
        arguments: behind ``theater-tcp run``.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        ready = folder / "ready.json"
        command = [sys.executable, "-m", "theater_tcp", "run", *arguments, "--json", "--ready-file", str(ready)]
        self.popen = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            self.wait_for("ready")
        except BaseException:
            self.__exit__()
            raise
        addresses = [listener["address"] for listener in json.loads(ready.read_text())["listeners"]]
        self.address = next(address for address in addresses if not address.startswith("unix:"))
        self.host, _, port = self.address.rpartition(":")
        self.port = int(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.__exit__(None, None, None)

    def wait_for(self, event: str) -> None:
        """Wait until the process has said so."""
        assert self.popen.stdout is not None
        assert any(json.loads(line)["event"] == event for line in self.popen.stdout)


class Process(Running):
    """The server as its manifest has it.

    Args:
        folder: for its Maildir and its ready file.
        certificate: in place of the one that the manifest names.
        implicit: where TLS begins with the first byte.
    """

    def __init__(self, folder: Path, certificate: CertificateFiles, implicit: str = "127.0.0.1:0") -> None:
        super().__init__(folder, str(ROOT / "actors/smtp/smtp.yaml"), *overrides(folder, certificate, implicit))


def test_a_kill_9_under_load_loses_no_acknowledged_message_and_leaves_no_half_one(
    tmp_path: Path, certificates: Certificates
) -> None:
    acknowledged: list[str] = []
    enough = threading.Semaphore(0)
    body = "\r\n".join(["x" * 70] * 200)

    def send(number: int) -> None:
        try:
            with smtplib.SMTP(process.host, process.port, timeout=TIMEOUT_S) as client:
                for count in range(10_000):
                    subject = f"{number}-{count}"
                    client.sendmail("a@example.net", ["b@example.org"], f"Subject: {subject}\r\n\r\n{body}\r\nend\r\n")
                    acknowledged.append(subject)
                    enough.release()
        except (smtplib.SMTPException, OSError):
            pass  # the server is gone, in the middle of whatever it was doing

    with Process(tmp_path, certificates.server) as process:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(150):
            assert enough.acquire(timeout=TIMEOUT_S)
        process.popen.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert process.popen.wait() == -signal.SIGKILL

    new = tmp_path / "mail" / "new"
    contents = [(new / name).read_bytes() for name in os.listdir(new)]
    assert all(content.endswith(b"\nend\n") for content in contents)
    stored = {email.message_from_bytes(content)["Subject"] for content in contents}
    assert set(acknowledged) <= stored


def stop_in_the_middle_of_a_message(process: Running) -> None:
    """SIGTERM comes while a client sends its message, which is taken; then the client is told to go."""
    with smtplib.SMTP(process.host, process.port, timeout=TIMEOUT_S) as client:
        client.ehlo()
        client.mail("a@example.net")
        client.rcpt("b@example.org")
        assert client.docmd("DATA")[0] == 354
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("draining")
        client.send("hello\r\n.\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply()[0] == 421
        client.close()
    assert process.popen.wait() == 0


def test_sigterm_lets_the_message_under_way_come_in_and_ends_cleanly(
    tmp_path: Path, certificates: Certificates
) -> None:
    with Process(tmp_path, certificates.server) as process:
        stop_in_the_middle_of_a_message(process)
    assert len(os.listdir(tmp_path / "mail" / "new")) == 1


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("init.max_recipients=5", "max_recipients: expected 'int' >= 100"),
        ("init.maildr=x", "init.maildr: SmtpServer takes no such argument (did you mean 'maildir'?)"),
        ("init.maildir=/dev/null", "maildir /dev/null: not a directory"),
        ("init.implicit_tls=['2465']", "implicit_tls: '2465'"),
        ("tcp.server_tls=null", "implicit_tls: there is no certificate for it (server_tls is not set)"),
        ("tcp.server_tls.cert=/dev/null/x.pem", "tcp.server_tls.cert: /dev/null/x.pem: "),
    ],
)
def test_a_wrong_setting_in_the_manifest_ends_the_process_with_a_line_that_names_it(
    tmp_path: Path, certificates: Certificates, setting: str, reason: str
) -> None:
    settings = [*overrides(tmp_path, certificates.server), "--set", setting]
    assert reason in why_not_run(ROOT / "actors/smtp/smtp.yaml", *settings)
