"""Contract 10: transfer, one atomic step between owners of every kind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pykka
import pytest

from tests.peers import TIMEOUT, cut, receive_exactly, receive_to_end, stuff
from tests.support import KINDS, Owner, Stage, outcome_of, settled
from theater_tcp import Future, TcpActor
from theater_tcp.errors import Busy, InvalidArgument, NoSuchActor, NotFound, NotOwner

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=KINDS)
def target_kind(request: pytest.FixtureRequest) -> str:
    """The kind of the actor that gets the connection."""
    return str(request.param)


def is_passive_and_whole(owner: Owner, connection: Any, unread: bytes) -> None:
    """The connection is open and passive, and these bytes come first."""
    owner.hears_nothing()
    received = b""
    while len(received) < len(unread):
        received += owner.call(connection.receive, len(unread) - len(received))
    assert received == unread


@pytest.mark.parametrize("mode", ["pending", "passive", "active", "once", 3])
def test_contract_10_the_target_owns_an_open_and_passive_connection_and_every_unread_byte(
    stage: Stage, kind: str, target_kind: str, mode: str | int
) -> None:
    owner, target = stage.owner(kind), stage.owner(target_kind)
    connection, peer = owner.meet(mode=mode)

    def transfer(_actor: Any) -> None:
        peer.sendall(b"unread")
        connection.transfer(target.ref)

    owner.act(transfer)
    after = target.expect("handle_connection_transfer").connection
    is_passive_and_whole(target, after, b"unread")
    peer.sendall(b" and more")
    target.call(after.set_active, "active")
    assert target.collect(9) == b" and more"
    target.call(after.send, b"reply")
    assert receive_exactly(peer, 5) == b"reply"
    with pytest.raises(NotOwner):
        owner.call(connection.send, b"not mine")
    owner.hears_nothing()
    assert stage.theater.metrics().transfers == 1


def test_contract_10_the_end_of_the_old_owner_does_not_touch_the_connection(
    stage: Stage, kind: str, target_kind: str
) -> None:
    owner, target = stage.owner(kind), stage.owner(target_kind)
    connection, peer = owner.meet(mode="active")
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    owner.ref.stop()
    stage.pass_turns()
    peer.sendall(b"alive")
    assert target.call(after.receive, 100) == b"alive"
    peer.close()
    target.expect("on_close", "eof")


def test_contract_10_unread_bytes_in_the_host_move_too(stage: Stage, kind: str, target_kind: str) -> None:
    owner, target = stage.owner(kind), stage.owner(target_kind)
    connection, peer = owner.meet(mode="passive", framing="line")
    peer.sendall(b"first line\nsecond line\nthe third, unfin")
    assert owner.call(connection.receive, 5) == b"first"
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    assert target.call(after.receive, 100) == b" line\n"
    assert target.call(after.receive, 100) == b"second line\n"
    peer.sendall(b"ished\n")
    assert target.call(after.receive, 100) == b"the third, unfinished\n"


def test_contract_10_a_stream_in_active_mode_is_handed_on_and_on_without_a_lost_byte(
    stage: Stage, kind: str, target_kind: str
) -> None:
    owners: list[Owner] = []
    data = bytes(range(256)) * 4096  # 1 MiB
    seen = bytearray()
    complete = threading.Event()

    def handle(_actor: Any, connection: Any) -> None:
        connection.set_active("active")

    def on_data(actor: Any, connection: Any, chunk: bytes) -> None:
        seen.extend(chunk)
        if len(seen) == len(data):
            complete.set()
            return
        here = next(i for i, owner in enumerate(owners) if owner.ref == actor.actor_ref)
        connection.transfer(owners[1 - here].ref)

    for one_kind in (kind, target_kind):
        owners.append(stage.owner(one_kind, handle_connection_transfer=handle, on_data=on_data))
    connection, peer = owners[0].meet(mode="passive", read_buffer_limit=4096)
    owners[0].call(connection.set_active, "active")
    peer.sendall(data)
    assert complete.wait(TIMEOUT)
    assert bytes(seen) == data
    assert stage.theater.metrics().transfers > 100


@pytest.mark.parametrize("how", ["reference", "urn", "proxy"])
def test_contract_10_the_target_is_named_by_reference_urn_or_proxy(stage: Stage, kind: str, how: str) -> None:
    owner, target = stage.owner(kind), stage.owner(kind)
    named = {"reference": target.ref, "urn": target.ref.actor_urn, "proxy": target.ref.proxy()}[how]
    connection, _ = owner.meet(mode="passive")
    owner.call(connection.transfer, named)
    target.expect("handle_connection_transfer")


def test_contract_10_a_target_without_handle_connection_transfer_gets_handle_connection(
    stage: Stage, kind: str, target_kind: str
) -> None:
    owner = stage.owner(kind)
    target = stage.owner(target_kind, without=["handle_connection_transfer"])
    connection, peer = owner.meet(mode="active")
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection").connection
    target.call(after.send, b"open already")
    assert receive_exactly(peer, 12) == b"open already"


def dead(stage: Stage) -> Any:
    owner = stage.owner("loop")
    owner.ref.stop()
    return owner.ref


def dead_thread(stage: Stage) -> Any:
    owner = stage.owner("thread")
    owner.ref.stop()
    return owner.ref


def without_handler(stage: Stage) -> Any:
    return stage.owner("loop", without=["handle_connection", "handle_connection_transfer"]).ref


def without_handler_on_a_thread(stage: Stage) -> Any:
    return stage.owner("thread", without=["handle_connection", "handle_connection_transfer"]).ref


class Bystander(pykka.ThreadingActor):
    """An actor that knows nothing of connections."""

    use_daemon_thread = True


TARGETS: dict[str, Callable[[Stage], Any]] = {
    "dead": dead,
    "dead, on a thread": dead_thread,
    "dead, by its urn": lambda stage: dead(stage).actor_urn,
    "unknown": lambda _stage: "urn:uuid:00000000-0000-4000-8000-000000000000",
    "without a handler": without_handler,
    "without a handler, on a thread": without_handler_on_a_thread,
    "no owner at all": lambda stage: stage.theater.spawn(Bystander),
}


@pytest.mark.parametrize("case", TARGETS)
@pytest.mark.parametrize("mode", ["pending", "active"])
def test_contract_10_a_target_that_can_not_take_it_is_no_such_actor_and_nothing_has_changed(
    stage: Stage, kind: str, case: str, mode: str
) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode=mode)
    with pytest.raises(NoSuchActor):
        owner.call(connection.transfer, TARGETS[case](stage))
    owner.hears_nothing()
    if mode == "pending":
        owner.call(connection.activate)
        owner.call(connection.set_active, "active")
    peer.sendall(b"still here")
    assert owner.collect(10) == b"still here"
    owner.call(connection.send, b"and answered")
    assert receive_exactly(peer, 12) == b"and answered"
    assert stage.theater.metrics().transfers == 0


def test_contract_10_a_target_whose_on_stop_waits_is_no_such_actor_and_nothing_has_changed(
    stage: Stage, kind: str
) -> None:
    class Stopping(TcpActor):
        def handle_connection_transfer(self, _connection: Any) -> None:
            raise AssertionError

        async def on_stop(self) -> None:  # type: ignore[override]
            begun.set()
            await gate

    gate: Future[None] = Future()
    begun = threading.Event()
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode="active")
    target = stage.theater.spawn(Stopping)
    target.stop(block=False)
    assert begun.wait(TIMEOUT)
    with pytest.raises(NoSuchActor):
        owner.call(connection.transfer, target)
    gate.set()
    peer.sendall(b"still here")
    assert owner.collect(10) == b"still here"


@pytest.mark.parametrize("target", [None, 7, TcpActor, object()])
def test_contract_10_what_is_no_actor_is_invalid(stage: Stage, kind: str, target: Any) -> None:
    owner = stage.owner(kind)
    connection, _ = owner.meet(mode="passive")
    with pytest.raises(InvalidArgument):
        owner.call(connection.transfer, target)
    owner.call(connection.send, b"still mine")


@pytest.mark.parametrize("mode", ["pending", "passive", "active"])
def test_contract_10_transfer_to_oneself_is_allowed(stage: Stage, kind: str, mode: str) -> None:
    owner = stage.owner(kind)
    connection, peer = owner.meet(mode=mode)
    owner.call(connection.transfer, owner.ref)
    after = owner.expect("handle_connection_transfer").connection
    assert after.id == connection.id
    peer.sendall(b"mine again")
    is_passive_and_whole(owner, after, b"mine again")


def test_contract_19_a_callback_that_fails_after_a_transfer_to_oneself_is_told_behind_the_transfer(
    stage: Stage, kind: str
) -> None:
    stage.foresee_callback_failures()

    def keep_and_fail(actor: Any, connection: Any, _data: bytes) -> None:
        connection.transfer(actor.actor_ref)
        raise ValueError

    def go_on(_actor: Any, connection: Any) -> None:
        connection.set_active("active")  # it has ended: that is no failure of this callback

    owner = stage.owner(kind, on_data=keep_and_fail, handle_connection_transfer=go_on)
    _, peer = owner.meet(mode="active")
    peer.sendall(b"x")
    owner.expect("on_data", b"x")
    owner.expect("handle_connection_transfer")
    owner.expect("on_close", "callback: ValueError")
    owner.hears_nothing()
    assert receive_to_end(peer) == b""
    assert stage.theater.metrics().callback_failures == 1


@pytest.mark.parametrize("end", ["eof", "reset", "timeout", "shutdown"])
def test_contract_19_a_target_hears_of_both_where_the_connection_ends_before_it_hears_of_the_transfer(
    stage: Stage, kind: str, target_kind: str, end: str
) -> None:
    began, go_on = threading.Event(), threading.Event()

    async def busy(actor: Any) -> None:
        began.set()
        if target_kind == "thread":
            assert go_on.wait(TIMEOUT)
        else:
            await actor.to_thread(go_on.wait, TIMEOUT)

    owner, target = stage.owner(kind), stage.owner(target_kind)
    busily = target.ref.ask(busy, block=False)
    assert began.wait(TIMEOUT)
    connection, peer = owner.meet(idle_timeout=0.05 if end == "timeout" else None)
    owner.call(connection.transfer, target.ref)
    if end == "timeout":
        assert receive_to_end(peer) == b""
    elif end == "shutdown":
        connection.actor_ref.stop()
    else:
        cut(peer) if end == "reset" else peer.close()
        stage.pass_turns()
    go_on.set()
    outcome_of(busily)
    target.expect("handle_connection_transfer")
    target.expect("on_close", end)
    target.hears_nothing()
    owner.hears_nothing()


def test_contract_10_transfer_does_not_wait_for_the_targets_handler(stage: Stage, kind: str, target_kind: str) -> None:
    began, go_on = threading.Event(), threading.Event()

    async def busy(actor: Any) -> None:
        began.set()
        if target_kind == "thread":
            assert go_on.wait(TIMEOUT)
        else:
            await actor.to_thread(go_on.wait, TIMEOUT)

    owner, target = stage.owner(kind), stage.owner(target_kind)
    busily = target.ref.ask(busy, block=False)
    assert began.wait(TIMEOUT)
    connection, peer = owner.meet(mode="active")
    owner.call(connection.transfer, target.ref)  # returns: the target is busy until the next line
    assert target.script.heard.empty()
    go_on.set()
    outcome_of(busily)
    after = target.expect("handle_connection_transfer").connection
    target.call(after.send, b"at last")
    assert receive_exactly(peer, 7) == b"at last"


def test_contract_10_a_target_that_dies_before_it_handles_the_message_closes_the_connection(
    stage: Stage, kind: str, target_kind: str
) -> None:
    began, go_on = threading.Event(), threading.Event()

    async def busy(actor: Any) -> None:
        began.set()
        if target_kind == "thread":
            assert go_on.wait(TIMEOUT)
        else:
            await actor.to_thread(go_on.wait, TIMEOUT)

    owner, target = stage.owner(kind), stage.owner(target_kind)
    target.ref.tell(busy)
    assert began.wait(TIMEOUT)
    stopped = target.ref.stop(block=False)  # its message lies before the transfer's
    connection, peer = owner.meet(mode="active")
    owner.call(connection.transfer, target.ref)
    go_on.set()
    assert outcome_of(stopped) is True
    assert receive_to_end(peer) == b""
    owner.hears_nothing()
    with pytest.raises(NotFound):
        owner.call(connection.send, b"gone")
    assert target.script.heard.empty()


def test_contract_10_transfer_while_a_receive_waits_is_busy_and_changes_nothing(stage: Stage, kind: str) -> None:
    owner, target = stage.owner(kind), stage.owner("loop")
    connection, peer = owner.meet(mode="passive")
    received = owner.begin(connection.receive, 100)
    stage.pass_turns()
    with pytest.raises(Busy):
        connection.transfer(target.ref) if kind == "thread" else owner.call(connection.transfer, target.ref)
    peer.sendall(b"mine")
    assert outcome_of(received) == b"mine"
    target.hears_nothing()


def test_contract_10_a_connection_can_be_handed_over_in_on_close_and_its_end_is_told_to_the_new_owner(
    stage: Stage, kind: str, target_kind: str
) -> None:
    target = stage.owner(target_kind)
    owner = stage.owner(kind, on_close=lambda _actor, connection, _reason: connection.transfer(target.ref))
    _, peer = owner.meet(mode="active")
    peer.sendall(b"bye")
    assert owner.collect(3) == b"bye"
    peer.shutdown(1)
    owner.expect("on_close", "eof")
    after = target.expect("handle_connection_transfer").connection
    target.expect("on_close", "eof")
    assert receive_to_end(peer) == b""
    assert after.id
    owner.hears_nothing()
    target.hears_nothing()


def test_contract_10_output_that_waits_goes_on_after_a_transfer(stage: Stage, kind: str, target_kind: str) -> None:
    def handle_connection(_actor: Any, connection: Any) -> None:
        connection.activate()

    owner, target = stage.owner(kind, handle_connection=handle_connection), stage.owner(target_kind)
    connection, peer = owner.meet(write_buffer_limit=32 << 20, write_buffer_hard_limit=64 << 20)
    data = bytes(range(256)) * (64 << 10)  # 16 MiB, more than the system takes
    assert owner.call(connection.send, data) == len(data)
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    sending = target.begin(after.send, b"the end")
    assert receive_exactly(peer, len(data) + 7) == data + b"the end"
    assert outcome_of(sending) == 7


def test_contract_10_the_handler_of_a_transfer_may_wait_for_data(stage: Stage, kind: str, target_kind: str) -> None:
    async def greet(_actor: Any, connection: Any) -> None:
        line = await settled(connection.receive(512))
        await settled(connection.send(b"hello " + line))
        connection.close()

    owner, target = stage.owner(kind), stage.owner(target_kind, handle_connection_transfer=greet)
    connection, peer = owner.meet()
    owner.call(connection.transfer, target.ref)
    target.expect("handle_connection_transfer")
    peer.sendall(b"world\n")
    assert receive_to_end(peer) == b"hello world\n"
    target.hears_nothing()


def test_contract_10_bytes_that_flood_in_during_a_transfer_are_all_there(
    stage: Stage, kind: str, target_kind: str
) -> None:
    owner, target = stage.owner(kind), stage.owner(target_kind)
    connection, peer = owner.meet(mode="passive")
    sent = stuff(peer, bytes(range(256)) * 16)
    owner.call(connection.transfer, target.ref)
    after = target.expect("handle_connection_transfer").connection
    target.call(after.set_active, "active")
    data = target.collect(sent)
    assert data == (bytes(range(256)) * (sent // 256 + 1))[:sent]
