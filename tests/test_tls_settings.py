"""TLS settings: defaults, what contradicts, and what is not shown."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from theater_tcp.errors import InvalidArgument
from theater_tcp.fields import from_text
from theater_tcp.settings import Options, Settings
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls

FILES = CertificateFiles(cert="a.pem", key="a.key")


def refused(cls: Any, **values: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        cls(**values)
    return caught.value.detail


def test_tls_is_off_unless_somebody_asks_for_it_and_whole_if_somebody_does() -> None:
    assert (Options().server_tls, Options().client_tls) == (None, None)
    server, client = ServerTls(cert="a.pem"), ClientTls()
    for tls in (server, client):
        assert (tls.enabled, tls.auto_handshake, tls.min_version, tls.reload) == (True, True, "1.2", 10.0)
        assert (tls.ciphers, tls.alpn) == (None, ())
    assert (server.client_auth, server.sni) == ("none", {})
    assert (client.skip_verify, client.ca_cert) == (False, None)


@pytest.mark.parametrize(
    ("cls", "values", "reason"),
    [
        (ServerTls, {}, "cert: a server needs a certificate"),
        (ServerTls, {"key": "a.key"}, "cert: a server needs a certificate"),
        (ServerTls, {"cert": "a", "client_auth": "required"}, "client_auth: 'required' needs client_ca to verify with"),
        (ServerTls, {"cert": "a", "client_auth": "optional"}, "client_auth: 'optional' needs client_ca to verify with"),
        (ServerTls, {"cert": "a", "client_ca": "b"}, "client_ca: verifies nobody as long as client_auth is 'none'"),
        (ClientTls, {"key": "a"}, "key: a key without cert proves nothing"),
        (ClientTls, {"password": "a"}, "password: opens nothing, since cert names no file"),
        (
            ServerTls,
            {"cert": "a", "ciphers": "DEFAULT", "min_version": "1.3"},
            "ciphers: are those of TLS 1.2, which min_version shuts out",
        ),
        (
            ClientTls,
            {"ciphers": "DEFAULT", "min_version": "1.3"},
            "ciphers: are those of TLS 1.2, which min_version shuts out",
        ),
    ],
)
def test_what_would_apply_to_nothing_is_refused(cls: Any, values: dict[str, Any], reason: str) -> None:
    assert refused(cls, **values) == reason


@pytest.mark.parametrize("name", ["a b", "a..b", "127.1", "unix:/a", "a:25", "-a", "a\n", "*.example.org"])
def test_a_server_s_name_is_a_host_name_or_an_address(name: str) -> None:
    assert refused(ClientTls, server_name=name) == f"server_name: expected a host name or an address, got {name!r}"


@pytest.mark.parametrize("name", ["mx.example.org", "mx_1", "größe.example", "192.0.2.1", "2001:db8::1", "[::1]"])
def test_what_is_a_host_name_or_an_address_is_taken_for_a_server_s_name(name: str) -> None:
    assert ClientTls(server_name=name).server_name == name


def test_what_is_not_enabled_needs_nothing() -> None:
    assert ServerTls(enabled=False).cert is None


@pytest.mark.parametrize("name", ["", "a" * 256, "a b", "é", "a\n"])
def test_a_protocol_s_name_has_1_to_255_visible_characters(name: str) -> None:
    assert "expected a list of protocol names" in refused(ClientTls, alpn=(name,))
    assert ClientTls(alpn=("a" * 255, "h2")).alpn == ("a" * 255, "h2")


def test_a_list_is_kept_as_what_nobody_can_alter() -> None:
    protocols, named = ["h2"], {"a.example.org": FILES}
    tls = ServerTls(cert="a", alpn=protocols, sni=named)  # type: ignore[arg-type]
    protocols.append("smtp")
    named.clear()
    assert (tls.alpn, tls.sni) == (("h2",), {"a.example.org": FILES})


def test_a_mapping_is_no_certificate_and_no_settings() -> None:
    entry = {"cert": "a.pem"}
    assert refused(ServerTls, cert="a", sni={"a.example.org": entry}).startswith("sni: expected a mapping of host")
    assert refused(Options, server_tls=entry).startswith("server_tls: expected an instance of ServerTls or null, got")
    assert refused(Settings, options={}).startswith("options: expected an instance of Options, got")


def test_equal_settings_are_one_to_those_who_look_them_up() -> None:
    def make(**more: Any) -> ServerTls:
        return ServerTls(cert="a", alpn=("h2",), sni={"a.example.org": FILES}, **more)

    assert (make(), hash(make())) == (make(), hash(make()))
    assert make() != make(min_version="1.3")
    assert hash(ClientTls(alpn=("h2",))) == hash(ClientTls(alpn=["h2"]))  # type: ignore[arg-type]


def test_connections_with_equal_tls_share_one_object() -> None:
    options = Options()
    one = options.replaced(server_tls=ServerTls(cert="a", sni={"a.example.org": FILES}))
    assert options.replaced(server_tls=ServerTls(cert="a", sni={"a.example.org": FILES})) is one
    assert options.replaced(server_tls=ServerTls(cert="a")) is not one
    assert ClientTls().replaced(alpn=["h2"]) == ClientTls(alpn=("h2",))


def test_a_password_is_not_shown_wherever_its_settings_are() -> None:
    secret = "open sesame"
    named = CertificateFiles(cert="a", password=secret)
    server = ServerTls(cert="a", password=secret, sni={"a.example.org": named})
    client = ClientTls(cert="a", password=secret)
    for shown in (named, server, client, Options(server_tls=server, client_tls=client)):
        assert secret not in repr(shown)
        assert secret not in str(shown)
        assert "password='...'" in repr(shown).replace("password=...", "password='...'")
    assert secret not in refused(ServerTls, cert="a", password=[secret])


def test_a_certificate_s_files_are_those_of_the_settings() -> None:
    server = ServerTls(cert="a", key="b", chain="c", password="d")
    assert server.certificate == CertificateFiles(cert="a", key="b", chain="c", password="d")
    assert ClientTls().certificate is None
    assert ClientTls(cert="a", key="b").certificate == CertificateFiles(cert="a", key="b")
    with pytest.raises(InvalidArgument, match="cert: a server needs a certificate"):
        _ = ServerTls(enabled=False).certificate


@pytest.mark.parametrize(("written", "version"), [(1.2, "1.2"), (1.3, "1.3"), ("1.2", "1.2")])
def test_a_version_may_be_written_as_a_number(written: object, version: str) -> None:
    assert from_text(ServerTls, "min_version", written) == version


def test_settings_can_be_sent_to_another_process() -> None:
    tls = ServerTls(cert="a", alpn=("h2",), sni={"a.example.org": FILES})
    assert pickle.loads(pickle.dumps(tls)) == tls
