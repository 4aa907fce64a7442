"""The contract's own tests, once more with guests as owners: what is promised to an actor is promised to a guest.

Left out is what a guest can't do by its interface: to wait for two things at once, to pass a value of a wrong type, to
set what is no option.
"""

from __future__ import annotations

import itertools
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract import (
    test_accepting,
    test_calls,
    test_closing,
    test_connecting,
    test_data_modes,
    test_endings,
    test_guarantees,
    test_listening,
    test_receiving,
    test_sending,
    test_transfer,
)
from tests.contract.test_connecting import listening, refusing_port, silent_port
from tests.guests.puppets import GuestStage
from tests.guests.roads import ROADS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["listening", "refusing_port", "silent_port"]

WHOLE = tuple(road for road in ROADS if road != "component")
"""The roads by which one call carries as much as these tests want."""

BY_ALL = {__name__, *(module.__name__ for module in (test_data_modes, test_receiving, test_transfer))}
"""The modules whose tests are about what differs from road to road: waiting, data, whose turn it is."""

LEFT_OUT = {
    # two things at once
    "test_contract_04_two_who_accept_are_served_in_turn",
    "test_contract_04_close_listener_wakes_those_who_accept_with_closed",
    "test_contract_07_set_active_while_a_receive_waits_is_busy_and_changes_nothing",
    "test_contract_10_transfer_while_a_receive_waits_is_busy_and_changes_nothing",
    "test_contract_12_a_second_receive_while_one_waits_is_busy",
    "test_contract_12_a_close_while_a_receive_waits_wakes_it_with_closed",
    # values of a wrong type, and what the interface has no argument for
    "test_contract_01_a_wrong_address_is_invalid",
    "test_contract_07_a_mode_that_is_none_is_invalid_and_changes_nothing",
    "test_contract_10_what_is_no_actor_is_invalid",
    "test_contract_11_what_is_no_bytes_is_invalid_and_changes_nothing",
    "test_contract_12_a_max_out_of_range_is_invalid_and_takes_nothing",
    "test_contract_12_a_receive_that_was_served_does_not_time_out_the_next_one",
    "test_contract_12_a_timeout_that_is_no_duration_is_invalid",
    "test_contract_12_a_wrong_framing_is_invalid_and_changes_nothing",
    "test_contract_G2_a_frame_that_is_gathered_and_what_follows_it_stay_under_the_limit_together",
    # what only a test's own actor of Python does: wait for an event, be asked something, raise
    "test_contract_03_an_owner_that_is_busy_is_not_flooded",
    "test_contract_10_a_target_that_dies_before_it_handles_the_message_closes_the_connection",
    "test_contract_10_transfer_does_not_wait_for_the_targets_handler",
    "test_contract_19_a_target_hears_of_both_where_the_connection_ends_before_it_hears_of_the_transfer",
    "test_contract_01_names_are_resolved_off_the_event_loop",
    "test_contract_02_a_unix_sockets_file_goes_with_its_listener",
    "test_contract_11_a_peer_that_goes_away_while_a_send_waits_ends_it",
    "test_contract_21_an_accepting_listener_does_not_wait_for_another_owners_callback",
    "test_contract_G2_a_slow_owner_stops_the_reading_and_the_host_holds_at_most_read_buffer_limit",
    "test_contract_G2_memory_stays_bounded_while_a_hundred_peers_flood_a_slow_owner",
    "test_contract_G2_at_most_one_turn_of_a_connection_is_in_its_owners_mailbox",
    "test_contract_G4_when_an_actor_ends_its_connections_and_listeners_close_and_no_one_elses",
    "test_contract_G7_the_peer_of_a_failed_callback_gets_no_word_of_it",
    # below, for what a guest has of it
    "test_contract_10_the_target_is_named_by_reference_urn_or_proxy",
    "test_contract_19_every_end_is_told_once_with_its_reason",
    "test_contract_calls_each_cell_before_the_end",
    "test_contract_calls_each_cell_while_the_connection_is_closing",
    "test_contract_07_set_active_changes_every_mode_into_every_mode_from_outside",
    "test_contract_07_set_active_changes_every_mode_into_every_mode_inside_of_a_callback",
    "test_contract_18_at_the_peers_end_buffered_bytes_come_first_and_then_on_close_eof",
    # a puppet is moved by the callback that it would be without
    "test_contract_07_an_owner_without_on_data_can_not_be_pushed_to",
}


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the owner: a guest, by each road."""
    return str(request.param)


@pytest.fixture(params=["loop", "guest"])
def target_kind(request: pytest.FixtureRequest, kind: str) -> str:
    """The kind of the actor that gets a connection: a Python one, and a guest by the same road."""
    return kind if request.param == "guest" else str(request.param)


@pytest.fixture
def stage() -> Iterator[GuestStage]:
    """A running Theater whose owners may be guests."""
    with GuestStage() as stage:
        yield stage


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test by the first road; by the others those of :data:`BY_ALL` that don't come in many cases."""
    if "kind" in metafunc.fixturenames:
        by_all = metafunc.function.__module__ in BY_ALL and not metafunc.definition.get_closest_marker("parametrize")
        metafunc.parametrize("kind", WHOLE if by_all else ROADS[:1], indirect=True)


def _takes(test: FunctionType) -> set[str]:
    return set(test.__code__.co_varnames[: test.__code__.co_argcount])


for _module in (
    test_accepting,
    test_calls,
    test_closing,
    test_connecting,
    test_data_modes,
    test_endings,
    test_guarantees,
    test_listening,
    test_receiving,
    test_sending,
    test_transfer,
):
    for _name, _test in vars(_module).items():
        if isinstance(_test, FunctionType) and _name.startswith("test_") and {"stage", "kind"} <= _takes(_test):
            assert _name not in globals(), f"two tests are called {_name}"
            if _name not in LEFT_OUT:
                globals()[_name] = _test


@pytest.mark.parametrize("reason", [reason for reason in test_endings.ENDS if reason != "shutdown"])
@pytest.mark.parametrize("mode", ["active", 30000])
def test_contract_19_every_end_but_shutdown_is_told_once_with_its_reason(
    stage: GuestStage, kind: str, reason: str, mode: str | int
) -> None:
    test_endings.test_contract_19_every_end_is_told_once_with_its_reason(stage, kind, reason, mode)


@pytest.mark.parametrize("how", ["reference", "urn"])
def test_contract_10_the_target_is_named_by_reference_or_urn(stage: GuestStage, kind: str, how: str) -> None:
    test_transfer.test_contract_10_the_target_is_named_by_reference_urn_or_proxy(stage, kind, how)


def test_contract_calls_each_cell_before_the_end(stage: GuestStage, kind: str) -> None:
    owner, target = stage.owner(kind), stage.owner("loop")
    listener = owner.listen()
    for call, phase, expected in test_calls.ROWS:
        if phase == "closing":
            continue
        peer = stage.dial(listener.address)
        connection = owner.expect("handle_connection").connection
        if phase != "pending":
            owner.call(connection.activate)
            owner.call(connection.set_active, test_calls.MODES[phase])
        if (call, phase) == ("receive", "passive"):
            peer.sendall(b"x")
        told = test_calls.kind_of_outcome(owner, test_calls.CALLS[call], connection, target.ref)
        assert (call, phase, told) == (call, phase, expected)
        if expected != test_calls.ALLOWED:
            stage.peers.insert(0, peer)
            assert test_calls.still_works(owner, connection, phase)


def test_contract_calls_each_cell_while_the_connection_is_closing(stage: GuestStage, kind: str) -> None:
    target = stage.owner("loop")
    outcomes: dict[str, str] = {}

    async def on_close(_actor: Any, connection: Any, _reason: str) -> None:
        for name, call in test_calls.CALLS.items():
            outcomes[name] = await test_calls.attempt(call, connection, target.ref)

    owner = stage.owner(kind, on_close=on_close)
    owner.meet(mode="passive", idle_timeout=0.05)
    owner.expect("on_close", "timeout")
    owner.hears_nothing()
    assert outcomes == {name: cells[test_calls.COLUMN["closing"]] for name, cells in test_calls.CELLS.items()}


def test_contract_07_set_active_changes_every_mode_into_every_mode(stage: GuestStage, kind: str) -> None:
    changes: dict[str, Any] = {}

    def on_data(_actor: Any, connection: Any, data: bytes) -> None:
        if data == b"first\n":
            connection.set_active(changes["inside"])

    owner = stage.owner(kind, on_data=on_data)
    listener = owner.listen(framing="line")
    modes, lines = test_data_modes.MODES, test_data_modes.LINES
    for before, after in itertools.product(modes, modes):
        for inside in (False, True) if before != "passive" else (False,):
            peer = stage.dial(listener.address)
            connection = owner.expect("handle_connection").connection
            owner.call(connection.activate)
            owner.call(connection.set_active, before)
            if inside:
                changes["inside"] = after
                peer.sendall(b"first\n" + b"".join(lines))
                owner.expect("on_data", b"first\n")
            else:
                owner.call(connection.set_active, after)
                peer.sendall(b"".join(lines))
            test_data_modes.behaves_as(owner, connection, after, lines)
