"""What a server offers, and what a message needs of it."""

from __future__ import annotations

import pytest

from actors.smtp_client import Submission
from actors.smtp_client.extensions import Extensions, NotOffered
from actors.smtp_client.replies import Reply

PLAIN = Submission("a@b", ["c@d"], b"A: b\r\n\r\nhello\r\n")
EIGHT_BIT = Submission("a@b", ["c@d"], "A: b\r\n\r\nschön\r\n".encode())
UTF8 = Submission("ü@b", ["c@d"], b"A: b\r\n\r\nhello\r\n")


def offered(*lines: str) -> Extensions:
    return Extensions(Reply(250, ("mx.example.org greets you", *lines)))


def test_extensions_are_known_in_any_case_and_with_parameters() -> None:
    extensions = offered("starttls", "SIZE 1000", "AUTH PLAIN LOGIN", "", "8bitmime ")
    for keyword in ("STARTTLS", "SIZE", "AUTH", "8BITMIME"):
        assert keyword in extensions
    assert "LOGIN" not in extensions


def test_the_first_line_is_the_servers_name_and_no_extension() -> None:
    assert "STARTTLS" not in Extensions(Reply(250, ("STARTTLS",)))


def test_without_a_reply_there_is_no_extension() -> None:
    assert "STARTTLS" not in Extensions()
    assert Extensions().mail_parameters(PLAIN) == ""


@pytest.mark.parametrize(
    ("submission", "parameters"),
    [
        (PLAIN, " SIZE=15"),
        (EIGHT_BIT, " BODY=8BITMIME SIZE=16"),
        (UTF8, " SMTPUTF8 SIZE=15"),
        (Submission("a@b", ["c@d"], "A: ü\r\n\r\n".encode()), " SMTPUTF8 BODY=8BITMIME SIZE=9"),
    ],
)
def test_mail_says_what_the_message_needs_and_no_more(submission: Submission, parameters: str) -> None:
    assert offered("SIZE 1000", "8BITMIME", "SMTPUTF8").mail_parameters(submission) == parameters


@pytest.mark.parametrize(
    ("submission", "lines", "enhanced", "word"),
    [
        (EIGHT_BIT, ["SIZE", "SMTPUTF8"], "5.6.3", "8BITMIME"),
        (UTF8, ["SIZE", "8BITMIME"], "5.6.7", "SMTPUTF8"),
        (PLAIN, ["SIZE 14"], "5.3.4", "15 octets, and the server takes 14"),
    ],
)
def test_what_the_server_could_not_handle_is_not_sent(
    submission: Submission, lines: list[str], enhanced: str, word: str
) -> None:
    with pytest.raises(NotOffered, match=word) as refused:
        offered(*lines).mail_parameters(submission)
    assert refused.value.enhanced == enhanced


@pytest.mark.parametrize("limit", ["", "0", "15", "99999999999999999999", "9" * 5000, "many", "٣", "-1", "15 octets"])
def test_a_size_that_is_no_limit_limits_nothing(limit: str) -> None:
    assert offered(f"SIZE {limit}").mail_parameters(PLAIN) == " SIZE=15"
