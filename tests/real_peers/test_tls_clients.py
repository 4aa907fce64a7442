"""Real clients against a server of ours, by STARTTLS and by TLS from the first byte."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import TYPE_CHECKING

import pytest

from tests.peers import eventually, host_and_port
from tests.real_peers.line_server import Served, serving
from tests.real_peers.programs import Conversation, Ended, run
from theater_tcp import ServerTls

if TYPE_CHECKING:
    from pathlib import Path

    from tests.certificates_fixture import Certificates

DIALOGUE = "EHLO client.example.net\r\nINFO\r\nQUIT\r\n"

EITHER_WAY = pytest.mark.parametrize("way", ["starttls", "implicit"])
"""Where the server listens for a client that asks for TLS in plaintext, and for one that begins with it."""

S_CLIENT = pytest.mark.program("openssl")
GNUTLS_CLI = pytest.mark.program("gnutls-cli")
CURL = pytest.mark.program("curl")


@pytest.fixture
def ca(certificates: Certificates) -> str:
    """The file of the CA that the clients trust."""
    return str(certificates.ca)


# -- openssl s_client -------------------------------------------------------------------------------------------


def s_client_command(served: Served, way: str, ca: str, *options: str, name: str = "localhost") -> list[str]:
    command = ["openssl", "s_client", "-connect", getattr(served, way)]
    command += ["-CAfile", ca, "-verify_return_error", "-verify_hostname", name]
    return [*command, *(["-starttls", "smtp"] if way == "starttls" else []), *options]


def s_client(served: Served, way: str, ca: str, *options: str, name: str = "localhost") -> Ended:
    """Let it talk with the server until that hangs up."""
    return run(*s_client_command(served, way, ca, "-ign_eof", *options, name=name), stdin=DIALOGUE)


@S_CLIENT
@EITHER_WAY
def test_s_client_speaks_tls_1_3_and_verifies_the_certificate(served: Served, way: str, ca: str) -> None:
    code, said = s_client(served, way, ca)
    assert "Verification: OK" in said
    assert "Verified peername: localhost" in said
    assert "250 TLSv1.3 TLS_AES_256_GCM_SHA384 name=None alpn=None peer=None resumed=False" in said
    assert "221 bye" in said
    assert "unexpected eof" not in said
    assert code == 0


@S_CLIENT
@EITHER_WAY
def test_s_client_speaks_tls_1_2_with_forward_secrecy(served: Served, way: str, ca: str) -> None:
    code, said = s_client(served, way, ca, "-no_tls1_3")
    assert "250 TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384 " in said
    assert "Secure Renegotiation IS supported" in said
    assert "Compression: NONE" in said
    assert (code, "unexpected eof" in said) == (0, False)


@S_CLIENT
@EITHER_WAY
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_s_client_is_refused_where_it_speaks_nothing_newer_than_tls_1_1(
    served: Served, way: str, ca: str, version: str
) -> None:
    code, said = s_client(served, way, ca, version, "-cipher", "ALL:@SECLEVEL=0")
    assert "alert protocol version" in said
    assert code == 1
    eventually(lambda: served.metrics.handshake_failures == 1)


@S_CLIENT
@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES256-SHA384", "AECDH-AES256-SHA", "eNULL"])
def test_s_client_finds_no_cipher_in_common_where_it_has_only_a_weak_one(served: Served, ca: str, cipher: str) -> None:
    code, said = s_client(served, "starttls", ca, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "alert handshake failure" in said
    assert code == 1


@S_CLIENT
@EITHER_WAY
def test_s_client_gets_the_certificate_of_the_name_that_it_asks_for(served: Served, way: str, ca: str) -> None:
    code, said = s_client(served, way, ca, "-servername", "other.example.org", name="other.example.org")
    assert "Verified peername: other.example.org" in said
    assert " name=other.example.org " in said
    assert code == 0


@S_CLIENT
def test_s_client_gets_the_first_certificate_for_a_name_that_has_none(served: Served, ca: str) -> None:
    code, said = s_client(served, "implicit", ca, "-servername", "nobody.example.org")
    assert "Verified peername: localhost" in said
    assert " name=nobody.example.org " in said
    assert code == 0


@S_CLIENT
@EITHER_WAY
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_s_client_and_the_server_agree_on_the_protocol_that_the_server_prefers(
    served: Served, way: str, ca: str, version: str
) -> None:
    code, said = s_client(served, way, ca, version, "-alpn", "http/1.1,h2,smtp")
    assert "ALPN protocol: smtp" in said
    assert " alpn=smtp " in said
    assert code == 0


@S_CLIENT
def test_s_client_takes_no_certificate_for_another_name(served: Served, ca: str) -> None:
    code, said = s_client(served, "starttls", ca, name="wrong.example.org")
    assert "hostname mismatch" in said
    assert code == 1
    assert served.ending() == "tls: the peer's alert: bad certificate"


@S_CLIENT
def test_s_client_takes_no_certificate_of_a_stranger(served: Served, certificates: Certificates) -> None:
    code, _ = s_client(served, "starttls", str(certificates.untrusted_ca))
    assert code == 1
    assert served.ending() == "tls: the peer's alert: unknown ca"


@S_CLIENT
@EITHER_WAY
def test_s_client_resumes_its_session_at_each_of_its_five_reconnections(served: Served, way: str, ca: str) -> None:
    code, said = run(*s_client_command(served, way, ca, "-tls1_2", "-reconnect"))
    assert (said.count("\nNew, TLSv1.2"), said.count("\nReused, TLSv1.2")) == (1, 5)
    assert code == 0
    eventually(lambda: served.metrics.resumed_sessions == 5)  # its last word may still be on its way


@S_CLIENT
@EITHER_WAY
def test_s_client_takes_up_a_session_of_tls_1_3_that_it_kept_in_a_file(
    served: Served, way: str, ca: str, tmp_path: Path
) -> None:
    session = str(tmp_path / "session.pem")
    code, said = s_client(served, way, ca, "-tls1_3", "-sess_out", session)
    assert (code, "resumed=False" in said) == (0, True)
    code, said = s_client(served, way, ca, "-tls1_3", "-sess_in", session)
    assert (code, "resumed=True" in said) == (0, True)
    assert "\nReused, TLSv1.3" in said


@S_CLIENT
@EITHER_WAY
def test_s_client_may_not_renegotiate(served: Served, way: str, ca: str) -> None:
    with Conversation(*s_client_command(served, way, ca, "-tls1_2")) as client:
        client.tell("INFO")
        client.expect("250 TLSv1.2")  # nothing more is on its way to it, which would come in between
        client.tell("R")
        client.expect("RENEGOTIATING")
        client.expect("no renegotiation")


@S_CLIENT
@EITHER_WAY
def test_s_client_may_ask_for_new_keys_in_the_middle(served: Served, way: str, ca: str) -> None:
    with Conversation(*s_client_command(served, way, ca, "-tls1_3")) as client:
        client.expect("Verify return code: 0")
        for _ in range(2):
            client.tell("K")
            client.expect("KEYUPDATE")
            client.tell("INFO")
            client.expect("250 TLSv1.3")


@S_CLIENT
def test_s_client_must_show_a_certificate_where_one_is_required(certificates: Certificates, ca: str) -> None:
    tls = ServerTls(cert=certificates.server.cert, key=certificates.server.key, client_ca=ca, client_auth="required")
    with serving(tls) as served:
        _, said = s_client(served, "starttls", ca)
        assert "250 TLSv1.3" not in said
        assert served.ending() == "tls: peer did not return a certificate"
        shown = certificates.client
        code, said = s_client(served, "starttls", ca, "-cert", shown.cert, "-key", str(shown.key))
        assert " peer=CN=client.example.org " in said
        assert code == 0


# -- gnutls-cli ---------------------------------------------------------------------------------------------------


def gnutls_cli(served: Served, way: str, ca: str, *options: str, stdin: str = DIALOGUE) -> Ended:
    """Let it talk with the server until that hangs up."""
    host, port = host_and_port(getattr(served, way))
    starttls = ["--starttls-proto=smtp"] if way == "starttls" else []
    trust = [f"--x509cafile={ca}", "--verify-hostname=localhost"]
    return run("gnutls-cli", *starttls, *trust, *options, f"--port={port}", host, stdin=stdin)


@GNUTLS_CLI
@EITHER_WAY
@pytest.mark.parametrize(
    ("priority", "agreed"),
    [
        ("NORMAL", "TLSv1.3 TLS_AES_256_GCM_SHA384"),
        ("NORMAL:-VERS-TLS1.3", "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("NORMAL:-VERS-TLS1.3:-AES-256-GCM:-AES-128-GCM", "TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("NORMAL:-GROUP-ALL:+GROUP-X25519", "TLSv1.3 TLS_AES_256_GCM_SHA384"),
    ],
)
def test_gnutls_cli_verifies_the_certificate_and_gets_its_answers(
    served: Served, way: str, ca: str, priority: str, agreed: str
) -> None:
    code, said = gnutls_cli(served, way, ca, f"--priority={priority}", "--sni-hostname=mx.example.org", "--alpn=smtp")
    assert f"250 {agreed} name=mx.example.org alpn=smtp peer=None resumed=False" in said
    assert "221 bye" in said
    assert code == 0


@GNUTLS_CLI
@EITHER_WAY
def test_gnutls_cli_takes_no_certificate_of_a_stranger(served: Served, way: str, certificates: Certificates) -> None:
    code, said = gnutls_cli(served, way, str(certificates.untrusted_ca))
    assert "Error in the certificate" in said
    assert code == 1
    assert "221 bye" not in said


@GNUTLS_CLI
@EITHER_WAY
def test_gnutls_cli_is_refused_where_it_speaks_nothing_newer_than_tls_1_1(served: Served, way: str, ca: str) -> None:
    code, _ = gnutls_cli(served, way, ca, "--priority=NORMAL:-VERS-ALL:+VERS-TLS1.1:%VERIFY_ALLOW_SIGN_WITH_SHA1")
    assert code == 1
    assert served.metrics.handshakes == 0


@GNUTLS_CLI
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_gnutls_cli_resumes_its_session(served: Served, ca: str, version: str) -> None:
    priority = f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
    code, said = gnutls_cli(served, "implicit", ca, priority, "--resume", "--waitresumption")
    assert "*** This is a resumed session" in said
    assert "resumed=True" in said
    assert code == 0


@GNUTLS_CLI
def test_gnutls_cli_may_not_renegotiate(served: Served, ca: str) -> None:
    code, said = gnutls_cli(served, "implicit", ca, "--priority=NORMAL:-VERS-TLS1.3", "--rehandshake")
    assert "221 bye" not in said
    assert code == 1


# -- curl ---------------------------------------------------------------------------------------------------------


def curl(url: str, ca: str, *options: str) -> Ended:
    return run("curl", "-sS", "-v", "--cacert", ca, "--request", "INFO", *options, url)


@CURL
@pytest.mark.parametrize(("way", "scheme"), [("starttls", "smtp"), ("implicit", "smtps")])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_requires_tls_and_gets_it(served: Served, ca: str, way: str, scheme: str, version: str) -> None:
    _, port = host_and_port(getattr(served, way))
    only = ("--ssl-reqd", f"--tlsv{version}", "--tls-max", version)
    code, said = curl(f"{scheme}://localhost:{port}", ca, *only)
    assert re.search("SSL certificate (verify ok|verified)", said)
    assert f"< 250 TLSv{version} " in said
    assert code == 0


@CURL
def test_curl_takes_no_certificate_of_a_stranger(served: Served, certificates: Certificates) -> None:
    code, _ = curl(f"smtp://{served.starttls}", str(certificates.untrusted_ca), "--ssl-reqd")
    assert code == 60  # the peer's certificate can't be authenticated
    # Newer ones look at it when the handshake is done, and go without a word.
    assert served.ending() in ("tls: the peer's alert: unknown ca", "tls-truncated", "reset")


# -- asyncio ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_of_asyncio_starts_tls(served: Served, ca: str, version: ssl.TLSVersion) -> None:
    trust = ssl.create_default_context(cafile=ca)
    trust.minimum_version = trust.maximum_version = version

    async def talk() -> list[bytes]:
        reader, writer = await asyncio.open_connection(*host_and_port(served.starttls))
        heard = [await reader.readline()]
        writer.write(b"STARTTLS\r\n")
        heard.append(await reader.readline())
        await writer.start_tls(trust, server_hostname="localhost")
        writer.write(b"INFO\r\nNOOP\r\n")
        heard += [await reader.readline(), await reader.readline()]
        writer.write(b"QUIT\r\n")
        heard.append(await reader.read())
        writer.close()
        await writer.wait_closed()
        return heard

    greeting, ready, info, ok, bye = asyncio.run(talk())
    assert (greeting, ready) == (b"220 localhost ESMTP\r\n", b"220 go ahead\r\n")
    assert re.match(rb"250 TLSv1\.[23] \w", info)
    assert (ok, bye) == (b"250 ok\r\n", b"221 bye\r\n")
