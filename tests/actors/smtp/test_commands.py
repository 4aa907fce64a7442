"""Arguments of commands: paths, parameters, names, sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.smtp.commands import Mail, Recipient, parse_bdat, parse_helo, parse_mail, parse_rcpt
from actors.smtp.replies import Refused

GOOD = [
    "a@example.org",
    "a@localhost",
    "A.b.C@EXAMPLE.org",
    "a+tag@example.org",
    "!#$%&'*+-/=?^_`{|}~@example.org",
    '"a b"@example.org',
    '"a@b>c"@example.org',
    '""@example.org',
    r'"a\"b\\c"@example.org',
    r'"\a\ "@example.org',
    '"a..b"@example.org',
    "a@1.2.3.x4",
    "a@x-y.example",
    "a@[192.0.2.1]",
    "a@[IPv6:2001:db8::1]",
    "a@[ipv6:::1]",
    "用户@例子.广告",
    '"用户 x"@example.org',
    "a@" + "x" * 63 + ".org",
    "a" * 64 + "@" + ".".join(["x" * 60] * 3),
    "SRS0=HHH=TT=" + "x" * 80 + "@example.org",
]
BAD = [
    "a",
    "@example.org",
    "a@",
    "a@@example.org",
    "a.@example.org",
    ".a@example.org",
    "a..b@example.org",
    "a b@example.org",
    "a@b c",
    "a@.org",
    "a@example..org",
    "a@example.org.",
    "a@-x.org",
    "a@x-.org",
    "a@x_y.org",
    "a@" + "x" * 64 + ".org",
    "a@[192.0.2]",
    "a@[192.0.2.256]",
    "a@[IPv6:1::2::3]",
    "a@[2001:db8::1]",
    "a@[tag:content]",
    "a@[]",
    "a@[192.0.2.1",
    '"a"b@example.org',
    '"a@example.org',
    '"a\\"@example.org',
    "a(comment)@example.org",
    "a,b@example.org",
    "<a@example.org>",
    "a>@example.org",
    "@x.org:",
    "@x.org,a@example.org",
    "@x org:a@example.org",
    "a@" + ".".join(["x" * 60] * 5),
    "a" * 200 + "@" + "x" * 60,
    "é" * 122 + "@example.org",
    "例" * 81 + "@example.org",
]


@pytest.mark.parametrize("address", GOOD)
def test_an_address_of_the_grammar_is_read_as_it_stands(address: str) -> None:
    domain = address.rpartition("@")[2]
    assert parse_mail(f"FROM:<{address}>") == Mail(address, {})
    assert parse_rcpt(f"TO:<{address}>") == Recipient(address, domain)


@pytest.mark.parametrize("address", BAD)
def test_what_is_no_address_is_refused_with_the_code_of_its_role(address: str) -> None:
    with pytest.raises(Refused) as sender:
        parse_mail(f"FROM:<{address}>")
    with pytest.raises(Refused) as recipient:
        parse_rcpt(f"TO:<{address}>")
    assert sender.value.reply.startswith(b"501 5.1.7 ")
    assert recipient.value.reply.startswith(b"501 5.1.3 ")


@pytest.mark.parametrize(
    "argument", ["", "FROM", "FROM:", "FROM:a@example.org", "TO:<a@example.org>", "<a@example.org>", ":<>"]
)
def test_mail_without_from_and_brackets_is_told_the_syntax(argument: str) -> None:
    with pytest.raises(Refused, match="Syntax: MAIL FROM"):
        parse_mail(argument)


@pytest.mark.parametrize("argument", ["", "TO", "TO:", "TO:a@example.org", "FROM:<a@example.org>", "<a@example.org>"])
def test_rcpt_without_to_and_brackets_is_told_the_syntax(argument: str) -> None:
    with pytest.raises(Refused, match="Syntax: RCPT TO"):
        parse_rcpt(argument)


def test_a_recipient_is_never_empty() -> None:
    with pytest.raises(Refused, match=r"5\.1\.3"):
        parse_rcpt("TO:<>")


@pytest.mark.parametrize("name", ["postmaster", "Postmaster", "POSTMASTER"])
def test_the_postmaster_needs_no_domain_as_a_recipient_but_does_as_a_sender(name: str) -> None:
    assert parse_rcpt(f"TO:<{name}>") == Recipient(name, "")
    with pytest.raises(Refused):
        parse_mail(f"FROM:<{name}>")


def test_a_letter_that_only_folds_to_ascii_makes_no_postmaster() -> None:
    with pytest.raises(Refused):
        parse_rcpt("TO:<po\u017ftmaster>")


@pytest.mark.parametrize("route", ["@x.org:", "@x.org,@y.example.org:", "@localhost:"])
def test_a_source_route_is_dropped(route: str) -> None:
    assert parse_mail(f"FROM:<{route}a@example.org>").sender == "a@example.org"
    assert parse_rcpt(f"TO:<{route}a@example.org>").address == "a@example.org"


def test_one_space_after_the_colon_and_any_after_the_address_are_forgiven() -> None:
    assert parse_mail("from: <a@example.org>  ") == Mail("a@example.org", {})
    assert parse_rcpt("to: <a@example.org> ") == Recipient("a@example.org", "example.org")


@pytest.mark.parametrize("argument", ["  <a@example.org>", " <a@example.org>SIZE=1", " < a@example.org>"])
def test_no_other_space_is_forgiven(argument: str) -> None:
    with pytest.raises(Refused):
        parse_mail(f"FROM:{argument}")
    with pytest.raises(Refused):
        parse_rcpt(f"TO:{argument}")


def test_parameters_come_by_their_names_in_upper_case() -> None:
    assert parse_mail("FROM:<> size=5  Body=8BITMIME SMTPUTF8 ").parameters == {
        "SIZE": "5",
        "BODY": "8BITMIME",
        "SMTPUTF8": None,
    }


@pytest.mark.parametrize(
    "parameters", ["SIZE=5 size=6", "=", "A=", "A==", "A=\u00a0", "A=é", "Ä=1", "A\u00a0B", "-", "A_B"]
)
def test_a_malformed_or_doubled_parameter_is_refused(parameters: str) -> None:
    with pytest.raises(Refused, match=r"501 5\.5\.4"):
        parse_mail(f"FROM:<> {parameters}")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("0", (0, False)), ("86 LAST", (86, True)), ("5 last ", (5, True)), ("5  LAST", (5, True)), ("007", (7, False))],
)
def test_bdat_has_a_size_and_maybe_last(argument: str, expected: tuple[int, bool]) -> None:
    assert parse_bdat(argument) == expected


@pytest.mark.parametrize(
    "argument", ["", "LAST", "5LAST", "+5", "-5", "0x5", "5.0", "5 LAST LAST", "\u0665", "5 LA\u017fT", "9" * 20]
)
def test_a_size_that_cannot_be_read_is_refused(argument: str) -> None:
    with pytest.raises(Refused, match="Syntax: BDAT"):
        parse_bdat(argument)


def parsed(parse: Callable[[str], object], text: str) -> object:
    """What the parser made of it, its refusal included."""
    try:
        return parse(text)
    except Refused as refused:
        return refused.reply


@given(argument=st.text(max_size=80) | st.text(alphabet='<>@".[]:\\ -aFROMTO1é', max_size=80))
def test_any_text_is_read_or_refused_by_a_whole_reply(argument: str) -> None:
    for parse in (parse_mail, parse_rcpt, parse_helo, parse_bdat):
        for text in (argument, f"FROM:<{argument}>", f"TO:<{argument}>"):
            result = parsed(parse, text)
            assert not isinstance(result, bytes) or (result[:1] == b"5" and result.endswith(b"\r\n"))


@given(argument=st.text(alphabet='<>@".[]:\\ -a1é', max_size=60))
def test_an_address_that_was_read_has_nothing_that_could_end_it_early(argument: str) -> None:
    try:
        sender = parse_mail(f"FROM:<{argument}>").sender
    except Refused:
        return
    local = sender.rpartition("@")[0]
    assert not set("<> ") & set(sender) or local.startswith('"')
