"""Delivery to a Maildir: a message is in ``new/`` as a whole, or not at all.

A message is written to ``tmp/`` under a name that was never used before, forced to the disk, and renamed into ``new/``;
then the folder is forced to the disk. Only after that is it acknowledged. A process that is killed in between leaves a
file in ``tmp/``, which nobody reads, and which a later start removes when it is older than 36 hours, as the format
has it.

Several messages that are stored in one call share the wait for the disk: they are all written first, so the first fsync
has the system write what the others would wait for, and the folder is forced once for all (group commit).

Storing may block: do it in a worker thread, or on the loop where ``fsync`` is off and the disk is near.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["DeliveryFailed", "Draft", "Job", "Maildir", "MaildirUnusable"]

_STALE_S = 36 * 3600
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST_PIECES = 512
"""Pieces of one writev; every system here takes 1024 (IOV_MAX)."""


class MaildirUnusable(Exception):
    """The folder can't be used; the text is one line that names it and the reason."""


class DeliveryFailed(Exception):
    """A message could not be stored, and nothing is left of it.

    Args:
        reason: the operating system's, in one line; for the log.
        has_no_room: whether the disk or the quota is full.
    """

    def __init__(self, reason: str, *, has_no_room: bool) -> None:
        super().__init__(reason)
        self.has_no_room = has_no_room


class Draft:
    """A message on its way into a folder. Made by :meth:`Maildir.draft`.

    Args:
        name: its file name, first in ``tmp/``, then in ``new/``.
        identifier: what it is called towards people, an atom of RFC 5322.
    """

    __slots__ = ("descriptor", "folder", "identifier", "name")

    def __init__(self, name: str, identifier: str) -> None:
        self.name = name
        self.identifier = identifier
        self.descriptor = -1
        """Of the open file."""
        self.folder = -1
        """Descriptor of the folder that the file is in; -1: there is no file."""

    def discard(self) -> None:
        """Give the message up; what was written of it goes away."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)
        folder, self.folder = self.folder, -1
        if folder >= 0:
            with suppress(OSError):
                os.unlink(self.name, dir_fd=folder)


class Job(NamedTuple):
    """Something to store.

    Args:
        draft: the message.
        pieces: the next bytes of it.
        is_last: whether the message ends with them and is to be delivered.
    """

    draft: Draft
    pieces: Sequence[bytes]
    is_last: bool


class Maildir:
    """A folder of mail.

    Args:
        path: the folder; made with its three parts where it is missing.
        fsync: whether a message is on the disk before it counts as delivered.

    Raises:
        MaildirUnusable: it is no folder, or it can't be written to.
    """

    def __init__(self, path: str | Path, *, fsync: bool = True) -> None:
        self.path = Path(path)
        self._fsync = fsync
        self._tmp = self._new = -1
        self._lock = threading.Lock()
        self._users = 1  # calls of store() under way, and 1 until close()
        try:
            _make_folders([self.path / part for part in ("tmp", "new", "cur")], fsync=fsync)
            # Names are looked up from the open folders: quicker, and a message stays in the folder it began in.
            self._tmp = os.open(self.path / "tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._new = os.open(self.path / "new", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._remove_stale()
        except OSError as error:
            self.close()
            raise MaildirUnusable(f"maildir {self.path}: {_reason(error)}") from error
        self._count = itertools.count(1)
        self._host = socket.gethostname().replace("/", "\\057").replace(":", "\\072")
        self._random = os.urandom(4).hex()  # tells two in one process apart

    def draft(self) -> Draft:
        """Begin a message; nothing is written yet."""
        second, rest_ns = divmod(time.time_ns(), 1_000_000_000)
        unique = f"M{rest_ns // 1000}P{os.getpid()}Q{next(self._count)}R{self._random}"
        return Draft(f"{second}.{unique}.{self._host}", f"{second}{unique}")

    def store(self, jobs: Sequence[Job]) -> list[DeliveryFailed | None]:
        """Write parts of messages, and deliver those that are whole. What was delivered is safe when this returns.

        Any number of threads may call it, with different drafts.

        Args:
            jobs: of different drafts.

        Returns:
            for each job what went wrong with it; a draft that failed is discarded.
        """
        with self._lock:
            if self._users == 0:
                return [DeliveryFailed("the maildir is closed", has_no_room=False) for _ in jobs]
            self._users += 1
        try:
            return self._store(jobs)
        finally:
            self._leave()

    def close(self) -> None:
        """Let the folder go, as soon as no store is under way."""
        self._leave()

    def _store(self, jobs: Sequence[Job]) -> list[DeliveryFailed | None]:
        failures: list[DeliveryFailed | None] = []
        for job in jobs:
            try:
                self._write(job.draft, job.pieces)
            except OSError as error:
                failures.append(_failed(job.draft, error))
            else:
                failures.append(None)
        whole = [index for index, job in enumerate(jobs) if job.is_last and failures[index] is None]
        for index in whole:
            try:
                self._deliver(jobs[index].draft)
            except OSError as error:
                failures[index] = _failed(jobs[index].draft, error)
        if self._fsync and whole:
            try:
                os.fsync(self._new)
            except OSError as error:
                for index in whole:
                    failures[index] = failures[index] or _failed(jobs[index].draft, error)
        for index in whole:
            jobs[index].draft.folder = -1  # it is a message now, and no longer the draft's to discard
        return failures

    def _write(self, draft: Draft, pieces: Sequence[bytes]) -> None:
        if draft.descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            draft.descriptor = os.open(draft.name, flags, 0o600, dir_fd=self._tmp)
            draft.folder = self._tmp
        _write_all(draft.descriptor, pieces)

    def _deliver(self, draft: Draft) -> None:
        if self._fsync:
            os.fsync(draft.descriptor)
        descriptor, draft.descriptor = draft.descriptor, -1
        os.close(descriptor)
        os.rename(draft.name, draft.name, src_dir_fd=self._tmp, dst_dir_fd=self._new)
        draft.folder = self._new

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for descriptor in (self._tmp, self._new):
            if descriptor >= 0:
                os.close(descriptor)

    def _remove_stale(self) -> None:
        oldest_s = time.time() - _STALE_S
        with os.scandir(self._tmp) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process does the same
                    if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                        os.unlink(entry.name, dir_fd=self._tmp)


def _make_folders(folders: Sequence[Path], *, fsync: bool) -> None:
    """Make the folders and those above them, and force the names of the new ones to the disk."""
    missing = {path for folder in folders for path in (folder, *folder.parents) if not path.exists()}
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for parent in {path.parent for path in missing} if fsync else ():
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, pieces: Sequence[bytes]) -> None:
    for begin in range(0, len(pieces), _MOST_PIECES):
        some = pieces[begin : begin + _MOST_PIECES]
        written = os.writev(descriptor, some)
        if written < sum(map(len, some)):  # the disk is full, and the next write will say so; or a signal came
            rest = b"".join(some)
            while written < len(rest):
                written += os.write(descriptor, rest[written:])


def _failed(draft: Draft, error: OSError) -> DeliveryFailed:
    draft.discard()
    return DeliveryFailed(_reason(error), has_no_room=error.errno in _NO_ROOM)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
