"""The chat as guests, in every language: the protocol of ``actors/chat/README.md``, line by line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.guests.guest_files import ACTORS, GuestFolder, every_guest
from tests.peers import TIMEOUT, cut, dial, eventually
from theater_tcp import Theater
from theater_tcp.errors import CallbackFailed
from theater_tcp.guest_settings import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    import pykka

PAGE = 1 << 16

BOOKKEEPING = pytest.mark.parametrize("guest", every_guest("chat", by_threads=()), indirect=True)
"""For what is a guest's own doing alone: ten thousand calls and more, which the slow road makes as any others. That its
calls leave nothing in a guest's memory is tested with the echo."""


class Member:
    """A client of the chat."""

    def __init__(self, address: str) -> None:
        self.socket = dial(address)
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Member:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def say(self, *lines: str) -> None:
        self.socket.sendall("".join(f"{line}\n" for line in lines).encode())

    def hears(self, *lines: str) -> None:
        """These lines come next."""
        for line in lines:
            assert self._lines.readline() == f"{line}\n".encode()

    def hears_the_end(self) -> None:
        assert self._lines.readline() == b""


class Chat:
    """An acceptor and two rooms, ``lobby`` and ``garden``."""

    def __init__(self, theater: Theater, guest: GuestFolder) -> None:
        self.theater = theater
        self.guest = guest
        self.rooms = {name: self.start_room(name) for name in ("lobby", "garden")}
        self.acceptor = theater.spawn_guest(guest.content("acceptor"), "lobby garden cellar\n", name="acceptor")
        self.address = theater.listen_for(self.acceptor, "127.0.0.1:0").address

    def start_room(self, name: str, memory: int = 4 << 20) -> pykka.ActorRef[Any]:
        return self.theater.spawn_guest(self.guest.content("room"), name, name=name, limits=Limits(memory=memory))

    def connect(self) -> Member:
        return Member(self.address)

    def join(self, nick: str = "", room: str = "lobby") -> Member:
        """Somebody who is in a room; who is there already hears of it."""
        member = self.connect()
        member.say(f"JOIN {room}")
        greeting = member._lines.readline().decode()
        assert greeting.startswith("* you are guest")
        assert greeting.endswith(f" in {room}\n")
        if nick:
            member.say(f"/nick {nick}")
            member.hears(f"* {greeting.split()[3]} is now {nick}")
        return member

    def anna_and_bert(self) -> tuple[Member, Member]:
        """Two who know of each other."""
        anna = self.join("anna")
        bert = self.join("bert")
        anna.hears("* guest2 joined", "* guest2 is now bert")
        return anna, bert


@pytest.fixture(params=every_guest("chat"))
def guest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GuestFolder:
    guest: GuestFolder = request.param
    guest.take_road(monkeypatch)
    return guest


@pytest.fixture
def theater() -> Iterator[Theater]:
    with Theater() as theater:
        yield theater
        assert theater.metrics().guest_traps == 0


@pytest.fixture
def chat(guest: GuestFolder, theater: Theater) -> Chat:
    return Chat(theater, guest)


# -- at the door --------------------------------------------------------------------------------------------------


def test_who_joins_is_told_a_name_and_the_others_are_told_who_came(chat: Chat) -> None:
    with chat.connect() as first, chat.connect() as second:
        first.say("JOIN lobby")
        first.hears("* you are guest1 in lobby")
        second.say("JOIN lobby")
        second.hears("* you are guest2 in lobby")
        first.hears("* guest2 joined")


def test_a_room_that_is_not_there_is_told_and_ends_the_connection(chat: Chat) -> None:
    for room in ("attic", "", "lob", "lobbyy", "lobby garden", " lobby", "lobby ", "acceptor", chat.acceptor.actor_urn):
        with chat.connect() as stranger:
            stranger.say(f"JOIN {room}")
            stranger.hears("! no such room")
            stranger.hears_the_end()


def test_a_room_without_its_actor_is_no_such_room(chat: Chat) -> None:
    chat.rooms["garden"].stop()
    for room in ("garden", "cellar"):
        with chat.connect() as stranger:
            stranger.say(f"JOIN {room}")
            stranger.hears("! no such room")
            stranger.hears_the_end()
    chat.join().close()


def test_a_first_line_that_is_no_join_is_told_and_ends_the_connection(chat: Chat) -> None:
    for line in ("", "hello", "join lobby", "JOIN", "JOINlobby", "/quit", "NICK anna"):
        with chat.connect() as stranger:
            stranger.say(line, "JOIN lobby")
            stranger.hears("! the first line is JOIN and a room")
            stranger.hears_the_end()


def test_clients_that_send_half_a_line_or_nothing_hold_up_nobody(chat: Chat) -> None:
    silent = [chat.connect() for _ in range(20)]
    slow = chat.connect()
    slow.socket.sendall(b"JOIN lo")
    with chat.join() as quick:
        slow.socket.sendall(b"bby\nhello\n")
        slow.hears("* you are guest2 in lobby")
        quick.hears("* guest2 joined", "<guest2> hello")
    for member in (slow, *silent):
        member.close()


def test_a_first_line_that_is_too_long_ends_its_connection(chat: Chat) -> None:
    with chat.connect() as stranger:
        stranger.socket.sendall(b"JOIN " + b"x" * 600)
        expect_reset_or_end(stranger)
    chat.join().close()


def expect_reset_or_end(member: Member) -> None:
    """The connection ends; whether by a reset is up to what was unread by then."""
    try:
        assert member.socket.recv(1) == b""
    except ConnectionResetError:
        pass


def test_what_follows_the_first_line_at_once_is_heard_in_the_room(chat: Chat) -> None:
    with chat.join() as listener, chat.connect() as hasty:
        hasty.socket.sendall(b"JOIN lobby\r\none\r\ntwo\n/nick hasty\nthree")
        hasty.socket.shutdown(1)
        listener.hears("* guest2 joined", "<guest2> one", "<guest2> two", "* guest2 is now hasty", "<hasty> three")
        listener.hears("* hasty left")
        hasty.hears("* you are guest2 in lobby", "* guest2 is now hasty")
        hasty.hears_the_end()


# -- in a room ----------------------------------------------------------------------------------------------------


def test_a_line_is_heard_by_all_others_of_the_room_and_by_nobody_else(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert, chat.join(room="garden") as gardener:
        anna.say("hello", "all  of you")
        bert.hears("<anna> hello", "<anna> all  of you")
        bert.say("grüße")
        anna.hears("<bert> grüße")
        for member in (anna, bert, gardener):
            member.say("/who")
        anna.hears("* anna, bert")
        bert.hears("* anna, bert")
        gardener.hears("* guest1")


def test_a_new_name_is_told_to_all_and_stands_before_what_its_bearer_says(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert:
        anna.say("/nick Anna_2-x")
        anna.hears("* anna is now Anna_2-x")
        anna.say("hello")
        bert.hears("* anna is now Anna_2-x", "<Anna_2-x> hello")


def test_a_name_that_is_taken_or_not_allowed_is_refused_to_the_one_who_asked(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert:
        for nick in ("anna", "bert"):
            bert.say(f"/nick {nick}")
            bert.hears("! that name is taken")
        for nick in ("/nick", "/nick ", "/nick a b", "/nick  a", "/nick ä", "/nick a@b", "/nick " + "x" * 17):
            bert.say(nick)
            bert.hears("! a name is 1 to 16 letters, digits, - or _")
        bert.say("/nick " + "x" * 16)
        anna.hears("* bert is now " + "x" * 16)


def test_a_guest_gets_no_name_that_somebody_took(chat: Chat) -> None:
    with chat.join("guest2") as taker, chat.connect() as newcomer:
        newcomer.say("JOIN lobby")
        newcomer.hears("* you are guest3 in lobby")
        taker.hears("* guest3 joined")


def test_who_lists_all_in_the_order_in_which_they_came(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, chat.join() as carl:
        anna.hears("* guest3 joined")
        anna.say("/who", "/who is there")
        anna.hears("* anna, bert, guest3", "* anna, bert, guest3")
        bert.close()
        anna.hears("* bert left")
        carl.hears("* bert left")
        with chat.join():
            carl.hears("* guest4 joined")
            carl.say("/who")
            carl.hears("* anna, guest3, guest4")


def test_who_quits_is_told_goodbye_and_the_others_that_somebody_left(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert:
        bert.say("/quit", "one thing more")
        bert.hears("* bye")
        bert.hears_the_end()
        anna.hears("* bert left")
        anna.say("/who")
        anna.hears("* anna")


@pytest.mark.parametrize("leave", [Member.close, lambda member: cut(member.socket)], ids=["in order", "by a reset"])
def test_who_goes_without_a_word_has_left(chat: Chat, leave: Any) -> None:
    anna, bert = chat.anna_and_bert()
    with anna:
        bert._lines.close()
        leave(bert)
        anna.hears("* bert left")


def test_a_line_that_is_too_long_ends_its_connection(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert:
        longest = "x" * 511
        bert.say(longest)
        anna.hears(f"<bert> {longest}")
        bert.say("x" * 512)
        anna.hears("* bert left")
        expect_reset_or_end(bert)


def test_empty_lines_are_nothing_and_unknown_commands_are_told(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert:
        bert.say("", "\r", "/", "/nickname x", "/WHO", "hello /who")
        bert.hears(*["! unknown command; there are /nick, /who and /quit"] * 3)
        anna.hears("<bert> hello /who")


def test_control_characters_become_spaces_and_other_bytes_stay(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert:
        bert.socket.sendall(b"\x1b[2J\ta\x00b\x7f\xff\xc3\r\n")
        assert anna._lines.readline() == b"<bert>  [2J a b \xff\xc3\n"


@BOOKKEEPING
def test_a_full_room_is_told_and_serves_those_who_are_in_it(chat: Chat) -> None:
    first = chat.join("first")
    others = [chat.connect() for _ in range(255)]
    for number, member in enumerate(others, 2):
        member.say("JOIN lobby")
        member.hears(f"* you are guest{number} in lobby")
    with chat.connect() as late:
        late.say("JOIN lobby")
        late.hears("! the room is full")
        late.hears_the_end()
    first.hears(*(f"* guest{number} joined" for number in range(2, 257)))
    first.say("/who", "/nick " + "y" * 16)
    first.hears("* first, " + ", ".join(f"guest{number}" for number in range(2, 257)))
    first.hears("* first is now " + "y" * 16)
    others.pop().close()
    first.hears("* guest256 left")
    with chat.join():
        first.hears("* guest257 joined")
    chat.rooms["lobby"].stop()  # or it would tell each one that is left of each one that goes
    for member in (first, *others):
        member.close()


def test_the_end_of_the_acceptor_is_not_the_end_of_the_rooms(chat: Chat) -> None:
    anna, bert = chat.anna_and_bert()
    with anna, bert:
        chat.acceptor.stop()
        anna.say("hello")
        bert.hears("<anna> hello")


@BOOKKEEPING
def test_the_memory_of_a_room_does_not_grow_with_what_is_said(chat: Chat, theater: Theater) -> None:
    """A leak of one id or one line for each message would go beyond what the room may use."""
    chat.rooms["lobby"].stop()
    chat.start_room("lobby", memory=3 * PAGE)
    with chat.join() as anna, chat.join() as bert:
        anna.hears("* guest2 joined")
        for _ in range(300):
            bert.say(*["hello"] * 20, "/who", "/nick guest1", "/nick b", "/nick c", "/oops")
            anna._lines.read(20 * len("<guest2> hello\n") if _ == 0 else 20 * len("<c> hello\n"))
            anna._lines.readline()
            anna._lines.readline()
        for _ in range(100):
            chat.join().close()
        bert.say("/quit")
        anna.say("/who")
    eventually(lambda: theater.metrics().connections == 0)


def test_who_does_not_read_is_dropped_and_the_others_hear_everything(theater: Theater) -> None:
    """Once for all languages: what a ``send`` to a slow peer does is the runtime's part."""
    chat = Chat(theater, GuestFolder("chat", "c", "committed", "core"))
    address = theater.listen_for(chat.acceptor, "127.0.0.1:0", write_buffer_limit=1024, send_timeout=0.2).address
    with Member(address) as deaf, chat.join() as anna, chat.join() as bert:
        deaf.say("JOIN lobby")
        deaf.hears("* you are guest3 in lobby")
        anna.hears("* guest2 joined", "* guest3 joined")
        bert.hears("* guest3 joined")
        lines = 0
        gone = b"* guest3 left\n"
        while True:
            anna.say(*["x" * 500] * 100)
            lines += 100
            heard = [bert._lines.readline() for _ in range(100)]
            if gone in heard:
                assert bert._lines.readline() == b"<guest1> " + b"x" * 500 + b"\n"
                break
        anna.hears("* guest3 left")


# -- at the start -------------------------------------------------------------------------------------------------


def test_a_config_that_says_nothing_is_refused_with_the_reason(guest: GuestFolder, theater: Theater) -> None:
    for config in ("", " \n\t"):
        with pytest.raises(CallbackFailed, match="init is to name the rooms, with spaces between them"):
            theater.spawn_guest(guest.content("acceptor"), config)
    for config in ("", "x" * 65):
        with pytest.raises(CallbackFailed, match="init is to be the name of the room, of 1 to 64 bytes"):
            theater.spawn_guest(guest.content("room"), config)


def test_the_chat_of_the_manifests_runs_with_guests_of_three_languages(tmp_path: Path) -> None:
    folder, ready = tmp_path / "chat", tmp_path / "ready.json"
    shutil.copytree(ACTORS / "chat", folder)
    acceptor = folder / "acceptor.yaml"
    acceptor.write_text(acceptor.read_text().replace(":7100", ":0"))
    manifests = [folder / name for name in ("lobby.yaml", "garden.yaml", "acceptor.yaml")]
    command = [sys.executable, "-m", "theater_tcp", "run", *map(str, manifests), "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=ACTORS.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: ready.exists() or process.poll() is not None)
            address = json.loads(ready.read_text())["listeners"][0]["address"]
            for room in ("lobby", "garden"):
                with Member(address) as one, Member(address) as other:
                    one.say(f"JOIN {room}")
                    one.hears(f"* you are guest1 in {room}")
                    other.say(f"JOIN {room}", "hello")
                    one.hears("* guest2 joined", "<guest2> hello")
            process.terminate()
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
