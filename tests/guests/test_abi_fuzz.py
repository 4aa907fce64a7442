"""Random and hostile values at the ABI: whatever a guest passes, only that guest may end.

Two ways: Hypothesis, which finds small examples, and a plain loop with a seed, which gets through many more.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

import hypothesis
import hypothesis.strategies as st
import pytest

from tests.guests.puppets import GuestStage
from tests.guests.roads import ROADS
from tests.guests.wat_guests import (
    HEAP,
    HOSTILE_ARGUMENTS,
    IMPORTS,
    RET,
    TAIL,
    USER,
    Post,
    Realloc,
    Word,
    call_frame,
    script,
    write_frame,
)
from theater_tcp.errors import CallbackFailed, LimitReached
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

FUNCTIONS = [name for name in IMPORTS if not name.startswith("clock")]

END = 2 << 16
EDGES = (
    0, 1, 2, 3, 4, 7, 8, 12, 45, 0x3F, 0x40, RET - 1, RET, RET + 1, RET + 4, USER, HEAP, HEAP + 1,
    END - 100, END - 16, END - 12, END - 8, END - 4, END - 1, END, END + 1, 1 << 20, 16 << 20, (16 << 20) + 1,
    0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_0000, 0xFFFF_FFF0, 0xFFFF_FFFE, 0xFFFF_FFFF,
)  # fmt: skip

TEXTS = (
    b"", b"\0", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"x" * 300, b"active", b"once", b"1",
    b"line", b"half_open", b"true",
    b"idle_timeout", b"localhost", b"127.0.0.1:1", b"127.0.0.1:0", b"unix:/", b"[::1]:1",
    b"a:b:c",
    b"urn:uuid:00000000-0000-4000-8000-000000000000", "ü€😀".encode(), b"\n\r\x1b[", b"%s%n", b"..", b"*:0",
)  # fmt: skip

LIMITS = Limits(cpu=0.2, memory=4 << 20)


@pytest.fixture(scope="module")
def stages() -> Iterator[dict[str, GuestStage]]:
    """A stage for each road, for all examples."""
    made: dict[str, GuestStage] = {}
    yield made
    for stage in made.values():
        stage.close(check=False)


def stage_for(stages: dict[str, GuestStage], road: str) -> GuestStage:
    if road not in stages:
        stages[road] = stage = GuestStage()
        stage.fuzzed = stage.guest(road)  # type: ignore[attr-defined]
    return stages[road]


def throw(stage: GuestStage, road: str, *frames: bytes) -> str:
    """Let a guest do what frames say; how it went. Nothing but the two errors of a guest that could not start comes."""
    try:
        ref = stage.theater.spawn_guest(stage.program(road), script(*frames), limits=LIMITS, permissions=None)
    except (CallbackFailed, LimitReached) as error:
        text = str(error)
        assert text.isprintable()
        assert "the host failed" not in text
        assert "Error" not in text.replace("WasmtimeError", "Error"), text
        return text
    ref.stop(block=False)
    return ""


def is_well(stage: GuestStage) -> None:
    """The guest that was there before is as it was."""
    witness: Any = stage.fuzzed  # type: ignore[attr-defined]
    assert witness.calls("runtime#self") == witness.ref.actor_urn


def arguments(count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from(EDGES) | st.integers(0, 0xFFFF_FFFF), min_size=count, max_size=count)


calls = st.sampled_from(FUNCTIONS).flatmap(
    lambda name: st.tuples(st.just(name), arguments(len(IMPORTS[name][0].split())), st.integers(0, 127))
)


@pytest.mark.parametrize("road", ROADS)
@hypothesis.settings(max_examples=60)
@hypothesis.given(data=st.data(), tail=st.sampled_from(TEXTS) | st.binary(max_size=64))
def test_any_core_values_at_any_import(
    stages: dict[str, GuestStage], road: str, data: st.DataObject, tail: bytes
) -> None:
    stage = stage_for(stages, road)
    function, words, mask = data.draw(calls)
    throw(stage, road, call_frame(function, *words, mask=mask, tail=tail))
    is_well(stage)


@pytest.mark.parametrize("road", ROADS)
@hypothesis.settings(max_examples=40)
@hypothesis.given(
    mode=st.sampled_from(Realloc),
    value=st.sampled_from(EDGES) | st.integers(0, 0xFFFF_FFFF),
    skip=st.integers(0, 3),
    called=st.lists(st.tuples(st.sampled_from(FUNCTIONS), st.sampled_from(TEXTS)), min_size=1, max_size=4),
    hostile=arguments(7),
)
def test_any_cabi_realloc_under_calls_that_are_right(
    stages: dict[str, GuestStage], road: str, mode: Realloc, value: int, skip: int, called: Any, hostile: list[int]
) -> None:
    stage = stage_for(stages, road)
    frames = [
        write_frame(HOSTILE_ARGUMENTS, struct.pack("<7I", *hostile)),
        write_frame(Word.REALLOC_VALUE, struct.pack("<I", value)),
        write_frame(Word.REALLOC_SKIP, struct.pack("<I", skip)),
        write_frame(Word.REALLOC, struct.pack("<I", mode)),
        *(right_call(function, text) for function, text in called),
    ]
    throw(stage, road, *frames)
    is_well(stage)


def right_call(function: str, text: bytes) -> bytes:
    """A call whose every text and list is the same one, in bounds."""
    count = len(IMPORTS[function][0].split())
    words = [TAIL if number % 2 == 0 else len(text) for number in range(count - 1)]
    mask = sum(1 << number for number in range(0, count - 1, 2))
    if function == "runtime#log":
        words, mask = [1, TAIL, len(text)], 2
    elif function == "tcp#receive":
        words, mask = [TAIL, len(text), 100, RET], 1
    elif function == "tcp-ext#set-framing":
        words, mask = [TAIL, len(text), TAIL, len(text), 0, RET], 0b101
    elif count:
        words.append(RET)
    return call_frame(function, *words, mask=mask, tail=text)


@pytest.mark.parametrize("road", ROADS)
@hypothesis.settings(max_examples=40)
@hypothesis.given(
    content=st.binary(min_size=12, max_size=40) | st.tuples(
        st.sampled_from((0, 1, 2, 255, 256)), st.sampled_from(EDGES), st.sampled_from(EDGES)
    ).map(lambda words: struct.pack("<III", *words)),
    address=st.sampled_from((USER, USER, USER, *EDGES)),
    post=st.sampled_from(Post),
)  # fmt: skip
def test_any_result_of_an_export_and_any_post_return(
    stages: dict[str, GuestStage], road: str, content: bytes, address: int, post: Post
) -> None:
    stage = stage_for(stages, road)
    throw(
        stage,
        road,
        write_frame(Word.POST, struct.pack("<I", post)),
        write_frame(USER, content),
        struct.pack("<cI", b"P", address),
    )
    is_well(stage)


@pytest.mark.parametrize("road", ROADS)
def test_a_thousand_random_calls_with_a_seed(stages: dict[str, GuestStage], road: str, quiet: None) -> None:
    stage = stage_for(stages, road)
    chance = random.Random(20)
    for _ in range(1000 if road == "core" else 200):
        throw(stage, road, *random_frames(chance))
    is_well(stage)


def random_frames(chance: random.Random) -> list[bytes]:
    """A few calls, some of them right, and now and then something that makes the guest hostile."""
    frames = []
    for _ in range(chance.randint(1, 6)):
        kind = chance.random()
        function = chance.choice(FUNCTIONS)
        if kind < 0.35:
            count = len(IMPORTS[function][0].split())
            words = [chance.choice(EDGES) if chance.random() < 0.7 else chance.getrandbits(32) for _ in range(count)]
            frames.append(call_frame(function, *words, mask=chance.getrandbits(7), tail=chance.choice(TEXTS)))
        elif kind < 0.75:
            frames.append(right_call(function, chance.choice(TEXTS)))
        elif kind < 0.85:
            frames.append(
                write_frame(chance.choice(list(Word)), struct.pack("<I", chance.choice((0, 1, 2, 3, 5, 6, 8))))
            )
        elif kind < 0.95:
            frames.append(write_frame(chance.randrange(0x40, 0x8000), chance.randbytes(chance.randint(1, 64))))
        else:
            frames.append(struct.pack("<cI", chance.choice((b"G", b"B", b"P", b"E", b"O")), chance.choice(EDGES)))
    return frames
