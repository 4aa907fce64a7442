"""Delivery to a Maildir: whole or not at all, whatever happens."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.smtp.maildir import DeliveryFailed, Draft, Job, Maildir, MaildirUnusable

ROOT = Path(__file__).resolve().parents[3]


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextmanager
def opened(path: Path, *, fsync: bool = True) -> Iterator[Maildir]:
    maildir = Maildir(path, fsync=fsync)
    try:
        yield maildir
    finally:
        maildir.close()


def deliver(maildir: Maildir, *pieces: bytes) -> Draft:
    draft = maildir.draft()
    assert maildir.store([Job(draft, pieces, True)]) == [None]
    return draft


# -- what lies where ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", [True, False])
def test_a_message_lies_in_new_under_its_name_for_its_owner_alone(tmp_path: Path, fsync: bool) -> None:
    with opened(tmp_path / "mail", fsync=fsync) as maildir:
        draft = deliver(maildir, b"Subject: hi\n", b"", b"\nhello\n")
    file = tmp_path / "mail" / "new" / draft.name
    assert file.read_bytes() == b"Subject: hi\n\nhello\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path / "mail" / "tmp") == []
    assert names_in(tmp_path / "mail" / "cur") == []


def test_the_folders_are_made_for_their_owner_alone_and_those_that_are_there_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mail"
    with opened(path) as maildir:
        first = deliver(maildir, b"1\n")
    assert [(path / part).stat().st_mode & 0o777 for part in ("tmp", "new", "cur")] == [0o700] * 3
    with opened(path) as maildir:
        second = deliver(maildir, b"2\n")
    assert names_in(path / "new") == sorted([first.name, second.name])


def test_a_name_has_a_second_a_unique_part_and_the_host_without_a_slash_or_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a/b:c")
    with opened(tmp_path) as maildir:
        before = int(time.time())
        draft = maildir.draft()
    match = re.fullmatch(r"(\d+)\.(M\d+P\d+Q\d+R[0-9a-f]{8})\.a\\057b\\072c", draft.name)
    assert match is not None
    assert before <= int(match[1]) <= time.time()
    assert draft.identifier == match[1] + match[2]


def test_a_message_comes_in_as_many_parts_and_pieces_as_one_likes(tmp_path: Path) -> None:
    pieces = [b"%d\n" % number for number in range(3000)]
    with opened(tmp_path) as maildir:
        draft = maildir.draft()
        assert maildir.store([Job(draft, pieces, False)]) == [None]
        assert names_in(tmp_path / "new") == []
        assert maildir.store([Job(draft, pieces, False)]) == [None]
        assert maildir.store([Job(draft, (), True)]) == [None]
    assert (tmp_path / "new" / draft.name).read_bytes() == b"".join(pieces) * 2


def test_a_discarded_message_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as maildir:
        draft = maildir.draft()
        draft.discard()
        maildir.store([Job(draft, [b"x"], False)])
        assert names_in(tmp_path / "tmp") == [draft.name]
        draft.discard()
        draft.discard()
    assert names_in(tmp_path / "tmp") == names_in(tmp_path / "new") == []


def test_a_delivered_message_is_no_draft_any_more(tmp_path: Path) -> None:
    with opened(tmp_path) as maildir:
        draft = deliver(maildir, b"x")
        draft.discard()
    assert names_in(tmp_path / "new") == [draft.name]


def test_threads_and_maildirs_beside_each_other_never_share_a_name(tmp_path: Path) -> None:
    maildirs = [Maildir(tmp_path, fsync=False) for _ in range(2)]

    def work(maildir: Maildir) -> None:
        for _ in range(50):
            deliver(maildir, b"x")

    threads = [threading.Thread(target=work, args=(maildirs[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for maildir in maildirs:
        maildir.close()
    assert len(names_in(tmp_path / "new")) == 200


def test_two_maildirs_give_no_name_twice_though_all_else_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    with opened(tmp_path) as first, opened(tmp_path) as second:
        assert first.draft().name != second.draft().name


# -- the way to the disk ------------------------------------------------------------------------------------------


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that matter for the disk, as they happen."""
    calls: list[str] = []

    def wrap(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
            calls.append("fsync folder" if is_folder else name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, wrapped)

    for name in ("writev", "fsync", "rename"):
        wrap(name)
    return calls


def test_a_message_is_on_the_disk_before_it_is_in_new_and_there_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as maildir:
        calls = record_calls(monkeypatch)
        deliver(maildir, b"x")
    assert calls == ["writev", "fsync", "rename", "fsync folder"]


def test_messages_stored_together_are_written_first_and_share_the_last_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as maildir:
        calls = record_calls(monkeypatch)
        drafts = [maildir.draft() for _ in range(3)]
        maildir.store([Job(drafts[0], [b"x"], True), Job(drafts[1], [b"y"], False), Job(drafts[2], [b"z"], True)])
        drafts[1].discard()
    assert calls == ["writev"] * 3 + ["fsync", "rename"] * 2 + ["fsync folder"]


def test_new_folders_are_on_the_disk_before_the_first_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_calls(monkeypatch)
    with opened(tmp_path / "mail"):
        assert calls == ["fsync folder", "fsync folder"]


def test_without_fsync_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_calls(monkeypatch)
    with opened(tmp_path / "mail", fsync=False) as maildir:
        deliver(maildir, b"x")
    assert calls == ["writev", "rename"]


def open_descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def test_nothing_stays_open_behind_a_maildir_and_its_drafts(tmp_path: Path) -> None:
    before = len(open_descriptors())
    with opened(tmp_path / "deep" / "mail") as maildir:
        given_up = maildir.draft()
        maildir.store([Job(given_up, [b"x"], False)])
        given_up.discard()
        assert deliver(maildir, b"y").descriptor == given_up.descriptor == -1
        assert len(open_descriptors()) == before + 2
    assert len(open_descriptors()) == before


def test_nothing_stays_open_behind_a_maildir_that_could_not_be_opened_or_whose_store_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = len(open_descriptors())
    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(MaildirUnusable):
        Maildir(tmp_path)
    monkeypatch.undo()
    assert len(open_descriptors()) == before
    with opened(tmp_path) as maildir:
        draft = maildir.draft()
        with pytest.raises(TypeError):
            maildir.store([Job(draft, ["no bytes"], True)])  # type: ignore[list-item]
        draft.discard()
    assert len(open_descriptors()) == before


# -- what goes wrong ----------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "mail"):
        with pytest.raises(MaildirUnusable) as refused:
            Maildir(path)
        assert str(refused.value) == f"maildir {path}: not a directory"


@pytest.mark.parametrize(
    ("call", "nth"), [("open", 1), ("writev", 1), ("fsync", 1), ("rename", 1), ("fsync", 3)], ids=str
)
@pytest.mark.parametrize(("code", "is_full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_a_failure_at_any_step_leaves_nothing_of_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int, code: int, is_full: bool
) -> None:
    with opened(tmp_path) as maildir:
        real: Callable[..., Any] = getattr(os, call)
        count = 0

        def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, fail)
        drafts = [maildir.draft(), maildir.draft()]
        first, second = maildir.store([Job(draft, [b"x"], True) for draft in drafts])
        monkeypatch.undo()
        assert isinstance(first, DeliveryFailed)
        assert str(first) == os.strerror(code).lower()
        assert first.has_no_room is is_full
        if nth == 3:  # the folder's own: nobody knows which names are on the disk
            assert isinstance(second, DeliveryFailed)
            assert names_in(tmp_path / "new") == []
        else:
            assert second is None
            assert names_in(tmp_path / "new") == [drafts[1].name]
        assert names_in(tmp_path / "tmp") == []
        deliver(maildir, b"the next one\n")


def test_a_file_of_the_same_name_is_not_written_to(tmp_path: Path) -> None:
    with opened(tmp_path) as maildir:
        draft = maildir.draft()
        (tmp_path / "tmp" / draft.name).write_text("another's")
        (failure,) = maildir.store([Job(draft, [b"x"], True)])
    assert str(failure) == "file exists"
    assert (tmp_path / "tmp" / draft.name).read_text() == "another's"


def test_a_draft_whose_file_somebody_removed_is_discarded_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path) as maildir:
        draft = maildir.draft()
        maildir.store([Job(draft, [b"x"], False)])
        (tmp_path / "tmp" / draft.name).unlink()
        draft.discard()


def test_what_another_process_removes_at_the_same_time_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path):
        pass
    for name in ("one", "two"):
        (tmp_path / "tmp" / name).write_text("half a message")
        os.utime(tmp_path / "tmp" / name, (0, 0))
    real = os.unlink

    def unlink(name: str, **folder: int) -> None:
        real(name, **folder)  # the other process
        real(name, **folder)

    monkeypatch.setattr(os, "unlink", unlink)
    with opened(tmp_path):
        assert names_in(tmp_path / "tmp") == []


def test_a_write_that_the_system_takes_half_is_a_failure_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as maildir:
        draft = maildir.draft()
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            (failure,) = maildir.store([Job(draft, [b"x" * 6000] * 3, True)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(failure, DeliveryFailed)
    assert failure.has_no_room
    assert names_in(tmp_path / "tmp") == names_in(tmp_path / "new") == []


def test_a_write_that_is_taken_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: real(descriptor, [b"".join(pieces)[:5]]))
    with opened(tmp_path) as maildir:
        draft = deliver(maildir, b"abc", b"defg", b"hi")
    assert (tmp_path / "new" / draft.name).read_bytes() == b"abcdefghi"


def test_a_closed_maildir_takes_nothing_and_one_in_use_is_closed_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildir = Maildir(tmp_path)
    real = os.fsync

    def close_meanwhile(descriptor: int) -> None:
        monkeypatch.undo()
        maildir.close()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", close_meanwhile)
    draft = deliver(maildir, b"x")
    assert names_in(tmp_path / "new") == [draft.name]
    (failure,) = maildir.store([Job(maildir.draft(), [b"x"], True)])
    assert str(failure) == "the maildir is closed"


def test_what_a_killed_process_left_is_removed_after_36_hours(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    hour = 3600
    for name, age in (("old", 37 * hour), ("young", 35 * hour)):
        (tmp_path / "tmp" / name).write_text("half a message")
        os.utime(tmp_path / "tmp" / name, (time.time() - age,) * 2)
    (tmp_path / "tmp" / "folder").mkdir()
    os.utime(tmp_path / "tmp" / "folder", (0, 0))
    with opened(tmp_path):
        assert names_in(tmp_path / "tmp") == ["folder", "young"]


# -- kill -9 ------------------------------------------------------------------------------------------------------

DELIVERER = """
import hashlib, os, sys, threading
from actors.smtp.maildir import Job, Maildir

maildir = Maildir(sys.argv[1], fsync=sys.argv[2] == "fsync")

def work(number):
    count = 0
    while True:
        count += 1
        body = os.urandom(3000 + 37 * count % 5000)
        drafts = [maildir.draft(), maildir.draft()]
        jobs = [Job(draft, (hashlib.sha256(body).digest(), body[:1000], body[1000:]), True) for draft in drafts]
        maildir.store([Job(draft, job.pieces[:2], False) for draft, job in zip(drafts, jobs)])
        assert maildir.store([Job(draft, job.pieces[2:], True) for draft, job in zip(drafts, jobs)]) == [None, None]
        os.write(1, "".join(draft.name + "\\n" for draft in drafts).encode())

for number in range(3):
    threading.Thread(target=work, args=(number,)).start()
"""


@pytest.mark.parametrize("fsync", ["fsync", "no fsync"])
def test_a_kill_9_at_any_time_loses_no_acknowledged_message_and_leaves_no_half_one(tmp_path: Path, fsync: str) -> None:
    for _ in range(6):
        acknowledged = kill_while_delivering(tmp_path, fsync, after=random.randrange(1, 60))
        stored = names_in(tmp_path / "new")
        assert set(acknowledged) <= set(stored)
        for name in stored:
            content = (tmp_path / "new" / name).read_bytes()
            assert hashlib.sha256(content[32:]).digest() == content[:32], f"{name} is not whole"


def kill_while_delivering(path: Path, fsync: str, after: int) -> list[str]:
    """Kill the deliverer at the moment when it has acknowledged so many; the names that it acknowledged."""
    command = [sys.executable, "-c", DELIVERER, str(path), fsync]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [line.rstrip("\n") for line in lines if line.endswith("\n")]
