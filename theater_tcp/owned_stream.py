"""What an owner hears of its connection, and when.

Theory of operation. The owner's callbacks are turns of the *owner*; what they are about is decided here, at the moment
when the turn begins, by :meth:`OwnedStream.next_callback`: an announcement, the word that the count ran out, a chunk,
the end; in this order. If the owner lives on the same loop and is idle, its turn is taken at once, in the I/O handler
of the socket; else a :class:`~theater_tcp.messages.Turn` goes into its mailbox, at most one for each connection.
So data is never on its way anywhere: it is with the kernel, in the input buffer, or handled. That is why
``set_active``, ``transfer`` and ``once`` are exact, and why a slow owner slows its peer down.
"""

from __future__ import annotations

import logging
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from theater_tcp.actor import Interrupted, LoopActor
from theater_tcp.callback_failure import ended_with_its_connection, is_goodbye, log_failure, reason_for
from theater_tcp.connection_state import ACTIVE, CLOSING, FAIL, OPEN, PASSIVE, Phase
from theater_tcp.messages import Callback, Turn
from theater_tcp.network import READ_BUFFER_SIZE
from theater_tcp.poller import READ
from theater_tcp.stream import Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from theater_tcp.mailbox import Mailbox
    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner
    from theater_tcp.settings import Options

__all__ = ["OwnedStream"]

logger = logging.getLogger("theater_tcp.connection")

BURST = 16
"""Callbacks in one turn that was taken on the spot, before other sockets have theirs."""

BULK = 32 << 10
"""Bytes of one read from which on the next is made without the shared buffer."""


class OwnedStream(Stream):
    """A stream with an owner who hears of it.

    Args:
        network, sock, peer, options, phase: see :class:`~theater_tcp.transport.Transport`.
        owner: who may operate it.
        listener: the listener that accepted it, if one did.
    """

    __slots__ = (
        "_announcement",
        "_close_told",
        "_count_ran_out",
        "_in_callback",
        "_tls_news",
        "_turn",
        "bulk",
        "listener",
        "owner",
    )

    def __init__(
        self,
        network: Network,
        sock: socket.SocketType,
        peer: Any,
        options: Options,
        phase: Phase,
        owner: Owner,
        listener: Any,
    ) -> None:
        Stream.__init__(self, network, sock, peer, options, phase)
        self.owner: Owner | None = owner
        self.listener = listener
        self._announcement: str | None = None  # the callback that tells the owner of the connection
        self._tls_news = False  # an upgrade is done, and the owner is to hear of it
        self._count_ran_out = False
        self._close_told = False
        self._in_callback = False
        self._turn: Turn | None = None
        self.bulk = False  # the last read was of BULK bytes or more

    # -- what a subclass decides -----------------------------------------------------------------------------------

    def end_was_heard(self) -> None:
        """The owner has heard of the end, or does not want to."""
        raise NotImplementedError

    def abort_for_shutdown(self) -> None:
        """The runtime does not wait any longer."""
        raise NotImplementedError

    # -- turns -----------------------------------------------------------------------------------------------------

    def on_ready(self, mask: int) -> None:
        """The socket is ready. The short way through here is the one that most bytes of the world take."""
        if self.direct and mask == READ:
            actor: Any = self.owner.loop_actor  # type: ignore[union-attr]  # direct says that there is one
            box = actor.actor_inbox
            if not box.scheduled:
                if self.tls is not None:
                    self._secure_turn(actor, box)
                    return
                network = self.network
                try:
                    if self.bulk:  # much at a time: the copy costs more than the allocation, and it's the other way
                        data = self.sock.recv(READ_BUFFER_SIZE)  # round for little
                    else:
                        data = network.read_buffer[: self.sock.recv_into(network.read_buffer)]
                except (BlockingIOError, InterruptedError):
                    return
                except OSError as error:
                    self.broken(error)
                    return
                if data:
                    self.bulk = len(data) >= BULK
                    self.last_activity = network.loop.now
                    box.scheduled = True
                    owner = self.owner
                    try:
                        outcome = actor.on_data(self.handle, data)
                        if outcome.__class__ is CoroutineType and not self._drive(actor, outcome, "on_data"):
                            return
                    except BaseException as error:
                        self._called(owner, "on_data", error)
                        self.settle()
                    box.rest()
                    return
                self.eof = True  # `direct` says that nothing was cut
                if "on_close" not in self.owner.heard and not self.options.half_open:  # type: ignore[union-attr]
                    self._close_told = True
                    self.end_was_heard()
                    return
                self.stream_ended()
                return
        elif mask == READ and self._receiver is not None and self.tls is None and self.receive_turn():
            return
        Stream.on_ready(self, mask)

    def _secure_turn(self, actor: Any, box: Mailbox) -> None:
        """The short way for what came encrypted: one read of the socket is one turn."""
        engine: Any = self.tls
        network = self.network
        try:
            size = self.sock.recv_into(network.ciphertext_view)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.broken(error)
            return
        if size:
            self.last_activity = network.loop.now
            engine.feed(network.ciphertext_view[:size])
        else:
            engine.feed_eof()
        data = self.decrypted(engine, READ_BUFFER_SIZE)
        if not data:
            if self.eof or self.reason is not None:
                self.stream_ended()
            return
        box.scheduled = True
        owner = self.owner
        try:
            outcome = actor.on_data(self.handle, data)
            if outcome.__class__ is CoroutineType and not self._drive(actor, outcome, "on_data"):
                return
        except BaseException as error:
            self._called(owner, "on_data", error)
            self.settle()
        box.rest()
        if self.direct and (self.eof or not engine.starved):
            self.settle()  # no event will tell of what is here already

    @property
    def wants_data(self) -> bool:
        """Whether the owner is ready for data: it waits in ``receive``, or data is pushed and no turn is on its way."""
        if self._receiver is not None:
            return True
        state = self.state
        return state.phase is OPEN and state.mode is not PASSIVE and self._turn is None

    def data_ready(self) -> None:
        """The socket is readable and somebody wants it."""
        if self._receiver is not None:
            self._serve_receiver()
        else:
            self.offer(at_once=True, readable=True)

    def stream_ended(self) -> None:
        """The peer has ended, or the socket failed: whoever waits is told."""
        if self._receiver is not None:
            self._serve_receiver()
        self.refresh()
        self.offer(at_once=True)

    def announce(self, callback: str) -> None:
        """Tell the owner of this connection by ``handle_connection``, through its mailbox."""
        self._announcement = callback
        self.offer()

    def introduce(self, actor: Any) -> None:
        """Call the ``handle_connection`` of an idle owner on the loop, at once: the connection's first turn."""
        owner = self.owner
        box = actor.actor_inbox
        box.scheduled = self._in_callback = True
        try:
            outcome = actor.handle_connection(self.handle)
        except BaseException as error:
            self._in_callback = False
            self._called(owner, "handle_connection", error)
        else:
            self._in_callback = False
            if outcome.__class__ is CoroutineType and not self._drive(actor, outcome, "handle_connection"):
                return
        box.rest()
        self.settle()

    def offer(self, at_once: bool = False, readable: bool = False) -> None:
        """Give the owner a turn, if there is something for it.

        Args:
            at_once: take the turn on the spot if the owner is idle; only from an I/O handler, never inside of
                another actor's turn.
            readable: whether the kernel has something, which is wanted.
        """
        owner = self.owner
        if owner is None or self._turn is not None:
            return
        if at_once:
            actor = owner.loop_actor
            if actor is not None and not actor.actor_inbox.scheduled:
                actor.actor_inbox.scheduled = True
                self._run_burst(actor, owner)
                return
        if readable or self._has_news():
            self._turn = turn = Turn(self)
            owner.tell(turn)  # in vain when its life is over; on its way all the same, so that nobody reads for it

    def take_turn(self, turn: Turn, actor: LoopActor) -> Coroutine[Any, Any, None] | None:
        """The owner on the loop handles a turn out of its mailbox; a coroutine is to be awaited by it."""
        callback = self.begin(turn)
        if callback is None:
            return None
        owner = self.owner
        self._in_callback = True
        try:
            outcome = getattr(actor, callback.name)(*callback.arguments)
        except BaseException as error:
            self._in_callback = False
            self.end(owner, callback.name, error)
            return None
        self._in_callback = False
        if outcome.__class__ is CoroutineType:
            return self._guarded(outcome, owner, callback.name)
        self.end(owner, callback.name, None)
        return None

    def begin(self, turn: Turn) -> Callback | None:
        """The callback that ``turn`` is about now, if it is about any."""
        if self._turn is not turn:
            return None
        self._turn = None
        callback = self.next_callback()
        if callback is None:
            self.settle()
        return callback

    def end(self, owner: Owner | None, name: str, error: BaseException | None) -> None:
        """A callback that :meth:`begin` gave has returned or raised."""
        self._called(owner, name, error)
        self.settle()

    def next_callback(self) -> Callback | None:
        """What the owner is to hear next; with it, it counts as heard."""
        if self._announcement is not None:
            name, self._announcement = self._announcement, None
            if self.listener is not None:
                self.listener.heard_of(self)
            return Callback(name, (self.handle,))
        if self._tls_news:
            self._tls_news = False
            return Callback("on_tls", (self.handle,))
        if self._count_ran_out:
            self._count_ran_out = False
            return Callback("on_passive", (self.handle,))
        if self.state.pushes:
            chunk = self._next_chunk()
            if chunk:
                owner = self.owner
                self._count_ran_out = self.state.hand_over() and owner is not None and owner.hears("on_passive")
                if self.direct:
                    self.refresh()
                return Callback("on_data", (self.handle, chunk))
        if self._end_is_due():
            return self._tell_end()
        return None

    def settle(self) -> None:
        """After a turn: the next one if there is news, and wait for what is wanted now."""
        if self.owner is not None and self._turn is None:
            self.refresh()
            if self.direct and self.output is None:  # nothing buffered, nothing to tell: what is left is to read
                if self.interest != READ:
                    self._set_interest(READ)
                return
            if self._has_news():
                self.offer()
        self.update_interest()

    def _run_burst(self, actor: LoopActor, owner: Owner) -> None:
        box = actor.actor_inbox
        for _ in range(BURST):
            callback = self.next_callback()
            if callback is None:
                break
            self._in_callback = True
            try:
                outcome = getattr(actor, callback.name)(*callback.arguments)
            except BaseException as error:
                self._in_callback = False
                self._called(owner, callback.name, error)
            else:
                self._in_callback = False
                if outcome.__class__ is CoroutineType:
                    if not self._drive(actor, outcome, callback.name):
                        return
                else:
                    self._called(owner, callback.name, None)
            if self.owner is not owner or box.queue or self._is_dry():
                break
        box.rest()
        self.settle()

    def _is_dry(self) -> bool:
        """Whether nothing is here, so that reading on would be a system call for nothing, or for too much at a time."""
        tls = self.tls
        return tls is not None and not (tls.buffered or self.eof or self._leftover or self._input or self.reason)

    def _drive(self, actor: LoopActor, coroutine: CoroutineType[Any, Any, Any], name: str) -> bool:
        owner = self.owner
        if actor.actor_drive(coroutine, lambda _, error: self.end(owner, name, error)):
            return True
        self.update_interest()
        return False

    async def _guarded(self, coroutine: CoroutineType[Any, Any, Any], owner: Owner | None, name: str) -> None:
        """An async callback that was begun out of the mailbox: its failure ends this connection, not the actor."""
        try:
            await coroutine
        except GeneratorExit:
            raise
        except BaseException as error:
            self.end(owner, name, error)
        else:
            self.end(owner, name, None)

    def _called(self, owner: Owner | None, name: str, error: BaseException | None) -> None:
        if isinstance(error, Interrupted):
            if self.owner is owner:
                self.abort_for_shutdown()
            return
        lost = error is not None and ended_with_its_connection(error, self.reason or self.write_error)
        if lost:
            logger.debug("%s of %s ended with its connection: %s", name, owner, error)
        elif error is not None and not is_goodbye(error):
            self.network.metrics.callback_failures += 1
            log_failure(logger, f"{name} of {owner} failed for {self.peer_address()}", error)
            if not isinstance(error, Exception) and owner is not None and owner.loop_actor is not None:
                owner.loop_actor.actor_end_everything(error)
        if self.owner is not owner or owner is None:
            return  # closed or transferred by the callback: it isn't this owner's any more
        if name == "on_close":
            if self._close_told:  # else it was transferred to the same owner meanwhile, who is to hear of both anew
                self.end_was_heard()
        elif lost:
            if self.write_error is not None and not self.state.pushes:  # else reading tells, behind what came before
                self.fail(self.write_error)
        elif error is not None:
            self.fail(reason_for(error), flush=True)

    def _has_news(self) -> bool:
        if self._announcement is not None or self._tls_news or self._count_ran_out:
            return True
        if self.state.pushes:
            if (self._leftover or self._input) and self._input_has_chunk():
                return True
            if self.tls is not None and self.tls.buffered:
                return True
        return self._end_is_due()

    def _end_is_due(self) -> bool:
        if self._close_told or not (self.eof or self.reason is not None):
            return False
        return self.state.phase is CLOSING or not (self._leftover or self._input)

    def _tell_end(self) -> Callback | None:
        self._close_told = True
        if self.reason is not None and self.state.phase is not CLOSING:
            self.state.apply(FAIL)
            self.finish()  # where the stream ended inside of a frame, the socket is still open
        if not self.owner.hears("on_close"):  # type: ignore[union-attr]
            self.end_was_heard()
            return None
        return Callback("on_close", (self.handle, self.reason or "eof"))

    # -- the short ways --------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Work out anew what the short ways depend on."""
        state, options, owner = self.state, self.options, self.owner
        if state.phase is not OPEN or owner is None or self.fd < 0:
            self.direct = self.sends_directly = False
            return
        raw = options.framing == "raw"
        self.sends_directly = (
            raw
            and self.output is None
            and not self.write_closed
            and self.write_error is None
            and options.idle_timeout is None
        )
        self.direct = (
            state.mode is ACTIVE
            and raw
            and owner.loop_actor is not None
            and not self.eof
            and not (self.tls is not None and self.tls.buffered)
            and self.cut is None
            and not self._leftover
            and not self._input
            and self._turn is None
            and self._announcement is None
            and not self._tls_news
            and options.read_buffer_limit >= READ_BUFFER_SIZE
        )

    def output_empty(self) -> None:
        """The last byte of the output has been taken: sends may go to the socket again."""
        Stream.output_empty(self)
        self.refresh()
