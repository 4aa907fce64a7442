"""The table of phases: a row for each of its cells, refused ones included, and the rules of the data modes."""

from __future__ import annotations

from typing import Any

import pytest

from theater_tcp import errors
from theater_tcp.connection_state import (
    MAX_COUNT,
    REFUSALS,
    TRANSITIONS,
    ConnectionState,
    Event,
    Mode,
    Phase,
    parse_mode,
)
from theater_tcp.errors import AlreadyTls, InvalidArgument, TheaterError, WrongMode

HANDSHAKING, PENDING, OPEN, UPGRADING, CLOSING, CLOSED = Phase

ROWS: list[tuple[Phase, Event, Phase | str]] = [
    (HANDSHAKING, Event.ACTIVATE, "busy"),
    (HANDSHAKING, Event.SET_ACTIVE, "busy"),
    (HANDSHAKING, Event.TRANSFER, "busy"),
    (HANDSHAKING, Event.SEND, "busy"),
    (HANDSHAKING, Event.RECEIVE, "busy"),
    (HANDSHAKING, Event.SHUTDOWN_WRITE, "busy"),
    (HANDSHAKING, Event.UPGRADE, "busy"),
    (HANDSHAKING, Event.SECURE, PENDING),
    (HANDSHAKING, Event.CLOSE, CLOSING),
    (HANDSHAKING, Event.ABORT, CLOSING),
    (HANDSHAKING, Event.FAIL, CLOSING),
    (HANDSHAKING, Event.RELEASE, "busy"),
    (PENDING, Event.ACTIVATE, OPEN),
    (PENDING, Event.SET_ACTIVE, "pending"),
    (PENDING, Event.TRANSFER, OPEN),
    (PENDING, Event.SEND, "pending"),
    (PENDING, Event.RECEIVE, "pending"),
    (PENDING, Event.SHUTDOWN_WRITE, "pending"),
    (PENDING, Event.UPGRADE, "pending"),
    (PENDING, Event.SECURE, "wrong-mode"),
    (PENDING, Event.CLOSE, CLOSING),
    (PENDING, Event.ABORT, CLOSING),
    (PENDING, Event.FAIL, CLOSING),
    (PENDING, Event.RELEASE, "wrong-mode"),
    (OPEN, Event.ACTIVATE, "already-active"),
    (OPEN, Event.SET_ACTIVE, OPEN),
    (OPEN, Event.TRANSFER, OPEN),
    (OPEN, Event.SEND, OPEN),
    (OPEN, Event.RECEIVE, OPEN),
    (OPEN, Event.SHUTDOWN_WRITE, OPEN),
    (OPEN, Event.UPGRADE, UPGRADING),
    (OPEN, Event.SECURE, "wrong-mode"),
    (OPEN, Event.CLOSE, CLOSING),
    (OPEN, Event.ABORT, CLOSING),
    (OPEN, Event.FAIL, CLOSING),
    (OPEN, Event.RELEASE, "wrong-mode"),
    (UPGRADING, Event.ACTIVATE, "already-active"),
    (UPGRADING, Event.SET_ACTIVE, "busy"),
    (UPGRADING, Event.TRANSFER, "busy"),
    (UPGRADING, Event.SEND, "busy"),
    (UPGRADING, Event.RECEIVE, "busy"),
    (UPGRADING, Event.SHUTDOWN_WRITE, "busy"),
    (UPGRADING, Event.UPGRADE, "busy"),
    (UPGRADING, Event.SECURE, OPEN),
    (UPGRADING, Event.CLOSE, CLOSING),
    (UPGRADING, Event.ABORT, CLOSING),
    (UPGRADING, Event.FAIL, CLOSING),
    (UPGRADING, Event.RELEASE, "busy"),
    (CLOSING, Event.ACTIVATE, "closed"),
    (CLOSING, Event.SET_ACTIVE, "closed"),
    (CLOSING, Event.TRANSFER, "closed"),
    (CLOSING, Event.SEND, "closed"),
    (CLOSING, Event.RECEIVE, CLOSING),
    (CLOSING, Event.SHUTDOWN_WRITE, "closed"),
    (CLOSING, Event.UPGRADE, "closed"),
    (CLOSING, Event.SECURE, "closed"),
    (CLOSING, Event.CLOSE, "closed"),
    (CLOSING, Event.ABORT, "closed"),
    (CLOSING, Event.FAIL, CLOSING),
    (CLOSING, Event.RELEASE, CLOSED),
    (CLOSED, Event.ACTIVATE, "not-found"),
    (CLOSED, Event.SET_ACTIVE, "not-found"),
    (CLOSED, Event.TRANSFER, "not-found"),
    (CLOSED, Event.SEND, "not-found"),
    (CLOSED, Event.RECEIVE, "not-found"),
    (CLOSED, Event.SHUTDOWN_WRITE, "not-found"),
    (CLOSED, Event.UPGRADE, "not-found"),
    (CLOSED, Event.SECURE, "not-found"),
    (CLOSED, Event.CLOSE, "not-found"),
    (CLOSED, Event.ABORT, "not-found"),
    (CLOSED, Event.FAIL, "not-found"),
    (CLOSED, Event.RELEASE, "not-found"),
]
"""Phase, event, and the phase that follows or the kind of the error."""

CALLS_OF_THE_CONTRACT = """
    activate          O            already-active  already-active  already-active  closed
    set-active        pending      O               O               busy            closed
    transfer          O            O               O               busy            closed
    send              pending      O               O               busy            closed
    receive           pending      O               wrong-mode      busy            O
    upgrade           pending      O               wrong-mode      busy            closed
    shutdown-write    pending      O               O               busy            closed
    close             O            O               O               O               closed
    abort             O            O               O               O               closed
"""
"""The contract's table: call, then what it does when pending, open passive, open and pushing, upgrading, closing."""

PUSHING = [(Mode.ACTIVE, 0), (Mode.ONCE, 0), (Mode.COUNT, 3)]
MODES = [(Mode.PASSIVE, 0), *PUSHING]


def state_in(phase: Phase, mode: Mode = Mode.PASSIVE, count: int = 0) -> ConnectionState:
    state = ConnectionState(phase)
    state.mode, state.count = mode, count
    return state


def seen_of(state: ConnectionState) -> tuple[Phase, Mode, int]:
    return state.phase, state.mode, state.count


def everything_of(state: ConnectionState) -> tuple[Any, ...]:
    return *seen_of(state), state.epoch


@pytest.mark.parametrize(("phase", "event", "outcome"), ROWS, ids=lambda value: getattr(value, "value", value))
def test_each_cell_of_the_table_does_what_its_row_says(phase: Phase, event: Event, outcome: Phase | str) -> None:
    state = state_in(phase)
    if isinstance(outcome, Phase):
        assert state.check(event) is outcome
        assert state.phase is phase, "check changes nothing"
        state.apply(event)
        assert state.phase is outcome
    else:
        before = everything_of(state)
        for happen in (state.check, state.apply):
            with pytest.raises(errors.by_kind[outcome]):
                happen(event)
        assert everything_of(state) == before, "a refused event changes nothing"


def test_every_cell_of_the_table_has_its_row() -> None:
    assert sorted((phase.value, event.value) for phase, event, _ in ROWS) == sorted(
        (phase.value, event.value) for phase in Phase for event in Event
    )


def test_every_cell_is_allowed_or_refused_and_none_is_both() -> None:
    cells = {(phase, event) for phase in Phase for event in Event}
    assert set(TRANSITIONS) | set(REFUSALS) == cells
    assert set(TRANSITIONS) & set(REFUSALS) == set()


def calls_of_the_contract() -> list[tuple[Event, list[str]]]:
    lines = [line.split() for line in CALLS_OF_THE_CONTRACT.strip().splitlines()]
    return [(Event(name), cells) for name, *cells in lines]


@pytest.mark.parametrize(("event", "cells"), calls_of_the_contract(), ids=lambda value: getattr(value, "value", ""))
def test_a_call_is_allowed_where_the_contract_says_so_and_refused_with_its_kind(event: Event, cells: list[str]) -> None:
    situations: list[list[ConnectionState]] = [
        [state_in(PENDING)],
        [state_in(OPEN)],
        [state_in(OPEN, mode, count) for mode, count in PUSHING],
        [state_in(UPGRADING)],
        [state_in(CLOSING, mode, count) for mode, count in MODES],
    ]
    for states, cell in zip(situations, cells, strict=True):
        for state in states:
            if cell == "O":
                state.check(event)
                state.apply(event)
            else:
                for happen in (state.check, state.apply):
                    with pytest.raises(errors.by_kind[cell]):
                        happen(event)


def test_all_calls_of_an_owner_are_in_the_contracts_table() -> None:
    assert {event for event, _ in calls_of_the_contract()} == set(Event) - {Event.SECURE, Event.FAIL, Event.RELEASE}


def test_a_new_connection_is_pending_and_passive_and_its_bytes_are_plaintext() -> None:
    assert everything_of(ConnectionState()) == (PENDING, Mode.PASSIVE, 0, 0)


@pytest.mark.parametrize("before", MODES, ids=str)
@pytest.mark.parametrize("after", MODES, ids=str)
def test_contract_07_every_mode_leads_to_every_mode(before: tuple[Mode, int], after: tuple[Mode, int]) -> None:
    state = state_in(OPEN, *before)
    state.set_mode(*after)
    assert seen_of(state) == (OPEN, *after)


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        (HANDSHAKING, "busy"),
        (PENDING, "pending"),
        (UPGRADING, "busy"),
        (CLOSING, "closed"),
        (CLOSED, "not-found"),
    ],
)
def test_contract_07_the_mode_changes_only_while_open(phase: Phase, kind: str) -> None:
    state = state_in(phase)
    with pytest.raises(errors.by_kind[kind]):
        state.set_mode(Mode.ACTIVE)
    assert seen_of(state) == (phase, Mode.PASSIVE, 0)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_contract_10_who_gets_a_connection_by_transfer_finds_it_passive(mode: tuple[Mode, int]) -> None:
    state = state_in(OPEN, *mode)
    state.apply(Event.TRANSFER)
    assert seen_of(state) == (OPEN, Mode.PASSIVE, 0)


@pytest.mark.parametrize(("mode", "count"), PUSHING)
@pytest.mark.parametrize("phase", Phase)
def test_data_is_pushed_while_open_and_not_passive_and_at_no_other_time(phase: Phase, mode: Mode, count: int) -> None:
    assert state_in(phase, mode, count).pushes is (phase is OPEN)
    assert not state_in(phase).pushes


@pytest.mark.parametrize(("mode", "count"), PUSHING)
def test_contract_12_receive_is_refused_while_data_is_pushed_and_names_the_mode(mode: Mode, count: int) -> None:
    with pytest.raises(WrongMode, match=mode.value):
        state_in(OPEN, mode, count).check(Event.RECEIVE)


@pytest.mark.parametrize(("mode", "count"), PUSHING)
def test_contract_14_an_upgrade_is_refused_while_data_is_pushed_and_names_the_mode(mode: Mode, count: int) -> None:
    state = state_in(OPEN, mode, count)
    for happen in (state.check, state.apply):
        with pytest.raises(WrongMode, match=mode.value):
            happen(Event.UPGRADE)
    assert everything_of(state) == (OPEN, mode, count, 0)


def test_contract_14_an_upgrade_ends_where_it_began_and_the_epoch_is_one_more() -> None:
    state = state_in(OPEN)
    state.apply(Event.UPGRADE)
    assert everything_of(state) == (UPGRADING, Mode.PASSIVE, 0, 0)
    state.apply(Event.SECURE)
    assert everything_of(state) == (OPEN, Mode.PASSIVE, 0, 1)


def test_contract_14_a_second_upgrade_is_already_tls_and_changes_nothing() -> None:
    state = state_in(OPEN)
    state.apply(Event.UPGRADE)
    state.apply(Event.SECURE)
    for happen in (state.check, state.apply):
        with pytest.raises(AlreadyTls):
            happen(Event.UPGRADE)
    assert everything_of(state) == (OPEN, Mode.PASSIVE, 0, 1)


@pytest.mark.parametrize(("mode", "count"), PUSHING)
def test_contract_14_the_data_mode_is_told_before_the_encryption(mode: Mode, count: int) -> None:
    state = state_in(OPEN, mode, count)
    state.epoch = 1
    with pytest.raises(WrongMode):
        state.check(Event.UPGRADE)


def test_contract_03_a_handshake_at_accept_leads_to_pending_and_its_epoch_is_one() -> None:
    state = state_in(HANDSHAKING)
    state.apply(Event.SECURE)
    assert everything_of(state) == (PENDING, Mode.PASSIVE, 0, 1)
    state.apply(Event.ACTIVATE)
    with pytest.raises(AlreadyTls):
        state.check(Event.UPGRADE)


@pytest.mark.parametrize(
    ("phase", "end"), [(HANDSHAKING, Event.FAIL), (UPGRADING, Event.FAIL), (UPGRADING, Event.CLOSE)]
)
def test_contract_16_a_handshake_that_failed_is_no_epoch_and_nothing_leads_back(phase: Phase, end: Event) -> None:
    state = state_in(phase)
    state.apply(end)
    assert everything_of(state) == (CLOSING, Mode.PASSIVE, 0, 0)
    with pytest.raises(TheaterError):
        state.apply(Event.SECURE)
    assert state.phase is CLOSING


def test_contract_08_once_is_passive_when_its_chunk_is_handed_over() -> None:
    state = state_in(OPEN, Mode.ONCE)
    assert state.hand_over() is False
    assert seen_of(state) == (OPEN, Mode.PASSIVE, 0)


def test_contract_09_a_count_runs_out_with_its_last_chunk_and_not_before() -> None:
    state = state_in(OPEN, Mode.COUNT, 3)
    assert [(state.hand_over(), state.mode) for _ in range(3)] == [
        (False, Mode.COUNT),
        (False, Mode.COUNT),
        (True, Mode.PASSIVE),
    ]
    assert state.count == 0


def test_active_stays_active_however_much_is_handed_over() -> None:
    state = state_in(OPEN, Mode.ACTIVE)
    assert not any(state.hand_over() for _ in range(10))
    assert state.mode is Mode.ACTIVE


@pytest.mark.parametrize(
    ("argument", "meaning"),
    [
        ("passive", (Mode.PASSIVE, 0)),
        ("active", (Mode.ACTIVE, 0)),
        ("once", (Mode.ONCE, 0)),
        (1, (Mode.COUNT, 1)),
        (MAX_COUNT, (Mode.COUNT, MAX_COUNT)),
    ],
)
def test_a_mode_is_one_of_three_words_or_a_count(argument: str | int, meaning: tuple[Mode, int]) -> None:
    assert parse_mode(argument) == meaning


@pytest.mark.parametrize(
    "argument", [0, -1, MAX_COUNT + 1, True, False, 1.0, "", "count", "Active", "3", None, b"once", ["once"], Mode.ONCE]
)
def test_anything_else_is_no_mode_and_the_error_shows_it(argument: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_mode(argument)
    assert repr(argument) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_error_of_the_table_has_a_kind_of_its_own() -> None:
    assert all(issubclass(error, TheaterError) and error.kind in errors.by_kind for error in REFUSALS.values())


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (state_in(HANDSHAKING), "<handshaking passive>"),
        (state_in(PENDING), "<pending passive>"),
        (state_in(OPEN, Mode.COUNT, 7), "<open count(7)>"),
        (state_in(UPGRADING), "<upgrading passive>"),
        (state_in(CLOSING, Mode.ACTIVE), "<closing active>"),
    ],
)
def test_a_state_shows_its_phase_and_mode(state: ConnectionState, text: str) -> None:
    assert repr(state) == text
