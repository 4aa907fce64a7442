"""The guest's session against the Python one's: the same bytes, the same replies and messages."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.smtp import SessionSettings, replies
from tests.actors.smtp.driver import ENCRYPTION, ENVELOPE, GREETED, SETTINGS, Client, bytewise
from tests.actors.smtp.test_session import BEGINS, DIALOGUES, SMALL
from tests.actors.smtp.test_session_tls import STARTTLS, STRICT
from tests.actors.smtp.test_smuggling import NOT_THE_END, SMUGGLED
from tests.actors.smtp_guest.native import NativeClient, Sessions, as_stored

ROOT = Path(__file__).resolve().parents[3]

ARGUMENTS = [
    *(b"<>", b"<a@example.net>", b" <a@b.c>", b"  <a@b.c>", b"<a@b.c", b"a@b.c", b"<a@b.c>x", b"<a@b.c> ", b"< a@b.c>"),
    *(
        b"<a.b@c>",
        b"<a..b@c>",
        b"<.a@c>",
        b"<a.@c>",
        b'<"a b"@c>',
        b'<"a\\"b"@c>',
        b'<"a\\@c>',
        b'<"a"b@c>',
        b"<a b@c>",
    ),
    *(b"<a@-b>", b"<a@b->", b"<a@b-c>", b"<a@b.>", b"<a@.b>", b"<a@b_c>", b"<a@>", b"<@b>", b"<a>", b"<a@b@c>"),
    *(b"<a@" + b"x" * 63 + b">", b"<a@" + b"x" * 64 + b">", b"<a@" + b"x" * 62 + b"-.c>", b"<" + b"a" * 252 + b"@b>"),
    *(b"<" + b"a" * 253 + b"@b>", b"<@x,@y:a@b>", b"<@x:a@b>", b"<@x,y:a@b>", b"<@x@y:a@b>", b"<@x:>", b"<@:a@b>"),
    *(b"<a@[1.2.3.4]>", b"<a@[1.2.3.256]>", b"<a@[01.2.3.4]>", b"<a@[IPv6:::1]>", b"<a@[ipv6:1::2::3]>", b"<a@[x]>"),
    *(b"<a@[IPv6:1:2:3:4:5:6:7:8]>", b"<a@[IPv6:::ffff:1.2.3.4]>", b"<a@[]>", b"<a@[1.2.3.4>", b"<a@[1.2.3.4]x>"),
    *("<é@ü.de>".encode(), "<é@ü.de> SMTPUTF8".encode(), "<a@\u0080.de> SMTPUTF8".encode(), b"<\xff@b.c> SMTPUTF8"),
    *(b"<postmaster>", b"<PostMaster>", b"<postmaster> X=1", b"<postmasterx>", b"<postmaster@example.org>"),
    *(b"<b@example.org>", b"<b@example.org> X", b"<b@example.org> =", b"<b@example.org>\0", b"<a@b.c> SIZE=1 size=2"),
    *(b"<a@b.c> SIZE=18446744073709551616", b"<a@b.c> SIZE=99999999999999999999", b"<a@b.c>  BODY=8bitmime  SIZE=0 "),
]
"""Paths with parameters, for MAIL and RCPT alike."""


@pytest.fixture(scope="module")
def sessions() -> Iterator[Sessions]:
    sessions = Sessions()
    yield sessions
    sessions.close()


pytestmark = pytest.mark.program("rustc")


def check(pieces: list[bytes], native: NativeClient, client: Client) -> None:
    """Both say and store the same, in answer to each piece."""
    for piece in pieces:
        assert native.send(piece) == client.send(piece), piece
        assert (native.step == "u") == client.is_upgrading
        assert (native.step in "ci") == client.is_closed
        assert (native.step == "i") == client.has_injected
    assert [as_stored(text) for text in native.messages] == client.contents


def test_the_words_of_both_are_the_same() -> None:
    text = (ROOT / "actors/smtp_guest/rust/replies.rs").read_text()
    own = {"PARTLY_STORED", "PARTLY_STORED_RETRY", "STORE_LACKS_EXTENSION"}
    found = dict(re.findall(r'^pub const (\w+): &\[u8\] = b"(.*)\\r\\n";$', text, re.MULTILINE))
    assert {name: getattr(replies, name, b"").decode()[:-2] for name in found.keys() - own} == {
        name: words for name, words in found.items() if name not in own
    }
    assert own < found.keys()


@pytest.mark.parametrize("argument", ARGUMENTS, ids=repr)
def test_a_path_is_read_as_the_other_session_reads_it(sessions: Sessions, argument: bytes) -> None:
    begin = GREETED + b"MAIL FROM:" + argument + b"\r\nRSET\r\n"
    rest = b"MAIL FROM:<> SMTPUTF8\r\nRCPT TO:" + argument + b"\r\n"
    check([begin, rest], sessions.begin(), Client())


@pytest.mark.parametrize(
    "name",
    [b"[192.0.2.1]", b"[192.0.2.1", b"192.0.2.1]", b"[IPv6:::1]", b"[IPv6:::1", b"[]", b"[", b"]", b"[[a]]", b"a[1]"],
)
def test_a_name_is_read_as_the_other_session_reads_it(sessions: Sessions, name: bytes) -> None:
    check([b"EHLO " + name + b"\r\n", b"HELO " + name + b"\r\n"], sessions.begin(), Client())


COMMANDS = st.sampled_from(
    [b"MAIL FROM:", b"RCPT TO:", b"mail From:", b"MAIL", b"BDAT ", b"EHLO ", b"VRFY", b"BDAT 3 "]
)
LETTERS = st.text(st.sampled_from('<>@.:,[]"\\ a-=1\u00e9\u0085\0\tLAST'), max_size=12).map(str.encode)


@given(lines=st.lists(st.builds(bytes.__add__, COMMANDS, LETTERS | st.sampled_from(ARGUMENTS)), max_size=6))
def test_any_argument_is_judged_as_the_other_session_judges_it(sessions: Sessions, lines: list[bytes]) -> None:
    wide = SessionSettings(hostname="mx.example.org", domains=("example.org",), max_errors=100)
    check([GREETED, *(line + b"\r\n" for line in lines)], sessions.begin(wide), Client(wide))


@given(begin=st.sampled_from(BEGINS), rest=DIALOGUES, cuts=st.lists(st.integers(0, 20_000), max_size=8))
@example(begin=BEGINS[1], rest=b".", cuts=[])
def test_any_dialogue_in_any_pieces_has_the_same_replies_and_messages(
    sessions: Sessions, begin: bytes, rest: bytes, cuts: list[int]
) -> None:
    dialogue = begin + rest
    places = sorted({cut % (len(dialogue) + 1) for cut in cuts} | {0, len(dialogue)})
    for pieces in ([dialogue[a:b] for a, b in itertools.pairwise(places)], list(bytewise(dialogue))):
        check(pieces, sessions.begin(SMALL), Client(SMALL))


@given(pieces=st.lists(DIALOGUES | st.just(STARTTLS), max_size=8), kind=st.sampled_from("POE"), strict=st.booleans())
def test_any_dialogue_around_an_upgrade_has_the_same_replies_and_messages(
    sessions: Sessions, pieces: list[bytes], kind: str, strict: bool
) -> None:
    settings = STRICT if strict else SETTINGS
    native = sessions.begin(settings, kind=kind)
    client = Client(settings, offers_tls=kind == "O", encryption=ENCRYPTION if kind == "E" else None)
    for piece in pieces:
        check([piece], native, client)
        if native.step == "u":
            native.upgrade()
            client.upgrade()


@pytest.mark.parametrize("ending", NOT_THE_END, ids=repr)
def test_no_lookalike_of_the_end_is_one_however_it_comes(sessions: Sessions, ending: bytes) -> None:
    data = GREETED + ENVELOPE + b"DATA\r\ninnocent" + ending + SMUGGLED + b".\r\nNOOP\r\n"
    for pieces in ([data], list(bytewise(data))):
        native = sessions.begin()
        check(pieces, native, Client())
        assert native.messages == []


TEXTS = st.lists(
    st.sampled_from([b"\r\n", b".", b"..", b"\r", b"\n", b"\r\n.\r\n", b"x" * 8, b"y" * 990, b"hello", b"\0\xff"]),
    max_size=30,
).map(b"".join)


@given(text=TEXTS, size=st.integers(1, 40))
def test_any_text_by_data_and_by_bdat_is_judged_and_stored_the_same(sessions: Sessions, text: bytes, size: int) -> None:
    chunks = b"".join(
        b"BDAT %d\r\n%s" % (len(text[at : at + size]), text[at : at + size]) for at in range(0, len(text), size)
    )
    for message in (b"DATA\r\n" + text + b"\r\n.\r\nRSET\r\n", chunks + b"BDAT 0 LAST\r\nRSET\r\n"):
        for step in (1, 7, len(message)):
            pieces = [message[at : at + step] for at in range(0, len(message), step)]
            check([GREETED + ENVELOPE, *pieces], sessions.begin(), Client())
