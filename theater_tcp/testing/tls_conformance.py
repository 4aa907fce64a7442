"""What a transport promises over TLS beyond :mod:`~theater_tcp.testing.conformance`: its ends, and what is known.

The checks are as those there. They need a stage whose ``connect_to`` gives peers that speak TLS already.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from theater_tcp.testing.line import Line, expect, receive_exactly, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from theater_tcp.testing.stage import SteppedTheater

__all__ = ["TLS_CHECKS"]


def a_stream_without_close_notify_was_cut_off(stage: SteppedTheater) -> None:
    """17: what came before is handed over, and the reason is not "eof"."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    peer.send(b"pay 100")
    peer.cut_off()
    stage.until(lambda: bool(owner.closed), "no on_close")
    expect(owner.data, b"pay 100", "what came before")
    expect(owner.closed, ["tls-truncated"], "the reasons")


def a_passive_owner_receives_what_came_before_the_cut(stage: SteppedTheater) -> None:
    """17, 18: it hears of the end when it has received all that came whole."""
    owner, connection, peer = Line.on(stage)
    peer.send(b"pay 100")
    peer.cut_off()
    stage.settle()
    expect(owner.closed, [], "told before the bytes were received")
    expect(receive_exactly(stage, connection, 7), b"pay 100", "what came before")
    stage.until(lambda: bool(owner.closed), "no on_close")
    expect(owner.closed, ["tls-truncated"], "the reasons")


def a_waiting_receive_is_told_that_the_stream_was_cut_off(stage: SteppedTheater) -> None:
    """17, in the middle of a wait."""
    _, connection, peer = Line.on(stage)
    waiting = connection.receive(100)
    peer.cut_off()
    expect(refusal(stage, lambda: waiting), "tls-truncated", "receive")


def what_is_no_record_ends_the_connection(stage: SteppedTheater) -> None:
    """Plaintext that somebody slips into the stream is neither delivered nor answered."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    peer.send(b"before")
    stage.until(lambda: owner.data == b"before", "nothing came")
    peer.unsent += b"RCPT TO:<eve@example.org>\r\n"
    stage.until(lambda: bool(owner.closed), "no on_close")
    expect(owner.data, b"before", "pushed")
    expect(owner.closed[0].partition(":")[0], "tls", "the reason's kind")


def an_end_in_the_middle_of_a_record_was_cut_off(stage: SteppedTheater) -> None:
    """17: nothing of a record that is not whole is handed over."""
    owner, connection, peer = Line.on(stage)
    connection.set_active("active")
    peer.send(b"before")
    stage.until(lambda: owner.data == b"before", "nothing came")
    peer.unsent += b"\x17\3\3\1\0" + bytes(100)
    peer.cut_off()
    stage.until(lambda: bool(owner.closed), "no on_close")
    expect((owner.data, owner.closed), (b"before", ["tls-truncated"]), "heard")


def both_ends_know_what_was_agreed_on(stage: SteppedTheater) -> None:
    """The owner by ``tls_info``, at any time, also while it hears of the end."""
    _, connection, peer = Line.on(stage)
    info = connection.tls_info
    if info is None or peer.tls is None:
        raise AssertionError("one end does not know of TLS")
    cipher = peer.tls.cipher()
    expect(info.version, peer.tls.version(), "the version")
    expect(info.cipher, cipher[0] if cipher else None, "the cipher")
    expect(connection.tls_available, False, "tls_available")


def what_is_encrypted_can_not_be_upgraded(stage: SteppedTheater) -> None:
    """14: already-tls, and the connection goes on as it was."""
    _, connection, peer = Line.on(stage)
    for upgrade in (connection.upgrade_to_tls_server, lambda: connection.upgrade_to_tls_client("mx.example.org")):
        expect(refusal(stage, upgrade), "already-tls", "an upgrade")
    peer.send(b"x")
    expect(receive_exactly(stage, connection, 1), b"x", "after the refusal")


def nothing_travels_in_plaintext(stage: SteppedTheater) -> None:
    """Neither direction: what the sockets carry does not contain what was sent."""
    _, connection, peer = Line.on(stage)
    connection.send(b"the secret of the owner")
    wire = b""
    while len(wire) < 23:  # a record is longer than what it carries
        stage.settle()
        try:
            wire += peer.socket.recv(1 << 16)
        except OSError as error:
            expect(error.errno, errno.EAGAIN, "receiving")
    expect(b"secret" in wire, False, "the owner's words are legible")


TLS_CHECKS: tuple[Callable[[SteppedTheater], None], ...] = (
    a_stream_without_close_notify_was_cut_off,
    a_passive_owner_receives_what_came_before_the_cut,
    a_waiting_receive_is_told_that_the_stream_was_cut_off,
    what_is_no_record_ends_the_connection,
    an_end_in_the_middle_of_a_record_was_cut_off,
    both_ends_know_what_was_agreed_on,
    what_is_encrypted_can_not_be_upgraded,
    nothing_travels_in_plaintext,
)
"""The suite."""
