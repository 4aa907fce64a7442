"""What can be set, and that what contradicts itself is refused with the name of the setting."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from actors.smtp_client import ClientSettings, SmtpClient, Timeouts
from tests.actors.smtp_client.driver import settings
from theater_tcp import Theater
from theater_tcp.errors import InvalidArgument


def test_left_alone_it_wants_verified_tls_and_has_the_times_of_the_standard() -> None:
    left_alone = ClientSettings(server="mx.example.org:25")
    assert left_alone.tls == "required"
    assert left_alone.verifies
    times = Timeouts()
    assert (times.greeting, times.mail, times.rcpt) == (300, 300, 300)
    assert (times.data, times.block, times.end) == (120, 180, 600)


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("mx.example.org:25", "mx.example.org"),
        ("127.0.0.1:2525", "127.0.0.1"),
        ("[::1]:25", "::1"),
        ("[fe80::1%eth0]:25", "fe80::1%eth0"),
    ],
)
def test_the_host_of_the_server_is_what_the_certificate_has_to_name(server: str, host: str) -> None:
    assert settings(server=server, tls="required").host == host
    assert settings(server=server, tls="required", server_name="other.example.org").host == "other.example.org"


def test_a_unix_socket_is_a_server_too() -> None:
    assert settings(server="unix:/run/smtp").host == ""
    assert settings(server="unix:/run/smtp", tls="required", server_name="mx.example.org").host == "mx.example.org"


@pytest.mark.parametrize(
    ("tls", "verify", "verifies"),
    [
        ("required", None, True),
        ("required", True, True),
        ("implicit", None, True),
        ("opportunistic", None, False),
        ("opportunistic", False, False),
        ("opportunistic", True, True),
        ("none", None, False),
    ],
)
def test_whether_the_certificate_has_to_be_good(tls: str, verify: bool | None, verifies: bool) -> None:
    assert settings(tls=tls, verify=verify).verifies is verifies


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server": "mx.example.org"}, "server: 'mx.example.org' is neither host:port, [v6]:port nor unix:/path"),
        ({"server": "a@b:25"}, "server: 'a@b:25' is neither"),
        ({"server": "::1:25"}, "server: '::1:25' is neither"),
        ({"server": "mx:25\r\nQUIT"}, "server: 'mx:25\\r\\nQUIT' is neither"),
        ({"tls": "maybe"}, "tls: "),
        ({"verify": False, "tls": "required"}, "verify: tls 'required' always verifies"),
        ({"verify": False, "tls": "implicit"}, "verify: tls 'implicit' always verifies"),
        ({"verify": True, "tls": "none"}, "verify: is of no use with tls 'none'"),
        ({"ca_cert": "ca.pem", "tls": "none"}, "ca_cert: is of no use with tls 'none'"),
        ({"server_name": "mx", "tls": "none"}, "server_name: is of no use with tls 'none'"),
        ({"ca_cert": "ca.pem", "tls": "opportunistic"}, "ca_cert: verifies nobody as long as verify is false"),
        ({"server": "unix:/run/smtp", "tls": "required"}, "server_name: a Unix socket has no name"),
        ({"key": "client.key", "tls": "required"}, "key: "),
        ({"name": "two words"}, "name: 'two words' is neither a domain name nor an address literal"),
        ({"name": "a\r\nMAIL FROM:<>"}, "name: 'a\\r\\nMAIL FROM:<>' is neither"),
        ({"name": "é.example"}, "name: "),
        ({"name": ""}, "name: "),
        ({"timeouts": {"mail": 0}}, "timeouts.mail: "),
        ({"timeouts": {"mial": 5}}, "timeouts: object contains unknown field 'mial'"),
        ({"max_reply_line": 511}, "max_reply_line: "),
        ({"max_reply_lines": 1}, "max_reply_lines: "),
        ({"max_reply_size": 1}, "max_reply_size: "),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_begins_with_its_name(changes: dict[str, Any], words: str) -> None:
    arguments = {"server": "mx.example.org:25", "tls": "none", **changes}
    with Theater() as theater:
        with pytest.raises(InvalidArgument) as refused:
            theater.spawn(SmtpClient, **arguments)
        assert refused.value.detail.startswith(words)
        assert str(refused.value).isprintable()


def test_the_actor_takes_every_setting_and_no_other() -> None:
    parameters = inspect.signature(SmtpClient.__init__).parameters
    assert set(parameters) - {"self"} == set(ClientSettings.__struct_fields__)
