"""Compiled guests on disk, so that one which was compiled once starts at once the next time.

What is read here is machine code that will run in this process, outside of every sandbox. So the cache gives back only
what this program wrote. What protects against what:

- *Other users* are kept out by the folder: it is this user's own, and neither it nor a folder above it can be changed
  by anybody else (up to the home directory, or up to the root for a folder outside of it). Otherwise there is no cache.
  Files are opened inside of that one folder, and no symbolic link is followed.
- *Files from elsewhere*, such as a folder that was copied or unpacked over this one, are told apart by the seal: an
  HMAC-SHA256 with a secret that each folder makes for itself. It covers the header too, so a file can't be renamed to
  stand for another guest.
- *Accidents*, a write that was cut off or a bit that fell over, break the seal as well. That is why nothing is synced
  to the disk: what a power failure leaves behind is compiled anew.
- *Somebody who can write as this user* is not kept out, by nothing that lies in the same folder: that one could alter
  the program itself.

A file is written under a name of its own and moved into place, so that it is there whole or not at all. Whoever writes
holds a lock on that part; a part without a lock is of a process that was killed, and is swept away. Processes need no
more than that to share a folder: the worst that one can do to another is to have it compile again.

No error of the disk is an error of the program: there is one warning, and guests are compiled as if no cache were.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["MAX_BYTES", "CompileCache", "cache_for", "default_folder"]

logger = logging.getLogger("theater_tcp.guest")

MAX_BYTES = 512 << 20
"""Bytes that a cache may take on the disk, unless told otherwise."""

MAGIC = b"theater!"
VERSION = 1

SECRET = "secret"  # the name of a file
SECRET_SIZE = 32

_head = struct.Struct("<8sIQ32s")  # magic, version, bytes of the payload, hash of the key; the seal follows
_SEAL = 32
HEADER = _head.size + _SEAL

_ENTRY = re.compile(r"[0-9a-f]{64}\.guest")
_PART = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.part")

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def default_folder() -> Path | None:
    """Where the XDG Base Directory Specification has the caches of programs; None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # a relative one is to be ignored
        return Path(given, "theater-tcp", "guests")
    try:
        return Path.home() / ".cache" / "theater-tcp" / "guests"
    except RuntimeError:
        return None


def cache_for(setting: str | None) -> CompileCache | None:
    """The cache that a runtime has.

    Args:
        setting: the path of its folder; None for the usual place, an empty text for no cache.
    """
    if setting is not None:
        return CompileCache(Path(setting)) if setting else None
    folder = default_folder()
    if folder is None:
        logger.warning("no cache of compiled guests: there is no home directory")
        return None
    return CompileCache(folder)


class _Unfit(Exception):
    """The folder can't be trusted; the text is why."""


class CompileCache:
    """Compiled guests in one folder. Any thread may use it.

    Args:
        folder: is made when something is put into it.
        max_bytes: of everything that is kept; what was not used for the longest time goes first.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._warned = False

    def get(self, key: str) -> bytes | None:
        """What was put under a key, as it was put; None if there is nothing, or nothing that is in order.

        Args:
            key: stands for everything that decides on whether the compiled guest fits.
        """
        try:
            with self._opened() as folder:
                return self._read(folder, key)
        except FileNotFoundError:
            return None
        except (_Unfit, OSError, ValueError) as error:
            self._warn(error)
            return None

    def put(self, key: str, payload: bytes) -> None:
        """Keep a compiled guest, in the place of what was there under its key.

        Args:
            key: see :meth:`get`.
            payload: more than fits into the whole cache is not kept.
        """
        if HEADER + len(payload) > self.max_bytes:
            return
        try:
            self._make_folder()
            with self._opened() as folder:
                self._write(folder, key, payload)
                self._tidy(folder)
        except (_Unfit, OSError, ValueError) as error:
            self._warn(error)

    # -- the folder -----------------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        missing = []
        path = self.folder.absolute()
        while not path.exists():
            missing.append(path)
            path = path.parent
        for each in reversed(missing):
            with suppress(FileExistsError):
                each.mkdir(0o700)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The folder's descriptor: what is done by it is done in the folder that was looked at."""
        real = Path(os.path.realpath(self.folder))
        descriptor = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                raise _Unfit("it belongs to another user")
            if found.st_mode & _OTHERS_WRITE:
                raise _Unfit("other users may write there")
            self._check_above(real)
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _check_above(real: Path) -> None:
        """Nobody but this user and root can put another folder in its place."""
        home = os.path.realpath(os.path.expanduser("~"))
        for above in real.parents:
            found = above.lstat()
            if found.st_uid not in (os.geteuid(), 0):
                raise _Unfit(f"{above} belongs to another user")
            if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:  # as /tmp: own files are safe there
                raise _Unfit(f"other users may write to {above}")
            if str(above) == home:
                return

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            logger.warning("no cache of compiled guests in %s: %s", self.folder, reason)

    # -- its files ------------------------------------------------------------------------------------------------

    def _read(self, folder: int, key: str) -> bytes | None:
        name, hashed = _name_of(key)
        try:
            descriptor = os.open(name, _READ, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError:  # a link, a socket, or a mode that this program does not give
            _remove(folder, name)
            return None
        try:
            content = _own_content(descriptor, self.max_bytes)
            payload = _unsealed(content, hashed, _secret(folder)) if content is not None else None
            if payload is None:
                _remove(folder, name)
            else:
                with suppress(OSError):  # a disk that can only be read
                    os.utime(descriptor)  # used just now
            return payload
        finally:
            os.close(descriptor)

    def _write(self, folder: int, key: str, payload: bytes) -> None:
        name, hashed = _name_of(key)
        secret = _secret(folder) or _new_secret(folder)
        head = _head.pack(MAGIC, VERSION, len(payload), hashed)
        part, descriptor = _new_part(folder, name.partition(".")[0])
        try:
            _write_all(descriptor, head + _seal(secret, head, payload))
            _write_all(descriptor, payload)
            os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            _remove(folder, part)
            raise
        finally:
            os.close(descriptor)

    def _tidy(self, folder: int) -> None:
        """Sweep away what killed processes left, and then the entries that were not used for the longest time."""
        entries = []
        with os.scandir(folder) as found:
            for each in found:
                if _PART.fullmatch(each.name):
                    _sweep(folder, each.name)
                elif _ENTRY.fullmatch(each.name):
                    with suppress(FileNotFoundError):
                        known = each.stat(follow_symlinks=False)
                        entries.append((known.st_mtime_ns, known.st_size, each.name))
        total = sum(size for _, size, _ in entries)
        for _, size, name in sorted(entries):
            if total <= self.max_bytes:
                return
            _remove(folder, name)
            total -= size


def _name_of(key: str) -> tuple[str, bytes]:
    hashed = hashlib.sha256(key.encode("utf-8", "surrogatepass"))
    return f"{hashed.hexdigest()}.guest", hashed.digest()


def _seal(secret: bytes, head: bytes, payload: bytes | memoryview) -> bytes:
    seal = hmac.new(secret, head, hashlib.sha256)
    seal.update(payload)
    return seal.digest()


def _unsealed(content: bytes, hashed: bytes, secret: bytes | None) -> bytes | None:
    """The payload of a file, if this folder's secret sealed it for this key."""
    if secret is None or len(content) < HEADER:
        return None
    head, seal, payload = content[: _head.size], content[_head.size : HEADER], memoryview(content)[HEADER:]
    if head != _head.pack(MAGIC, VERSION, len(payload), hashed):
        return None
    return bytes(payload) if hmac.compare_digest(seal, _seal(secret, head, payload)) else None


def _own_content(descriptor: int, max_bytes: int) -> bytes | None:
    """What is in an open file, if it looks as this program makes them."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) != 0o600 or found.st_uid != os.geteuid():
        return None
    if found.st_size > max_bytes:
        return None
    with open(descriptor, "rb", closefd=False) as file:
        try:
            return file.read(found.st_size)
        except OSError:  # a part of the disk that can't be read any more
            return None


def _secret(folder: int) -> bytes | None:
    """The folder's secret, if it has one."""
    try:
        descriptor = os.open(SECRET, _READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError:
        _remove(folder, SECRET)
        return None
    try:
        content = _own_content(descriptor, SECRET_SIZE)
    finally:
        os.close(descriptor)
    if content is None or len(content) != SECRET_SIZE:
        _remove(folder, SECRET)
        return None
    return content


def _new_secret(folder: int) -> bytes:
    """Make a secret, unless another process was faster: then that one's."""
    part, descriptor = _new_part(folder, secrets.token_hex(32))
    try:
        _write_all(descriptor, secrets.token_bytes(SECRET_SIZE))
        with suppress(FileExistsError):
            os.link(part, SECRET, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        _remove(folder, part)
        os.close(descriptor)
    secret = _secret(folder)
    if secret is None:
        raise _Unfit("its secret can't be kept")
    return secret


def _new_part(folder: int, stem: str) -> tuple[str, int]:
    """A new file, locked as long as its descriptor is open: its name and the descriptor."""
    while True:
        part = f"{stem}.{secrets.token_hex(8)}.part"
        descriptor = os.open(part, _CREATE, 0o600, dir_fd=folder)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask is
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return part, descriptor
        except BlockingIOError:
            pass  # another process is sweeping it away, as it was not locked yet
        except BaseException:
            os.close(descriptor)
            _remove(folder, part)
            raise
        os.close(descriptor)


def _sweep(folder: int, part: str) -> None:
    """Remove a part if nobody is writing it."""
    with suppress(OSError):
        descriptor = os.open(part, _READ, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder, part)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _remove(folder: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)
