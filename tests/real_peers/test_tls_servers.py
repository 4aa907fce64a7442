"""Our client side against real servers, by an upgrade and by TLS from the first byte."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.peers import TIMEOUT
from tests.real_peers.programs import serving_program
from theater_tcp import ClientTls, Settings, TcpActor, Theater, TlsInfo
from theater_tcp.errors import TlsFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.certificates_fixture import Certificates
    from theater_tcp import CertificateFiles

EITHER_WAY = pytest.mark.parametrize("at_once", [False, True], ids=["upgrade", "at connect"])
"""The client begins in plaintext and upgrades, or begins with TLS."""

S_SERVER = pytest.mark.program("openssl")
GNUTLS_SERV = pytest.mark.program("gnutls-serv", "cc")


class Talk(NamedTuple):
    """What came of a connection.

    Args:
        info: what both ends agreed on.
        answer: what the server said to ``hello``.
    """

    info: TlsInfo
    answer: bytes


class Caller(TcpActor):
    """Connects, goes on in TLS, says something, and hangs up."""

    async def talk(self, address: str, name: str, tls: ClientTls) -> Talk:
        connection = await self.tcp.connect(address, framing="line", client_tls=tls.replaced(server_name=name))
        try:
            if not tls.auto_handshake:
                await connection.upgrade_to_tls_client(name)
            connection.send(b"hello\n")
            answer = await connection.receive(100, timeout=TIMEOUT)
            info = connection.tls_info
            assert info is not None
        finally:
            if connection in self.connections:
                connection.close()
        return Talk(info, answer)


class Client:
    """A runtime with a :class:`Caller`.

    Args:
        theater: where it lives.
        ca: the file of the CA that it trusts.
        at_once: whether TLS begins with the first byte.
    """

    def __init__(self, theater: Theater, ca: str, at_once: bool) -> None:
        self._caller = theater.spawn(Caller).proxy()
        self._tls = ClientTls(ca_cert=ca, auto_handshake=at_once)

    def talk(self, address: str, name: str = "localhost", **tls: Any) -> Talk:
        """One connection to a server that has to prove to be ``name``."""
        outcome: Talk = self._caller.talk(address, name, self._tls.replaced(**tls)).get(timeout=TIMEOUT)
        return outcome


@pytest.fixture
def client(certificates: Certificates, at_once: bool) -> Iterator[Client]:
    with Theater(Settings(drain_timeout=TIMEOUT)) as theater:
        yield Client(theater, str(certificates.ca), at_once)


# -- openssl s_server ---------------------------------------------------------------------------------------------


@pytest.fixture
def s_server(tmp_path: Path) -> Callable[..., Any]:
    """Starts one: as a context manager, with its certificate and further options; gives its address."""

    @contextmanager
    def start(files: CertificateFiles, *options: str) -> Iterator[str]:
        command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", files.cert, "-key", str(files.key)]
        # It answers each line with the line reversed.
        with serving_program(*command, "-rev", *options, ready=r"ACCEPT (\S+:\d+)\n", log=tmp_path / "log") as ready:
            yield ready[1]

    return start


@S_SERVER
@EITHER_WAY
@pytest.mark.parametrize(
    ("version", "cipher"), [("1_2", "ECDHE-ECDSA-AES256-GCM-SHA384"), ("1_3", "TLS_AES_256_GCM_SHA384")]
)
def test_a_client_verifies_s_server_and_talks_with_it(
    certificates: Certificates, s_server: Any, client: Client, version: str, cipher: str
) -> None:
    with s_server(certificates.server, f"-tls{version}", "-alpn", "smtp") as address:
        info, answer = client.talk(address, "mx.example.org", alpn=("h2", "smtp"))
    assert answer == b"olleh\n"
    assert (info.version, info.cipher) == (f"TLSv{version.replace('_', '.')}", cipher)
    assert (info.alpn, info.server_name) == ("smtp", "mx.example.org")
    assert info.peer_certificate is not None
    assert "mx.example.org" in info.peer_certificate.names


@S_SERVER
@EITHER_WAY
@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "mx.example.org.", "127.0.0.1", "::1", "[::1]"])
def test_a_client_takes_the_certificate_of_s_server_for_each_of_its_names_and_addresses(
    certificates: Certificates, s_server: Any, client: Client, name: str
) -> None:
    with s_server(certificates.server) as address:
        assert client.talk(address, name).answer == b"olleh\n"


@S_SERVER
@EITHER_WAY
@pytest.mark.parametrize(
    ("shown", "name", "reason"),
    [
        ("server", "wrong.example.org", "hostname mismatch, certificate is not valid for 'wrong.example.org'"),
        ("server", "sub.localhost", "hostname mismatch, certificate is not valid for 'sub.localhost'"),
        ("server", "127.0.0.2", "IP address mismatch, certificate is not valid for '127.0.0.2'"),
        ("other", "localhost", "hostname mismatch, certificate is not valid for 'localhost'"),
        ("expired", "localhost", "certificate has expired"),
        ("untrusted", "localhost", "unable to get local issuer certificate"),
    ],
)
def test_a_client_refuses_s_server_with_a_certificate_that_proves_nothing(
    certificates: Certificates, s_server: Any, client: Client, shown: str, name: str, reason: str
) -> None:
    with s_server(getattr(certificates, shown)) as address, pytest.raises(TlsFailed) as failed:
        client.talk(address, name)
    assert str(failed.value) == f"tls: certificate verify failed: {reason}"


@S_SERVER
@EITHER_WAY
@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_a_client_shows_its_certificate_to_s_server_where_it_is_required(
    certificates: Certificates, s_server: Any, client: Client, version: str
) -> None:
    options = (f"-tls{version}", "-Verify", "1", "-verify_return_error", "-CAfile", str(certificates.ca))
    with s_server(certificates.server, *options) as address:
        assert client.talk(address, cert=certificates.client.cert, key=certificates.client.key).answer == b"olleh\n"
        with pytest.raises(TlsFailed, match=r"the peer's alert: (certificate required|handshake failure)"):
            client.talk(address)


@S_SERVER
@EITHER_WAY
@pytest.mark.parametrize("version", ["-tls1_1", "-tls1"])
def test_a_client_refuses_s_server_where_it_speaks_nothing_newer_than_tls_1_1(
    certificates: Certificates, s_server: Any, client: Client, version: str
) -> None:
    with (
        s_server(certificates.server, version, "-cipher", "ALL:@SECLEVEL=0") as address,
        pytest.raises(TlsFailed, match=r"protocol version|unsupported protocol"),
    ):
        client.talk(address)


@S_SERVER
@EITHER_WAY
@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_a_client_takes_up_its_session_with_s_server_again(
    certificates: Certificates, s_server: Any, client: Client, version: str
) -> None:
    with s_server(certificates.server, f"-tls{version}") as address:
        assert [client.talk(address).info.resumed for _ in range(3)] == [False, True, True]


# -- gnutls-serv --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def loopback_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gnutls-serv has no option for where it listens."""
    library = tmp_path_factory.mktemp("preload") / "loopback_only.so"
    source = Path(__file__).with_name("loopback_only.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def gnutls_serv(tmp_path: Path, loopback_only: Path) -> Callable[..., Any]:
    """Starts one: as a context manager, with its certificate and further options; gives its address."""

    @contextmanager
    def start(files: CertificateFiles, *options: str) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = ["gnutls-serv", "--echo", f"--port={port}", "--x509certfile", files.cert]
        command += ["--x509keyfile", str(files.key), *options]
        ready = rf"IPv4 0\.0\.0\.0 port {port}\.\.\.done"
        with serving_program(*command, ready=ready, log=tmp_path / "log", preload=loopback_only):
            yield f"127.0.0.1:{port}"

    return start


@GNUTLS_SERV
@EITHER_WAY
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_verifies_gnutls_serv_talks_with_it_and_takes_up_its_session_again(
    certificates: Certificates, gnutls_serv: Any, client: Client, version: str
) -> None:
    only = f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
    with gnutls_serv(certificates.server, "--disable-client-cert", "--alpn=smtp", only) as address:
        first, second = (client.talk(address, alpn=("smtp",)) for _ in range(2))
    assert (first.answer, second.answer) == (b"hello\n", b"hello\n")
    assert (first.info.version, first.info.alpn) == (f"TLSv{version}", "smtp")
    assert (first.info.resumed, second.info.resumed) == (False, True)


@GNUTLS_SERV
@EITHER_WAY
@pytest.mark.parametrize(
    ("shown", "name", "reason"),
    [
        ("server", "wrong.example.org", "hostname mismatch, certificate is not valid for 'wrong.example.org'"),
        ("expired", "localhost", "certificate has expired"),
        ("untrusted", "localhost", "unable to get local issuer certificate"),
    ],
)
def test_a_client_refuses_gnutls_serv_with_a_certificate_that_proves_nothing(
    certificates: Certificates, gnutls_serv: Any, client: Client, shown: str, name: str, reason: str
) -> None:
    with gnutls_serv(getattr(certificates, shown)) as address, pytest.raises(TlsFailed) as failed:
        client.talk(address, name)
    assert str(failed.value) == f"tls: certificate verify failed: {reason}"


@GNUTLS_SERV
@EITHER_WAY
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_client_shows_its_certificate_to_gnutls_serv_where_it_is_required(
    certificates: Certificates, gnutls_serv: Any, client: Client, version: str
) -> None:
    options = ("--require-client-cert", "--verify-client-cert", "--x509cafile", str(certificates.ca))
    only = f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"
    with gnutls_serv(certificates.server, *options, only) as address:
        assert client.talk(address, cert=certificates.client.cert, key=certificates.client.key).answer == b"hello\n"
        with pytest.raises(TlsFailed, match="the peer's alert: "):
            client.talk(address)


# -- asyncio ------------------------------------------------------------------------------------------------------


class AsyncioServer:
    """A server of asyncio, in a thread with a loop of its own, that speaks a little SMTP and starts TLS.

    Args:
        files: its certificate.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(files.cert, files.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._talk, "127.0.0.1", 0))
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        assert await reader.readline() == b"STARTTLS\r\n"
        writer.write(b"220 go ahead\r\n")
        await writer.start_tls(self._context)
        while line := await reader.readline():
            writer.write(b"250 " + line)
        writer.close()
        await writer.wait_closed()

    def close(self) -> None:
        """End it; its connections have ended."""

        async def close() -> None:
            self._server.close()
            await self._server.wait_closed()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait_for(asyncio.gather(*others), TIMEOUT)

        self._do(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()


class Mailer(TcpActor):
    """Asks for TLS, and says something over it."""

    async def talk(self, address: str, tls: ClientTls) -> list[bytes]:
        connection = await self.tcp.connect(address, framing="line", client_tls=tls)
        heard = [await connection.receive(100)]
        connection.send(b"STARTTLS\r\n")
        heard.append(await connection.receive(100))
        await connection.upgrade_to_tls_client("localhost")
        for line in (b"hello\r\n", b"goodbye\r\n"):
            connection.send(line)
            heard.append(await connection.receive(100))
        connection.shutdown_write()
        heard.append(await connection.receive(100))
        connection.close()
        return heard


def test_a_client_starts_tls_with_a_server_of_asyncio_and_both_say_goodbye(certificates: Certificates) -> None:
    server = AsyncioServer(certificates.server)
    try:
        with Theater(Settings(drain_timeout=TIMEOUT)) as theater:
            tls = ClientTls(ca_cert=certificates.ca, auto_handshake=False)
            heard = theater.spawn(Mailer).proxy().talk(server.address, tls).get(timeout=TIMEOUT)
    finally:
        server.close()
    assert heard == [b"220 ready\r\n", b"220 go ahead\r\n", b"250 hello\r\n", b"250 goodbye\r\n", b""]
