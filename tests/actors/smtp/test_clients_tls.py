"""Real clients send over TLS, by STARTTLS and from the first byte, and verify the server's certificate."""

from __future__ import annotations

import re
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.actors.smtp.serving import TIMEOUT_S, Served, by_both, serving
from tests.actors.smtp.test_clients import ROOT, TEXT, Process, received_by_smtp, run, the_message
from tests.certificates_fixture import Certificates

SESSION = (
    "EHLO client.example.net\nMAIL FROM:<a@example.net>\nRCPT TO:<b@example.org>\nDATA\n"
    "Subject: hello\n\nFirst line.\n..A line with a dot.\n\nLast line.\n.\nQUIT\n"
)
"""What somebody types who speaks SMTP by hand."""

by_either_way = pytest.mark.parametrize("is_implicit", [False, True], ids=["starttls", "first byte"])


@pytest.fixture
def served(tmp_path: Path, certificates: Certificates, server: str) -> Iterator[Served]:
    """Either of the servers."""
    init: dict[str, Any] = {"implicit_tls": ["127.0.0.1:0"], "require_tls": True}
    with serving(tmp_path, certificate=certificates.server, **init) as served:
        yield served


def port_of(served: Served, is_implicit: bool) -> int:
    return served.implicit_port if is_implicit else served.port


def check_message(served: Served) -> None:
    """The one message came whole and encrypted."""
    message = the_message(served)
    assert message["Delivered-To"] == "b@example.org"
    assert message.get_content().rstrip("\n") == "First line.\n.A line with a dot.\n\nLast line."
    received = received_by_smtp(message)
    assert "(version=TLSv1.3 cipher=TLS_" in received
    # some clients ask for SMTPUTF8 wherever it is offered (RFC 6531, 4.3)
    assert re.search(r" by mx\.example\.org with (ESMTPS|UTF8SMTPS) id ", received)
    assert served.theater.metrics().handshakes == 1


# -- smtplib ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_smtplib_sends_after_starttls(served: Served, certificates: Certificates, version: ssl.TLSVersion) -> None:
    trust = ssl.create_default_context(cafile=certificates.ca)
    trust.minimum_version = trust.maximum_version = version
    with smtplib.SMTP("localhost", served.port, timeout=TIMEOUT_S) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        assert client.starttls(context=trust)[0] == 220
        client.ehlo()
        assert not client.has_extn("starttls")
        for _ in range(2):
            assert client.sendmail("a@example.net", "b@example.org", TEXT) == {}
        with pytest.raises(smtplib.SMTPNotSupportedError):
            client.starttls(context=trust)
    assert [b" with ESMTPS id " in message for message in served.delivered()] == [True, True]


def test_smtplib_sends_over_tls_from_the_first_byte(served: Served, certificates: Certificates) -> None:
    trust = ssl.create_default_context(cafile=certificates.ca)
    with smtplib.SMTP_SSL("localhost", served.implicit_port, timeout=TIMEOUT_S, context=trust) as client:
        client.sendmail("a@example.net", "b@example.org", TEXT)
    check_message(served)


def test_smtplib_is_refused_without_tls_where_it_is_required(served: Served) -> None:
    with smtplib.SMTP("localhost", served.port, timeout=TIMEOUT_S) as client:
        with pytest.raises(smtplib.SMTPSenderRefused, match="STARTTLS") as refused:
            client.sendmail("a@example.net", "b@example.org", TEXT)
        assert refused.value.smtp_code == 530
    assert served.delivered() == []


@by_both
@pytest.mark.parametrize("files", ["other", "untrusted"])
def test_smtplib_sends_nothing_to_a_server_that_it_can_not_verify(
    tmp_path: Path, certificates: Certificates, files: str
) -> None:
    trust = ssl.create_default_context(cafile=certificates.ca)
    with (
        serving(tmp_path, certificate=getattr(certificates, files)) as served,
        smtplib.SMTP("localhost", served.port, timeout=TIMEOUT_S) as client,
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            client.starttls(context=trust)
        client.close()
        assert served.delivered() == []


# -- programs -----------------------------------------------------------------------------------------------------


@pytest.mark.program("curl")
@by_either_way
def test_curl_sends_a_message_over_tls(served: Served, certificates: Certificates, is_implicit: bool) -> None:
    url = f"{'smtps' if is_implicit else 'smtp'}://localhost:{port_of(served, is_implicit)}"
    tls = ("--ssl-reqd", "--cacert", certificates.ca)
    addresses = ("--mail-from", "a@example.net", "--mail-rcpt", "b@example.org")
    run("curl", "-sS", *tls, *addresses, "--upload-file", "-", url, stdin=TEXT)
    check_message(served)


@pytest.mark.program("curl")
def test_curl_does_not_send_to_a_server_of_an_unknown_authority(served: Served, certificates: Certificates) -> None:
    command = ["curl", "-sS", "--ssl-reqd", "--cacert", certificates.untrusted_ca, f"smtp://localhost:{served.port}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)
    assert done.returncode == 60


@pytest.mark.program("swaks")
@by_either_way
def test_swaks_sends_a_message_over_tls(served: Served, certificates: Certificates, is_implicit: bool) -> None:
    tls = ["--tls-on-connect" if is_implicit else "-tls", "--tls-verify", "--tls-ca-path", certificates.ca]
    output = run(
        *("swaks", "--server", "localhost", "--port", str(port_of(served, is_implicit)), *tls),
        *("--from", "a@example.net", "--to", "b@example.org", "--header", "Subject: hello"),
        *("--body", "First line.\n.A line with a dot.\n\nLast line."),
    )
    assert "<~  221 2.0.0 Goodbye" in output
    check_message(served)


@pytest.mark.program("openssl")
@by_either_way
def test_openssl_s_client_carries_a_session(served: Served, certificates: Certificates, is_implicit: bool) -> None:
    where = ("-connect", f"localhost:{port_of(served, is_implicit)}", "-verify_hostname", "localhost")
    trust = ("-CAfile", certificates.ca, "-verify_return_error")
    starttls = () if is_implicit else ("-starttls", "smtp")
    output = run("openssl", "s_client", "-quiet", "-crlf", *where, *trust, *starttls, stdin=SESSION)
    assert "221 2.0.0 Goodbye" in output
    check_message(served)


@pytest.mark.program("gnutls-cli")
@by_either_way
def test_gnutls_cli_carries_a_session(served: Served, certificates: Certificates, is_implicit: bool) -> None:
    starttls = () if is_implicit else ("--starttls-proto=smtp",)
    port = str(port_of(served, is_implicit))
    output = run(
        *("gnutls-cli", f"--x509cafile={certificates.ca}", *starttls, "--port", port, "localhost"),
        stdin=SESSION.replace("\n", "\r\n"),
    )
    assert "The certificate is trusted" in output
    assert "221 2.0.0 Goodbye" in output
    check_message(served)


@pytest.mark.program("msmtp")
@by_either_way
def test_msmtp_sends_a_message_over_tls(served: Served, certificates: Certificates, is_implicit: bool) -> None:
    where = ("--host=localhost", f"--port={port_of(served, is_implicit)}", "--auth=off")
    tls = ("--tls=on", f"--tls-starttls={'off' if is_implicit else 'on'}", f"--tls-trust-file={certificates.ca}")
    run("msmtp", *where, *tls, "--from=a@example.net", "b@example.org", stdin=TEXT.replace("\r\n", "\n"))
    check_message(served)


@pytest.mark.program("posttls-finger")
def test_postfix_verifies_the_server(
    served: Served, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.cf").touch()  # it wants one, and this machine need not have a mail system
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    trust = ("-c", "-l", "verify", "-F", certificates.ca, "-o", "inet_protocols=ipv4")
    output = run("posttls-finger", *trust, f"[127.0.0.1]:{served.port}", "localhost")
    assert "Verified TLS connection established" in output
    assert "TLSv1.3" in output


# -- the manifest -------------------------------------------------------------------------------------------------


def test_the_manifest_serves_in_both_ways(tmp_path: Path, certificates: Certificates) -> None:
    trust = ssl.create_default_context(cafile=certificates.ca)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Process(tmp_path, certificates.server, f"127.0.0.1:{port}") as process:
        with smtplib.SMTP(process.host, process.port, timeout=TIMEOUT_S) as client:
            client.starttls(context=trust)
            client.sendmail("a@example.net", ["b@example.org"], TEXT)
        with smtplib.SMTP_SSL(process.host, port, timeout=TIMEOUT_S, context=trust) as client:
            client.sendmail("a@example.net", ["b@example.org"], TEXT)
    messages = [file.read_text() for file in (tmp_path / "mail" / "new").iterdir()]
    assert [" with ESMTPS id " in message for message in messages] == [True, True]


def test_the_manifest_as_it_stands_wants_the_certificate_that_one_command_makes(tmp_path: Path) -> None:
    manifest = tmp_path / "actors" / "smtp" / "smtp.yaml"
    manifest.parent.mkdir(parents=True)
    shutil.copy(ROOT / "actors" / "smtp" / "smtp.yaml", manifest)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "theater_tcp", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)

    refused = call("check", str(manifest))
    assert refused.returncode == 2
    assert "tcp.server_tls.cert: " in refused.stderr
    assert "server.pem" in refused.stderr
    assert call("certs", "dev", "--out", str(tmp_path / "certs")).returncode == 0
    done = call("check", str(manifest))
    assert done.returncode == 0, done.stderr
