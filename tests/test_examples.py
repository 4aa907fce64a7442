"""The two examples that the design promises run as they are printed there, but for the port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.peers import TIMEOUT, dial, eventually, receive_exactly, receive_to_end
from tests.support import Stage

ROOT = Path(__file__).resolve().parent.parent

ACTORS = """\
from theater_tcp import Theater, TcpActor

class Echo(TcpActor):
    def on_start(self):
        self.tcp.listen("127.0.0.1:7000")

    def handle_connection(self, connection):
        connection.activate()
        connection.set_active("active")

    def on_data(self, connection, data):
        connection.send(data)

class Greeter(TcpActor):                       # the blocking style, on the same loop
    async def handle_connection_transfer(self, connection):
        line = await connection.receive(512)
        connection.send(b"hello " + line)
        connection.close()
"""

MAIN = """
with Theater() as theater:
    theater.spawn(Echo)
    theater.wait()
"""

WATCH = """
import sys, threading
from theater_tcp import Theater

def wait(event, *timeout, real=threading.Event.wait):
    # A socket that answers tells nothing of the thread that spawned the actor: it may not have returned yet.
    if sys._getframe(1).f_code is Theater.wait.__code__:
        print("waiting", flush=True)
    return real(event, *timeout)

threading.Event.wait = wait
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def answers(address: str) -> bool:
    try:
        dial(address).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_echo_of_the_design_runs_as_printed_and_ends_at_an_interrupt() -> None:
    port = free_port()
    program = WATCH + (ACTORS + MAIN).replace("7000", str(port))
    command = [sys.executable, "-W", "error", "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            address = f"127.0.0.1:{port}"
            eventually(lambda: answers(address))
            with dial(address) as peer:
                for word in (b"one", b"two"):
                    peer.sendall(word)
                    assert receive_exactly(peer, 3) == word
            assert process.stdout is not None
            assert process.stdout.readline() == b"waiting\n"
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert complaints == b""
    assert process.returncode == 0


def test_the_greeter_of_the_design_runs_as_printed() -> None:
    names: dict[str, Any] = {}
    exec(ACTORS.replace("127.0.0.1:7000", "127.0.0.1:0"), names)
    with Stage() as stage:
        greeter = stage.theater.spawn(names["Greeter"])

        def hand_over(_actor: Any, connection: Any) -> None:
            connection.transfer(greeter)

        stage.theater.spawn(type("Doorman", (names["Echo"],), {"handle_connection": hand_over}))
        peer = stage.dial(stage.theater.listeners()[0].address)
        peer.sendall(b"world")
        assert receive_to_end(peer) == b"hello world"
