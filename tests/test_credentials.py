"""Credentials: certificates that are taken up anew, and those that are not; sessions; who shares what."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.in_time import TIMEOUT, in_time
from tests.stepped_loop import SteppedLoop
from tests.tls_pair import Pair
from theater_tcp import ConnectionHandle, TcpActor, Theater
from theater_tcp import credentials as credentials_module
from theater_tcp.certificates import facts_from_der
from theater_tcp.credentials import (
    MAX_HOSTS,
    MAX_KEPT,
    SESSIONS_PER_HOST,
    ClientCredentials,
    Credentials,
    ServerCredentials,
)
from theater_tcp.errors import InvalidArgument
from theater_tcp.future import Future
from theater_tcp.metrics import Metrics
from theater_tcp.settings import Options
from theater_tcp.tls_context import Built, build_server
from theater_tcp.tls_settings import CertificateFiles, ClientTls, ServerTls
from theater_tcp.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.certificates_fixture import Certificates

KEY = ("mx.example.org", "192.0.2.1:25")


class Files:
    """A server's certificate in files that a test may replace."""

    def __init__(self, folder: Path, first: CertificateFiles) -> None:
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.put(first)

    def put(self, files: CertificateFiles) -> None:
        """Replace both, as a program that renews certificates does it: each by a rename."""
        for source, target in ((files.cert, self.cert), (files.key, self.key)):
            shutil.copy(str(source), f"{target}.new")
            os.rename(f"{target}.new", target)

    def tls(self, **more: Any) -> ServerTls:
        return ServerTls(cert=str(self.cert), key=str(self.key), **more)


@pytest.fixture
def files(tmp_path: Path, certificates: Certificates) -> Files:
    return Files(tmp_path, certificates.server)


@pytest.fixture
def own(certificates: Certificates) -> ClientCredentials:
    """A client's credentials."""
    return ClientCredentials(ClientTls(ca_cert=certificates.ca))


def anybody() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def shown(context: ssl.SSLContext) -> str:
    """The first name in the certificate that a server shows."""
    return Pair(context, anybody(), None).shown[0]


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """What was logged at this level, without what other parts say."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.name == "theater_tcp.credentials"
    ]


# -- files that change --------------------------------------------------------------------------------------------


def test_files_that_stay_as_they_are_have_not_changed(files: Files) -> None:
    credentials = ServerCredentials(files.tls())
    assert not credentials.changed()
    files.cert.read_bytes()
    assert not credentials.changed()


def replaced(files: Files) -> None:
    shutil.copy2(files.cert, f"{files.cert}.new")  # with the old one's times
    os.rename(f"{files.cert}.new", files.cert)


def altered(files: Files) -> None:
    status = files.key.stat()
    os.utime(files.key, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def grown(files: Files) -> None:
    status = files.cert.stat()
    with files.cert.open("a") as stream:
        stream.write("\n")
    os.utime(files.cert, ns=(status.st_atime_ns, status.st_mtime_ns))


def removed(files: Files) -> None:
    files.key.unlink()


def overwritten(files: Files) -> None:
    status = files.cert.stat()
    files.cert.write_bytes(bytes(status.st_size))  # as long as before, and as old by the one time that can be set
    os.utime(files.cert, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("happened", [replaced, altered, grown, overwritten, removed])
def test_a_file_that_is_replaced_altered_or_gone_has_changed(files: Files, happened: Callable[[Files], None]) -> None:
    credentials = ServerCredentials(files.tls())
    happened(files)
    assert credentials.changed()


def test_every_file_is_looked_at(tmp_path: Path, certificates: Certificates) -> None:
    names = ("cert", "key", "client_ca", "named_cert", "named_key")
    own, other = certificates.server, certificates.other
    sources = (own.cert, own.key, certificates.ca, other.cert, other.key)
    paths = {name: str(tmp_path / name) for name in names}
    for name, source in zip(names, sources, strict=True):
        shutil.copy(str(source), paths[name])
    tls = ServerTls(
        cert=paths["cert"],
        key=paths["key"],
        client_ca=paths["client_ca"],
        client_auth="optional",
        sni={"other.example.org": CertificateFiles(cert=paths["named_cert"], key=paths["named_key"])},
    )
    credentials = ServerCredentials(tls)
    for path in paths.values():
        os.utime(path, ns=(0, 0))
        assert credentials.changed()
        credentials.reload()
        assert not credentials.changed()


def test_a_reload_takes_up_what_the_files_say_now(files: Files, certificates: Certificates) -> None:
    credentials = ServerCredentials(files.tls())
    before = credentials.context
    assert shown(before) == "localhost"
    files.put(certificates.other)
    assert credentials.context is before
    credentials.reload()
    assert credentials.context is not before
    assert shown(credentials.context) == "other.example.org"
    assert not credentials.changed()


def test_a_connection_goes_on_with_what_it_began_with(files: Files, certificates: Certificates) -> None:
    credentials = ServerCredentials(files.tls())
    pair = Pair(credentials.context, anybody(), None)
    files.put(certificates.other)
    credentials.reload()
    pair.client.write(b"still here")
    assert pair.server.read(100) == b"still here"


def test_a_reload_of_wrong_files_is_refused_and_keeps_what_there_was(files: Files, certificates: Certificates) -> None:
    credentials = ServerCredentials(files.tls())
    before = credentials.context
    shutil.copy(str(certificates.other.cert), files.cert)
    with pytest.raises(InvalidArgument) as caught:
        credentials.reload()
    assert caught.value.detail == f"key: {files.key}: does not fit the certificate in {files.cert}"
    assert credentials.context is before
    assert not credentials.changed()  # or the same mistake would be told every few seconds
    files.put(certificates.other)
    assert credentials.changed()


def test_files_that_are_wrong_from_the_start_are_refused(files: Files) -> None:
    files.key.unlink()
    with pytest.raises(InvalidArgument, match=r"key: .*server\.key: no such file or directory"):
        ServerCredentials(files.tls())
    with pytest.raises(InvalidArgument, match=r"ca_cert: .*none: no such file or directory"):
        ClientCredentials(ClientTls(ca_cert=f"{files.cert}.none"))


def test_a_file_that_changes_while_it_is_read_is_seen_by_the_next_look(
    files: Files, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = ServerCredentials(files.tls())

    def build_and_replace(tls: ServerTls) -> Built:
        built = build_server(tls)
        files.put(certificates.other)
        return built

    monkeypatch.setattr(credentials_module, "build_server", build_and_replace)
    credentials.reload()
    monkeypatch.undo()
    assert shown(credentials.context) == "localhost"
    assert credentials.changed()


# -- warnings -----------------------------------------------------------------------------------------------------


def test_a_certificate_that_expires_soon_is_warned_of_whenever_it_is_read(
    files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files.put(certificates.issue("mx.example.org", days=13))
    credentials = ServerCredentials(files.tls())
    (line,) = lines(caplog, logging.WARNING)
    assert line.startswith(f"server_tls: {files.cert} (for mx.example.org) expires on 2")
    assert line.endswith(" UTC, and that is in 12 days")
    credentials.reload()
    assert len(lines(caplog, logging.WARNING)) == 2
    files.put(certificates.issue("mx.example.org", days=1))
    credentials.reload()
    assert lines(caplog, logging.WARNING)[2].endswith(" UTC, and that is in 24 hours")
    files.put(certificates.issue("mx.example.org", days=15))
    credentials.reload()
    assert len(lines(caplog, logging.WARNING)) == 3


def test_a_named_certificate_and_a_client_s_are_warned_of_too(
    files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    ServerCredentials(files.tls(sni={"soon.example.org": certificates.issue("soon.example.org", days=3)}))
    short = certificates.issue("me.example.org", days=3, client=True)
    ClientCredentials(ClientTls(ca_cert=certificates.ca, cert=short.cert, key=short.key))
    first, second = lines(caplog, logging.WARNING)
    assert first.startswith("server_tls: ")
    assert "(for soon.example.org)" in first
    assert second.startswith("client_tls: ")


def test_skip_verify_is_warned_of_each_time_that_it_is_put_to_use(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        ClientCredentials(ClientTls(skip_verify=True))
    warning = "client_tls: skip_verify: no certificate is verified, so anybody may pose as any server"
    assert lines(caplog, logging.WARNING) == [warning] * 2


def test_who_verifies_is_not_warned(own: ClientCredentials, caplog: pytest.LogCaptureFixture) -> None:
    assert own.context.verify_mode is ssl.CERT_REQUIRED
    assert lines(caplog, logging.WARNING) == []


# -- sessions -----------------------------------------------------------------------------------------------------


def sessions(own: ClientCredentials, certificates: Certificates, count: int) -> list[ssl.SSLSession]:
    """So many sessions with a server."""
    server = ServerCredentials(ServerTls(cert=certificates.server.cert, key=certificates.server.key)).context
    made = [Pair(server, own.context).client.session for _ in range(count)]
    return [session for session in made if session is not None]


def test_a_session_is_used_once(own: ClientCredentials, certificates: Certificates) -> None:
    (session,) = sessions(own, certificates, 1)
    assert own.session_for(KEY) is None
    own.keep(KEY, session, own.context)
    assert own.session_for(("other.example.org", KEY[1])) is None
    assert own.session_for(KEY) is session
    assert own.session_for(KEY) is None


def test_the_newest_sessions_of_a_server_are_kept(own: ClientCredentials, certificates: Certificates) -> None:
    made = sessions(own, certificates, SESSIONS_PER_HOST + 1)
    for session in made:
        own.keep(KEY, session, own.context)
    assert [own.session_for(KEY) for _ in made] == [*reversed(made[1:]), None]


def test_the_servers_whose_sessions_are_kept_are_bounded_and_the_latest_stay(
    own: ClientCredentials, certificates: Certificates
) -> None:
    (session,) = sessions(own, certificates, 1)
    for number in range(MAX_HOSTS):
        own.keep((str(number), ""), session, own.context)
    own.keep(("0", ""), session, own.context)  # which makes it the latest
    own.keep(("one more", ""), session, own.context)
    assert own.session_for(("1", "")) is None
    assert own.session_for(("0", "")) is session
    assert own.session_for(("2", "")) is session
    assert own.session_for(("one more", "")) is session


def test_a_session_without_a_ticket_is_not_kept(own: ClientCredentials, certificates: Certificates) -> None:
    server = ServerCredentials(ServerTls(cert=certificates.server.cert, key=certificates.server.key)).context
    server.num_tickets = 0
    session = Pair(server, own.context).client.session
    assert session is not None
    own.keep(KEY, session, own.context)
    assert own.session_for(KEY) is None


def test_a_reload_forgets_the_sessions_and_takes_none_of_the_old_context(
    own: ClientCredentials, certificates: Certificates
) -> None:
    first, second = sessions(own, certificates, 2)
    before = own.context
    own.keep(KEY, first, before)
    own.reload()
    assert own.session_for(KEY) is None
    own.keep(KEY, second, before)  # its ticket came late
    assert own.session_for(KEY) is None


# -- all of a runtime ---------------------------------------------------------------------------------------------


class Stage:
    """The credentials of a runtime whose clock and loop a test moves; the looking is done by a real worker."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.loop = loop
        self.workers = Workers(1, "test-worker")
        self.metrics = Metrics()
        self.all = Credentials(loop, self.workers, self.metrics)

    def after(self, seconds: float) -> None:
        """Let so much time pass, and what is due then happen."""
        self.loop.turn(seconds)
        done: Future[None] = Future()
        self.workers.submit(int, (), done)  # there is one worker: all before it is done when this is
        in_time(lambda: done.get(timeout=TIMEOUT))
        self.loop.settle()

    @property
    def counted(self) -> tuple[int, int]:
        """Reloads and refused reloads."""
        return self.metrics.certificate_reloads, self.metrics.certificate_reload_failures


@pytest.fixture
def stage() -> Iterator[Stage]:
    with SteppedLoop() as loop:
        stage = Stage(loop)
        yield stage
        stage.workers.close()


def test_equal_settings_share_their_credentials(stage: Stage, files: Files, certificates: Certificates) -> None:
    first = stage.all.server(files.tls())
    assert stage.all.server(files.tls()) is first
    assert stage.all.server(files.tls(alpn=("smtp",))) is not first
    mine = stage.all.client(ClientTls(ca_cert=certificates.ca))
    assert stage.all.client(ClientTls(ca_cert=certificates.ca)) is mine
    assert stage.all.client(ClientTls(ca_cert=certificates.ca, min_version="1.3")) is not mine


def test_clients_that_differ_in_the_name_alone_share_their_credentials(
    stage: Stage, certificates: Certificates
) -> None:
    first = stage.all.client(ClientTls(ca_cert=certificates.ca, server_name="a.example.org"))
    second = stage.all.client(ClientTls(ca_cert=certificates.ca, server_name="b.example.org", auto_handshake=False))
    assert first is second


def test_wrong_files_are_refused_each_time(stage: Stage, files: Files) -> None:
    files.key.unlink()
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="no such file"):
            stage.all.server(files.tls())


def test_what_options_name_can_be_had_ready_and_what_is_wrong_is_told_then(
    stage: Stage, files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    options = Options(server_tls=files.tls(), client_tls=ClientTls(skip_verify=True))
    stage.all.prepare(options)
    stage.all.prepare(options)
    assert len(lines(caplog, logging.WARNING)) == 1
    stage.all.prepare(Options())
    missing = ClientTls(ca_cert=f"{files.cert}.none")
    with pytest.raises(InvalidArgument, match=r"^invalid: client_tls\.ca_cert: .*none: no such file or directory$"):
        stage.all.prepare(Options(server_tls=files.tls(), client_tls=missing))
    files.key.unlink()
    with pytest.raises(InvalidArgument, match=r"^invalid: server_tls\.key: .*server\.key: no such file or directory$"):
        stage.all.prepare(Options(server_tls=files.tls(min_version="1.3")))
    off = files.tls(enabled=False)
    stage.all.prepare(Options(server_tls=off, client_tls=missing.replaced(enabled=False)))


def test_a_changed_file_is_taken_up_when_it_is_time_to_look(
    stage: Stage, files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    credentials = stage.all.server(files.tls(reload=10))
    before = credentials.context
    files.put(certificates.other)
    stage.after(9.9)
    assert (credentials.context, stage.counted) == (before, (0, 0))
    stage.after(0.1)
    assert shown(credentials.context) == "other.example.org"
    assert stage.counted == (1, 0)
    (line,) = lines(caplog)
    assert line.startswith(
        f"server_tls: changed files were taken up: {files.cert} (for other.example.org) expires on 2"
    )


def test_looking_goes_on_and_what_has_not_changed_is_left_alone(
    stage: Stage, files: Files, certificates: Certificates
) -> None:
    credentials = stage.all.server(files.tls(reload=10))
    before = credentials.context
    for _ in range(3):
        stage.after(10)
    assert (credentials.context, stage.counted) == (before, (0, 0))
    for expected, source in ((1, certificates.other), (2, certificates.server)):
        files.put(source)
        stage.after(10)
        assert stage.counted == (expected, 0)


def test_a_key_that_was_for_everybody_to_read_is_taken_up_when_its_mode_is_mended(
    stage: Stage, files: Files, certificates: Certificates
) -> None:
    credentials = stage.all.server(files.tls(reload=10))
    files.put(certificates.other)
    os.chmod(files.key, 0o644)
    stage.after(10)
    assert stage.counted == (0, 1)
    os.chmod(files.key, 0o600)
    stage.after(10)
    assert stage.counted == (1, 1)
    assert shown(credentials.context) == "other.example.org"


def test_what_was_refused_is_looked_at_again_though_no_file_has_changed(
    stage: Stage, files: Files, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate may only not be valid yet."""
    credentials = stage.all.server(files.tls(reload=10))
    files.put(certificates.other)

    def refuse() -> Any:
        raise InvalidArgument("cert: it is not valid before tomorrow")

    with monkeypatch.context() as patched:
        patched.setattr(credentials, "_build", refuse)
        for _ in range(3):
            stage.after(10)
        assert stage.counted == (0, 1)
    stage.after(10)
    assert stage.counted == (1, 1)
    assert shown(credentials.context) == "other.example.org"


def test_files_that_are_wrong_again_after_they_were_right_are_told_again(
    stage: Stage, files: Files, certificates: Certificates
) -> None:
    stage.all.server(files.tls(reload=10))
    for number in (1, 2):
        shutil.copy(str(certificates.other.cert), files.cert)
        stage.after(10)
        files.put(certificates.server)
        stage.after(10)
        assert stage.counted == (number, number)
    stage.after(10)
    assert stage.counted == (2, 2)


def test_wrong_files_are_told_once_and_the_old_ones_stay_until_they_are_right(
    stage: Stage, files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = stage.all.server(files.tls(reload=10))
    before = credentials.context
    shutil.copy(str(certificates.other.cert), files.cert)
    for _ in range(3):
        stage.after(10)
    assert (credentials.context, stage.counted) == (before, (0, 1))
    reason = f"key: {files.key}: does not fit the certificate in {files.cert}"
    assert lines(caplog, logging.ERROR) == [f"server_tls: {reason}; what was read before stays in use"]
    files.put(certificates.other)
    stage.after(10)
    assert stage.counted == (1, 1)
    assert shown(credentials.context) == "other.example.org"


def test_without_reload_nobody_looks(stage: Stage, files: Files, certificates: Certificates) -> None:
    credentials = stage.all.server(files.tls(reload=None))
    before = credentials.context
    files.put(certificates.other)
    stage.all.client(ClientTls(skip_verify=True))  # which has no files
    stage.after(1e6)
    assert credentials.context is before
    assert stage.loop.next_due == float("inf")


def test_all_can_be_looked_at_at_once(stage: Stage, files: Files, certificates: Certificates) -> None:
    credentials = stage.all.server(files.tls(reload=None))
    files.put(certificates.other)
    stage.all.refresh()
    stage.after(0)
    assert shown(credentials.context) == "other.example.org"
    assert stage.counted == (1, 0)


def test_nobody_looks_at_files_that_are_being_looked_at(
    stage: Stage, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Future[Any]] = []
    monkeypatch.setattr(stage.workers, "submit", lambda _call, _args, outcome: looks.append(outcome))
    credentials = stage.all.server(files.tls(reload=10))
    stage.all.refresh()
    stage.all.refresh()
    stage.loop.turn(10)
    assert len(looks) == 1
    looks[0].set(None)
    stage.loop.settle()
    stage.all.refresh()
    assert len(looks) == 2
    assert not credentials.changed()


def test_a_client_s_cas_are_taken_up_too(
    stage: Stage, tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "ca.pem"
    shutil.copy(certificates.ca, path)
    own = stage.all.client(ClientTls(ca_cert=str(path)))
    server = ServerCredentials(ServerTls(cert=certificates.untrusted.cert, key=certificates.untrusted.key)).context
    with pytest.raises(ssl.SSLCertVerificationError):
        Pair(server, own.context)
    shutil.copy(certificates.untrusted_ca, path)
    stage.after(10)
    Pair(server, own.context)
    assert lines(caplog) == ["client_tls: changed files were taken up: the CA certificates"]


def test_an_accident_in_looking_is_logged_and_looking_goes_on(
    stage: Stage, files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    credentials = stage.all.server(files.tls(reload=10))
    files.put(certificates.other)

    def fail(_tls: ServerTls) -> Built:
        raise MemoryError

    monkeypatch.setattr(credentials_module, "build_server", fail)
    stage.after(10)
    monkeypatch.undo()
    assert lines(caplog, logging.ERROR) == ["server_tls: looking at the files failed"]
    files.put(certificates.other)
    stage.after(10)
    assert shown(credentials.context) == "other.example.org"


def test_a_runtime_that_goes_down_while_files_are_looked_at_says_nothing(
    stage: Stage, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    stage.all.server(files.tls(reload=10))
    stage.workers.close()
    stage.loop.turn(10)
    stage.loop.settle()
    assert lines(caplog, logging.ERROR) == []


class Opened(TcpActor):
    """A server that echoes."""

    def __init__(self, tls: ServerTls) -> None:
        super().__init__()
        self.tls = tls

    def on_start(self) -> None:
        self.address = self.tcp.listen("127.0.0.1:0", server_tls=self.tls).address

    def handle_connection(self, connection: ConnectionHandle) -> None:
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection: ConnectionHandle, data: bytes) -> None:
        connection.send(data)


class Waiting(logging.Handler):
    """Lets a test wait for a line of the log."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.came = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.came.set()


def test_a_running_server_shows_a_new_certificate_and_keeps_its_connections(
    files: Files, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def connect(port: int) -> tuple[ssl.SSLSocket, str]:
        peer = anybody().wrap_socket(socket.create_connection(("127.0.0.1", port), TIMEOUT))
        certificate = peer.getpeercert(binary_form=True)
        assert certificate is not None
        return peer, facts_from_der(certificate).names[0]

    waiting = Waiting("changed files were taken up")
    logging.getLogger("theater_tcp.credentials").addHandler(waiting)
    try:
        with Theater() as theater:
            actor = theater.spawn(Opened, files.tls()).proxy()
            port = int(actor.address.get(timeout=TIMEOUT).rpartition(":")[2])
            first, name = connect(port)
            assert name == "localhost"
            files.put(certificates.other)
            theater.loop.call_soon(theater.network.credentials.refresh)
            assert waiting.came.wait(TIMEOUT)
            second, name = connect(port)
            assert name == "other.example.org"
            for peer in (first, second):
                peer.sendall(b"still here")
                assert peer.recv(100) == b"still here"
                peer.close()
            assert theater.metrics().certificate_reloads == 1
    finally:
        logging.getLogger("theater_tcp.credentials").removeHandler(waiting)


def test_credentials_that_somebody_holds_are_looked_at_however_many_there_are(
    stage: Stage, tmp_path: Path, certificates: Certificates
) -> None:
    path = tmp_path / "ca.pem"
    shutil.copy(certificates.ca, path)
    held = stage.all.client(ClientTls(ca_cert=str(path)))
    dropped = weakref.ref(stage.all.client(ClientTls(ca_cert=str(path), min_version="1.3")))
    for number in range(MAX_KEPT):
        stage.all.client(ClientTls(ca_cert=str(path), alpn=(str(number),)))
    assert dropped() is None
    assert stage.all.client(ClientTls(ca_cert=str(path))) is held
    before = held.context
    os.utime(path)
    stage.after(10)
    assert held.context is not before
