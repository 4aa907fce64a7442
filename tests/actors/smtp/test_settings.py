"""The settings of session and server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.smtp import ServerSettings


def converted(**fields: Any) -> ServerSettings:
    return msgspec.convert({"maildir": "mail", **fields}, type=ServerSettings)


def test_all_but_the_maildir_has_a_default() -> None:
    settings = converted()
    assert settings.fsync
    assert settings.max_recipients >= 100  # RFC 5321, 4.5.3.1.8
    assert settings.timeout == 300  # RFC 5321, 4.5.3.2.7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_message_size", 65535),
        ("max_recipients", 99),
        ("max_errors", 0),
        ("max_asides", 0),
        ("max_command_line", 511),
        ("max_text_line", 999),
        ("spool_size", 0),
        ("timeout", 0),
        ("maildir", ""),
        ("maildir", None),
        ("fsync", "yes"),
        ("require_tls", "yes"),
        ("implicit_tls", "127.0.0.1:2465"),
        ("domains", "example.org"),
        ("hostname", ""),
        ("hostname", "two words"),
        ("hostname", "mx.example.org\r\n220 evil"),
        ("hostname", "-mx.example.org"),
        ("hostnam", "mx.example.org"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        converted(**{field: value})


@pytest.mark.parametrize("name", ["localhost", "mx.example.org", "mx-1.example.org", "[192.0.2.1]", "[IPv6:::1]"])
def test_a_host_has_a_name_or_an_address_literal(name: str) -> None:
    assert converted(hostname=name).greeting == f"220 {name} ESMTP\r\n".encode()
