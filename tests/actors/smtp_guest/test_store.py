"""What a client hears of the store behind the guest: its refusals, its failures, its end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from tests.actors.smtp.driver import GREETED
from tests.actors.smtp.serving import Dialog, the_guest
from tests.actors.smtp_guest.scripted_store import GO_AHEAD, GREETING, HANG_UP, LHLO, OK, accept, playing, scripted
from theater_tcp import Options, Permissions, Settings, Theater, TheaterError
from theater_tcp.guest_settings import Limits

MAIL = b"MAIL FROM:<a@example.net>\r\n"
B, C, D = (b"RCPT TO:<%c@example.org>\r\n" % letter for letter in b"bcd")
TEXT = b"Subject: hi\r\n\r\n..dots\r\n.\r\n"
NO = b"550 5.1.1 Nobody of that name\r\n"
LATER = b"450 4.2.1 Not now\r\n"
TWO = (OK, OK, OK, GO_AHEAD)
"""To MAIL, two times RCPT, DATA."""


class Front:
    """A guest in front of a store.

    Args:
        theater: it runs in.
        address: where it listens.
    """

    def __init__(self, theater: Theater, address: str) -> None:
        self.theater = theater
        self.address = address

    def dial(self) -> Dialog:
        """A client that has said EHLO."""
        host, _, port = self.address.rpartition(":")
        client = Dialog(host, int(port))
        assert client.reply() == "220 mx.example.org ESMTP"
        client.ask(GREETED)
        return client


@contextmanager
def fronting(store: str, settings: Settings | None = None, **init: Any) -> Iterator[Front]:
    with Theater(Settings(options=Options(half_open=True))) as theater:
        program = theater.load_guest(the_guest(), ["clock"])
        config = {"hostname": "mx.example.org", "store": store, **init}
        guest = theater.spawn_guest(
            program,
            config,
            name="smtp",
            per_connection=True,
            settings=settings,
            permissions=settings.permissions if settings else None,
        )
        yield Front(theater, theater.listen_for(guest, "127.0.0.1:0").address)


@contextmanager
def warm(store: str, options: Options = Options(half_open=True), **init: Any) -> Iterator[Front]:  # noqa: B008
    """One guest that serves one client after the other, with room for a client and for the store."""
    with Theater(Settings(options=options)) as theater:
        guest = theater.spawn_guest(
            theater.load_guest(the_guest(), ["clock"]),
            {"hostname": "mx.example.org", "store": store, **init},
            name="smtp",
            per_connection=True,
            pool=1,
            permissions=None,
            limits=Limits(connections=2),
        )
        yield Front(theater, theater.listen_for(guest, "127.0.0.1:0").address)


def leave(client: Dialog) -> None:
    """Say goodbye, and wait for the end."""
    assert client.ask(b"QUIT\r\n") == ["221 2.0.0"]
    assert client.rest() == b""


def says(reply: bytes) -> str:
    return reply.decode().rstrip("\r\n")


def test_a_recipient_that_the_store_refuses_is_refused_at_once_in_its_words() -> None:
    with (
        scripted((OK, NO, LATER, OK, GO_AHEAD, b"250 2.0.0 It is in\r\n")) as store,
        fronting(store.address) as front,
        front.dial() as client,
    ):
        client.send(MAIL + B + C + D)
        assert [client.reply() for _ in range(4)][1:] == [says(NO), says(LATER), says(OK)]
        client.send(b"DATA\r\n" + TEXT)
        assert [client.reply() for _ in range(2)][1] == "250 2.0.0 It is in"
    commands = store.heard
    assert commands[0] == b"LHLO mx.example.org\r\n"
    assert commands[1:6] == [MAIL, B, C, D, b"DATA\r\n"]
    received, _, text = commands[6].partition(b"Subject: ")
    assert received.startswith(b"Received: from client.example.net ([127.0.0.1])\r\n\tby mx.example.org with ESMTP id ")
    assert b"\r\n\tfor <d@example.org>;\r\n\t" in received
    assert text == TEXT.removeprefix(b"Subject: ")


def test_extensions_of_a_message_are_told_to_the_store() -> None:
    sender = "MAIL FROM:<ä@example.net> SIZE=5 BODY=8BITMIME SMTPUTF8\r\n".encode()
    with scripted((OK, OK)) as store, fronting(store.address) as front, front.dial() as client:
        assert client.ask(sender + B, 2) == ["250 2.1.0", "250 2.0.0"]
    assert store.heard[1] == "MAIL FROM:<ä@example.net> BODY=8BITMIME SMTPUTF8\r\n".encode()


@pytest.mark.parametrize("parameter", [b" BODY=8BITMIME", b" SMTPUTF8"])
def test_a_message_that_the_store_lacks_the_extension_for_is_refused_at_its_first_recipient(parameter: bytes) -> None:
    with playing((GREETING, b"250 store\r\n")) as store, fronting(store.address) as front, front.dial() as client:
        assert client.ask(b"MAIL FROM:<a@example.net>" + parameter + b"\r\n" + B, 2) == ["250 2.1.0", "554 5.3.3"]


def test_a_sender_whom_the_store_refuses_is_refused_at_each_recipient() -> None:
    with (
        scripted((b"550 5.7.1 Not you\r\n", b"503 5.5.1 MAIL first\r\n") * 2) as store,
        fronting(store.address) as front,
        front.dial() as client,
    ):
        assert client.ask(MAIL + B + C + b"DATA\r\n", 4)[1:] == ["550 5.7.1", "550 5.7.1", "554 5.5.1"]


@pytest.mark.parametrize(
    ("replies", "told"),
    [
        ((OK, b"250 2.0.0 Ok too\r\n"), "250 2.0.0 Ok"),
        ((NO, NO), says(NO)),
        ((LATER, NO), says(LATER)),
        ((NO, LATER), says(LATER)),
        ((OK, LATER), "451 4.3.0 Stored for some of the recipients only; try again later"),
        ((NO, OK), "554 5.3.0 Stored for some of the recipients only; the others can't have it"),
    ],
)
def test_the_replies_for_the_recipients_become_one_that_is_good_only_where_all_of_them_are(
    caplog: pytest.LogCaptureFixture, replies: tuple[bytes, bytes], told: str
) -> None:
    with scripted((*TWO, b"".join(replies))) as store, fronting(store.address) as front, front.dial() as client:
        client.send(MAIL + B + C + b"DATA\r\n" + TEXT)
        assert [client.reply() for _ in range(5)][4] == told
        assert client.ask(b"NOOP\r\n") == ["250 2.0.0"]
    is_mixed = len({reply[:1] for reply in replies}) == 2 and OK in replies
    assert ("for 1 of 2 recipients; it may come again for all" in caplog.text) == is_mixed


NONSENSE = [
    HANG_UP,
    b"gibberish\r\n",
    b"250-Ok\r\n550 Not Ok\r\n",
    b"421 4.3.2 Going down\r\n",
    b"2\xff0 x\r\n",
    b"x" * 5000,
]


@pytest.mark.parametrize("wrong", NONSENSE, ids=["end", "gibberish", "two codes", "421", "no ASCII", "no end"])
@pytest.mark.parametrize("where", range(7))
def test_a_store_that_hangs_up_or_talks_nonsense_has_the_client_come_again(
    caplog: pytest.LogCaptureFixture, where: int, wrong: bytes
) -> None:
    """Where: the greeting, LHLO, MAIL, RCPT, RCPT, DATA, the end of the message."""
    script = [*[GREETING, LHLO, *TWO][:where], wrong]
    with playing(script, script) as store, fronting(store.address) as front, front.dial() as client:
        told = client.ask(MAIL + B + C, 3)[1:]
        if where < 4:
            assert told == ["451 4.3.0", "451 4.3.0"]
        else:
            assert told == ["250 2.0.0", "451 4.3.0" if where == 4 else "250 2.0.0"]
            assert client.ask(b"DATA\r\n" + TEXT, 2) == ["354 Go ah", "451 4.3.0"]
        assert client.ask(b"RSET\r\nQUIT\r\n", 2) == ["250 2.0.0", "221 2.0.0"]
    assert "the store 127.0.0.1:" in caplog.text


def test_a_store_that_is_not_there_has_the_client_come_again_and_is_tried_at_the_next_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with fronting(address) as front, front.dial() as client:
        assert client.ask(MAIL + B + b"DATA\r\nRSET\r\n", 4)[1:] == ["451 4.3.0", "554 5.5.1", "250 2.0.0"]
        with socket.create_server((address.rpartition(":")[0], int(address.rpartition(":")[2]))) as listening:
            client.send(MAIL + B)
            with accept(listening) as store:
                store.greet()
                store.answer(OK, OK)
                assert [client.code(), client.code()] == ["250 2.1.0", "250 2.0.0"]
    assert f"the store {address}: refused" in caplog.text


def test_a_store_that_hung_up_at_the_first_recipient_is_tried_anew_at_the_second() -> None:
    with (
        playing((HANG_UP,), (GREETING, LHLO, OK, OK, GO_AHEAD, OK)) as store,
        fronting(store.address) as front,
        front.dial() as client,
    ):
        assert client.ask(MAIL + B + C, 3) == ["250 2.1.0", "451 4.3.0", "250 2.0.0"]
        assert client.ask(b"DATA\r\n" + TEXT, 2) == ["354 Go ah", "250 2.0.0"]
    assert store.heard[1:4] == [MAIL, C, b"DATA\r\n"]


def test_a_store_that_may_not_be_reached_is_denied_and_the_client_is_to_come_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    denied = Settings(
        options=Options(half_open=True), permissions=Permissions(enabled=True, allowlist=("127.0.0.1:1",))
    )
    with scripted() as store, fronting(store.address, denied) as front, front.dial() as client:
        assert client.ask(MAIL + B, 2) == ["250 2.1.0", "451 4.3.0"]
        assert store.heard == []
    assert f"the store {store.address}: denied" in caplog.text


def test_a_store_that_closed_its_idle_connection_is_connected_to_anew() -> None:
    message = (OK, OK, GO_AHEAD, OK)
    with scripted((*message, HANG_UP), message) as store, fronting(store.address) as front, front.dial() as client:
        for _ in range(2):
            assert client.ask(MAIL + B + b"DATA\r\n" + TEXT, 4)[3] == "250 2.0.0"
        assert [command[:4] for command in store.heard].count(b"LHLO") == 2


def test_a_message_that_is_reset_is_reset_at_the_store_when_the_next_one_begins() -> None:
    with scripted((OK, OK, OK, OK, OK)) as store, fronting(store.address) as front, front.dial() as client:
        assert client.ask(MAIL + B + b"RSET\r\n" + MAIL + C, 5)[4] == "250 2.0.0"
        assert store.heard[1:6] == [MAIL, B, b"RSET\r\n", MAIL, C]


def test_the_text_of_a_message_that_is_refused_in_the_end_never_gets_an_end() -> None:
    large = (b"x" * 898 + b"\r\n") * 100
    with (
        scripted((OK, OK, GO_AHEAD, OK), (OK, OK)) as store,
        fronting(store.address, spool_size=4096) as front,
        front.dial() as client,
    ):
        assert client.ask(MAIL + B + b"DATA\r\n" + large + b"a bare\n.\r\nin it\r\n.\r\n", 4)[3] == "550 5.6.0"
        assert client.ask(MAIL + B, 2) == ["250 2.1.0", "250 2.0.0"]
    text = store.heard[4]
    assert text.startswith(b"Received: ")
    assert b"\r\n.\r\n" not in text
    assert b"bare" not in text


def test_a_text_by_chunks_has_its_dots_stuffed_and_its_last_line_ended() -> None:
    with scripted((OK, OK, GO_AHEAD, OK)) as store, fronting(store.address) as front, front.dial() as client:
        chunks = b"BDAT 4\r\n.a\r\nBDAT 2\r\n.\rBDAT 4 LAST\r\n\n..b"
        assert client.ask(MAIL + B + chunks, 5)[4] == "250 2.0.0"
    assert store.heard[4].endswith(b" +0000\r\n..a\r\n..\r\n...b\r\n.\r\n")


def test_a_store_that_takes_too_long_has_the_client_come_again(caplog: pytest.LogCaptureFixture) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        fronting(f"127.0.0.1:{silent.getsockname()[1]}", store_timeout=0.05) as front,
        front.dial() as client,
    ):
        assert client.ask(MAIL + B, 2) == ["250 2.1.0", "451 4.3.0"]
    assert ": timeout" in caplog.text


# -- the guest itself ---------------------------------------------------------------------------------------------


def test_a_guest_that_runs_out_of_memory_ends_one_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Its parser traps in the middle of a message, which is not delivered."""
    with scripted((OK, OK), (OK, OK, GO_AHEAD, OK)) as store, Theater() as theater:
        program = theater.load_guest(the_guest(), ["clock"])
        guest = theater.spawn_guest(
            program,
            {"hostname": "mx.example.org", "store": store.address, "spool_size": 1 << 29},
            name="smtp",
            per_connection=True,
            permissions=None,
            limits=Limits(memory=2 << 20),
        )
        front = Front(theater, theater.listen_for(guest, "127.0.0.1:0").address)
        with front.dial() as crashing, front.dial() as other:
            assert crashing.ask(MAIL + B + b"DATA\r\n", 3)[2] == "354 Go ah"
            with suppress(OSError):
                crashing.send((b"x" * 898 + b"\r\n") * 4000)
            assert crashing.rest() == b""
            assert other.ask(MAIL + B + b"DATA\r\n" + TEXT, 4)[3] == "250 2.0.0"
            with front.dial() as third:
                assert third.ask(b"NOOP\r\n") == ["250 2.0.0"]
        assert theater.metrics().guest_traps == 1
        assert store.heard.count(b"DATA\r\n") == 1
    assert "smtp ended in handle-connection-transfer" in caplog.text


@pytest.mark.parametrize(
    ("init", "reason"),
    [
        ({"store": ""}, "store: expected host:port or unix:/path"),
        (
            {"store": "127.0.0.1:1", "max_recipients": 5},
            "max_recipients: expected a whole number from 100 to 1073741824",
        ),
        ({"store": "127.0.0.1:1", "max_errors": 1.5}, "max_errors: expected a whole number from 1 to 1073741824"),
        (
            {"store": "127.0.0.1:1", "timeout": "5 min"},
            "timeout: expected a number of seconds from 0.001 to 1000000 or null",
        ),
        ({"store": "127.0.0.1:1", "require_tls": 1}, "require_tls: expected true or false"),
        ({"store": "127.0.0.1:1", "hostname": "two words"}, "hostname: expected a domain name or an address literal"),
        ({"store": "127.0.0.1:1", "domains": ["x"]}, "domains: expected a text, a number or a flag"),
        ({"store": "127.0.0.1:1", "domain": "x"}, "domain: there is no such setting"),
        ({}, "store: expected the address of an LMTP store, and nothing is set"),
    ],
)
def test_a_wrong_setting_refuses_the_start_in_one_line_that_names_it(init: dict[str, Any], reason: str) -> None:
    with Theater() as theater, pytest.raises(TheaterError) as refused:
        theater.spawn_guest(the_guest(), init, name="smtp", grants=["clock"], per_connection=True)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_guest_serves_one_client_after_the_other_and_takes_nothing_over() -> None:
    with scripted((OK, OK), (OK, OK)) as store, warm(store.address) as front:
        for _ in range(2):
            with front.dial() as client:
                assert client.ask(MAIL + B, 2) == ["250 2.1.0", "250 2.0.0"]
                leave(client)
        assert [command[:4] for command in store.heard].count(b"LHLO") == 2


# -- the connection to the store, from one client to the next -------------------------------------------------------


MESSAGE = (OK, OK, GO_AHEAD, OK)


def deliver(client: Dialog) -> str:
    """The answer to a message for one recipient."""
    return client.ask(MAIL + B + b"DATA\r\n" + TEXT, 4)[3]


def test_the_connection_to_the_store_stays_for_the_next_client_of_a_warm_guest() -> None:
    with scripted(MESSAGE * 3) as store, warm(store.address) as front:
        for _ in range(3):
            with front.dial() as client:
                assert deliver(client) == "250 2.0.0"
                leave(client)
    texts = store.heard[4::4]
    assert store.heard == [
        b"LHLO mx.example.org\r\n",
        *(part for text in texts for part in (MAIL, B, b"DATA\r\n", text)),
    ]
    assert len({text.partition(b" id ")[2].partition(b"\r\n")[0] for text in texts}) == 3


@pytest.mark.parametrize("farewell", [HANG_UP, b"421 4.4.2 Idle for too long\r\n"], ids=["none", "421"])
def test_a_store_that_ends_the_connection_when_the_next_client_needs_it_is_connected_to_anew_in_silence(
    caplog: pytest.LogCaptureFixture, farewell: bytes
) -> None:
    with scripted((*MESSAGE, farewell), MESSAGE) as store, warm(store.address) as front:
        for _ in range(2):
            with front.dial() as client:
                assert deliver(client) == "250 2.0.0"
                leave(client)
        assert [command[:4] for command in store.heard].count(b"LHLO") == 2
    assert caplog.text == ""


def test_a_store_that_ends_the_connection_while_nobody_needs_it_is_connected_to_anew_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, warm(f"127.0.0.1:{listening.getsockname()[1]}") as front:
        for _ in range(2):
            with front.dial() as client:
                client.send(MAIL + B + b"DATA\r\n" + TEXT)
                with accept(listening) as store:
                    store.greet()
                    store.answer(*MESSAGE)
                    assert [client.code() for _ in range(4)][3] == "250 2.0.0"
                    leave(client)
                    store.say(b"421 4.4.2 Idle for too long\r\n")
    assert caplog.text == ""


def test_a_message_whose_fate_is_unknown_is_not_sent_a_second_time_over_a_new_connection() -> None:
    with scripted((*MESSAGE, OK, OK, GO_AHEAD, HANG_UP), MESSAGE) as store, warm(store.address) as front:
        for told in ("250 2.0.0", "451 4.3.0"):
            with front.dial() as client:
                assert deliver(client) == told
                leave(client)
        assert [command[:4] for command in store.heard].count(b"LHLO") == 1


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ((OK, NO), MAIL + B),
        ((NO, NO), MAIL + B),
        ((OK, OK, GO_AHEAD, NO), MAIL + B + b"DATA\r\n" + TEXT),
        ((OK, OK, GO_AHEAD, OK, OK, NO), MAIL + B + b"DATA\r\n" + TEXT + MAIL + B),
    ],
    ids=["recipient", "sender", "message", "recipient behind a message"],
)
def test_what_a_client_was_refused_is_not_counted_against_the_next_one(replies: tuple[bytes, ...], said: bytes) -> None:
    with scripted(replies, MESSAGE) as store, warm(store.address) as front:
        with front.dial() as client:
            client.send(said + b"QUIT\r\n")
            assert client.rest().endswith(b"\r\n221 2.0.0 Goodbye\r\n")
        with front.dial() as client:
            assert deliver(client) == "250 2.0.0"
        assert [command[:4] for command in store.heard].count(b"LHLO") == 2


# -- replies that came before their command ------------------------------------------------------------------------


@contextmanager
def by_hand(**init: Any) -> Iterator[tuple[Front, socket.socket]]:
    """A warm guest, and where it connects to."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        warm(f"127.0.0.1:{listening.getsockname()[1]}", **init) as front,
    ):
        yield front, listening


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the guest's clock shows, in seconds: a list of one, to be changed."""
    seconds = [1_700_000_000]
    stopped = SimpleNamespace(monotonic=time.monotonic, time_ns=lambda: seconds[0] * 1_000_000_000)
    monkeypatch.setattr("theater_tcp.guest.calls.time", stopped)
    return seconds


def test_a_reply_too_many_is_no_answer_to_the_next_message(caplog: pytest.LogCaptureFixture) -> None:
    again = b"250 2.0.0 Ok, I said\r\n"
    with (
        scripted((OK, OK, GO_AHEAD, OK + again), (OK, OK, GO_AHEAD, LATER)) as store,
        fronting(store.address) as front,
        front.dial() as client,
    ):
        assert deliver(client) == "250 2.0.0"
        assert deliver(client) == "450 4.2.1"
    assert f'the store {store.address}: it said "{says(again)}" unasked' in caplog.text


def test_a_reply_too_many_that_comes_late_costs_the_store_its_idle_connection(clock: list[int]) -> None:
    with by_hand() as (front, listening), front.dial() as client, front.dial() as other:
        client.send(MAIL + B + b"DATA\r\n" + TEXT)
        with accept(listening) as store:
            store.greet()
            store.answer(*MESSAGE)
            assert [client.code() for _ in range(4)][3] == "250 2.0.0"
            leave(client)
            store.say(OK)
            clock[0] += 1
            other.send(MAIL + B + b"DATA\r\n" + TEXT)
            with accept(listening) as anew:
                anew.greet()
                anew.answer(OK, OK, GO_AHEAD, LATER)
                assert [other.code() for _ in range(4)][3] == "450 4.2.1"


@pytest.mark.usefixtures("clock")
def test_a_reply_too_many_that_was_taken_for_another_shows_before_the_message_has_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with by_hand() as (front, listening), front.dial() as client:
        client.send(MAIL + B + b"DATA\r\n" + TEXT)
        with accept(listening) as store:
            store.greet()
            store.answer(*MESSAGE)
            assert [client.code() for _ in range(4)][3] == "250 2.0.0"
            store.say(OK)
            client.send(MAIL + B)
            store.answer(OK, OK)
            assert client.code() == "250 2.1.0"
            assert client.code() == "250 2.0.0"
            client.send(b"DATA\r\n" + TEXT)
            assert [client.code(), client.code()] == ["354 Go ah", "451 4.3.0"]
    assert 'it said "250 2.0.0 Ok' in caplog.text


@pytest.mark.parametrize("early", [OK, NO, b"2"], ids=["yes", "no", "part"])
def test_a_reply_before_the_end_of_a_message_is_not_the_answer_to_the_end(early: bytes) -> None:
    line = b"x" * 898 + b"\r\n"
    with by_hand(spool_size=4096) as (front, listening), front.dial() as client:
        client.send(MAIL + B + b"DATA\r\n" + line * 10)
        with accept(listening) as store:
            store.greet()
            store.answer(OK, OK, GO_AHEAD)
            store.hear(line)
            store.say(early)
            client.send(line + b".\r\n")
            assert [client.code() for _ in range(4)] == ["250 2.1.0", "250 2.0.0", "354 Go ah", "451 4.3.0"]


def test_a_reply_together_with_the_go_ahead_is_not_the_answer_to_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with scripted((OK, OK, GO_AHEAD + OK)) as store, fronting(store.address) as front, front.dial() as client:
        assert deliver(client) == "451 4.3.0"
    assert 'it said "250 2.0.0 Ok" unasked' in caplog.text


def test_without_a_timeout_of_its_own_the_guest_leaves_the_receive_timeout_as_it_is() -> None:
    with (
        warm("127.0.0.1:1", timeout=None, options=Options(half_open=True, receive_timeout=0.05)) as front,
        front.dial() as client,
    ):
        assert client.code() == "421 4.4.2"
