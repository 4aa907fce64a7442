"""The Connection actor: what its owner may do with it, and how it ends.

Calls of the owner come through a handle, made for one owner and one stretch of ownership (:mod:`theater_tcp.tcp`); a
handle that is not the connection's any more is a stranger's. TLS is in :mod:`theater_tcp.upgradable_stream`, what the
owner hears in :mod:`theater_tcp.owned_stream`, the data in :mod:`theater_tcp.stream`, the socket in
:mod:`theater_tcp.transport`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from theater_tcp.connection_state import (
    ABORT,
    ACTIVATE,
    CLOSE,
    CLOSING,
    FAIL,
    HANDSHAKING,
    OPEN,
    PASSIVE,
    PENDING,
    RELEASE,
    TRANSFER,
    UPGRADING,
    Phase,
    parse_mode,
)
from theater_tcp.errors import Busy, InvalidArgument, NoSuchActor
from theater_tcp.messages import Turn
from theater_tcp.settings import Options
from theater_tcp.socket_options import apply_to_socket, reset_on_close
from theater_tcp.upgradable_stream import UpgradableStream

if TYPE_CHECKING:
    import socket

    from theater_tcp.network import Network
    from theater_tcp.ownership import Owner

__all__ = ["Connection"]


class Connection(UpgradableStream):
    """One connection. Its id is its actor's URN. All methods run on the loop's thread.

    Args:
        network, sock, peer, options, phase: see :class:`~theater_tcp.transport.Transport`.
        owner: who may operate it.
        listener: the listener that accepted it, if one did.
    """

    __slots__ = ("_awaits_activation", "_idle_delay")

    _actor_begun = True  # there is nothing to start

    def __init__(
        self,
        network: Network,
        sock: socket.SocketType,
        peer: Any,
        options: Options,
        phase: Phase,
        owner: Owner,
        listener: Any = None,
    ) -> None:
        UpgradableStream.__init__(self, network, sock, peer, options, phase, owner, listener)
        self.handle = owner.handle_for(self)
        self._awaits_activation = False  # a deadline is set
        self._idle_delay: float | None = None  # that of the deadline that is set
        owner.connections[self] = None
        network.connections[self] = None
        network.registry[self.actor_ref] = None
        self.actor_inbox.scheduled = False
        if phase is OPEN:
            self.refresh()

    # -- calls of the owner ---------------------------------------------------------------------------------------

    def activate(self, handle: Any) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.activate`."""
        if self.handle is not handle:
            self.check_owner(handle)
        self.state.apply(ACTIVATE)
        if self._awaits_activation or self.fin_seen or not self._in_callback or self.options.idle_timeout is not None:
            self.opened()  # else the turn under way settles everything

    def set_active(self, handle: Any, mode: str | int) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.set_active`."""
        if self.handle is not handle:
            self.check_owner(handle)
        parsed, count = parse_mode(mode)
        if parsed is not PASSIVE:
            if self._receiver is not None:
                raise Busy("a receive waits")
            if "on_data" not in self.owner.heard:  # type: ignore[union-attr]
                raise InvalidArgument(f"{self.owner} has no on_data")
        self.state.set_mode(parsed, count)
        self._count_ran_out = self.fin_seen = False
        if not self._in_callback:
            self.settle()

    def transfer(self, handle: Any, target: Owner) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.transfer`; ``target`` is able and willing."""
        self.check_owner(handle)
        self.state.check(TRANSFER)
        if self._receiver is not None:
            raise Busy("a receive waits")
        name = target.takes_transfers()
        turn = Turn(self)
        if not target.tell(turn):  # before anything changes
            raise NoSuchActor(str(target))
        was_pending = self.state.phase is PENDING
        if self._announcement is not None and self.listener is not None:
            self.listener.heard_of(self)
        owner, self.owner = self.owner, target
        owner.connections.pop(self, None)  # type: ignore[union-attr]
        target.connections[self] = None
        if owner.max_connections is not None:  # type: ignore[union-attr]  # its owner has called
            owner.lost_connection()  # type: ignore[union-attr]
        if target is not owner:
            self.handle = target.handle_for(self)
        self._turn = turn
        self._announcement = name
        self._count_ran_out = self._close_told = self._tls_news = False
        self.state.apply(TRANSFER)
        self.network.metrics.transfers += 1
        if was_pending:
            self.opened()
        else:
            self.refresh()
            self.update_interest(stop_reading=True)

    def set_options(self, handle: Any, changes: dict[str, Any]) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.set_options`."""
        self.check_owner(handle)
        options = self.options.replaced(**changes)
        if self.fd >= 0:
            apply_to_socket(self.sock, options, self.options)
            self._forget_deadlines()
            self.options = options
            self._renew_deadlines()
        self.options = options
        if self._receiver is not None and (self._leftover or self._input) and self._input_has_chunk():
            self._serve_receiver()  # what was no whole chunk by the old framing is one by the new
        self.refresh()  # now, though a turn may be on its way: the next send goes by these options
        self.settle()

    def close(self, handle: Any) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.close`."""
        self.check_owner(handle)
        self.state.apply(CLOSE)
        self._leave_owner()
        self.finish()
        self._end_if_done()

    def abort(self, handle: Any) -> None:
        """See :meth:`theater_tcp.tcp.ConnectionHandle.abort`."""
        self.check_owner(handle)
        self.state.apply(ABORT)
        self._leave_owner()
        self.reset()

    # -- the end --------------------------------------------------------------------------------------------------

    def end_was_heard(self) -> None:
        """The owner has heard of the end, or does not want to."""
        if self.state.phase is CLOSING:
            self._leave_owner()
            self._end_if_done()
        elif not self.options.half_open:
            self.state.apply(CLOSE)
            self._leave_owner()
            if self.output is None and self.tls is None:
                self.release_socket()  # the peer has ended, and all is said
            else:
                self.finish()

    def reset(self) -> None:
        """RST, at once."""
        if self.fd >= 0:
            reset_on_close(self.sock)
            self.release_socket()
        self._end_if_done()

    def owner_ended(self) -> None:
        """The owner's life is over: flush and close."""
        if self.state.phase in (HANDSHAKING, PENDING, OPEN, UPGRADING):
            self.state.apply(CLOSE)
        self._leave_owner()
        self.finish()
        self._end_if_done()

    def fail(self, reason: str, flush: bool = False) -> None:
        """The runtime ends the connection; its owner hears ``reason``.

        Args:
            reason: an error kind, with a detail or without.
            flush: whether what was sent is still delivered.
        """
        if self.state.phase is CLOSING and self.reason is not None:
            return
        never_told = self.state.phase is PENDING and self._announcement is not None  # else it was handed over
        self.state.apply(FAIL)
        self._count_ran_out = False
        self._tls_news = False
        if self.reason is None:
            self.reason = reason
        self.direct = self.sends_directly = False
        self._wake_waiters()
        if flush:
            self.finish()
        else:
            if self.output is None:
                self.say_goodbye()
            if self.output is not None and self.fd >= 0:
                reset_on_close(self.sock)  # incomplete: the peer must not take it for a whole stream
            self.release_socket()
        if self._close_told or self.hidden or never_told:
            self._leave_owner()
            self._end_if_done()
        else:
            self.offer()

    def abort_for_shutdown(self) -> None:
        """The runtime does not wait any longer: RST, and the owner hears ``shutdown``."""
        if self.fd >= 0:
            reset_on_close(self.sock)
        if self.owner is None or self._close_told:
            if self.state.phase is OPEN:  # its end of stream is being told
                self.state.apply(FAIL)
            self._leave_owner()
            self.release_socket()
            self._end_if_done()
        else:
            self.fail("shutdown")

    def pending_expired(self) -> None:
        """Nobody activated or transferred the connection in time."""
        self.network.metrics.timeouts += 1
        self.fail("timeout")

    def idle_expired(self) -> None:
        """No byte for ``idle_timeout``, or one came meanwhile and the rest of the time is still to pass."""
        timeout = self.options.idle_timeout
        if timeout is None or self.fd < 0 or self.state.phase is not OPEN:
            return
        left = self.last_activity + timeout - self.network.loop.now
        if left > 0:
            grain = timeout / 16  # few durations, though the rests are as many as the connections: late by at most one
            self.look_for_idleness(math.ceil(left / grain) * grain)
        else:
            self.network.metrics.timeouts += 1
            self.fail("timeout", flush=True)

    def socket_released(self) -> None:
        """The socket is closed: with the owner's last word, the actor's life ends."""
        if self._awaits_activation or self._idle_delay is not None:
            self._forget_deadlines()
        if self.flush_waiters is not None:
            self._wake_waiters()  # a handler that waits for room would keep its owner from hearing of the end
        if self.listener is not None:
            self.listener.connection_ended()
        if self.state.phase is CLOSING:
            self._end_if_done()

    def on_stop(self) -> None:
        """The actor is stopped from outside, as by ``ActorRegistry.stop_all``: the owner hears ``shutdown``."""
        if self.fd >= 0:
            if self.output is not None:
                self.flush()
            if self.state.phase is not CLOSING:
                self.fail("shutdown")
            self.release_socket()

    def _leave_owner(self) -> None:
        owner = self.owner
        if owner is not None:
            owner.connections.pop(self, None)
            if owner.max_connections is not None:
                owner.lost_connection()
        if self.listener is not None and (self._announcement is not None or self.hidden):
            self.listener.heard_of(self)
        self.owner = self.handle = self._turn = self._announcement = None
        self._tls_news = False
        self.direct = self.sends_directly = False
        self._input, self._leftover = None, b""
        if self._receiver is not None or self.flush_waiters is not None or self.handshake is not None:
            self._wake_waiters()

    def _end_life(self) -> None:
        box = self.actor_inbox
        if box.queue is None and box.first is None:  # nobody ever wrote to it: nothing to refuse
            box.closed = box.scheduled = True
            box.actor = None
        else:
            super()._end_life()

    def _end_if_done(self) -> None:
        if self.fd >= 0 or self.owner is not None or self.state.phase is not CLOSING:
            return
        self.state.apply(RELEASE)
        self.network.connections.pop(self, None)
        if not self.actor_stopped.is_set():
            self.network.registry.pop(self.actor_ref, None)
            self.actor_stopped.set()
            if not self.actor_inbox.scheduled:
                self._end_life()  # else the turn under way ends it

    # -- deadlines --------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The connection is open from now on."""
        self.fin_seen = False  # what was seen while it was pending is looked at again
        if self._awaits_activation:
            self._awaits_activation = False
            self.network.pending_deadlines.clear(self, self.options.pending_timeout)
        if self.options.idle_timeout is not None:
            self.look_for_idleness(self.options.idle_timeout)
        if not self._in_callback:
            self.refresh()
            self.update_interest()

    def wait_for_activation(self) -> None:
        """The connection is still pending after its owner was told, or could not be told at once."""
        self._awaits_activation = True
        self.network.pending_deadlines.set(self, self.options.pending_timeout)
        self.update_interest()

    def look_for_idleness(self, delay: float | None) -> None:
        """Let :meth:`idle_expired` come in ``delay`` seconds, and not when it was to come before; None: never."""
        deadlines = self.network.idle_deadlines
        if self._idle_delay is not None:
            deadlines.clear(self, self._idle_delay)
        self._idle_delay = delay if self.fd >= 0 else None
        if self._idle_delay is not None:
            deadlines.set(self, self._idle_delay)

    def _forget_deadlines(self) -> None:
        network, options = self.network, self.options
        if self._awaits_activation:
            network.pending_deadlines.clear(self, options.pending_timeout)
        if self.output is not None:
            network.send_deadlines.clear(self, options.send_timeout)
        self.look_for_idleness(None)

    def _renew_deadlines(self) -> None:
        network, options = self.network, self.options
        if self._awaits_activation:
            network.pending_deadlines.set(self, options.pending_timeout)
        if self.output is not None:
            network.send_deadlines.set(self, options.send_timeout)
        if self.state.phase is OPEN:
            self.look_for_idleness(options.idle_timeout)
