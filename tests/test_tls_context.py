"""TLS contexts: real handshakes in memory with what the settings say, and settings that no context can be made of."""

from __future__ import annotations

import gc
import os
import ssl
import stat
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.hostile_certificates import make
from tests.tls_pair import Pair
from theater_tcp import certificate_files, tls_context
from theater_tcp.certificate_files import Identity, read_identity
from theater_tcp.errors import InvalidArgument
from theater_tcp.tls_context import build_client, build_server, files_of
from theater_tcp.tls_engine import server_name_of
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.certificates_fixture import Certificates


def server_tls(files: CertificateFiles, **more: Any) -> ServerTls:
    return ServerTls(cert=files.cert, key=files.key, chain=files.chain, password=files.password, **more)


def server(files: CertificateFiles, **more: Any) -> ssl.SSLContext:
    return build_server(server_tls(files, **more)).context


def client(certificates: Certificates, **more: Any) -> ssl.SSLContext:
    return build_client(ClientTls(**{"ca_cert": certificates.ca, **more})).context


def refused(tls: ServerTls | ClientTls) -> str:
    with pytest.raises(InvalidArgument) as caught:
        build_server(tls) if isinstance(tls, ServerTls) else build_client(tls)
    return caught.value.detail


def reason_of(*args: Any) -> str:
    """What OpenSSL refuses a handshake with."""
    with pytest.raises(ssl.SSLError) as caught:
        Pair(*args)
    error = caught.value
    return error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason or ""


# -- the certificate that a server shows, and its verification ----------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "mx.example.org", "127.0.0.1", "::1"])
def test_a_certificate_is_good_for_its_names_and_addresses(certificates: Certificates, name: str) -> None:
    Pair(server(certificates.server), client(certificates), name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("example.org", "Hostname mismatch, certificate is not valid for 'example.org'."),
        ("a.localhost", "Hostname mismatch, certificate is not valid for 'a.localhost'."),
        ("127.0.0.2", "IP address mismatch, certificate is not valid for '127.0.0.2'."),
        ("::2", "IP address mismatch, certificate is not valid for '::2'."),
    ],
)
def test_a_certificate_is_good_for_nothing_else(certificates: Certificates, name: str, reason: str) -> None:
    assert reason_of(server(certificates.server), client(certificates), name) == reason


def test_a_name_in_the_subject_alone_is_no_name(certificates: Certificates, tmp_path: Path) -> None:
    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (tmp_path / "ca.pem").write_bytes(pem(make("root", key=root, ca=True)))
    (tmp_path / "own.pem").write_bytes(pem(make("localhost", key=own, issuer="root", signer=root)) + key_pem(own))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")
    reason = reason_of(context, client(certificates, ca_cert=str(tmp_path / "ca.pem")))
    assert reason == "Hostname mismatch, certificate is not valid for 'localhost'."


def test_a_certificate_of_another_ca_is_not_taken(certificates: Certificates) -> None:
    reason = reason_of(server(certificates.untrusted), client(certificates))
    assert reason == "unable to get local issuer certificate"


def test_an_expired_certificate_is_not_taken(certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.expired.cert, certificates.expired.key)
    assert reason_of(context, client(certificates)) == "certificate has expired"


def test_an_expired_certificate_is_not_shown(certificates: Certificates) -> None:
    told = refused(server_tls(certificates.expired))
    assert told.startswith(f"cert: {certificates.expired.cert}: the certificate expired on 2")


def test_skip_verify_takes_any_certificate_of_anybody(certificates: Certificates) -> None:
    context = build_client(ClientTls(skip_verify=True)).context
    pair = Pair(server(certificates.untrusted), context, "example.org")
    assert server_name_of(pair.server) == "example.org"


def test_an_intermediate_ca_can_be_trusted_without_its_root(certificates: Certificates, tmp_path: Path) -> None:
    root, middle, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    (tmp_path / "ca.pem").write_bytes(pem(make("middle", key=middle, issuer="root", signer=root, ca=True)))
    leaf = make("leaf", [x509.DNSName("localhost")], key=own, issuer="middle", signer=middle)
    (tmp_path / "leaf.pem").write_bytes(pem(leaf) + key_pem(own))
    (tmp_path / "leaf.pem").chmod(0o600)
    context = server(CertificateFiles(cert=str(tmp_path / "leaf.pem")))
    Pair(context, client(certificates, ca_cert=str(tmp_path / "ca.pem")))


def test_a_server_shows_its_whole_chain(certificates: Certificates, tmp_path: Path) -> None:
    root, middle, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    (tmp_path / "ca.pem").write_bytes(pem(make("root", key=root, ca=True)))
    (tmp_path / "chain.pem").write_bytes(pem(make("middle", key=middle, issuer="root", signer=root, ca=True)))
    leaf = make("leaf", [x509.DNSName("localhost")], key=own, issuer="middle", signer=middle)
    (tmp_path / "leaf.pem").write_bytes(pem(leaf) + key_pem(own))
    (tmp_path / "leaf.pem").chmod(0o600)
    files = CertificateFiles(cert=str(tmp_path / "leaf.pem"), chain=str(tmp_path / "chain.pem"))
    trusting = client(certificates, ca_cert=str(tmp_path / "ca.pem"))
    Pair(server(files), trusting)
    alone = CertificateFiles(cert=str(tmp_path / "leaf.pem"))
    assert reason_of(server(alone), trusting) == "unable to get local issuer certificate"


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


# -- the CAs of the system ----------------------------------------------------------------------------------------


def test_without_a_file_the_system_s_cas_are_trusted(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificates.ca)
    context = build_client(ClientTls()).context
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    Pair(server(certificates.server), context)
    assert reason_of(server(certificates.untrusted), context) == "unable to get local issuer certificate"


def test_a_system_without_cas_is_told_and_not_taken_for_one_that_trusts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    for folder in (tmp_path, tmp_path / "none"):  # an empty one, and one that is not there
        monkeypatch.setenv("SSL_CERT_DIR", str(folder))
        assert refused(ClientTls()) == "ca_cert: this system has no CA certificates, and no file is named"
    build_client(ClientTls(skip_verify=True))


# -- clients' certificates ----------------------------------------------------------------------------------------


def test_a_server_that_asks_for_none_gets_no_certificate(certificates: Certificates) -> None:
    with_own = client(certificates, cert=certificates.client.cert, key=certificates.client.key)
    assert Pair(server(certificates.server), with_own).server.getpeercert(binary_form=True) is None


@pytest.mark.parametrize("auth", ["optional", "required"])
def test_a_client_s_certificate_is_verified(certificates: Certificates, auth: str) -> None:
    context = server(certificates.server, client_ca=certificates.ca, client_auth=auth)
    with_own = client(certificates, cert=certificates.client.cert, key=certificates.client.key)
    certificate = Pair(context, with_own).server.getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", "client.example.org"),)
    stranger = server(certificates.server, client_ca=certificates.untrusted_ca, client_auth=auth)
    # OpenSSL has sent the CA's certificate too, which it found among those that the client trusts.
    assert reason_of(stranger, with_own) == "self-signed certificate in certificate chain"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_without_a_certificate_is_let_in_where_that_is_optional(
    certificates: Certificates, version: str
) -> None:
    without = client(certificates)
    without.maximum_version = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    optional = server(certificates.server, client_ca=certificates.ca, client_auth="optional")
    assert Pair(optional, without).server.getpeercert(binary_form=True) is None
    required = server(certificates.server, client_ca=certificates.ca, client_auth="required")
    assert reason_of(required, without) == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def test_a_server_s_certificate_is_none_for_a_client(certificates: Certificates) -> None:
    told = refused(ClientTls(ca_cert=certificates.ca, cert=certificates.server.cert, key=certificates.server.key))
    assert told == f"cert: {certificates.server.cert}: the certificate is not for TLS clients (extended key usage)"


# -- names (RFC 6066, 3) ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(certificates: Certificates) -> ssl.SSLContext:
    """A server with certificates for several names."""
    return server(
        certificates.server,
        sni={
            "exact.example.net": certificates.issue("exact.example.net"),
            "*.example.net": certificates.issue("*.example.net"),
            "Bücher.example": certificates.issue("xn--bcher-kva.example"),
        },
    )


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("exact.example.net", "exact.example.net"),
        ("EXACT.example.NET", "exact.example.net"),
        ("exact.example.net.", "exact.example.net"),
        ("any.example.net", "*.example.net"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("example.net", "localhost"),
        ("a.any.example.net", "localhost"),
        ("*.example.net", "*.example.net"),
        ("localhost", "localhost"),
        ("127.0.0.1", "localhost"),
        (None, "localhost"),
    ],
)
def test_a_client_gets_the_certificate_of_the_name_that_it_asks_for(
    many: ssl.SSLContext, asked: str | None, shown: str
) -> None:
    pair = Pair(many, build_client(ClientTls(skip_verify=True)).context, asked)
    assert pair.shown[0] == shown
    expected = None if asked in (None, "127.0.0.1") else str(asked).encode("idna").decode()
    assert server_name_of(pair.server) == expected


def hello_for(name: bytes) -> bytes:
    """The first flight of a client that asks for a name, whatever bytes that is made of."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    stand_in = "a." * (len(name) // 2 - 1) + "b" * (len(name) % 2 + 2)
    context = build_client(ClientTls(skip_verify=True)).context
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=stand_in).do_handshake()
    return outgoing.read().replace(stand_in.encode(), name)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (b"a..b", "a..b"),
        (b".....", "....."),
        (b"a" * 80, "a" * 80),
        (b"exact.example.net.", "exact.example.net."),
        (b"a\r\nERROR forged", r"a\r\nERROR forged"),
    ],
)
def test_a_client_may_ask_for_anything_and_what_is_kept_of_it_is_one_line(
    many: ssl.SSLContext, name: bytes, kept: str
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepted = many.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello_for(name))
    with pytest.raises(ssl.SSLWantReadError):
        accepted.do_handshake()
    assert server_name_of(accepted) == kept


def test_the_rules_of_a_server_hold_for_each_of_its_names(certificates: Certificates) -> None:
    context = server(
        certificates.server,
        min_version="1.3",
        alpn=("smtp",),
        client_ca=certificates.ca,
        client_auth="required",
        sni={"other.example.org": certificates.other},
    )
    own = {"cert": certificates.client.cert, "key": certificates.client.key}
    pair = Pair(context, client(certificates, alpn=("smtp",), **own), "other.example.org")
    assert pair.shown == ("other.example.org",)
    assert pair.client.selected_alpn_protocol() == "smtp"
    assert pair.server.getpeercert(binary_form=True) is not None
    assert reason_of(context, client(certificates), "other.example.org") == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    old = client(certificates, **own)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert reason_of(context, old, "other.example.org") == "UNSUPPORTED_PROTOCOL"


def test_a_session_is_taken_up_again_under_each_name(certificates: Certificates) -> None:
    context = server(certificates.server, sni={"other.example.org": certificates.other})
    own = client(certificates)
    for name in ("localhost", "other.example.org"):
        session = Pair(context, own, name).client.session
        again = Pair(context, own, name, session)
        assert (again.server.session_reused, again.client.session_reused) == (True, True)
        assert server_name_of(again.server) == name


def test_contexts_and_connections_go_without_the_garbage_collector(certificates: Certificates) -> None:
    gc.collect()
    gc.disable()
    try:
        context = server(certificates.server, sni={"other.example.org": certificates.other})
        pair = Pair(context, client(certificates), "other.example.org")
        left: list[weakref.ref[Any]] = [
            weakref.ref(context),
            weakref.ref(pair.server.context),
            weakref.ref(pair.server),
        ]
        del context, pair
        assert [ref() for ref in left] == [None, None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("192.0.2.1", "sni.192.0.2.1: is an address, and clients ask for names alone"),
        ("m*.example.org", "sni.m*.example.org: has a '*' that is not the whole first label"),
        ("a b", "sni.a b: is no host name"),
    ],
)
def test_a_name_that_no_client_can_ask_for_is_told(certificates: Certificates, name: str, reason: str) -> None:
    assert refused(server_tls(certificates.server, sni={name: certificates.other})) == reason


def test_a_name_that_its_certificate_does_not_cover_is_told(certificates: Certificates) -> None:
    told = refused(server_tls(certificates.server, sni={"mx.example.net": certificates.other}))
    file = certificates.other.cert
    assert told == f"sni.mx.example.net.cert: {file}: is not for mx.example.net, it is for other.example.org"


def test_a_name_that_is_there_twice_is_told(certificates: Certificates) -> None:
    other = certificates.other
    told = refused(server_tls(certificates.server, sni={"other.example.org": other, "Other.Example.org.": other}))
    assert told == "sni.Other.Example.org.: is the same name as 'other.example.org'"


def test_what_is_wrong_with_the_certificate_of_a_name_is_told_with_the_name(certificates: Certificates) -> None:
    files = CertificateFiles(cert=certificates.other.cert, key=certificates.server.key)
    told = refused(server_tls(certificates.server, sni={"other.example.org": files}))
    assert told.startswith("sni.other.example.org.key: ")
    assert told.endswith(f": does not fit the certificate in {certificates.other.cert}")


# -- versions, ciphers, protocols ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lowest", "highest", "agreed"),
    [("1.2", ssl.TLSVersion.TLSv1_3, "TLSv1.3"), ("1.2", ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
     ("1.3", ssl.TLSVersion.TLSv1_3, "TLSv1.3")],
)  # fmt: skip
def test_the_newest_version_of_both_is_spoken(
    certificates: Certificates, lowest: str, highest: ssl.TLSVersion, agreed: str
) -> None:
    peer = client(certificates)
    peer.maximum_version = highest
    assert Pair(server(certificates.server, min_version=lowest), peer).server.version() == agreed


def test_a_version_below_the_oldest_is_not_spoken(certificates: Certificates) -> None:
    old = client(certificates)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert reason_of(server(certificates.server, min_version="1.3"), old) == "UNSUPPORTED_PROTOCOL"
    context = server(certificates.server)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert "PROTOCOL" in reason_of(context, client(certificates, min_version="1.3"))


def test_tls_1_1_and_older_are_never_spoken(certificates: Certificates) -> None:
    peer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    peer.check_hostname, peer.verify_mode = False, ssl.CERT_NONE
    peer.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        peer.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        peer.maximum_version = ssl.TLSVersion.TLSv1_1
    assert reason_of(server(certificates.server), peer) == "UNSUPPORTED_PROTOCOL"


def suites_of(context: ssl.SSLContext) -> set[str]:
    return {str(suite["name"]) for suite in context.get_ciphers() if suite["protocol"] == "TLSv1.2"}


def test_by_itself_tls_1_2_has_forward_secrecy_and_aead(certificates: Certificates) -> None:
    for context in (server(certificates.server), client(certificates)):
        suites = suites_of(context)
        assert suites
        assert all(suite.startswith("ECDHE-") and ("GCM" in suite or "CHACHA20" in suite) for suite in suites)
    peer = client(certificates)
    peer.maximum_version = ssl.TLSVersion.TLSv1_2
    peer.set_ciphers("ECDHE-ECDSA-AES256-SHA384:AES256-SHA256")
    assert reason_of(server(certificates.server), peer) == "NO_SHARED_CIPHER"


def test_ciphers_are_those_that_were_asked_for(certificates: Certificates) -> None:
    only = "ECDHE-ECDSA-AES128-GCM-SHA256"
    peer = client(certificates)
    peer.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher = Pair(server(certificates.server, ciphers=only), peer).server.cipher()
    assert cipher is not None
    assert cipher[0] == only
    assert suites_of(client(certificates, ciphers=only)) == {only}


def test_the_server_s_order_of_ciphers_counts(certificates: Certificates) -> None:
    first, second = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
    peer = client(certificates, ciphers=f"{second}:{first}")
    peer.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher = Pair(server(certificates.server, ciphers=f"{first}:{second}"), peer).server.cipher()
    assert cipher is not None
    assert cipher[0] == first


@pytest.mark.parametrize(
    ("ciphers", "reason"),
    [
        ("NONSENSE", "'NONSENSE' is no cipher of TLS 1.2 that OpenSSL knows"),
        ("AES128-SHA;TYPO", "'TYPO' is no cipher of TLS 1.2 that OpenSSL knows"),
        ("AES128-SHA\0", "'AES128-SHA\\x00' is no cipher of TLS 1.2 that OpenSSL knows"),
        ("ECDHE+AESGCM:NONSENSE", "'NONSENSE' is no cipher of TLS 1.2 that OpenSSL knows"),
        ("ECDHE+AESGCM, TLS_AES_128_GCM_SHA256", "'TLS_AES_128_GCM_SHA256' is no cipher of TLS 1.2 that OpenSSL knows"),
        ("ECDHE+AESGCM:!ECDHE", "nothing is left of 'ECDHE+AESGCM:!ECDHE'"),
        (":", "nothing is left of ':'"),
    ],
)
def test_a_cipher_that_openssl_would_pass_over_in_silence_is_told(
    certificates: Certificates, ciphers: str, reason: str
) -> None:
    assert refused(server_tls(certificates.server, ciphers=ciphers)) == f"ciphers: {reason}"
    assert refused(ClientTls(ca_cert=certificates.ca, ciphers=ciphers)) == f"ciphers: {reason}"


@pytest.mark.parametrize("ciphers", ["HIGH:!aNULL:!RC4:!MD5", "ECDHE+AESGCM -AES128 @STRENGTH", "DEFAULT"])
def test_openssl_s_language_of_ciphers_is_understood(certificates: Certificates, ciphers: str) -> None:
    server(certificates.server, ciphers=ciphers)


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [(("smtp", "h2"), ("h2", "smtp"), "smtp"), (("smtp",), ("h2",), None), ((), ("h2",), None), (("h2",), (), None)],
)
def test_the_server_s_first_protocol_that_both_speak_is_chosen(
    certificates: Certificates, offered: tuple[str, ...], wanted: tuple[str, ...], chosen: str | None
) -> None:
    pair = Pair(server(certificates.server, alpn=offered), client(certificates, alpn=wanted))
    assert pair.server.selected_alpn_protocol() == pair.client.selected_alpn_protocol() == chosen


def test_every_context_is_safe_by_itself(certificates: Certificates) -> None:
    context = server(certificates.server, sni={"other.example.org": certificates.other})
    named = Pair(context, client(certificates), "other.example.org").server.context
    assert named is not context
    for each in (context, named, client(certificates)):
        assert each.options & ssl.OP_NO_RENEGOTIATION
        assert each.options & ssl.OP_NO_COMPRESSION
        assert not each.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    for each in (context, named):
        assert each.options & ssl.OP_CIPHER_SERVER_PREFERENCE
        assert each.num_tickets == 1


def test_nothing_that_the_system_is_configured_to_do_makes_a_context_less_safe(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lax(protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        context.options &= ~(ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    monkeypatch.setattr(tls_context, "ssl", SimpleNamespace(**{**vars(ssl), "SSLContext": lax}))
    strict = server(certificates.server)
    own = client(certificates)
    monkeypatch.undo()
    assert strict.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    for context in (strict, own):
        assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
        assert context.options & ssl.OP_NO_COMPRESSION
    assert Pair(strict, own).server.version() == "TLSv1.3"


def test_an_end_without_close_notify_is_told_from_one_with_it(certificates: Certificates) -> None:
    pair = Pair(server(certificates.server), client(certificates))
    pair.to_server.write_eof()
    with pytest.raises(ssl.SSLEOFError):
        pair.server.read(1)
    pair = Pair(server(certificates.server), client(certificates))
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.to_server.write_eof()
    assert pair.server.read(1) == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_taken_up_again(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context, own = server(certificates.server), client(certificates)
    own.maximum_version = version
    session = Pair(context, own).client.session
    assert session is not None
    assert session.has_ticket
    again = Pair(context, own, session=session)
    assert (again.server.session_reused, again.client.session_reused) == (True, True)
    other = Pair(server(certificates.server), own, session=session)
    assert not other.server.session_reused


# -- from the files to OpenSSL ------------------------------------------------------------------------------------


def test_the_files_of_settings_are_all_that_they_name_each_once(certificates: Certificates) -> None:
    one, two = CertificateFiles(cert="c", key="k", chain="h"), CertificateFiles(cert="c", key="l")
    tls = ServerTls(cert="a", key="b", chain="h", client_ca="d", client_auth="optional", sni={"x": one, "y": two})
    assert sorted(files_of(tls)) == ["a", "b", "c", "d", "h", "k", "l"]
    assert sorted(files_of(ClientTls(ca_cert="a", cert="b", key="c"))) == ["a", "b", "c"]
    assert files_of(ClientTls()) == []


def test_what_is_shown_is_told_with_its_names_and_its_end(certificates: Certificates) -> None:
    built = build_server(server_tls(certificates.server, sni={"other.example.org": certificates.other}))
    first, second = built.shown
    assert (first.file, second.file) == (certificates.server.cert, certificates.other.cert)
    assert first.names == ("localhost", "127.0.0.1", "::1", "mx.example.org")
    assert str(second).startswith(f"{certificates.other.cert} (for other.example.org) expires on 2")
    own = build_client(ClientTls(ca_cert=certificates.ca, cert=certificates.client.cert, key=certificates.client.key))
    assert [shown.names for shown in own.shown] == [("client.example.org",)]
    assert build_client(ClientTls(ca_cert=certificates.ca)).shown == ()


def test_openssl_gets_what_was_checked_even_if_the_files_are_others_by_then(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = copied(certificates.server, tmp_path)

    def read_and_replace(*args: Any, **kwargs: Any) -> Identity:
        identity = read_identity(*args, **kwargs)
        for path in (files.cert, files.key):
            Path(str(path)).write_text("something else")
        return identity

    monkeypatch.setattr(tls_context, "read_identity", read_and_replace)
    Pair(server(files), client(certificates))


def copied(files: CertificateFiles, folder: Path, **more: Any) -> CertificateFiles:
    """The same certificate in a folder that may be altered."""
    for name, path in (("own.pem", files.cert), ("own.key", files.key)):
        (folder / name).write_bytes(Path(str(path)).read_bytes())
        (folder / name).chmod(0o600)
    return CertificateFiles(cert=str(folder / "own.pem"), key=str(folder / "own.key"), **more)


@pytest.fixture(params=["memory", "no memory files", "no /proc"])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The ways in which OpenSSL is given a certificate."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "no memory files":
        monkeypatch.delattr(os, "memfd_create")
    elif request.param == "no /proc":
        monkeypatch.setattr(tls_context, "_path_of", lambda descriptor: f"/nowhere/{descriptor}")
    yield request.param
    assert list(tmp_path.glob("certificate-*")) == []


def test_an_encrypted_key_works_in_each_way(certificates: Certificates, tmp_path: Path, where: str) -> None:
    files = copied(certificates.server, tmp_path, password="open")
    key = read_identity(certificates.server, "server").key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    Path(str(files.key)).write_bytes(key_pem(key, b"open"))
    before = len(os.listdir("/proc/self/fd"))
    Pair(server(files), client(certificates))
    assert len(os.listdir("/proc/self/fd")) == before


class Recorder:
    """Stands for a context, and keeps what it is given."""

    def load_cert_chain(self, path: str, password: str) -> None:
        self.path, self.password = path, password
        self.content = Path(path).read_bytes()
        self.mode = stat.S_IMODE(os.stat(path).st_mode)


def test_the_key_lies_nowhere_as_it_is_not_even_for_a_moment(certificates: Certificates, where: str) -> None:
    seen = [Recorder(), Recorder()]
    for recorder in seen:
        tls_context._show(recorder, read_identity(certificates.server, "server"), "")  # type: ignore[arg-type]
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in recorder.content
        assert b"BEGIN PRIVATE KEY" not in recorder.content
        assert not os.path.exists(recorder.path)
        if where != "memory":
            assert recorder.mode == 0o600
    assert seen[0].password != seen[1].password


def test_a_curve_that_no_client_takes_is_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    (tmp_path / "own.pem").write_bytes(pem(make("mx", [x509.DNSName("mx.example.org")], key=key)) + key_pem(key))
    (tmp_path / "own.pem").chmod(0o600)
    files = CertificateFiles(cert=str(tmp_path / "own.pem"))
    assert refused(server_tls(files)).endswith("the curve secp256k1 is none that TLS 1.3 has for certificates")


def test_what_openssl_alone_refuses_is_told_in_its_words(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_files, "CURVES", {"secp192r1", "secp256r1"})
    key = ec.generate_private_key(ec.SECP192R1())
    (tmp_path / "own.pem").write_bytes(pem(make("mx", [x509.DNSName("mx.example.org")], key=key)) + key_pem(key))
    (tmp_path / "own.pem").chmod(0o600)
    files = CertificateFiles(cert=str(tmp_path / "own.pem"))
    assert refused(server_tls(files)) == f"cert: {files.cert}: OpenSSL refuses the certificate: ee key too small"
    named = refused(server_tls(certificates.server, sni={"mx.example.org": files}))
    assert named == f"sni.mx.example.org.cert: {files.cert}: OpenSSL refuses the certificate: ee key too small"


def test_the_cas_that_clients_are_verified_with_are_checked(certificates: Certificates, tmp_path: Path) -> None:
    told = refused(server_tls(certificates.server, client_ca=certificates.server.cert, client_auth="required"))
    assert told == f"client_ca: {certificates.server.cert}: certificate 1 (CN=localhost) is no CA certificate"
    missing = str(tmp_path / "none.pem")
    assert refused(ClientTls(ca_cert=missing)) == f"ca_cert: {missing}: no such file or directory"
    assert refused(ClientTls(ca_cert=missing, skip_verify=True)).startswith("ca_cert: ")
