"""The server: an actor that accepts clients, carries each one's session, and stores what they send.

One actor owns all the connections. A session is a pure object, so it needs no actor of its own: what it has to do at a
chunk of input is done at once, and nothing of it waits but the disk. With ``fsync`` the messages that came in while the
disk was busy are stored together by a worker thread (see :mod:`actors.smtp.maildir`); a client whose message is
among them is passive until it is safe, and nobody else waits. Without ``fsync`` a message is only handed to the system,
which takes less time than a thread would need to hear of it.

At STARTTLS a client is passive too, until its handshake is done; the runtime does that, and again nobody else waits.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

import msgspec
import pykka

from actors.smtp import replies
from actors.smtp.envelope import Delivery, Encryption, Envelope
from actors.smtp.maildir import DeliveryFailed, Draft, Job, Maildir, MaildirUnusable
from actors.smtp.policy import LocalDomains
from actors.smtp.session import Session, Step
from actors.smtp.settings import ServerSettings
from actors.smtp.trace_fields import Trace
from theater_tcp import ConnectionHandle, Future, TcpActor, TheaterError, Timer
from theater_tcp.errors import InvalidArgument, PlaintextBeforeTls

__all__ = ["SmtpServer"]

logger = logging.getLogger("actors.smtp")

_TICKS = 8
"""Looks for silent clients during one timeout; a client is closed by one of them after at most 1/8 more."""


class _WrongSettings(TheaterError):
    """An argument of the server is wrong."""

    kind = "invalid"


class _Unusable(TheaterError):
    """What the server needs can't be used."""

    kind = "io"


class _Client:
    """A connection and its session.

    Args:
        connection: the connection.
        session: its session.
        tick: when something was last heard.
    """

    __slots__ = (
        "connection",
        "draft",
        "envelope",
        "has_ended",
        "is_gone",
        "is_paused",
        "is_storing",
        "session",
        "tick",
    )

    def __init__(self, connection: ConnectionHandle, session: Session, tick: int) -> None:
        self.connection = connection
        self.session = session
        self.tick = tick
        self.draft: Draft | None = None  # the message that parts were written of
        self.envelope: Envelope | None = None  # that message's
        self.is_storing = False  # the worker thread has a job for it
        self.is_paused = False  # passive until that is done, or a handshake
        self.has_ended = False  # it will send nothing more
        self.is_gone = False


class _Batch(NamedTuple):
    """What the worker thread stores in one call."""

    clients: list[_Client]
    jobs: list[Job]
    outcome: Future[list[DeliveryFailed | None]]


class _Stored(NamedTuple):
    """The worker thread is through with the batch: a message to the server itself."""

    failures: list[DeliveryFailed | None]


class SmtpServer(TcpActor):
    """Receives mail on the listeners that it is given, and delivers it to a Maildir.

    STARTTLS is offered on connections whose listener has a certificate and leaves the handshake to the actor
    (``server_tls`` with ``auto_handshake`` off).

    Args:
        maildir: the folder; the other arguments are those of :class:`~actors.smtp.settings.ServerSettings`.

    Raises:
        TheaterError: ``invalid``: an argument is wrong, or ``implicit_tls`` has no certificate; from ``on_start``
            ``io``: the folder can't be used, ``address-in-use``.
    """

    settings_type: ClassVar[type[ServerSettings]] = ServerSettings

    def __init__(
        self,
        *,
        maildir: str,
        hostname: str | msgspec.UnsetType = msgspec.UNSET,
        domains: list[str] | msgspec.UnsetType = msgspec.UNSET,
        fsync: bool | msgspec.UnsetType = msgspec.UNSET,
        timeout: float | msgspec.UnsetType = msgspec.UNSET,
        require_tls: bool | msgspec.UnsetType = msgspec.UNSET,
        implicit_tls: list[str] | msgspec.UnsetType = msgspec.UNSET,
        max_message_size: int | msgspec.UnsetType = msgspec.UNSET,
        max_recipients: int | msgspec.UnsetType = msgspec.UNSET,
        max_errors: int | msgspec.UnsetType = msgspec.UNSET,
        max_asides: int | msgspec.UnsetType = msgspec.UNSET,
        max_command_line: int | msgspec.UnsetType = msgspec.UNSET,
        max_text_line: int | msgspec.UnsetType = msgspec.UNSET,
        spool_size: int | msgspec.UnsetType = msgspec.UNSET,
    ) -> None:
        arguments = locals()
        named = {name: arguments[name] for name in ServerSettings.__struct_fields__}
        try:
            settings = msgspec.convert(
                {name: value for name, value in named.items() if value is not msgspec.UNSET}, type=self.settings_type
            )
        except msgspec.ValidationError as error:
            raise _WrongSettings(_with_name_first(str(error))) from None
        super().__init__()
        self._settings = settings
        self._policy = LocalDomains(settings.domains or (settings.hostname,))
        self._trace = Trace(settings.hostname)
        self._clients: dict[ConnectionHandle, _Client] = {}
        self._tick = 0
        self._timer: Timer | None = None
        self._maildir: Maildir
        self._batch: _Batch | None = None
        self._waiting: list[tuple[_Client, Job]] = []
        self.injections = 0
        """Connections that were closed because bytes came in plaintext behind STARTTLS."""

    def on_start(self) -> None:
        """Listen where TLS begins with the first byte, and open the Maildir."""
        self._listen()
        try:
            self._maildir = Maildir(self._settings.maildir, fsync=self._settings.fsync)
        except MaildirUnusable as error:
            raise _Unusable(str(error)) from error
        self._look_later()

    async def on_stop(self) -> None:  # type: ignore[override]  # the runtime awaits it
        """Give up what is unfinished, after the worker thread has let go of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._batch is not None:
            with suppress(Exception):  # told by tell()
                await self._batch.outcome
        self._give_up()

    def on_failure(self, *_error: object) -> None:
        """Give up what is unfinished, as soon as the worker thread has let go of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._batch is None:
            self._give_up()
        else:
            self._batch.outcome.on_done(lambda _: self._give_up())

    def _give_up(self) -> None:
        """Leave nothing of what is unfinished. The Maildir goes last, for a draft is removed from its open folder."""
        clients = [*self._clients.values(), *(client for client, _ in self._waiting)]
        if self._batch is not None:
            clients += self._batch.clients
        for client in clients:
            self._discard(client)
        self._maildir.close()

    def _listen(self) -> None:
        tls = self.tcp.options.server_tls
        for address in self._settings.implicit_tls:
            if tls is None or not tls.enabled:
                raise _WrongSettings("implicit_tls: there is no certificate for it (server_tls is not set)")
            try:
                self.tcp.listen(address, server_tls=msgspec.structs.replace(tls, auto_handshake=True))
            except InvalidArgument as error:
                raise _WrongSettings(f"implicit_tls: {error.detail}") from error

    # -- clients --------------------------------------------------------------------------------------------------

    def handle_connection(self, connection: ConnectionHandle) -> None:
        """Greet a client."""
        encryption = _encryption_of(connection)
        session = self._new_session(connection, encryption)
        if self._settings.require_tls and encryption is None and not connection.tls_available:
            logger.error("%s: require_tls is set, and there is no TLS to be had", connection.local_address)
        self._clients[connection] = _Client(connection, session, self._tick)
        connection.activate()
        connection.send(session.greeting())
        connection.set_active("active")

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        """Let the session take what a client sent."""
        client = self._clients[connection]
        session = client.session
        step = session.receive(data)
        if client.is_storing:
            # The session keeps this for later. A client that waits for its replies never comes here.
            client.is_paused = True
            connection.set_active("passive")
            return
        if step.reply or session.is_in_content:  # a command that comes byte by byte has said nothing yet
            client.tick = self._tick
        if step.delivery is None and not step.close and not step.upgrade and client.draft is None:
            if step.reply:
                connection.send(step.reply)
        else:
            self._follow(client, step)

    def on_tls(self, connection: ConnectionHandle) -> None:
        """A client's connection has become TLS."""
        client = self._clients[connection]
        client.tick = self._tick
        encryption = _encryption_of(connection)
        assert encryption is not None, "there is no TLS after an upgrade"
        self._follow_if_there(client, client.session.secured(encryption))

    def on_close(self, connection: ConnectionHandle, reason: str) -> None:
        """A client has gone; a message that it had not finished goes with it."""
        client = self._clients.get(connection)
        if client is None:
            return  # it could not be answered a moment ago
        if reason.partition(":")[0] == PlaintextBeforeTls.kind:
            self._tell_injection(client)
        if reason == "eof":
            client.has_ended = True
            if client.is_storing:
                return  # with ``half_open`` it is still there for the reply
            connection.close()
        logger.debug("a client has gone: %s", reason)
        self._forget(client)

    def on_drain(self) -> None:
        """Say goodbye to the clients, to each as soon as the message is in that it is sending."""
        for client in list(self._clients.values()):
            step = client.session.shut_down()
            if not client.is_storing:
                self._follow_if_there(client, step)

    def on_receive(self, message: Any) -> Any:
        """A batch has been stored."""
        batch = self._batch
        if batch is None or not isinstance(message, _Stored):
            return super().on_receive(message)  # which logs that it was not expected
        self._batch = None
        self._store_waiting()
        for client, job, failure in zip(batch.clients, batch.jobs, message.failures, strict=True):
            self._carry_on(client, job, failure)
        return None

    def _new_session(self, connection: ConnectionHandle, encryption: Encryption | None) -> Session:
        return Session(
            self._settings,
            connection.peer_address,
            self._policy,
            offers_tls=connection.tls_available,
            encryption=encryption,
        )

    def _follow(self, client: _Client, step: Step) -> None:
        """Do what a step says, and what the steps after it say."""
        while step.delivery is not None:
            if step.reply:
                client.connection.send(step.reply)
            job = self._job(client, step.delivery)
            if self._settings.fsync:
                client.is_storing = True
                self._waiting.append((client, job))
                self._store_waiting()
                return
            step = self._tell(client, job, self._maildir.store((job,))[0])
        if step.reply:
            client.connection.send(step.reply)
        if client.draft is not None and not client.session.has_parts_out:
            self._discard(client)
        if step.injection:
            self._tell_injection(client)
        if step.close or client.has_ended:
            client.connection.close()
            self._forget(client)
        elif step.upgrade:
            client.is_paused = True
            client.connection.set_active("passive")
            client.connection.upgrade_to_tls_server()  # on_tls or on_close tells how it went

    def _follow_if_there(self, client: _Client, step: Step) -> None:
        """Follow a step outside of the client's callbacks, when the connection may have ended already."""
        try:
            self._follow(client, step)
            if client.is_paused and not (client.is_storing or client.session.is_upgrading or client.is_gone):
                client.is_paused = False
                client.connection.set_active("active")
        except TheaterError as error:
            logger.debug("a client could not be answered: %s", error)
            self._forget(client)

    def _forget(self, client: _Client) -> None:
        if client.is_gone:
            return
        del self._clients[client.connection]
        client.is_gone = True
        if not client.is_storing:
            self._discard(client)

    def _tell_injection(self, client: _Client) -> None:
        self.injections += 1
        logger.warning("%s: closed, for plaintext came behind STARTTLS", client.connection.peer_address)

    def _look_later(self) -> None:
        self._timer = self.call_later(self._settings.timeout / _TICKS, self._look)

    def _look(self) -> None:
        """Close the clients that were silent for too long."""
        self._tick += 1
        oldest = self._tick - _TICKS
        for client in [client for client in self._clients.values() if client.tick < oldest and not client.is_storing]:
            self._follow_if_there(client, client.session.time_out())
        self._look_later()

    # -- messages -------------------------------------------------------------------------------------------------

    def _job(self, client: _Client, delivery: Delivery) -> Job:
        if client.envelope is not delivery.envelope:
            self._discard(client)  # of a message that was given up in the same piece of input in which this one came
        draft = client.draft
        if draft is not None:
            return Job(draft, delivery.content, delivery.complete)
        draft = client.draft = self._maildir.draft()
        client.envelope = delivery.envelope
        fields = self._trace.fields(delivery.envelope, draft.identifier, time.time())
        return Job(draft, (fields, *delivery.content), delivery.complete)

    def _store_waiting(self) -> None:
        """Have the worker thread store what waits, unless it is at it."""
        if self._batch is not None or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        jobs = [job for _, job in waiting]
        actor_ref = self.actor_ref

        def tell(outcome: Future[list[DeliveryFailed | None]]) -> None:
            """On the worker's thread."""
            failures: list[DeliveryFailed | None]
            try:
                failures = outcome.get()
            except Exception as error:  # the pool is closed, or there is no memory: nothing is known to be safe
                logger.exception("storing broke off")
                failures = [DeliveryFailed(type(error).__name__, has_no_room=False) for _ in jobs]
            with suppress(pykka.ActorDeadError):  # the server ended meanwhile, and the connections with it
                actor_ref.tell(_Stored(failures))

        self._batch = _Batch([client for client, _ in waiting], jobs, self.to_thread(self._maildir.store, jobs))
        self._batch.outcome.on_done(tell)

    def _carry_on(self, client: _Client, job: Job, failure: DeliveryFailed | None) -> None:
        """The worker thread is through with a client's job."""
        client.is_storing = False
        if client.is_gone:
            self._discard(client)  # what was delivered is no draft any more, and stays
            return
        client.tick = self._tick
        self._follow_if_there(client, self._tell(client, job, failure))

    def _tell(self, client: _Client, job: Job, failure: DeliveryFailed | None) -> Step:
        """Tell the session how a job went."""
        if failure is not None:
            self._discard(client)
            logger.error("%s: not stored: %s", self._maildir.path, failure)
            return client.session.failed(replies.STORAGE_FULL if failure.has_no_room else replies.LOCAL_ERROR)
        if not job.is_last:
            return client.session.stored()
        client.draft = None
        logger.debug("%s: stored", job.draft.name)
        return client.session.delivered(job.draft.identifier)

    def _discard(self, client: _Client) -> None:
        draft, client.draft = client.draft, None
        if draft is not None:
            draft.discard()


def _encryption_of(connection: ConnectionHandle) -> Encryption | None:
    info = connection.tls_info
    return None if info is None else Encryption(info.version, info.cipher)


def _with_name_first(message: str) -> str:
    """msgspec's message with the name of the setting in front, where it names one."""
    reason, _, place = message.replace("`", "'").partition(" - at '$.")
    return f"{place.rstrip(chr(39))}: {reason[0].lower()}{reason[1:]}" if place else reason
