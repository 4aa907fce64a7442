"""Credentials: the TLS context of each setting, taken anew when a file has changed, and the sessions of clients.

Theory of operation. What a listener or a client shows and trusts is one ``ssl.SSLContext``. A connection takes it when
its handshake begins and keeps it, so that a new one changes nothing for connections that live. :class:`Credentials`
looks at the files every ``reload`` seconds. Looking, reading and checking is done by a worker thread, since a disk may
be slow; the loop does no more than put the new context into the place of the old one. What is wrong with the new files
is logged, and the old context stays.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar
from weakref import WeakValueDictionary

from theater_tcp.errors import InvalidArgument, ShutDown
from theater_tcp.event_loop import Deadlines
from theater_tcp.future import Future
from theater_tcp.tls_context import Built, build_client, build_server, files_of

if TYPE_CHECKING:
    import ssl

    from theater_tcp.event_loop import EventLoop
    from theater_tcp.metrics import Metrics
    from theater_tcp.settings import Options
    from theater_tcp.tls_settings import ClientTls, ServerTls
    from theater_tcp.workers import Workers

__all__ = ["ClientCredentials", "Credentials", "ServerCredentials"]

logger = logging.getLogger("theater_tcp.credentials")

MAX_HOSTS = 1000
"""Servers whose sessions a client keeps."""

SESSIONS_PER_HOST = 2
"""Sessions that are kept of one server: a session is used once, and a client often opens a second connection."""

MAX_KEPT = 256
"""Credentials that stay ready although nobody holds them."""

EXPIRES_SOON = timedelta(days=14)
"""How long before its end a certificate is warned of: whatever renews it has failed some times by then."""

C = TypeVar("C", bound="_Credentials")


class _Credentials:
    """A context, and the files that it came from."""

    section: ClassVar[str]
    """What the settings are called where they stand."""

    def __init__(self, tls: ServerTls | ClientTls) -> None:
        self._files = files_of(tls)
        self._seen: dict[str, object] = {}
        self.failure = ""
        """What was wrong with the files at the last look."""
        self.reload_after = tls.reload if self._files else None
        """Seconds between two looks at the files; None: nobody looks."""
        self.take(self.build())

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next handshake. Nothing alters it: a reload puts another one into its place."""
        return self.built.context

    def changed(self) -> bool:
        """Whether a file is another one, or altered, or gone, since all of them were last read or tried to be read."""
        return self._states() != self._seen

    def reload(self) -> None:
        """Read all files again.

        Raises:
            InvalidArgument: something is wrong with them, ``field: file: reason``; the context stays as it was.
        """
        self.take(self.build())

    def build(self) -> Built:
        """What the files say now, which changes nothing yet. Any thread may ask, one at a time. Errors as above."""
        self._seen = self._states()  # before they are read: what changes in between is seen by the next look
        return self._build()

    def rebuild(self) -> Built | None:
        """What the files say now if they changed, or were wrong. Any thread may ask, one at a time. Errors as above."""
        return self.build() if self.changed() or self.failure else None

    def take(self, built: Built) -> None:
        """Let it be what is used from now on."""
        self.built = built
        for shown in built.shown:
            left = shown.expires - datetime.now(UTC)
            if left < EXPIRES_SOON:
                logger.warning("%s: %s, and that is in %s", self.section, shown, _days(left))

    def _build(self) -> Built:
        raise NotImplementedError

    def _states(self) -> dict[str, object]:
        """What tells each file from another one and from what it was before; None where there is none."""
        states: dict[str, object] = {}
        for path in self._files:
            try:
                stat = os.stat(path)
            except (OSError, ValueError):
                states[path] = None
            else:
                states[path] = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        return states


class ServerCredentials(_Credentials):
    """What a server shows of itself, and what it asks of clients.

    Args:
        tls: the settings; all files are read and checked.

    Raises:
        InvalidArgument: something is wrong with a file, ``field: file: reason``.
    """

    section = "server_tls"

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        super().__init__(tls)

    def _build(self) -> Built:
        return build_server(self._tls)


class ClientCredentials(_Credentials):
    """Whom a client trusts, what it shows of itself, and the sessions that it may take up again.

    Args:
        tls: the settings; all files are read and checked. There is a warning if it trusts anybody (``skip_verify``).

    Raises:
        InvalidArgument: something is wrong with a file, ``field: file: reason``.
    """

    section = "client_tls"

    def __init__(self, tls: ClientTls) -> None:
        self._tls = tls
        self._sessions: dict[tuple[str, str], list[ssl.SSLSession]] = {}
        super().__init__(tls)
        if tls.skip_verify:
            logger.warning("client_tls: skip_verify: no certificate is verified, so anybody may pose as any server")

    def session_for(self, key: tuple[str, str]) -> ssl.SSLSession | None:
        """A session to take up again, the newest; it is taken out, since to use one twice lets an observer link the
        two connections (RFC 8446, C.4).

        Args:
            key: the name that is verified, and the address.
        """
        sessions = self._sessions.get(key)
        if not sessions:
            return None
        session = sessions.pop()
        if not sessions:
            del self._sessions[key]
        return session

    def keep(self, key: tuple[str, str], session: ssl.SSLSession, context: ssl.SSLContext) -> None:
        """Keep a session for the next connection to that server.

        Args:
            key: the name that was verified, and the address.
            session: what the connection has; one without a ticket can't be taken up again, and is not kept.
            context: what the connection was made with. A session of another context than :attr:`context` is not kept.
        """
        if context is not self.context or not session.has_ticket:
            return
        sessions = self._sessions.pop(key, [])
        sessions.append(session)
        del sessions[:-SESSIONS_PER_HOST]
        self._sessions[key] = sessions
        if len(self._sessions) > MAX_HOSTS:
            del self._sessions[next(iter(self._sessions))]

    def take(self, built: Built) -> None:
        """Let it be the context from now on; sessions of the old one end with it."""
        super().take(built)
        self._sessions.clear()

    def _build(self) -> Built:
        return build_client(self._tls)


class Credentials:
    """All credentials of a runtime, one for each setting that differs. Used on the loop's thread only.

    Args:
        loop: whose clock counts.
        workers: the threads that look at the files.
        metrics: where reloads are counted.
    """

    def __init__(self, loop: EventLoop, workers: Workers, metrics: Metrics) -> None:
        self._loop = loop
        self._workers = workers
        self._metrics = metrics
        self._known: WeakValueDictionary[ServerTls | ClientTls, _Credentials] = WeakValueDictionary()
        self._kept: dict[ServerTls | ClientTls, _Credentials] = {}
        self._under_way: set[ServerTls | ClientTls] = set()
        self._due: Deadlines[ServerTls | ClientTls] = Deadlines(loop, self._look)

    def server(self, tls: ServerTls) -> ServerCredentials:
        """The credentials of a server; the same object for equal settings.

        Raises:
            InvalidArgument: something is wrong with a file, ``field: file: reason``.
        """
        credentials = self._known.get(tls)
        if credentials is None:
            return self._add(tls, ServerCredentials(tls))
        assert isinstance(credentials, ServerCredentials)
        return credentials

    def client(self, tls: ClientTls) -> ClientCredentials:
        """The credentials of a client; the same object for settings that differ in what a connection alone is about.

        Raises:
            InvalidArgument: something is wrong with a file, ``field: file: reason``.
        """
        tls = tls.replaced(server_name=None, auto_handshake=True)
        credentials = self._known.get(tls)
        if credentials is None:
            return self._add(tls, ClientCredentials(tls))
        assert isinstance(credentials, ClientCredentials)
        return credentials

    def prepare(self, options: Options) -> None:
        """Have ready what these options name, so that whatever is wrong with it, or to be warned of, is told now.

        Raises:
            InvalidArgument: something is wrong with a file, ``server_tls.field: file: reason``.
        """
        section = "server_tls"
        try:
            if options.server_tls is not None and options.server_tls.enabled:
                self.server(options.server_tls)
            section = "client_tls"
            if options.client_tls is not None and options.client_tls.enabled:
                self.client(options.client_tls)
        except InvalidArgument as error:
            raise InvalidArgument(f"{section}.{error.detail}") from None

    def refresh(self) -> None:
        """Look at the files of all credentials now, whenever their time would be."""
        for key in list(self._known):
            self._look(key)

    def _add(self, key: ServerTls | ClientTls, credentials: C) -> C:
        self._known[key] = credentials
        self._kept[key] = credentials
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._look_later(key, credentials)
        return credentials

    def _look_later(self, key: ServerTls | ClientTls, credentials: _Credentials) -> None:
        if credentials.reload_after is not None:
            self._due.set(key, credentials.reload_after)

    def _look(self, key: ServerTls | ClientTls) -> None:
        credentials = self._known.get(key)
        if credentials is None or key in self._under_way:
            return
        self._under_way.add(key)
        outcome: Future[Built | None] = Future()
        outcome.on_done(lambda _: self._loop.call_soon(partial(self._looked, key, credentials, outcome)))
        self._workers.submit(credentials.rebuild, (), outcome)

    def _looked(self, key: ServerTls | ClientTls, credentials: _Credentials, outcome: Future[Built | None]) -> None:
        self._under_way.discard(key)
        try:
            built = outcome.get()
        except ShutDown:
            return
        except InvalidArgument as error:
            if error.detail != credentials.failure:  # it need not be the files: a certificate may not be valid yet
                credentials.failure = error.detail
                self._metrics.certificate_reload_failures += 1
                logger.error("%s: %s; what was read before stays in use", credentials.section, error.detail)
        except Exception:
            logger.exception("%s: looking at the files failed", credentials.section)
        else:
            if built is not None:
                credentials.failure = ""
                credentials.take(built)
                self._metrics.certificate_reloads += 1
                what = "; ".join(map(str, built.shown)) or "the CA certificates"
                logger.info("%s: changed files were taken up: %s", credentials.section, what)
        self._look_later(key, credentials)


def _days(left: timedelta) -> str:
    return f"{left.days} days" if left.days > 1 else f"{max(left, timedelta()).total_seconds() / 3600:.0f} hours"
