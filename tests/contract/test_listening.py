"""Contract 2: listen. Ports, families, Unix sockets' files, refusals that leave nothing behind."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.peers import dial, receive_exactly
from tests.support import Stage
from theater_tcp.errors import AddressInUse, InvalidArgument, IoFailed, LimitReached

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_contract_02_port_0_works_and_the_real_port_is_told(stage: Stage, kind: str, host: str) -> None:
    owner = stage.owner(kind)
    listener = owner.listen(f"{host}:0")
    bound, _, port = listener.address.rpartition(":")
    assert bound == host.replace("localhost", "127.0.0.1")
    assert int(port) > 0
    assert [info.address for info in stage.theater.listeners()] == [listener.address]
    stage.dial(listener.address)
    owner.expect("handle_connection")


def test_contract_02_all_of_ipv6_is_ipv6_alone_and_leaves_the_port_to_others(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    port = owner.listen("[::]:0").address.rpartition(":")[2]
    with pytest.raises(ConnectionRefusedError):
        stage.dial(f"127.0.0.1:{port}")
    stage.dial(f"[::1]:{port}")
    owner.expect("handle_connection")
    owner.hears_nothing()


def test_contract_02_all_interfaces_means_both_families(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    port = owner.listen("*:0").address.rpartition(":")[2]
    for host in ("127.0.0.1", "[::1]"):
        peer = stage.dial(f"{host}:{port}")
        connection = owner.expect("handle_connection").connection
        assert owner.call(lambda: connection.peer_address) == f"{host}:{peer.getsockname()[1]}"  # noqa: B023


def test_contract_02_an_address_in_use_is_address_in_use(stage: Stage, kind: str) -> None:
    owner, other = stage.owner(kind), stage.owner("loop")
    address = owner.listen().address
    with pytest.raises(AddressInUse, match=f"^address-in-use: {address}$"):
        owner.listen(address)
    with pytest.raises(AddressInUse):
        other.listen(address)
    assert [info.address for info in stage.theater.listeners()] == [address]
    stage.dial(address)
    owner.expect("handle_connection")


def test_contract_02_a_closed_listeners_address_is_free_again_at_once(stage: Stage, kind: str) -> None:
    owner = stage.owner(kind)
    listener = owner.listen()
    first = stage.dial(listener.address)
    owner.expect("handle_connection")
    owner.call(listener.close)
    with pytest.raises(ConnectionRefusedError):
        dial(listener.address)
    assert owner.listen(listener.address).address == listener.address
    first.close()


@pytest.mark.parametrize("wrong", ["127.0.0.1", "example.org:25", "192.0.2.1:0", "127.0.0.1:99999", "unix:x", "[::1:0"])
def test_contract_02_a_wrong_address_is_invalid_and_leaves_nothing(stage: Stage, kind: str, wrong: str) -> None:
    owner = stage.owner(kind)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument):
        owner.listen(wrong)
    with pytest.raises(InvalidArgument, match="backlogg: there is no such setting"):
        owner.listen("127.0.0.1:0", backlogg=1)
    with pytest.raises(InvalidArgument, match="backlog: expected"):
        owner.listen("127.0.0.1:0", backlog=0)
    assert stage.theater.listeners() == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_contract_02_a_listen_for_which_there_is_no_descriptor_is_limit(
    stage: Stage, kind: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = stage.owner(kind)
    address = f"unix:{tmp_path}/socket" if family == "unix" else "127.0.0.1:0"

    def exhausted(*_args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(socket, "SocketType", exhausted)
        with pytest.raises(LimitReached, match=f"^limit: {address}: too many open files$"):
            owner.listen(address)
    assert stage.theater.listeners() == []
    owner.listen(address)


def test_contract_02_a_unix_sockets_file_goes_with_its_listener(stage: Stage, kind: str, tmp_path: Path) -> None:
    owner = stage.owner(kind)
    path = tmp_path / "socket"
    listener = owner.listen(f"unix:{path}", unix_mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    peer = stage.dial(listener.address)
    connection = owner.expect("handle_connection").connection
    owner.call(connection.activate)
    owner.call(listener.close)
    assert not path.exists()
    owner.call(connection.send, b"still here")
    assert receive_exactly(peer, 10) == b"still here"


def test_contract_02_a_unix_sockets_file_that_nobody_listens_at_is_replaced(
    stage: Stage, kind: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    listener = owner.listen(f"unix:{path}")
    stage.dial(listener.address)
    owner.expect("handle_connection")


def test_contract_02_a_unix_path_that_is_listened_at_or_is_no_socket_is_in_use(
    stage: Stage, kind: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    listener = owner.listen(f"unix:{tmp_path}/socket")
    with pytest.raises(AddressInUse):
        owner.listen(f"unix:{tmp_path}/socket")
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(AddressInUse, match="no socket"):
        owner.listen(f"unix:{file}")
    assert file.read_text() == "precious"
    with pytest.raises(IoFailed, match="no such file"):
        owner.listen(f"unix:{tmp_path}/nowhere/socket")
    owner.hears_nothing()  # the look whether anybody listens is no connection that anybody has to handle
    stage.dial(listener.address)
    owner.expect("handle_connection")


def test_contract_02_the_path_of_a_listener_that_was_replaced_by_another_process_is_left_alone(
    stage: Stage, kind: str, tmp_path: Path
) -> None:
    owner = stage.owner(kind)
    path = tmp_path / "socket"
    listener = owner.listen(f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        owner.call(listener.close)
        assert path.exists()
        with dial(f"unix:{path}"):
            other.accept()[0].close()


def test_contract_02_reuse_port_lets_a_second_listener_share_the_address(stage: Stage, kind: str) -> None:
    owner, other = stage.owner(kind), stage.owner("loop")
    address = owner.listen(reuse_port=True).address
    assert other.listen(address, reuse_port=True).address == address
    with pytest.raises(AddressInUse):
        other.listen(address)
