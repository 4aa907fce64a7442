"""The actor in memory, with a server that follows a script: dialogue, times, large messages, the way down."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable, Iterator
from typing import cast

import pykka
import pytest

from actors.smtp_client import Receipt, SmtpClient, Submission, Timeouts
from actors.smtp_client.client import address_literal
from tests.actors.smtp_client.driver import GREETING, MESSAGE, NO_PIPELINING, NO_TLS, SUBMISSION
from tests.actors.smtp_client.raw_server import Line, RawServer
from tests.peers import TIMEOUT
from theater_tcp import Future, Options, Settings, Theater
from theater_tcp.testing import Peer, Stage

SERVER = "mx.example.org:25"
OK = b"250 ok\r\n"
GO_AHEAD = b"354 go\r\n"
END = b"250 2.0.0 Ok: queued as 7\r\n"
BYE = b"221 bye\r\n"
NO_LIMIT = NO_TLS.replace(b"SIZE 1000000", b"SIZE")
LARGE = Submission("a@example.net", ["b@example.org"], b"x" * 70 + b"\r\n" + b"y" * 2_000_000)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


class Attempt:
    """A submission under way, and the server's end of its connection.

    Args:
        stage: where the client is.
        submission: what it sends.
        settings: of the client.
    """

    def __init__(self, stage: Stage, submission: Submission = SUBMISSION, **settings: object) -> None:
        self.stage = stage
        self.listening = stage.listen(SERVER)
        self.client: pykka.ActorRef[SmtpClient] = stage.spawn(SmtpClient, SERVER, **{"tls": "none", **settings})
        self.asked = cast("Future[Receipt]", self.client.ask(submission, block=False))
        self.peer: Peer = stage.accept(self.listening)

    def hear(self, *replies: bytes) -> bytes:
        """What the client says to these replies."""
        for reply in replies:
            self.peer.send(reply)
        return self.peer.receive()

    def open_message(self) -> None:
        """Say all that comes before the message."""
        self.hear(GREETING, NO_TLS)
        self.hear(OK * 3 + GO_AHEAD)

    @property
    def receipt(self) -> Receipt:
        receipt: Receipt = self.stage.result(self.asked)
        return receipt


# -- the dialogue -------------------------------------------------------------------------------------------------


def test_a_submission_is_sent_and_answered_by_its_receipt(stage: Stage) -> None:
    attempt = Attempt(stage, name="client.example.org")
    assert attempt.hear(GREETING) == b"EHLO client.example.org\r\n"
    assert attempt.hear(NO_TLS).endswith(b"DATA\r\n")
    assert attempt.hear(OK, b"550 5.1.1 nobody\r\n", OK, GO_AHEAD) == MESSAGE + b".\r\n"
    assert attempt.hear(END) == b"QUIT\r\n"
    attempt.peer.send(BYE)
    assert attempt.peer.receive_all() == b""
    assert str(attempt.receipt) == (
        "b@example.org: refused: 550 5.1.1 nobody\nc@example.org: accepted: 250 2.0.0 Ok: queued as 7"
    )


def test_it_can_be_called_by_a_proxy_too(stage: Stage) -> None:
    listening = stage.listen(SERVER)
    client = stage.spawn(SmtpClient, SERVER, tls="none")
    submitted = client.proxy().submit(SUBMISSION)
    peer = stage.accept(listening)
    peer.send(b"554 no\r\n")
    peer.send(BYE)
    assert stage.result(submitted).addresses("refused") == ("b@example.org", "c@example.org")


def test_without_a_name_of_its_own_it_says_the_address_it_comes_from(stage: Stage) -> None:
    attempt = Attempt(stage)
    assert attempt.hear(GREETING) == b"EHLO [127.0.0.1]\r\n"
    assert attempt.hear(b"421 down\r\n") == b""
    assert attempt.receipt.addresses("refused")


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        ("192.0.2.1:25", "[192.0.2.1]"),
        ("[2001:db8::1]:25", "[IPv6:2001:db8::1]"),
        ("[fe80::1%eth0]:25", "[IPv6:fe80::1]"),
        ("unix:", "localhost"),
    ],
)
def test_an_address_is_said_as_the_standard_has_it(address: str, literal: str) -> None:
    assert address_literal(address) == literal


def test_submissions_to_one_client_are_sent_one_after_the_other(stage: Stage) -> None:
    listening = stage.listen(SERVER)
    client = stage.spawn(SmtpClient, SERVER, tls="none")
    asked = [client.ask(Submission("", [f"{number}@example.org"], MESSAGE), block=False) for number in range(3)]
    for number, answer in enumerate(asked):
        peer = stage.accept(listening)
        assert not listening.readiness()
        for reply in (GREETING, NO_TLS, OK * 2 + GO_AHEAD, END, BYE):
            peer.send(reply)
        assert f"RCPT TO:<{number}@example.org>".encode() in peer.receive()
        receipt: Receipt = stage.result(answer)
        assert receipt.is_accepted


def test_a_message_that_is_no_submission_is_no_harm(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    client = stage.spawn(SmtpClient, SERVER, tls="none")
    assert stage.result(client.ask("hello", block=False)) is None
    assert "hello" in caplog.text
    assert client.is_alive()


# -- the message --------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow() -> Iterator[Stage]:
    """A stage where little is on its way, and not much more may wait for that."""
    options = Options(write_buffer_limit=100_000, write_buffer_hard_limit=200_000)
    with Stage(Settings(options=options), receive_capacity=50_000, send_capacity=50_000) as stage:
        yield stage


def test_a_large_message_goes_out_as_fast_as_the_server_takes_it(narrow: Stage) -> None:
    attempt = Attempt(narrow, LARGE)
    attempt.hear(GREETING, NO_LIMIT)
    attempt.peer.send(OK * 2 + GO_AHEAD)
    assert attempt.peer.receive_until(b"\r\n.\r\n") == LARGE.message + b"\r\n.\r\n"
    attempt.hear(END, BYE)
    assert attempt.receipt.is_accepted


def test_a_refusal_in_the_middle_of_a_message_ends_it_before_its_dot(narrow: Stage) -> None:
    attempt = Attempt(narrow, LARGE)
    attempt.hear(GREETING, NO_LIMIT)
    attempt.peer.send(OK * 2 + GO_AHEAD)
    attempt.peer.send(b"552 5.3.4 too large\r\n")
    sent = attempt.peer.receive_all()
    assert len(sent) < len(LARGE.message)
    assert not sent.endswith(b"\r\n.\r\n")
    assert str(attempt.receipt) == "b@example.org: refused: 552 5.3.4 too large"


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ((b"552 5.3.4 too large\r\n",), "refused: 552 5.3.4 too large"),
        ((b"552-5.3.4 too\r\n55", b"2 5.3.4 large\r\n"), "refused: 552 5.3.4 too large"),
        ((END,), f"unsent: protocol: the server sent a reply before its command: {END.decode().strip()}"),
    ],
)
def test_a_server_that_never_ceases_to_read_is_heard_before_the_message_has_ended(
    replies: tuple[bytes, ...], outcome: str
) -> None:
    message = b"x" * 16_000_000

    def script(line: Line) -> None:
        line.say(GREETING)
        line.answer(NO_LIMIT, OK, OK, GO_AHEAD)
        taken = 0
        while taken < 2_000_000:
            taken += len(line.sock.recv(65536))
        for reply in replies:
            line.say(reply)
        assert taken + len(line.rest()) < len(message)

    with Theater() as theater, RawServer(script) as server:
        client = theater.spawn(SmtpClient, server.address, tls="none")
        receipt = client.ask(Submission("a@example.net", ["b@example.org"], message), timeout=TIMEOUT)
    assert str(receipt) == f"b@example.org: {outcome}"


@pytest.mark.parametrize("lose", [Peer.close, Peer.abort])
def test_a_connection_lost_in_the_middle_of_a_message_has_sent_nothing(
    narrow: Stage, lose: Callable[[Peer], None]
) -> None:
    attempt = Attempt(narrow, LARGE)
    attempt.hear(GREETING, NO_LIMIT)
    attempt.peer.send(OK * 2 + GO_AHEAD)
    lose(attempt.peer)
    assert str(attempt.receipt) == "b@example.org: unsent: reset"


def test_a_message_that_can_go_out_no_further_is_not_taken_for_sent(
    narrow: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = Attempt(narrow, LARGE)
    attempt.hear(GREETING, NO_LIMIT)
    attempt.peer.send(OK * 2 + GO_AHEAD)
    attempt.peer.socket.other_end.fail_next("send", BrokenPipeError(errno.EPIPE, "broken pipe"))
    attempt.peer.receive_exactly(50_000)
    assert str(attempt.receipt) == "b@example.org: unsent: reset"
    gc.collect()
    assert caplog.text == ""  # not even of a future that nobody looked at


@pytest.mark.parametrize("lose", [Peer.close, Peer.abort])
def test_a_connection_lost_after_the_final_dot_leaves_it_unknown(stage: Stage, lose: Callable[[Peer], None]) -> None:
    attempt = Attempt(stage)
    attempt.open_message()
    lose(attempt.peer)
    assert attempt.receipt.addresses("unknown") == tuple(SUBMISSION.recipients)


# -- the times ----------------------------------------------------------------------------------------------------

STEPS = [
    ("greeting", ()),
    ("ehlo", (GREETING,)),
    ("ehlo", (GREETING, b"500 what\r\n")),
    ("mail", (GREETING, NO_PIPELINING)),
    ("rcpt", (GREETING, NO_PIPELINING, OK)),
    ("rcpt", (GREETING, NO_PIPELINING, OK, OK)),
    ("data", (GREETING, NO_PIPELINING, OK, OK, OK)),
    ("end", (GREETING, NO_PIPELINING, OK, OK, OK, GO_AHEAD)),
]


@pytest.mark.parametrize(("step", "replies"), STEPS)
def test_a_server_that_says_nothing_more_is_left_when_the_step_has_had_its_time(
    stage: Stage, step: str, replies: tuple[bytes, ...]
) -> None:
    attempt = Attempt(stage, timeouts={step: 7})
    attempt.hear(*replies)
    stage.advance(6.9)
    attempt.hear(b"2")
    assert not attempt.asked.done
    stage.advance(0.2)
    receipt = attempt.receipt
    assert receipt.error == f"timeout: {step}: no reply within 7 s"
    assert receipt.addresses("unknown" if step == "end" else "unsent") == tuple(SUBMISSION.recipients)
    attempt.peer.receive_all()


def test_how_long_others_wait_for_data_is_of_no_account() -> None:
    with Stage(Settings(options=Options(receive_timeout=1.0))) as stage:
        attempt = Attempt(stage)
        stage.advance(290)
        assert attempt.hear(GREETING) == b"EHLO [127.0.0.1]\r\n"
        assert not attempt.asked.done


def test_a_reply_that_comes_byte_by_byte_gets_no_more_time(stage: Stage) -> None:
    attempt = Attempt(stage, timeouts={"greeting": 7})
    for byte in b"220 mx.ex":
        attempt.hear(bytes([byte]))
        stage.advance(0.9)
    assert attempt.receipt.error == "timeout: greeting: no reply within 7 s"


def test_each_step_has_its_time_for_itself(stage: Stage) -> None:
    attempt = Attempt(stage, timeouts={step: 7 for step, _ in STEPS})
    for reply in (GREETING, NO_PIPELINING, OK, OK, OK, GO_AHEAD, END):
        stage.advance(6.9)
        attempt.hear(reply)
    attempt.hear(BYE)
    assert attempt.receipt.is_accepted


def test_a_server_that_takes_nothing_of_the_message_is_left(narrow: Stage) -> None:
    attempt = Attempt(narrow, LARGE, timeouts={"block": 7})
    attempt.hear(GREETING, NO_LIMIT)
    attempt.peer.send(OK * 2 + GO_AHEAD)
    narrow.advance(6.9)
    assert not attempt.asked.done
    narrow.advance(0.2)
    assert str(attempt.receipt) == "b@example.org: unsent: timeout"


def test_the_answer_to_quit_is_not_waited_for_as_long_as_others(stage: Stage) -> None:
    attempt = Attempt(stage)
    attempt.open_message()
    attempt.hear(END)
    stage.advance(Timeouts().quit + 0.1)
    assert attempt.receipt.is_accepted


def test_a_server_that_does_not_answer_at_all_is_given_up(stage: Stage) -> None:
    stage.listen(SERVER, backlog=0)
    client = stage.spawn(SmtpClient, SERVER, tls="none", timeouts={"connect": 7})
    asked = client.ask(SUBMISSION, block=False)
    stage.advance(7.1)
    receipt: Receipt = stage.result(asked)
    assert receipt.error.startswith("timeout")
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


# -- what can't be reached, and the way down ----------------------------------------------------------------------


def test_where_nobody_listens_the_receipt_says_so(stage: Stage) -> None:
    client = stage.spawn(SmtpClient, SERVER, tls="none")
    receipt: Receipt = stage.result(client.ask(SUBMISSION, block=False))
    assert receipt.error.startswith("refused")
    assert receipt.addresses("unsent") == tuple(SUBMISSION.recipients)


def test_a_file_of_certificates_that_is_not_there_is_named(stage: Stage) -> None:
    stage.listen(SERVER)
    client = stage.spawn(SmtpClient, SERVER, ca_cert="/nowhere/ca.pem")
    receipt: Receipt = stage.result(client.ask(SUBMISSION, block=False))
    assert receipt.error.startswith("invalid: ca_cert: /nowhere/ca.pem: ")


def test_when_the_runtime_can_wait_no_longer_the_asker_hears_that_the_client_has_gone(stage: Stage) -> None:
    attempt = Attempt(stage)
    attempt.open_message()
    stage.shutdown(0)
    with pytest.raises(pykka.ActorDeadError):
        attempt.asked.get()


def test_a_delivery_that_is_under_way_comes_to_its_end_when_the_runtime_goes_down(stage: Stage) -> None:
    attempt = Attempt(stage)
    attempt.open_message()
    stage.request_shutdown(30)
    assert attempt.hear(END) == b"QUIT\r\n"
    attempt.hear(BYE)
    assert attempt.receipt.is_accepted


def test_nothing_is_left_behind_of_a_delivery(stage: Stage) -> None:
    def waiting() -> int:
        gc.collect()
        return sum(isinstance(thing, Future) and not thing.done for thing in gc.get_objects())

    before = waiting()
    for _ in range(5):
        attempt = Attempt(stage)
        attempt.hear(GREETING, b"garbage\r\n")
        assert attempt.receipt.error.startswith("protocol: ")
        attempt.peer.receive_all()
        attempt.peer.close()
        attempt.listening.close()
    assert stage.metrics().connections == 0
    assert waiting() <= before
