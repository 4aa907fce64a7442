"""The server over real sockets: storing, waiting, limits, attacks, the way down."""

from __future__ import annotations

import errno
import gc
import inspect
import os
import select
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pykka
import pytest

from actors.smtp import ServerSettings, Session
from actors.smtp.maildir import DeliveryFailed, Job, Maildir
from actors.smtp.server import SmtpServer
from tests.actors.smtp.driver import ENVELOPE, GREETED, codes_of
from tests.actors.smtp.serving import TIMEOUT_S, Dialog, by_both, serving
from tests.actors.smtp.test_smuggling import NOT_THE_END, SMUGGLED
from tests.peers import eventually
from theater_tcp import Theater, TheaterError
from theater_tcp.testing import Stage

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n.\r\n"
both_ways = pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "no fsync"])


class SlowDisk:
    """Holds the storing of messages until it is told, and remembers how many came in one call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.batches: list[int] = []
        real: Callable[[Maildir, Sequence[Job]], list[DeliveryFailed | None]] = Maildir.store

        def store(maildir: Maildir, jobs: Sequence[Job]) -> list[DeliveryFailed | None]:
            self.batches.append(len(jobs))
            self.reached.release()
            assert self.go_on.acquire(timeout=TIMEOUT_S)
            return real(maildir, jobs)

        monkeypatch.setattr(Maildir, "store", store)

    def wait(self) -> None:
        assert self.reached.acquire(timeout=TIMEOUT_S)

    def release(self) -> None:
        self.go_on.release()


# -- storing ------------------------------------------------------------------------------------------------------


@by_both
@both_ways
def test_a_message_is_in_the_mailbox_when_its_reply_comes(tmp_path: Path, fsync: bool) -> None:
    with serving(tmp_path, fsync=fsync) as served, served.dial() as client:
        client.open_message()
        client.send(MESSAGE)
        reply = client.reply()
        (message,) = served.delivered()
        fields, _, content = message.partition(b"Subject: ")
        assert content == b"hi\n\nhello\n"
        assert fields.startswith(b"Return-Path: <a@example.net>\nDelivered-To: b@example.org\nReceived: from ")
        assert b"\nReceived: from c (" in fields
        assert reply.startswith("250 2.0.0 Ok: queued as ")
        assert reply.rpartition(" ")[2].encode() in fields
        assert served.begun() == []


@by_both
@both_ways
def test_a_whole_session_may_come_at_once_and_its_sender_may_have_ended_its_side(tmp_path: Path, fsync: bool) -> None:
    data = GREETED + (ENVELOPE + b"BDAT 7 LAST\r\nhello\r\n") * 3 + ENVELOPE + b"DATA\r\n" + MESSAGE + b"QUIT\r\n"
    with serving(tmp_path, fsync=fsync) as served, served.dial() as client:
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        codes = [client.code() for _ in range(15)]
        assert codes[-5:] == ["250 2.1.0", "250 2.1.5", "354 Go ah", "250 2.0.0", "221 2.0.0"]
        assert client.reply() == ""
        assert len(served.delivered()) == 4


@by_both
@both_ways
def test_who_ends_its_side_after_the_message_still_gets_the_reply(tmp_path: Path, fsync: bool) -> None:
    with serving(tmp_path, fsync=fsync) as served, served.dial() as client:
        client.open_message()
        client.send(MESSAGE)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.code() == "250 2.0.0"
        assert client.reply() == ""
        assert len(served.delivered()) == 1


@by_both
@both_ways
def test_a_large_message_goes_to_the_disk_in_parts_and_comes_out_whole(tmp_path: Path, fsync: bool) -> None:
    lines = [b"%06d %s" % (number, b"x" * 900) for number in range(3000)]
    with serving(tmp_path, fsync=fsync, spool_size=65536) as served, served.dial() as client:
        client.open_message()
        half = b"\r\n".join(lines[:1500]) + b"\r\n"
        client.send(half)
        client.send(b"\r\n".join(lines[1500:]) + b"\r\n.\r\n")
        assert client.code() == "250 2.0.0"
        (message,) = served.delivered()
        assert message.endswith(b"\n" + b"\n".join(lines) + b"\n")
        assert served.begun() == []


@by_both
@both_ways
def test_an_unfinished_message_goes_away_with_its_sender(tmp_path: Path, fsync: bool) -> None:
    with serving(tmp_path, fsync=fsync, spool_size=4096) as served:
        with served.dial() as client:
            client.open_message()
            client.send(b"x" * 900 + b"\r\n")
            client.send((b"x" * 900 + b"\r\n") * 100)
        with served.dial() as client:
            client.open_message()
            client.send((b"x" * 900 + b"\r\n") * 100 + b"a bare \n in it\r\n.\r\n")
            assert client.code() == "550 5.6.0"
            client.ask(b"NOOP\r\n")
            eventually(lambda: served.begun() == [])
            assert client.ask(ENVELOPE + b"DATA\r\n" + MESSAGE, 4)[3] == "250 2.0.0"
        assert served.theater.shutdown(TIMEOUT_S)
        assert served.begun() == []
        assert len(served.delivered()) == 1


@by_both
@both_ways
@pytest.mark.parametrize(
    ("fault", "end", "codes"),
    [
        (b"", b"RSET\r\n", ["250 2.0.0"]),
        (b"", b"EHLO c\r\n", ["250 HELP"]),
        (b"a bare \n in it\r\n", b"BDAT 0 LAST\r\n", ["550 5.6.0"]),
    ],
    ids=["RSET", "EHLO", "refused"],
)
def test_what_is_on_the_disk_of_a_message_that_was_given_up_is_no_part_of_the_next_one(
    tmp_path: Path, fsync: bool, fault: bytes, end: bytes, codes: list[str]
) -> None:
    given_up = (b"x" * 900 + b"\r\n") * 100 + fault
    chunk = b"BDAT %d\r\n%s" % (len(given_up), given_up)
    others = b"MAIL FROM:<c@example.net>\r\nRCPT TO:<d@example.org>\r\nBDAT 10 LAST\r\nthe next\r\n"
    with serving(tmp_path, fsync=fsync, spool_size=4096) as served, served.dial() as client:
        client.ask(GREETED)
        client.ask(ENVELOPE + chunk, 3)
        found = client.ask(end + others, len(codes) + 3)  # in one piece
        assert found == [*codes, "250 2.1.0", "250 2.1.5", "250 2.0.0"]
        (message,) = served.delivered()
        assert message.startswith(b"Return-Path: <c@example.net>\nDelivered-To: d@example.org\n")
        assert message.endswith(b"\nthe next\n")
        assert b"xxx" not in message
        assert b"b@example.org" not in message
        eventually(lambda: served.begun() == [])


@by_both
@both_ways
def test_a_message_that_cannot_be_stored_is_to_come_again_and_the_server_goes_on(tmp_path: Path, fsync: bool) -> None:
    with serving(tmp_path, fsync=fsync) as served, served.dial() as client:
        shutil.rmtree(served.maildir / "tmp")
        client.open_message()
        assert client.ask(MESSAGE) == ["451 4.3.0"]
        assert client.ask(ENVELOPE + b"BDAT 1 LAST\r\nx", 3)[2] == "451 4.3.0"
        assert served.delivered() == []


# -- waiting for the disk -----------------------------------------------------------------------------------------


@by_both
def test_while_one_message_waits_for_the_disk_nobody_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path) as served, served.dial() as client, served.dial() as other:
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        assert other.ask(GREETED + ENVELOPE + b"NOOP\r\n", 4) == ["250 HELP", "250 2.1.0", "250 2.1.5", "250 2.0.0"]
        disk.release()
        assert client.code() == "250 2.0.0"


def test_messages_that_come_while_the_disk_is_busy_are_stored_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path) as served:
        clients = [served.dial() for _ in range(5)]
        for client in clients:
            client.open_message()
        clients[0].send(MESSAGE)
        disk.wait()
        for client in clients[1:]:
            client.send(MESSAGE)
        with served.dial() as last:  # what the others sent before has been read when this is answered
            assert last.ask(b"NOOP\r\n") == ["250 2.0.0"]
        disk.release()
        disk.wait()
        disk.release()
        assert [client.code() for client in clients] == ["250 2.0.0"] * 5
        assert disk.batches == [1, 4]
        assert len(served.delivered()) == 5
        for client in clients:
            client.socket.close()


@by_both
def test_what_a_client_sends_while_its_message_is_stored_is_answered_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path) as served, served.dial() as client, served.dial() as other:
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        client.send(b"NOOP\r\n")
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        client.send(b"VRFY x\r\n")
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        disk.release()
        assert [client.code() for _ in range(3)] == ["250 2.0.0", "250 2.0.0", "252 2.5.0"]
        assert client.ask(b"QUIT\r\n") == ["221 2.0.0"]


@by_both
def test_a_client_that_goes_on_sending_while_its_message_is_stored_is_not_read_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path, max_asides=1_000_000) as served, served.dial() as client, served.dial() as other:
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        client.socket.setblocking(False)
        sent = 0
        for _ in range(200):
            sent += send_until_full(client, b"NOOP\r\n" * 1000)
            assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        assert sent < 24 << 20
        disk.release()
        client.socket.setblocking(True)
        assert [client.code(), client.code()] == ["250 2.0.0", "250 2.0.0"]


@by_both
def test_a_message_whose_sender_left_before_the_reply_is_stored_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path) as served:
        with served.dial() as client:
            client.open_message()
            client.send(MESSAGE)
            disk.wait()
            reset_at_close(client)
        disk.release()
        with served.dial() as other:
            other.open_message()
            other.send(MESSAGE)
            disk.wait()
            disk.release()
            assert other.code() == "250 2.0.0"
        assert len(served.delivered()) == 2


def test_a_part_whose_sender_left_while_it_was_stored_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path, spool_size=4096) as served, served.dial() as other:
        with served.dial() as client:
            client.open_message()
            client.send((b"x" * 900 + b"\r\n") * 5)
            disk.wait()
            reset_at_close(client)
        assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
        disk.release()
        other.open_message()
        other.send(MESSAGE)  # goes to the disk after that part
        disk.wait()
        disk.release()
        assert other.code() == "250 2.0.0"
        assert served.begun() == []
        assert len(served.delivered()) == 1


@by_both
@both_ways
def test_a_full_disk_is_told_as_such_to_the_client_and_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fsync: bool
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with serving(tmp_path, fsync=fsync) as served, served.dial() as client:
        monkeypatch.setattr(os, "writev", fail)
        client.open_message()
        assert client.ask(MESSAGE) == ["452 4.3.1"]
        assert served.begun() == []
    assert f"{served.maildir}: not stored: no space left on device" in caplog.text


@by_both
def test_an_unexpected_failure_of_the_worker_is_no_acknowledgement_and_the_server_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with serving(tmp_path, spool_size=4096) as served, served.dial() as client:
        client.open_message()
        client.send((b"x" * 900 + b"\r\n") * 5)
        while not served.begun():
            client.send(b"x\r\n")
        monkeypatch.setattr(Maildir, "store", fail)
        assert client.ask(MESSAGE) == ["451 4.3.0"]
        assert served.begun() == []
        monkeypatch.undo()
        assert client.ask(ENVELOPE + b"DATA\r\n" + MESSAGE, 4)[3] == "250 2.0.0"
        assert len(served.delivered()) == 1


# -- attacks and limits over the wire -----------------------------------------------------------------------------


@by_both
@both_ways
def test_no_lookalike_of_the_end_smuggles_a_message_through_a_socket(tmp_path: Path, fsync: bool) -> None:
    with serving(tmp_path, fsync=fsync) as served, served.dial() as client:
        client.ask(GREETED)
        for ending in NOT_THE_END:
            data = ENVELOPE + b"DATA\r\ninnocent" + ending + SMUGGLED + b".\r\n"
            assert client.ask(data, 4) == ["250 2.1.0", "250 2.1.5", "354 Go ah", "550 5.6.0"]
        assert client.ask(b"NOOP\r\n") == ["250 2.0.0"]
        assert served.delivered() == []


@by_both
def test_the_limits_hold_over_the_wire_and_the_session_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, max_message_size=65536, max_recipients=100) as served, served.dial() as client:
        assert client.ask(b"NOOP " + b"x" * 100_000 + b"\r\n") == ["500 5.5.2"]
        assert client.ask(b"EHLO c\r\nMAIL FROM:<> SIZE=65537\r\n", 2) == ["250 HELP", "552 5.3.4"]
        recipients = b"".join(b"RCPT TO:<u%d@example.org>\r\n" % number for number in range(101))
        assert client.ask(b"MAIL FROM:<>\r\n" + recipients, 102)[-2:] == ["250 2.1.5", "452 4.5.3"]
        assert client.ask(b"DATA\r\n" + (b"x" * 900 + b"\r\n") * 100 + b".\r\n", 2) == ["354 Go ah", "552 5.3.4"]
        assert client.ask(ENVELOPE + b"DATA\r\n" + b"x" * 5000 + b"\r\n.\r\n", 4)[3] == "550 5.6.0"
        assert client.ask(b"NOOP\r\n") == ["250 2.0.0"]
        assert served.delivered() == []


@by_both
def test_too_many_errors_end_the_connection(tmp_path: Path) -> None:
    with serving(tmp_path, max_errors=3) as served, served.dial() as client:
        assert client.ask(b"X\r\n" * 5, 3) == ["500 5.5.2", "500 5.5.2", "421 4.7.0"]
        assert client.reply() == ""


@by_both
def test_a_client_that_reads_no_replies_is_not_read_either(tmp_path: Path) -> None:
    with serving(tmp_path, max_asides=1_000_000) as served, served.dial() as deaf, served.dial() as client:
        deaf.socket.setblocking(False)
        sent = 0
        for _ in range(200):
            sent += send_until_full(deaf, b"HELP\r\n" * 1000)
            assert client.ask(b"NOOP\r\n") == ["250 2.0.0"]
        assert sent < 24 << 20


def reset_at_close(client: Dialog) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_until_full(client: Dialog, data: bytes) -> int:
    """Send again and again until the system takes no more; how much it took."""
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += client.socket.send(data)
    return sent


# -- silence and the way down -------------------------------------------------------------------------------------


@by_both
def test_a_silent_client_is_told_so_and_closed(tmp_path: Path) -> None:
    with serving(tmp_path, timeout=0.2) as served, served.dial() as client:
        assert client.code() == "421 4.4.2"
        assert client.reply() == ""


@by_both
def test_a_client_that_never_ends_its_command_is_silent_whatever_it_sends(tmp_path: Path) -> None:
    with serving(tmp_path, timeout=0.2, max_asides=1_000_000) as served, served.dial() as slow, served.dial() as other:
        rounds = 0
        while not select.select([slow.socket], [], [], 0)[0]:
            slow.send(b"x")
            assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
            rounds += 1
            assert rounds < 100_000
        assert slow.code() == "421 4.4.2"


@by_both
def test_a_client_whose_message_waits_for_the_disk_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path, timeout=0.1) as served, served.dial() as client:
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        with served.dial() as other:
            assert other.code() == "421 4.4.2"
        disk.release()
        assert client.code() == "250 2.0.0"


@by_both
@both_ways
def test_on_the_way_down_clients_are_told_and_a_message_under_way_comes_in(tmp_path: Path, fsync: bool) -> None:
    with serving(tmp_path, fsync=fsync) as served, served.dial() as idle, served.dial() as sender:
        sender.open_message()
        sender.send(b"hel")
        served.theater.request_shutdown(TIMEOUT_S)
        assert idle.code() == "421 4.3.2"
        assert idle.reply() == ""
        sender.send(b"lo\r\n.\r\n")
        assert sender.code() == "250 2.0.0"
        assert sender.code() == "421 4.3.2"
        assert sender.reply() == ""
        assert served.theater.shutdown()
        assert len(served.delivered()) == 1


@by_both
@pytest.mark.parametrize("has_ended", [False, True], ids=["open", "half-closed"])
def test_on_the_way_down_a_message_that_waits_for_the_disk_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path) as served, served.dial() as idle, served.dial() as client:
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        if has_ended:
            client.socket.shutdown(socket.SHUT_WR)
            assert idle.ask(b"NOOP\r\n") == ["250 2.0.0"]
        served.theater.request_shutdown(TIMEOUT_S)
        assert idle.code() == "421 4.3.2"
        disk.release()
        assert [client.code(), client.code(), client.reply()] == ["250 2.0.0", "421 4.3.2", ""]
        assert served.theater.shutdown()


def test_a_stray_message_to_the_server_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path) as served, served.dial() as client:
        assert served.server.ask("hello", timeout=TIMEOUT_S) is None
        client.open_message()
        client.send(MESSAGE)
        disk.wait()
        assert served.server.ask("hello", timeout=TIMEOUT_S) is None
        disk.release()
        assert client.code() == "250 2.0.0"
    assert "Unexpected message" in caplog.text


@pytest.mark.parametrize("half_open", [True, False])
def test_who_has_ended_its_side_is_closed_after_the_reply_with_and_without_half_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half_open: bool
) -> None:
    disk = SlowDisk(monkeypatch)
    before = sessions()
    with serving(tmp_path) as served:
        info = served.theater.listen_for(served.server, "127.0.0.1:0", half_open=half_open)
        with Dialog("127.0.0.1", int(info.address.rpartition(":")[2])) as client, served.dial() as other:
            assert client.code() == "220 mx.ex"
            client.open_message()
            client.send(MESSAGE)
            disk.wait()
            client.socket.shutdown(socket.SHUT_WR)
            assert other.ask(b"NOOP\r\n") == ["250 2.0.0"]
            disk.release()
            assert client.code() == ("250 2.0.0" if half_open else "")
            assert client.reply() == ""
            other.open_message()
            other.send(MESSAGE)  # goes to the disk after the first one, so that one has been seen to then
            disk.wait()
            disk.release()
            assert other.code() == "250 2.0.0"
            assert sessions() == before + 1, "the client is not forgotten"
        assert len(served.delivered()) == 2


def sessions() -> int:
    """How many there are in this process."""
    gc.collect()
    return sum(isinstance(thing, Session) for thing in gc.get_objects())


# -- other sockets, settings --------------------------------------------------------------------------------------


@by_both
def test_a_client_may_come_by_ipv6(tmp_path: Path) -> None:
    with serving(tmp_path, "[::1]:0") as served, served.dial() as client:
        client.open_message()
        assert client.ask(MESSAGE) == ["250 2.0.0"]
        assert b"Received: from c ([IPv6:::1])\n" in served.delivered()[0]


@by_both
def test_a_client_may_come_by_a_unix_socket(tmp_path: Path) -> None:
    with serving(tmp_path, f"unix:{tmp_path}/smtp.sock") as served, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(f"{tmp_path}/smtp.sock")
        client.sendall(GREETED + ENVELOPE + b"DATA\r\n" + MESSAGE + b"QUIT\r\n")
        with client.makefile("rb") as replies:
            assert replies.read().count(b"\r\n250 2.0.0 Ok: queued") == 1
        assert b"Received: from client.example.net (unix)\n" in served.delivered()[0]


def test_a_server_that_is_stopped_leaves_no_half_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SlowDisk(monkeypatch)
    with serving(tmp_path, spool_size=4096) as served, served.dial() as client, served.dial() as other:
        for dialog in (other, client):
            dialog.open_message()
            dialog.send((b"x" * 900 + b"\r\n") * 100)
            disk.wait()
            if dialog is other:
                disk.release()
                disk.release()
        stopped = served.server.stop(block=False)
        disk.release()
        disk.release()
        assert stopped.get(timeout=TIMEOUT_S)
        assert [client.reply(), other.reply()] == ["", ""]
        assert served.begun() == []
        assert served.delivered() == []
    assert "Traceback" not in caplog.text


def test_a_server_that_is_stopped_leaves_nothing_of_a_part_that_waited_behind_others_when_its_sender_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    chunk = b"BDAT 9000\r\n" + (b"x" * 898 + b"\r\n") * 10
    with serving(tmp_path, spool_size=4096) as served, served.dial() as other, served.dial() as last:
        with served.dial() as client:
            disk.release()
            assert client.ask(GREETED + ENVELOPE + chunk + b"NOOP\r\n", 5)[3:] == ["250 2.0.0"] * 2
            disk.wait()
            assert len(served.begun()) == 1
            other.open_message()
            other.send(MESSAGE)
            disk.wait()
            assert client.ask(chunk) == ["250 2.0.0"]  # it is read, and waits behind the other's message
            reset_at_close(client)
        assert last.ask(b"NOOP\r\n") == ["250 2.0.0"]
        stopped = served.server.stop(block=False)
        disk.release()
        assert stopped.get(timeout=TIMEOUT_S)
        assert served.begun() == []


def test_a_server_that_failed_leaves_no_half_message_and_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SlowDisk(monkeypatch)
    part = (b"x" * 898 + b"\r\n") * 10
    with serving(tmp_path, spool_size=4096) as served, served.dial() as idle, served.dial() as storing:
        disk.release()
        chunk = b"BDAT %d\r\n%s" % (len(part), part)
        assert idle.ask(GREETED + ENVELOPE + chunk + b"NOOP\r\n", 5)[3:] == ["250 2.0.0"] * 2
        disk.wait()
        storing.open_message()
        storing.send(part)
        disk.wait()
        served.server.tell(pykka.messages.ProxyCall(attr_path=("no_such_thing",), args=(), kwargs={}))
        assert [idle.reply(), storing.reply()] == ["", ""]
        disk.release()
        eventually(lambda: served.begun() == [])
        eventually(lambda: str(served.maildir) not in open_files())
    assert "callback failed" not in caplog.text


def open_files() -> str:
    """The paths of the files that this process has open."""
    paths = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one of the folder itself
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return "\n".join(paths)


def test_where_no_domains_are_named_mail_is_accepted_for_the_own_name_alone(tmp_path: Path) -> None:
    with Stage() as stage:
        stage.listen_for(stage.spawn(SmtpServer, maildir=str(tmp_path), hostname="mx.example.org"), "127.0.0.1:25")
        peer = stage.dial("127.0.0.1:25")
        peer.send(GREETED + b"MAIL FROM:<>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<b@mx.example.org>\r\n")
        assert codes_of(peer.receive())[3:] == ["550 5.7.1", "250 2.1.5"]


def test_the_constructor_takes_every_setting_and_no_other() -> None:
    parameters = inspect.signature(SmtpServer.__init__).parameters
    assert set(parameters) - {"self"} == set(ServerSettings.__struct_fields__)


@pytest.mark.parametrize(
    ("init", "named"),
    [
        ({"max_recipients": 1}, "max_recipients"),
        ({"fsync": "maybe"}, "fsync"),
        ({"hostname": "two words"}, "two words"),
        ({"domains": "example.org"}, "domains"),
    ],
)
def test_a_wrong_setting_refuses_the_start_in_one_line_that_names_it(
    tmp_path: Path, init: dict[str, Any], named: str
) -> None:
    with Theater() as theater:
        with pytest.raises(TheaterError, match=named) as refused:
            theater.spawn(SmtpServer, **{"maildir": str(tmp_path), **init})
        assert str(refused.value).startswith("invalid: ")
        assert "\n" not in str(refused.value)


def test_a_maildir_that_cannot_be_refuses_the_start_in_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with Theater() as theater:
        with pytest.raises(TheaterError) as refused:
            theater.spawn(SmtpServer, maildir=str(tmp_path / "file"))
        assert str(refused.value) == f"io: maildir {tmp_path}/file: not a directory"
