"""G1 and its neighbours, by machine: whatever peers, owners and the network do in any order, every byte goes once and
in order to the actor that owns the connection at that time.

``StreamGuarantees`` plays up to three connections at once among five actors: plain ones, one whose handlers wait at
gates, one that only receives; over real sockets also actors with a thread of their own. It keeps a model of each
connection (:class:`Line`) and holds everything against it that is heard, returned, raised or read:

- G1: bytes, at their positions, by the right owner, cut by the framing;
- G2: at most one turn of a connection under way; bounded buffers;
- G3: a callback that raises ends its connection alone;
- G4: an actor's end closes its connections, and no one else's;
- lines 6 to 15 and 17 to 19 of the contract.

A connection may be upgraded to TLS, as the server or as the client. Then the same holds for the bytes of epoch 1, which
are others than those of epoch 0: none of these is among them, whatever was unread, unsent or slipped in at the
boundary.

When everything has come to rest, nothing may be overdue: bytes that could be delivered, a call that could go on, an end
that could be told. In memory that is decided at once, since there nothing happens by itself.

``CI`` in the environment lets every run take the same steps (profile "ci" of Hypothesis).
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import pykka
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pykka.messages import ProxyCall

from tests.certificates_fixture import Certificates
from theater_tcp import (
    ClientTls,
    ConnectionHandle,
    Future,
    Options,
    ServerTls,
    Settings,
    TcpActor,
    TcpMixin,
    Theater,
    TheaterError,
)
from theater_tcp.credentials import ClientCredentials, ServerCredentials
from theater_tcp.framing import prefix_size
from theater_tcp.testing import Stage, SteppedTheater, SystemStage
from theater_tcp.testing.peer_tls import PeerTls, trusting_context
from theater_tcp.tls_engine import RECORD

_random = random.Random(2026)
LETTERS = b"abcdefghijklmnopqrstuvwxyz" + b"\n" * 2
STREAMS = tuple(bytes(_random.choices(letters, k=1 << 17)) for letters in (LETTERS, LETTERS.upper()))
"""What every peer sends in each epoch, from its beginning: a byte's position can be told from what stands around it,
and its epoch from its case."""

STREAM = STREAMS[0]

REPLIES = tuple(_random.randbytes(1 << 17) for _ in STREAMS)
"""What the owners send in each epoch, from its beginning."""

NAME = "mx.example.org"
INJECTED = b"MAIL FROM:<eve@example.org>\n"
"""What somebody between the two slips in where TLS begins, or after."""

RECORD_COST = 64
"""Bytes, at most, that a short record is longer on the wire than what it carries."""

MAX_LINES = 3
RESET_ON_CLOSE = b"\1\0\0\0\0\0\0\0"

Step = tuple[str, Any]
Handle = Any


class Deliberate(Exception):
    """What a callback raises when the play wants it to."""


class Line:
    """The model of one connection: what must be true of it, as far as it is known from outside."""

    def __init__(self, number: int, owner: Any) -> None:
        self.number = number
        self.peer: Any = None  # the peer's socket
        self.owner = owner
        self.core: Any = None
        self.handle: Handle = None  # the owner's, once it has heard of the connection
        self.strangers: list[Handle] = []
        self.announced = False
        self.pending = True
        self.sent = 0  # bytes that the peer's system took
        self.seen = 0  # of these, the owners have
        self.out = 0  # bytes that the owners sent
        self.got = 0  # of these, the peer has
        self.lossy = False  # not all of them will come
        self.mode: str | int = "passive"
        self.passive_due = False
        self.framing = "raw"
        self.waiting = 0  # the max of the receive that waits
        self.write_shut = False
        self.peer_end = ""  # what the peer did last: fin, closed, rst
        self.finished = False  # its FIN has gone out, perhaps before a reset
        self.peer_saw = ""  # what the peer read: eof, reset
        self.failed = ""  # the reason that the owner is to hear, for what its callback did
        self.overlong = False  # there was a line longer than its limit
        self.epoch = 0  # that of the counters above: 1 as soon as one of the two ends is secured
        self.tls: PeerTls | None = None  # the peer's side
        self.wire: deque[tuple[bytes, int]] = (
            deque()
        )  # records that the peer's system has not taken, and their plaintext
        self.records = 0  # that the owners sent
        self.begun = False  # an upgrade has begun, whatever became of it
        self.upgrading = ""  # client or server: the owner's side of the handshake under way
        self.tls_due = False  # on_tls is missing
        self.given_up = False  # the handshake was not completed by the owner's side
        self.tls_failed = ""  # what the upgrade failed with
        self.injected = False
        self.injected_before = False  # before the peer was secured
        self.cut = False  # its FIN went out without close_notify
        self.told = False  # this owner heard on_close
        self.end = ""  # why no callback may come any more
        self.ends_now = False  # by a call that another thread has not returned from
        self.sent_too_late = False  # the peer sent when there might have been nobody any more

    def __repr__(self) -> str:
        return f"line {self.number}"

    @property
    def pushes(self) -> bool:
        return self.mode != "passive"

    @property
    def ending(self) -> bool:
        """Whether the runtime may have noticed an end that the owner has not heard of yet."""
        if self.upgrading and self.seen < self.sent:  # it is refused as soon as all output has gone
            return True
        return bool(self.peer_end or self.failed or self.told or self.overlong or self.injected or self.tls_failed)

    @property
    def endings(self) -> set[str]:
        return TLS_MAY_HAVE_ENDED if self.begun else MAY_HAVE_ENDED

    @property
    def stream(self) -> bytes:
        return STREAMS[self.epoch]

    @property
    def reply(self) -> bytes:
        return REPLIES[self.epoch]

    @property
    def unseen(self) -> bytes:
        return self.stream[self.seen : self.sent]

    @property
    def has_chunk(self) -> bool:
        """Whether there are bytes that the framing lets through."""
        return self.seen < self.sent and (self.framing == "raw" or b"\n" in self.unseen or self.peer_end == "fin")

    @property
    def all_seen(self) -> bool:
        """Whether the owners have all but a line without its end, which is nobody's where the stream was cut off."""
        return self.seen == self.sent or (self.framing == "line" and b"\n" not in self.unseen)

    @property
    def output(self) -> int:
        """Bytes, at most, that wait to go out for what the owners sent."""
        waiting = self.out - self.got
        if self.epoch and (waiting or (self.write_shut and not self.peer_saw)):
            waiting += RECORD_COST * (self.records + self.write_shut)  # close_notify is a record, too
        return waiting


class Notes:
    """What every player has beside its actor's own: its play, and what it will do in its next callbacks."""

    can_wait = False
    threaded = False

    def __init__(self, play: Play) -> None:
        self.play = play
        self.reactions: deque[list[Step]] = deque()
        self.gates: list[Future[None]] = []
        self.blocked = 0
        self.coming: deque[Line] = deque()  # connections that were dialled and not announced yet
        self.stopping = self.dead = False


class Prompt(TcpActor):
    """Handles everything at once."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self.notes = Notes(play)

    def on_start(self) -> None:
        self.notes.play.joins(self)

    def on_stop(self) -> None:
        self.notes.play.dies(self)

    def on_receive(self, message: Any) -> None:
        message(self)

    def handle_connection(self, connection: Handle) -> None:
        self.react("arrives", connection)

    def handle_connection_transfer(self, connection: Handle) -> None:
        self.react("is_taken_over", connection)

    def on_data(self, connection: Handle, data: bytes) -> None:
        self.react("hears", connection, data)

    def on_passive(self, connection: Handle) -> None:
        self.react("is_passive", connection)

    def on_tls(self, connection: Handle) -> None:
        self.react("is_secured", connection)

    def on_close(self, connection: Handle, reason: str) -> None:
        self.react("ends", connection, reason)

    def react(self, callback: str, connection: Handle, value: Any = None) -> None:
        for _ in self.notes.play.react(self, callback, connection, value):
            pass  # it can't wait


class Patient(TcpActor):
    """Its handlers may wait, and its mailbox with them."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self.notes = Notes(play)
        self.notes.can_wait = True

    async def on_start(self) -> None:  # type: ignore[override]
        self.notes.play.joins(self)

    async def on_stop(self) -> None:  # type: ignore[override]
        self.notes.play.dies(self)

    async def on_receive(self, message: Any) -> None:
        message(self)

    async def handle_connection(self, connection: Handle) -> None:
        await self.react("arrives", connection)

    async def handle_connection_transfer(self, connection: Handle) -> None:
        await self.react("is_taken_over", connection)

    async def on_data(self, connection: Handle, data: bytes) -> None:
        await self.react("hears", connection, data)

    async def on_passive(self, connection: Handle) -> None:
        await self.react("is_passive", connection)

    async def on_tls(self, connection: Handle) -> None:
        await self.react("is_secured", connection)

    async def on_close(self, connection: Handle, reason: str) -> None:
        await self.react("ends", connection, reason)

    async def react(self, callback: str, connection: Handle, value: Any = None) -> None:
        for future in self.notes.play.react(self, callback, connection, value):
            await future


class Threaded(TcpMixin, pykka.ThreadingActor):
    """Has a thread of its own, where its handlers may block."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self.notes = Notes(play)
        self.notes.can_wait = self.notes.threaded = True

    def on_start(self) -> None:
        self.notes.play.joins(self)

    def on_stop(self) -> None:
        self.notes.play.dies(self)

    def on_receive(self, message: Any) -> None:
        message(self)

    def handle_connection(self, connection: Handle) -> None:
        self.react("arrives", connection)

    def handle_connection_transfer(self, connection: Handle) -> None:
        self.react("is_taken_over", connection)

    def on_data(self, connection: Handle, data: bytes) -> None:
        self.react("hears", connection, data)

    def on_passive(self, connection: Handle) -> None:
        self.react("is_passive", connection)

    def on_tls(self, connection: Handle) -> None:
        self.react("is_secured", connection)

    def on_close(self, connection: Handle, reason: str) -> None:
        self.react("ends", connection, reason)

    def react(self, callback: str, connection: Handle, value: Any = None) -> None:
        for future in self.notes.play.react(self, callback, connection, value):
            future.get()


class Bystander(TcpActor):
    """Takes no connections."""


Player = Any  # Prompt, Patient or Threaded


def upgrade(handle: Handle, side: str) -> Any:
    return handle.upgrade_to_tls_server() if side == "server" else handle.upgrade_to_tls_client(NAME)


CALLS: dict[str, Callable[[Handle, Any], Any]] = {
    "activate": lambda handle, _: handle.activate(),
    "set_active": lambda handle, mode: handle.set_active(mode),
    "set_framing": lambda handle, framing: handle.set_framing(framing),
    "transfer": lambda handle, target: handle.transfer(target.actor_ref),
    "send": lambda handle, data: handle.send(data),
    "shutdown_write": lambda handle, _: handle.shutdown_write(),
    "upgrade": upgrade,
    "close": lambda handle, _: handle.close(),
    "abort": lambda handle, _: handle.abort(),
}

FORESEEN = ("owner", "announced", "told", "passive_due", "tls_due", "mode", "pending", "write_shut", "out", "end")
"""What a call may change before it returns, on other threads: it is changed before, and put back if the call fails."""

MAY_HAVE_ENDED = {"closed", "not-found", "reset", "callback", "limit", "io"}
"""How a call may be refused when the connection's end has perhaps been noticed."""

TLS_MAY_HAVE_ENDED = MAY_HAVE_ENDED | {"tls", "tls-truncated", "plaintext-before-tls"}
"""The same on a connection that was to be upgraded."""


class Play:
    """The model at work: checks what players hear and what their calls do. Violations are kept, since whoever raised in
    a callback would only end a connection.

    Args:
        options: of the connections.
        wide: whether the network holds whole records; else an end behind one may not be seen by who is passive.
    """

    def __init__(self, options: Options, wide: bool) -> None:
        self.options = options
        self.wide = wide
        self.lines: list[Line] = []
        self.players: list[Player] = []
        self.over = False  # no gate closes any more
        self.violations: list[str] = []
        self.log: list[str] = []

    def check(self, holds: bool, *what: Any) -> None:
        if not holds:
            self.violations.append(" ".join(map(str, what)))
            self.say("VIOLATION", *what)

    def say(self, *what: Any) -> None:
        self.log.append(" ".join(map(str, what)))

    def name_of(self, player: Player) -> str:
        place = self.players.index(player) if player in self.players else "-"
        return f"{type(player).__name__}[{place}]"

    # -- what players hear -------------------------------------------------------------------------------------------

    def joins(self, player: Player) -> None:
        self.players.append(player)

    def dies(self, player: Player) -> None:
        """G4: with its owner the connection ends, and nobody hears of it."""
        self.say(self.name_of(player), "dies")
        player.notes.dead = True
        for line in self.lines:
            if line.owner is player and not line.end:
                line.end = "died"

    def react(
        self, player: Player, callback: str, connection: Handle, value: Any
    ) -> Generator[Future[Any], None, None]:
        """A callback: what it says is checked, then the player does what it was told to. Yields what to wait for."""
        line = self.arriving(player) if callback == "arrives" else self.line_of(connection)
        if line is None:
            self.check(False, callback, "for a connection that nobody knows")
            return
        self.say(self.name_of(player), callback, line, repr(value)[:80] if value is not None else "")
        self.check(line.owner is player, callback, line, "though it belongs to", self.name_of(line.owner))
        self.check(not line.end, callback, line, "after its end:", line.end)
        getattr(self, callback)(line, connection, value)
        reactions = player.notes.reactions
        steps = reactions.popleft() if reactions else self.usual_steps(callback, line)
        try:
            for kind, argument in steps:
                if kind == "raise":
                    self.fails(line, player, callback)
                    raise Deliberate
                future = self.take_step(player, line, connection, kind, argument)
                if future is not None:
                    player.notes.blocked += 1
                    try:
                        yield future
                    except TheaterError:
                        pass  # of a receive, which looked at it itself
                    finally:
                        player.notes.blocked -= 1
        finally:
            if callback == "ends" and line.owner is player and line.told and not self.stays_open(value):
                line.end = line.end or "heard"

    def usual_steps(self, callback: str, line: Line) -> list[Step]:
        """What an owner does that was not told to do something else."""
        mode = ("set_active", ("active", "active", "passive", "once", 2)[line.number % 5])
        steps: dict[str, list[Step]] = {"arrives": [("activate", None), mode], "is_taken_over": [mode]}
        return steps.get(callback, [])

    def take_step(self, player: Player, line: Line, connection: Handle, kind: str, argument: Any) -> Future[Any] | None:
        if kind == "wait":
            if not player.notes.can_wait or self.over:
                return None
            gate: Future[None] = Future()
            player.notes.gates.append(gate)
            return gate
        if kind == "receive" and not player.notes.threaded:
            return self.receive(line, connection, argument) if player.notes.can_wait else None
        if kind == "upgrade" and not player.notes.threaded:
            future = self.upgrade(line, connection, argument)
            return future if player.notes.can_wait else None
        player.notes.blocked += player.notes.threaded
        if kind == "receive":
            self.receive_and_block(line, connection, argument)
        elif kind == "upgrade":
            self.upgrade_and_block(line, connection, argument)
        else:
            self.attempt(line, connection, kind, argument)
        player.notes.blocked -= player.notes.threaded
        return None

    def arriving(self, player: Player) -> Line | None:
        return player.notes.coming.popleft() if player.notes.coming else None

    def line_of(self, connection: Handle) -> Line | None:
        return next((line for line in self.lines if line.core is connection._core), None)

    def arrives(self, line: Line, connection: Handle, _value: Any) -> None:
        line.core, line.handle, line.announced = connection._core, connection, True

    def is_taken_over(self, line: Line, connection: Handle, _value: Any) -> None:
        self.check(not line.announced, "announced twice:", line)
        self.check(connection not in line.strangers, "the new owner has the handle of an old one:", line)
        line.handle, line.announced = connection, True

    def hears(self, line: Line, connection: Handle, data: bytes) -> None:
        self.check(connection is line.handle and line.announced, "on_data before it was announced:", line)
        self.check(not line.tls_due, "on_data before on_tls:", line)
        self.check(not line.upgrading, "on_data while upgrading:", line)
        self.check(line.pushes, "on_data while passive:", line)
        self.check(not line.pending, "on_data while pending:", line)
        self.check(not (line.told or line.failed), "on_data after", line.failed or "on_close", line)
        if line.mode == "once":
            line.mode = "passive"
        elif isinstance(line.mode, int):
            line.mode -= 1
            if line.mode == 0:
                line.mode, line.passive_due = "passive", True
        self.delivered(line, data, pushed=True)

    def is_passive(self, line: Line, _connection: Handle, _value: Any) -> None:
        self.check(line.passive_due, "on_passive without a reason:", line)
        line.passive_due = False

    def is_secured(self, line: Line, _connection: Handle, _value: Any) -> None:
        self.check(line.tls_due, "on_tls without a reason:", line)
        line.tls_due = False

    def ends(self, line: Line, _connection: Handle, reason: str) -> None:
        self.check(line.announced, "on_close before it was announced:", line)
        self.check(not line.told, "a second on_close:", line)
        line.told, line.tls_due = True, False
        kind = reason.partition(":")[0]
        broken = bool(line.epoch) and line.injected
        allowed = {
            "eof": line.finished and line.seen == line.sent,
            "reset": line.peer_end in ("rst", "closed"),
            "tls-truncated": broken or (line.cut and (line.all_seen or line.peer_end == "closed")),
            "tls": broken or line.tls_failed == reason,
            "plaintext-before-tls": line.tls_failed == reason,
            "callback": line.failed == reason,
            "limit": line.overlong or line.failed == "limit",
        }
        self.check(allowed.get(kind, False), "on_close with", reason, "but", line, vars(line))

    def stays_open(self, reason: str) -> bool:
        return self.options.half_open and reason == "eof"

    def fails(self, line: Line, player: Player, callback: str) -> None:
        """A callback is about to raise: G3."""
        if line.owner is player and callback != "ends":
            self.ends_by_failure(line, "callback: Deliberate")

    def hit_the_limit(self, line: Line, error: TheaterError) -> None:
        if error.kind == "limit":
            self.ends_by_failure(line, "limit")

    def ends_by_failure(self, line: Line, reason: str) -> None:
        """The owner is to hear of it, behind the transfer where it has just handed the connection to itself."""
        line.failed = line.failed or reason

    # -- bytes -------------------------------------------------------------------------------------------------------

    def delivered(self, line: Line, data: bytes, pushed: bool) -> None:
        """G1: the next bytes of the stream, cut by the framing."""
        stream, start, end = line.stream, line.seen, line.seen + len(data)
        self.check(end <= line.sent, line, "got more than was sent")
        self.check(stream[start:end] == data, line, "got", data[:40], "at", start, "for", stream[start:end][:40])
        self.check(len(data) <= self.options.read_buffer_limit, line, "got a chunk of", len(data))
        if line.framing == "line":
            line_end = stream.find(b"\n", start) + 1
            self.check(end <= line_end, line, "got more than a line:", data)
            if pushed and end < line_end:
                self.check(line.finished, line, "got no whole line:", data)
                self.check(line.peer_end != "fin" or end == line.sent, line, "got a part of the last line:", data)
        line.seen = end
        self.look_for_overlong(line)

    def look_for_overlong(self, line: Line) -> None:
        """Whether a line has come that is longer than it may be: it ends the connection where it is looked at."""
        limit = self.options.read_buffer_limit
        if line.framing == "line" and b"\n" not in line.stream[line.seen : line.seen + limit]:
            line.overlong |= line.sent - line.seen >= limit

    def receive(self, line: Line, handle: Handle, size: int) -> Future[Any] | None:
        """The call of an owner on the loop. What comes is looked at when it comes."""
        expected = self.expected(line, handle, "receive", size)
        try:
            future: Future[bytes] = handle.receive(size)
        except TheaterError as error:
            self.say("  receive", size, line, "->", error.kind)
            self.check(error.kind in expected, "receive", line, "raised", error, "expected", expected)
            self.hit_the_limit(line, error)
            return None
        self.check("" in expected, "receive", line, "was taken, expected", expected)
        line.waiting = size
        future.on_done(partial(self.received, line, size))
        return future

    def receive_and_block(self, line: Line, handle: Handle, size: int) -> None:
        """The call of an owner with a thread of its own."""
        expected = self.expected(line, handle, "receive", size)
        if "" in expected:
            line.waiting = size
        outcome: Future[bytes] = Future()
        try:
            outcome.set(handle.receive(size))
        except TheaterError as error:
            if "" in expected:
                line.waiting = 0
            self.say("  receive", size, line, "->", error.kind)
            self.check(error.kind in expected or bool(line.ending or line.end), "receive", line, "raised", error)
            self.hit_the_limit(line, error)
        else:
            self.check("" in expected, "receive", line, "was taken, expected", expected)
            self.received(line, size, outcome)

    def received(self, line: Line, size: int, future: Future[bytes]) -> None:
        line.waiting = 0
        try:
            data = future.get()
        except TheaterError as error:
            self.say("  receive", size, line, "->", error.kind)
            beyond = line.out - line.got > 0 and error.kind == "limit"  # a send under way ends the connection
            self.check(beyond or bool(line.ending or line.end), "receive", line, "failed with", error)
            self.hit_the_limit(line, error)
            return
        self.say("  receive", size, line, "->", data[:40])
        self.check(not line.end, "received after the end:", line)
        self.check(len(data) <= size, "receive of", size, "got", len(data))
        if data:
            self.delivered(line, data, pushed=False)
        else:
            self.check(line.finished, "end of stream, but the peer did not end:", line)
            self.check(line.seen == line.sent, "end of stream before the last byte:", line)

    # -- TLS ---------------------------------------------------------------------------------------------------------

    def upgrade(self, line: Line, handle: Handle, side: str) -> Future[Any] | None:
        """The call of an owner on the loop. How it went is looked at when it is over."""
        expected = self.expected(line, handle, "upgrade", side)
        try:
            future: Future[None] = upgrade(handle, side)
        except TheaterError as error:
            self.say("  upgrade", side, line, "->", error.kind)
            self.check(error.kind in expected, "upgrade", line, "raised", error, "expected", expected)
            return None
        self.say("  upgrade", side, line)
        self.check("" in expected, "upgrade", line, "was begun, expected", expected)
        line.upgrading, line.begun = side, True
        future.on_done(partial(self.upgraded, line))
        return future

    def upgrade_and_block(self, line: Line, handle: Handle, side: str) -> None:
        """The call of an owner with a thread of its own."""
        expected = self.expected(line, handle, "upgrade", side)
        if "" in expected:
            line.upgrading, line.begun = side, True
        outcome: Future[None] = Future()
        try:
            outcome.set(upgrade(handle, side))
        except TheaterError as error:
            if "" not in expected or error.kind in expected - {"tls", "plaintext-before-tls"}:
                line.upgrading = ""
                self.say("  upgrade", side, line, "->", error.kind)
                self.check(error.kind in expected, "upgrade", line, "raised", error, "expected", expected)
                return
            outcome.set_exception_value(error)
        self.check("" in expected, "upgrade", line, "was done, expected", expected)
        self.upgraded(line, outcome)

    def upgraded(self, line: Line, future: Future[None]) -> None:
        """The handshake is over."""
        side, line.upgrading = line.upgrading, ""
        try:
            future.get()
        except TheaterError as error:
            self.say("  upgrade", side, line, "->", error)
            line.given_up = True
            late = line.owner.notes.threaded and line.ending and error.kind in MAY_HAVE_ENDED
            if line.end or line.failed or late:  # it was refused, or is one end of the connection among others
                return
            unread = line.seen < line.sent or line.injected
            allowed = {
                "plaintext-before-tls": not line.epoch and unread,
                "tls": line.injected or unread or bool(line.peer_end),
            }
            self.check(allowed.get(error.kind, False), "upgrade", line, "failed with", error, vars(line))
            line.tls_failed = str(error)
        else:
            self.say("  upgrade", side, line, "is done")
            self.check(not line.end, "secured after the end:", line)
            self.check(not line.injected_before, line, "is secured over what was slipped in")
            self.enters_epoch_1(line)
            line.tls_due = True

    def enters_epoch_1(self, line: Line) -> None:
        """One of the two ends is secured: line 15, nothing of epoch 0 is left with anybody."""
        if line.epoch == 0:
            self.check(line.seen == line.sent, line, "is secured, and of epoch 0 unread:", line.unseen)
            self.check(line.got == line.out, line, "is secured, and of epoch 0 unsent:", line.out - line.got)
            line.epoch = 1
            line.sent = line.seen = line.out = line.got = line.records = 0

    # -- calls -------------------------------------------------------------------------------------------------------

    def attempt(self, line: Line, handle: Handle, call: str, argument: Any) -> None:
        """An owner's call, or a stranger's: it must be refused, or do, what the contract says."""
        expected = self.expected(line, handle, call, argument)
        before = {name: getattr(line, name) for name in FORESEEN}
        foreseen = "" in expected and call in ("transfer", "close", "abort", "shutdown_write", "send")
        data = line.reply[line.out : line.out + argument] if call == "send" else argument
        if foreseen and call == "transfer":  # the new owner may hear of it before the call returns
            line.owner, line.announced, line.told = argument, False, False
            line.passive_due, line.mode, line.pending, line.tls_due = False, "passive", False, False
        elif foreseen and call == "shutdown_write":
            line.write_shut = True
        elif foreseen and call == "send":
            line.out += argument
            line.records += 2 + argument // RECORD
        elif foreseen:
            line.ends_now, line.end = True, call  # in this order: a line is forgotten where it ended and not only now
        try:
            result = CALLS[call](handle, data)
        except TheaterError as error:
            if foreseen and call == "send" and not isinstance(handle, ConnectionHandle):
                line.lossy = True  # some of it may have gone out before the call that waited failed
            elif foreseen:
                vars(line).update(before)
            line.ends_now = False
            if call == "transfer" and argument.notes.stopping:  # asked to stop meanwhile
                expected.add("no-such-actor")
            if line.ending:  # the peer ended meanwhile
                expected |= line.endings
            self.say("  ", call, self.shown(argument), line, "->", error.kind)
            self.check(error.kind in expected, call, line, "raised", error, "expected", expected)
            self.hit_the_limit(line, error)
            return
        line.ends_now = False
        self.say("  ", call, self.shown(argument), line)
        self.check("" in expected, call, line, "was done, expected", expected)
        self.done(line, handle, call, argument, result, before)

    def done(self, line: Line, handle: Handle, call: str, argument: Any, result: Any, before: dict[str, Any]) -> None:
        if call == "activate":
            line.pending = False
        elif call == "set_active":
            line.mode, line.passive_due = argument, False
        elif call == "set_framing":
            line.framing = argument
            self.look_for_overlong(line)
        elif call == "transfer":
            if argument is not before["owner"]:
                line.strangers.append(handle)
                if line.handle is handle:
                    line.handle = None  # until the new owner hears of it
            if argument.notes.dead and line.owner is argument and not line.end:  # and has not handed it on before
                line.end = "died"
        elif call == "send":
            self.check(result == argument, "send of", argument, "returned", result)

    def shown(self, argument: Any) -> Any:
        return self.name_of(argument) if isinstance(argument, pykka.Actor) else argument

    def expected(self, line: Line, handle: Handle, call: str, argument: Any) -> set[str]:
        """The kinds of error that a call may have now; "" for success."""
        from_a_thread = not isinstance(handle, ConnectionHandle)  # before whose call others may do something
        if line.end:  # what ends with an actor's thread or callback ends there, and a little later on the loop
            later = line.ends_now or line.end in ("died", "heard") or from_a_thread
            return {"not-found", "not-owner"} if later else {"not-found"}
        if handle is not line.handle or line.handle is None:
            return {"not-owner", "not-found"} if line.ending or from_a_thread else {"not-owner"}
        expected = {self.refusal(line, call, argument)}
        if call == "transfer" and (argument.notes.stopping or argument.notes.dead):
            expected = {"no-such-actor"} if argument.notes.dead else {*expected, "no-such-actor"}
        longer = argument + RECORD_COST if call == "send" else 2 * RECORD_COST  # close_notify is output, too
        if call in ("send", "shutdown_write") and line.output + longer > self.options.write_buffer_hard_limit:
            expected.add("limit")
        return expected | line.endings if line.ending else expected

    def refusal(self, line: Line, call: str, argument: Any) -> str:
        if call == "activate":
            return "" if line.pending else "already-active"
        if line.pending and call in ("set_active", "send", "receive", "shutdown_write", "upgrade"):
            return "pending"
        if line.upgrading and call in ("set_active", "send", "receive", "shutdown_write", "transfer", "upgrade"):
            return "busy"
        if call in ("receive", "upgrade") and line.pushes:
            return "wrong-mode"
        if call == "upgrade" and line.epoch:
            return "already-tls"
        waits_for = ("receive", "transfer", "upgrade")
        if line.waiting and (call in waits_for or (call == "set_active" and argument != "passive")):
            return "busy"
        if call in ("send", "upgrade") and line.write_shut:
            return "closed"
        return ""

    # -- what must have happened when all is at rest -----------------------------------------------------------------

    def overdue(self) -> list[str]:
        found = [f"{line}: {what} {vars(line)}" for line in self.lines if (what := self.overdue_of(line))]
        return found + [
            f"{self.name_of(player)} did not hear of {player.notes.coming}"
            for player in self.players
            if player.notes.coming and not player.notes.blocked and not player.notes.stopping
        ]

    def overdue_of(self, line: Line) -> str:
        owner = line.owner.notes
        if line.end or (owner.blocked and not line.waiting) or owner.stopping or line.core is None:
            return ""
        if not owner.blocked:
            if not line.announced:
                return "was not announced"
            if line.passive_due:
                return "on_passive is missing"
            if (line.failed or line.tls_failed) and not line.told:
                return "on_close is missing after a failure"
            if line.tls_due:
                return "on_tls is missing"
        if line.upgrading:  # the boundary is there as soon as all output has gone
            over = line.seen < line.sent or line.peer_end
            return "the upgrade did not fail" if over and line.got == line.out else ""
        if line.told or line.pending or line.output > self.options.write_buffer_limit or line.injected:
            return ""
        if line.waiting and (line.has_chunk or line.peer_end in ("fin", "cut", "rst")):
            return "a receive waits for what is there"
        if owner.blocked:
            return ""
        if line.pushes and line.has_chunk and line.peer_end in ("", "fin", "cut"):
            return "on_data is missing"
        if line.peer_end and (line.pushes or (line.seen == line.sent and (self.wide or line.tls is None))):
            return "on_close is missing"
        return ""


steps = st.one_of(
    st.tuples(st.just("set_active"), st.sampled_from(["passive", "active", "once", 1, 2, 3])),
    st.tuples(st.just("set_framing"), st.sampled_from(["raw", "line"])),
    st.tuples(st.just("transfer"), st.integers(0, 9)),
    st.tuples(st.just("send"), st.sampled_from([1, 10, 100, 3000])),
    st.tuples(st.just("receive"), st.sampled_from([1, 5, 100, 70_000])),
    st.tuples(st.just("upgrade"), st.sampled_from(["server", "client"])),
    st.tuples(st.sampled_from(["wait", "raise", "close", "abort", "shutdown_write", "activate"]), st.none()),
)
sizes = st.sampled_from([1, 2, 5, 30, 64, 65, 300, 2000])
numbers = st.integers(0, 9)


class Secrets:
    """Both sides' contexts, read once: the machine begins some hundred times."""

    def __init__(self, certificates: Certificates) -> None:
        files = certificates.server
        self.server_tls = ServerTls(cert=files.cert, key=files.key, auto_handshake=False)
        self.client_tls = ClientTls(ca_cert=certificates.ca, auto_handshake=False)
        self._server = ServerCredentials(self.server_tls)
        self._client = ClientCredentials(self.client_tls)
        self.for_clients = trusting_context()
        self.for_servers = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.for_servers.load_cert_chain(files.cert, files.key)

    def prepare(self, _options: Options) -> None:
        """In the place of the runtime's :class:`~theater_tcp.credentials.Credentials`."""

    def server(self, _tls: ServerTls) -> ServerCredentials:
        return self._server

    def client(self, _tls: ClientTls) -> ClientCredentials:
        return self._client


class StreamGuarantees(RuleBasedStateMachine):
    """The rules: what peers, owners, and the loop may do next."""

    cast: tuple[type, ...] = (Prompt, Prompt, Patient, Patient)
    secrets: ClassVar[Secrets]

    def make_stage(self, options: Options, seed: int, capacities: tuple[int, int]) -> SteppedTheater:
        raise NotImplementedError

    @initialize(
        read_buffer_limit=st.sampled_from([1, 64, 256 << 10]),
        write_buffer_limit=st.sampled_from([1, 500, 1 << 20]),
        half_open=st.booleans(),
        seed=st.integers(0, 99),
        capacities=st.sampled_from([(1, 0), (7, 3), (100, 0), (64 << 10, 64 << 10)]),
        side=st.sampled_from(["", "server", "client"]),
    )
    def begin(
        self,
        read_buffer_limit: int,
        write_buffer_limit: int,
        half_open: bool,
        seed: int,
        capacities: tuple[int, int],
        side: str,
    ) -> None:
        """With a ``side``, every connection is upgraded as soon as it is there."""
        self.side = side
        self.capacities = capacities
        self.options = Options(
            read_buffer_limit=read_buffer_limit,
            write_buffer_limit=write_buffer_limit,
            write_buffer_hard_limit=max(write_buffer_limit, 4000),
            half_open=half_open,
            server_tls=self.secrets.server_tls,
            client_tls=self.secrets.client_tls,
        )
        self.stage = self.make_stage(self.options, seed, capacities)
        self.play = Play(self.options, wide=self.capacities[0] > 1000)
        network: Any = self.stage.network
        network.credentials = self.secrets
        self.stage.__enter__()
        self.bystander = self.stage.spawn(Bystander)
        for player in self.cast:
            self.stage.spawn(player, self.play)
        self.dialled = 0

    def teardown(self) -> None:
        if not hasattr(self, "play"):
            return
        try:
            self.nothing_was_violated()
            self.everything_ends()
            self.nothing_was_violated()
        finally:
            self.open_all_gates()
            self.stage.__exit__(None, None, None)
            for line in self.play.lines:
                line.peer.close()

    def line(self, number: int) -> Line:
        """One of those that go on; a new one where there is none."""
        live = self.live_lines()
        return live[number % len(live)] if live else self.connect(number)

    def live_lines(self) -> list[Line]:
        return [line for line in self.play.lines if not (line.end and line.peer_end) or line.ends_now]

    def player(self, number: int) -> Player:
        return self.play.players[number % len(self.play.players)]

    # -- peers -------------------------------------------------------------------------------------------------------

    @rule(number=numbers)
    def a_peer_connects(self, number: int) -> None:
        if len(self.live_lines()) < MAX_LINES:
            self.connect(number)

    def connect(self, number: int) -> Line:
        owners = [player for player in self.play.players if not player.notes.stopping]
        owner = owners[number % len(owners)]
        self.dialled += 1
        line = Line(self.dialled, owner)
        self.play.say("connects:", line, "to", self.play.name_of(owner))
        self.play.lines = [*self.live_lines(), line]
        owner.notes.coming.append(line)  # before the loop goes on: its owner may hear of it at once
        line.peer = self.stage.connect_to(owner.actor_ref).socket
        if self.side and line.announced:
            self.upgrade_in_order(line, self.side)
        return line

    @rule(number=numbers, size=sizes)
    def a_peer_sends(self, number: int, size: int) -> None:
        self.a_peer_sends_on(self.line(number), size)

    def a_peer_sends_on(self, line: Line, size: int) -> None:
        if line.peer_end or (line.tls is None and line.upgrading) or (line.tls is not None and not line.tls.secured):
            return  # before it is secured a peer sends nothing in plaintext: see somebody_slips_something_in
        if line.tls is not None:
            if not line.wire and not line.peer_saw:
                data = line.stream[line.sent : line.sent + size]
                line.wire.append((line.tls.write(data), len(data)))
            self.put(line)
            return
        taken = self.put_on_the_wire(line, line.stream[line.sent : line.sent + size])
        line.sent += taken
        self.play.look_for_overlong(line)
        self.play.say("peer sends", taken, "of", size, "on", line)

    def put_on_the_wire(self, line: Line, data: bytes) -> int:
        """What the peer's system takes of it."""
        if line.end or line.ending:
            line.sent_too_late = True
        try:
            return int(line.peer.send(data))
        except BlockingIOError:
            return 0
        except OSError as error:
            self.play.check(bool(line.end or line.ending), "sending on", line, "failed with", error)
            line.peer_saw = "reset"
            return 0

    def put(self, line: Line) -> bool:
        """Send what the peer's TLS has to say, as far as it goes; whether any of it went."""
        moved = False
        while line.wire and not line.peer_saw and line.peer_end in ("", "fin"):
            record, size = line.wire[0]
            taken = self.put_on_the_wire(line, record)
            moved |= taken > 0
            if taken < len(record):
                line.wire[0] = (record[taken:], size)
                break
            line.wire.popleft()
            line.sent += size
            self.play.look_for_overlong(line)
            self.play.say("peer has sent a record of", size, "on", line)
        return moved

    @rule(number=numbers, size=sizes)
    def a_peer_sends_and_all_comes_to_rest(self, number: int, size: int) -> None:
        self.a_peer_sends(number, size)
        self.everything_comes_to_rest()

    @rule(number=numbers, how=st.sampled_from(["fin", "fin", "cut", "closed", "rst"]))
    def a_peer_ends(self, number: int, how: str) -> None:
        line = self.line(number)
        secured = line.tls is not None and line.tls.secured
        if how == "cut" and not secured:
            how = "fin"
        if line.peer_end in ("closed", "rst") or (line.peer_end and how in ("fin", "cut")):
            return
        if how in ("fin", "cut") and line.peer_saw:
            return
        if secured and how in ("fin", "closed") and not line.peer_end:
            how = self.say_goodbye(line, how)
        self.play.say("peer ends", line, "by", how)
        if how in ("fin", "cut"):
            try:
                line.peer.shutdown(socket.SHUT_WR)
            except OSError:
                self.play.check(bool(line.end or line.ending), "half-closing failed on", line)
        else:
            if how == "rst":
                line.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            line.peer.close()
        line.cut |= how == "cut" or (bool(line.upgrading) and not secured and how != "rst")
        line.peer_end = how
        line.finished |= how != "rst" and not line.cut

    def say_goodbye(self, line: Line, how: str) -> str:
        """close_notify, if the network takes it, and what is still to go before it, now; else the stream is cut off."""
        assert line.tls is not None
        line.wire.append((line.tls.close(), 0))
        self.put(line)
        if line.wire:
            line.cut = True
        return "cut" if line.cut and how == "fin" else how

    @rule(number=numbers, size=sizes)
    def a_peer_reads(self, number: int, size: int) -> None:
        self.read(self.line(number), size)

    def read(self, line: Line, size: int) -> bool:
        """Contract 13: what the owners sent comes in order, and an end of stream is no lie. Whether there was more."""
        if line.peer_end in ("closed", "rst") or line.peer_saw:
            return False
        plaintext = line.tls is None
        if plaintext and line.upgrading and line.got == line.out:
            return False  # what comes next is for its TLS, which it begins when it likes
        if line.begun and line.epoch == 0 and line.got < line.out:
            size, plaintext = min(size, line.out - line.got), True  # TLS begins behind what was sent before
        try:
            data = line.peer.recv(size)
        except BlockingIOError:
            return False
        except OSError as error:
            line.peer_saw = "reset"
            lost = line.end == "abort" or line.sent_too_late or line.failed == "limit" or line.overlong
            self.play.check(lost or self.may_break(line), line, "was reset:", error, vars(line))
            return False
        if not plaintext:
            return self.reads_tls(line, data)
        # The first words of TLS, or an alert, and nobody who understands; a thread may be about to send in vain.
        answers = line.reply[line.got : line.got + len(data)] == data
        behind = line.begun and (line.got == line.out or (line.given_up and not answers))
        self.reads(line, b"" if behind else data, not data)
        return bool(data)

    def reads_tls(self, line: Line, data: bytes) -> bool:
        """The peer reads ciphertext: a step of the handshake, or what the owners sent."""
        tls = line.tls
        assert tls is not None
        try:
            tls.feed(data)
            if not tls.secured and tls.handshake():
                self.play.say("the peer is secured on", line)
                self.play.enters_epoch_1(line)
            plaintext = tls.read() if tls.secured else b""
        except ssl.SSLError as error:
            line.peer_saw = "alert"
            self.play.check(self.may_break(line), "TLS of the peer failed on", line, error, vars(line))
            return False
        if output := tls.take_output():
            line.wire.append((output, 0))
            self.put(line)
        if plaintext or tls.ended:
            self.reads(line, plaintext, tls.ended)
        elif not data:
            line.peer_saw = "truncated"
            self.play.check(self.may_break(line), line, "was cut off at", line.got, "of", line.out, vars(line))
        return bool(data)

    def may_break(self, line: Line) -> bool:
        """Whether there is a reason for the stream to the peer to end without order."""
        broken = line.injected or line.given_up or line.cut or line.failed == "limit" or line.overlong
        return bool(broken or line.end == "abort" or line.upgrading or (line.epoch == 0 and line.tls is not None))

    def reads(self, line: Line, data: bytes, ended: bool) -> None:
        """The peer has read what the owners sent."""
        end = line.got + len(data)
        self.play.check(line.reply[line.got : end] == data, line, "the peer got something else at", line.got)
        self.play.check(end <= line.out, line, "the peer got more than was sent")
        line.got = end
        if ended:
            line.peer_saw = "eof"
            self.play.check(
                line.got == line.out or line.lossy or line.given_up,  # behind which a thread may be sending in vain
                line, "the stream ended at", line.got, "of", line.out, vars(line),
            )  # fmt: skip
            self.play.check(bool(line.end or line.write_shut or line.ending), line, "ended without a reason")
        self.play.say("peer reads", len(data), line.peer_saw, "on", line)

    # -- TLS ---------------------------------------------------------------------------------------------------------

    @rule(
        number=numbers,
        side=st.sampled_from(["server", "client"]),
        early=st.booleans(),
        size=st.sampled_from([0, 1, 65, 2000]),
        steps=st.sampled_from([0, 3, 10_000, 10_000, 10_000]),
    )
    def the_connection_is_upgraded(self, number: int, side: str, early: bool, size: int, steps: int) -> None:
        """In order: all is read before. Perhaps the client is early with its first words; perhaps the peer, once
        secured, sends at once; perhaps the handshake is left where it is for some time."""
        self.upgrade_in_order(self.line(number), side, early, size, steps)

    def upgrade_in_order(self, line: Line, side: str, early: bool = False, size: int = 0, steps: int = 10_000) -> None:
        if not self.can_be_upgraded(line):
            return
        self.outside(line, "set_framing", "raw")
        for _ in range(10):
            if not self.can_be_upgraded(line) or (line.seen == line.sent and not line.waiting):
                break
            if not line.waiting:
                self.outside(line, "receive", 70_000)
            self.stage.settle()
            self.everything_comes_to_rest()
        if not self.can_be_upgraded(line) or line.seen < line.sent or line.waiting:
            return
        early = early and side == "server" and not line.owner.notes.threaded
        if early:
            self.peer_starts_tls(line, side)
            self.put(line)
        self.outside(line, "upgrade", side)
        owner = line.owner.notes  # whose thread may have come to something else before

        def begun() -> bool:
            elsewhere = owner.threaded and (owner.blocked or line.owner.notes is not owner)
            return bool(line.upgrading or line.ending or line.end or line.epoch or elsewhere)

        self.stage.until(begun, lambda: self.report([f"the upgrade of {line} did not begin"]))
        if line.tls is None and line.upgrading:
            self.peer_starts_tls(line, side)
        self.go_on(line, steps, size)

    def can_be_upgraded(self, line: Line) -> bool:
        """Whether an upgrade that is made in order can succeed."""
        owner = line.owner.notes
        ended = line.end or line.ending or line.peer_saw or line.write_shut
        busy = line.epoch or line.upgrading or line.pending or line.handle is None
        blocked = owner.stopping or (owner.threaded and (owner.blocked or not line.announced))
        if ended or busy or blocked or self.capacities == (1, 0):  # byte by byte it takes long
            return False
        if not owner.threaded and not isinstance(line.handle, ConnectionHandle):
            return False  # it is on its way from an actor with a thread
        if line.pushes:
            self.outside(line, "set_active", "passive")
            self.everything_comes_to_rest()
            return not line.pushes and self.can_be_upgraded(line)
        return True

    def peer_starts_tls(self, line: Line, side: str) -> None:
        """The other side of the handshake than the owner's."""
        self.play.say("the peer starts TLS on", line)
        if side == "server":
            line.tls = PeerTls(self.secrets.for_clients, False, NAME)
            line.tls.handshake()
            line.wire.append((line.tls.take_output(), 0))
        else:
            line.tls = PeerTls(self.secrets.for_servers, True)

    @rule(number=numbers, steps=st.sampled_from([1, 3, 10_000, 10_000]), size=st.sampled_from([0, 1, 65]))
    def a_handshake_goes_on(self, number: int, steps: int, size: int) -> None:
        line = self.line(number)
        if line.upgrading and self.capacities != (1, 0):
            if line.tls is None and not line.peer_end and not line.injected:
                self.peer_starts_tls(line, line.upgrading)
            self.go_on(line, steps, size)

    def go_on(self, line: Line, steps: int, size: int) -> None:
        """So many steps of the handshake, or all of it; once secured, the peer sends ``size`` bytes."""
        left = steps

        def over() -> bool:
            nonlocal left
            left -= 1
            self.put(line)
            while self.read(line, 1 << 14):
                pass
            tls = line.tls
            if tls is not None and tls.secured and not line.upgrading:
                return not (line.core.output and line.core.output.size)
            return left < 0 or bool(line.peer_saw or line.peer_end or line.end or line.injected or line.failed)

        def secured() -> bool:
            return over() or (line.tls is not None and line.tls.secured)

        report = lambda: self.report([f"the handshake does not go on: {line} {vars(line)}"])  # noqa: E731
        if line.tls is not None:
            self.stage.until(secured, report)
            if line.tls.secured and size:
                self.a_peer_sends_on(line, size)
            self.stage.until(over, report)

    @rule(number=numbers, in_the_middle=st.booleans())
    def somebody_slips_something_in(self, number: int, in_the_middle: bool) -> None:
        """Plaintext at the boundary or behind it, seldom: it ends the connection, and nobody is given it."""
        line = self.line(number)
        if line.peer_end or line.injected or line.peer_saw or not (line.upgrading or line.tls):
            return
        if line.wire and not in_the_middle:
            return
        if line.tls is None and line.seen == line.sent and not in_the_middle:
            return
        self.play.say("somebody slips something in on", line)
        line.injected = self.put_on_the_wire(line, INJECTED) > 0
        if line.injected:
            line.injected_before = line.tls is None or not line.tls.secured
            line.wire.clear()

    # -- owners ------------------------------------------------------------------------------------------------------

    def outside(self, line: Line, call: str, argument: Any) -> None:
        """A call from outside of a callback: at once on the loop, or through the mailbox of an actor with a thread."""
        handle = line.handle
        if handle is None or (line.core is None):
            return
        if line.owner.notes.threaded:
            if not line.owner.notes.stopping:
                line.owner.actor_ref.tell(partial(self.on_its_thread, line, call, argument))
        elif not isinstance(handle, ConnectionHandle):
            return  # it is on its way from an actor with a thread
        elif call == "receive":
            self.play.receive(line, handle, argument)
        elif call == "upgrade":
            self.play.upgrade(line, handle, argument)
        else:
            self.play.attempt(line, handle, call, argument)

    def on_its_thread(self, line: Line, call: str, argument: Any, player: Player) -> None:
        if line.handle is not None and line.owner is player and line.announced:
            player.notes.blocked += 1
            if call == "receive":
                self.play.receive_and_block(line, line.handle, argument)
            elif call == "upgrade":
                self.play.upgrade_and_block(line, line.handle, argument)
            else:
                self.play.attempt(line, line.handle, call, argument)
            player.notes.blocked -= 1

    @rule(number=numbers, mode=st.sampled_from(["active", "once", 1, 2, 5]))
    def data_is_to_be_pushed(self, number: int, mode: str | int) -> None:
        self.outside(self.line(number), "set_active", mode)

    @rule(number=numbers)
    def no_data_is_to_be_pushed(self, number: int) -> None:
        self.outside(self.line(number), "set_active", "passive")

    @rule(number=numbers, size=st.sampled_from([1, 2, 7, 64, 1000, 70_000]))
    def the_owner_receives(self, number: int, size: int) -> None:
        self.outside(self.line(number), "receive", size)

    @rule(number=numbers, to=numbers)
    def the_connection_is_transferred(self, number: int, to: int) -> None:
        self.outside(self.line(number), "transfer", self.player(to))

    @rule(number=numbers, size=st.sampled_from([1, 10, 499, 501, 2000]), room=st.sampled_from([0, 0, 5, 300]))
    def the_owner_sends(self, number: int, size: int, room: int) -> None:
        """Perhaps just when the peer has made room, and before the loop has seen it."""
        if room:
            self.read(self.line(number), room)
        self.outside(self.line(number), "send", size)

    @rule(number=numbers, framing=st.sampled_from(["raw", "line"]))
    def the_framing_is_set(self, number: int, framing: str) -> None:
        self.outside(self.line(number), "set_framing", framing)

    @rule(number=numbers, call=st.sampled_from(["activate", "shutdown_write", "close", "abort"]))
    def the_owner_does(self, number: int, call: str) -> None:
        self.outside(self.line(number), call, None)

    @rule(number=numbers, side=st.sampled_from(["server", "client"]))
    def the_owner_upgrades(self, number: int, side: str) -> None:
        """Whatever is unread or unsent."""
        self.outside(self.line(number), "upgrade", side)

    @rule(number=numbers, call=st.sampled_from(sorted(CALLS)), to=numbers)
    def a_stranger_tries(self, number: int, call: str, to: int) -> None:
        """Line 10: after a transfer the old owner's handle is a stranger's."""
        line = self.line(number)
        for handle in line.strangers[-1:]:
            if isinstance(handle, ConnectionHandle):
                arguments = {"set_active": "active", "set_framing": "raw", "transfer": self.player(to), "send": 1}
                arguments["upgrade"] = "server"
                self.play.attempt(line, handle, call, arguments.get(call))

    @rule(number=numbers)
    def a_transfer_to_who_takes_none_changes_nothing(self, number: int) -> None:
        """Line 10: no-such-actor."""
        line = self.line(number)
        busy = line.end or line.ending or line.waiting or line.upgrading or line.owner.notes.threaded
        if isinstance(line.handle, ConnectionHandle) and not busy:
            for target in (self.bystander, self.bystander.actor_urn, "urn:uuid:nobody"):
                try:
                    line.handle.transfer(target)
                except TheaterError as error:
                    self.play.check(error.kind == "no-such-actor", "a transfer to a bystander raised", error)
                else:
                    self.play.check(False, "a bystander took", line)

    @rule(number=numbers, plan=st.lists(steps, min_size=1, max_size=3))
    def a_callback_will_do(self, number: int, plan: list[Step]) -> None:
        """What a player does in its next callback, whichever that will be."""
        player = self.player(number)
        if len(player.notes.reactions) < 3:
            player.notes.reactions.append(
                [(kind, self.player(argument) if kind == "transfer" else argument) for kind, argument in plan]
            )

    @rule(number=numbers)
    def a_gate_opens(self, number: int) -> None:
        for player in [self.player(number), *self.play.players]:
            if player.notes.gates:
                player.notes.gates.pop(0).set(None)
                return

    def open_all_gates(self) -> None:
        self.play.over = True
        for player in self.play.players:
            player.notes.reactions.clear()
            while player.notes.gates:
                player.notes.gates.pop(0).set(None)

    @rule(number=numbers)
    def a_player_has_other_mail(self, number: int) -> None:
        player = self.player(number)
        if not player.notes.stopping:
            player.actor_ref.tell(lambda _player: None)

    @rule(number=st.integers(0, 40))
    def a_player_is_stopped(self, number: int) -> None:
        """G4, seldom."""
        if number < len(self.play.players) and not self.player(number).notes.stopping:
            player = self.player(number)
            player.notes.stopping = True
            self.play.say(self.play.name_of(player), "is asked to stop")
            player.actor_ref.stop(block=False)
            self.stage.spawn(type(player), self.play)

    # -- the loop ----------------------------------------------------------------------------------------------------

    @rule(turns=st.integers(1, 3))
    def the_loop_takes_turns(self, turns: int) -> None:
        self.play.say("turns:", turns)
        for _ in range(turns):
            self.stage.step()

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.play.say("rest")
        self.stage.until(lambda: not self.play.overdue(), lambda: self.report(self.play.overdue()))

    @invariant()
    def nothing_was_violated(self) -> None:
        if hasattr(self, "play") and self.play.violations:
            raise AssertionError(self.report(self.play.violations))

    def report(self, what: list[str]) -> str:
        return "\n".join([*what, "The play:", *self.play.log[-80:]])

    @invariant()
    def at_most_one_turn_of_a_connection_is_under_way(self) -> None:
        """G2."""
        if hasattr(self, "play"):
            turns = Counter(
                id(turn.connection)
                for player in self.play.players
                for turn in turns_in(player)
                if turn.connection._turn is turn
            )
            assert max(turns.values(), default=0) <= 1

    @invariant()
    def the_host_holds_no_more_than_the_limits(self) -> None:
        """G2."""
        if hasattr(self, "play"):
            for line in self.play.lines:
                core = line.core
                if core is not None:
                    held = len(core._input or b"") + len(core._leftover)
                    assert held <= self.options.read_buffer_limit + prefix_size(core.options.framing)
                    if core.output is not None:
                        assert core.output.size <= self.options.write_buffer_hard_limit + RECORD_COST  # close_notify
                    if core.tls is not None:
                        assert core.tls._incoming.pending + len(core.tls._ahead) <= (128 << 10) + RECORD

    def everything_ends(self) -> None:
        """Whatever state a play was left in: when peers and owners have gone, nothing is left of it."""
        self.open_all_gates()
        self.everything_comes_to_rest()
        for line in self.play.lines:
            while self.read(line, 1 << 16):
                self.stage.settle()
        for line in self.play.lines:
            if line.peer_end in ("", "fin", "cut"):
                if line.tls is not None and line.tls.secured and not line.peer_end:
                    self.say_goodbye(line, "closed")
                elif line.upgrading:
                    line.cut = True
                line.peer_end, line.finished = "closed", not line.cut
                line.peer.close()
        for player in list(self.play.players):
            if not player.notes.stopping:
                player.notes.stopping = True
                player.actor_ref.stop(block=False)
        self.let_time_pass()
        self.stage.until(
            lambda: not self.stage.network.connections and not any(p.actor_ref.is_alive() for p in self.play.players),
            lambda: self.report([f"left: {self.stage.network.connections}, {self.play.players}"]),
        )

    def let_time_pass(self) -> None:
        """All lingering is over."""


def turns_in(player: Player) -> list[Any]:
    """The turns in a player's mailbox."""
    inbox = player.actor_inbox
    envelopes = list(inbox.queue or ())
    return [e.message.args[0] for e in envelopes if isinstance(e.message, ProxyCall) and e.message.args]


@pytest.fixture(autouse=True, scope="module")
def _secrets(certificates: Certificates) -> None:
    StreamGuarantees.secrets = Secrets(certificates)


@pytest.fixture(autouse=True)
def _no_log_of_what_fails_on_purpose() -> Iterator[None]:
    logger = logging.getLogger("theater_tcp")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


class InMemory(StreamGuarantees):
    """Thousands of steps, all of them decided by the machine."""

    def make_stage(self, options: Options, seed: int, capacities: tuple[int, int]) -> Stage:
        receive_capacity, send_capacity = capacities
        order = random.Random(seed).shuffle
        return Stage(Settings(options=options), order, receive_capacity=receive_capacity, send_capacity=send_capacity)

    def let_time_pass(self) -> None:
        assert isinstance(self.stage, Stage)
        self.stage.advance(60)
        left = [fd.source for fd in self.stage.poller.watched if not hasattr(fd.source, "accept")]  # type: ignore[attr-defined]
        assert left == [], self.report(["still watched"])


TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(max_examples=250, stateful_step_count=50)


class OnTcp(StreamGuarantees):
    """The same over TCP sockets of the system, and with actors that have a thread of their own among the owners."""

    cast = (Prompt, Patient, Threaded, Threaded)

    def make_stage(self, options: Options, _seed: int, _capacities: tuple[int, int]) -> SystemStage:
        self.capacities = (64 << 10, 64 << 10)
        return SystemStage(Settings(options=options), patience=30)


TestOnTcp = OnTcp.TestCase
TestOnTcp.settings = settings(max_examples=40, stateful_step_count=40)


# -- a running Theater ---------------------------------------------------------------------------------------------


class Relay(Prompt):
    """Passes a connection on with every chunk, to the next of the ring."""

    def __init__(self, ring: Ring) -> None:
        TcpActor.__init__(self)
        self.ring = ring

    def on_start(self) -> None:
        self.ring.refs.append(self.actor_ref)

    def on_stop(self) -> None:
        pass

    def react(self, callback: str, connection: Handle, value: Any = None) -> None:
        self.ring.pass_on(self, callback, connection, value)


class ThreadedRelay(Threaded):
    """The same with a thread of its own."""

    def __init__(self, ring: Ring) -> None:
        TcpMixin.__init__(self)
        self.ring = ring

    def on_start(self) -> None:
        self.ring.refs.append(self.actor_ref)

    def on_stop(self) -> None:
        pass

    def react(self, callback: str, connection: Handle, value: Any = None) -> None:
        self.ring.pass_on(self, callback, connection, value)


class Ring:
    """Actors that hand connections round, and what they heard of each connection, in order."""

    def __init__(self) -> None:
        self.refs: list[Any] = []
        self.heard: dict[str, bytearray] = {}
        self.ended: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def pass_on(self, player: Any, callback: str, connection: Handle, value: Any) -> None:
        if callback == "arrives":
            connection.activate()
            connection.set_options(read_buffer_limit=1000)
            self.heard[connection.id] = bytearray()
        if callback in ("arrives", "is_taken_over"):
            connection.set_active(("active", "once", 1, 3)[len(self.heard[connection.id]) % 4])
        elif callback == "hears":
            self.heard[connection.id] += value
            following = self.refs[(self.refs.index(player.actor_ref) + 1) % len(self.refs)]
            connection.transfer(following)
        elif callback == "ends":
            self.ended.put((connection.id, value))


def test_g1_connections_that_are_handed_round_among_loop_and_thread_actors_of_a_running_theater_lose_nothing() -> None:
    size, count, ring = 60_000, 6, Ring()
    with Theater() as theater:
        for kind in (Relay, ThreadedRelay, Relay, ThreadedRelay):
            theater.spawn(kind, ring)
        address = theater.listen_for(ring.refs[0], "127.0.0.1:0").address
        host, _, port = address.partition(":")

        def send() -> None:
            with socket.create_connection((host, int(port))) as peer:
                peer.sendall(STREAM[:size])
                peer.shutdown(socket.SHUT_WR)
                assert peer.recv(1) == b""

        with ThreadPoolExecutor(count) as peers:
            sending = [peers.submit(send) for _ in range(count)]
            ended = [ring.ended.get(timeout=30) for _ in range(count)]
            for future in sending:
                future.result(timeout=30)
    assert [reason for _, reason in ended] == ["eof"] * count
    assert all(heard == STREAM[:size] for heard in ring.heard.values())
    assert len(ring.heard) == count
