"""A folder with a development authority and what it has issued: made, found again, renewed.

All is made before anything is written, and all is written before anything is replaced: each file beside its place, a
key's with mode 0600 from its first byte on, and then renamed. If one can't be, those before it are taken back.
What the folder's own authority has issued is replaced; the authority itself, and what somebody else put there, is not.

A certificate is known by its signature, a key by its certificate. Where an end between their renames leaves the new
certificate with the old key, the new key still lies beside them: by that the old one is known.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509

from theater_tcp.certificate_contents import read_contents
from theater_tcp.certificates import CertificateFacts, DevelopmentAuthority, facts, is_issued_by, read_certificates
from theater_tcp.errors import InvalidArgument
from theater_tcp.pem_file import MAX_FILE

__all__ = ["DEFAULT_NAMES", "CertificateFolder", "Made", "WrongFile", "read_file"]

DEFAULT_NAMES = ("localhost", "127.0.0.1", "::1")
"""What a server's certificate is for where nobody says otherwise."""


class WrongFile(InvalidArgument):
    """A file, or a folder, is not what it has to be.

    Args:
        path: which.
        reason: one line.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Made(msgspec.Struct, frozen=True):
    """A certificate in the folder.

    Args:
        cert: its file; the authority's certificate follows it there.
        key: the file of its key.
        facts: what it says.
        is_new: false for an authority that was there.
        before: what the certificate was for that it replaces, if there was one.
    """

    cert: Path
    key: Path
    facts: CertificateFacts
    is_new: bool
    before: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What it is for: its alternative names, or else its common name."""
        return _names_of(self.facts)


class CertificateFolder:
    """A folder with ``ca.pem``, ``ca.key``, and what the authority has issued.

    Args:
        path: where it is; it is made when something is put there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content: dict[Path, bytes] = {}

    def make(
        self, names: Sequence[str] | None = None, days: int = 90, client: str | None = None
    ) -> tuple[Made, Made, Made | None]:
        """Make or find the authority, and make a server's certificate by it.

        Args:
            names: what the server's certificate is for; None for what the one before was for, or
                :data:`DEFAULT_NAMES`.
            days: for how many days it is valid.
            client: make a certificate for a client of this name too.

        Returns:
            the authority, the server's certificate, and the client's.

        Raises:
            WrongFile: something is in the way. Then, as below, nothing is written.
            InvalidArgument: a name is none, or the days are out of range.
        """
        with self._locked() as is_alone:
            self._content.clear()
            authority, ca = self._authority()
            before = self._before("server", authority)
            server = self._issue("server", authority, names or before or DEFAULT_NAMES, days, before)
            made = None
            if client is not None:
                made = self._issue("client", authority, [client], days, self._before("client", authority))
            _write(self._content)
            if is_alone:
                self._tidy()
        return ca, server, made

    def _tidy(self) -> None:
        for path in self._content:
            for hidden in self._left_behind(path):
                with contextlib.suppress(OSError):
                    hidden.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """The folder is there, and nobody else is at work in it; false if nobody knows, for it can't be locked."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileExistsError:
            raise WrongFile(self.path, "it is no folder") from None
        except (OSError, ValueError) as error:
            raise _wrong(self.path, error) from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                is_alone = True
            except OSError:  # some network file systems lock no folders
                is_alone = False
            yield is_alone
        finally:
            os.close(descriptor)

    def _authority(self) -> tuple[DevelopmentAuthority, Made]:
        cert, key = self._files("ca")
        if not (os.path.lexists(cert) or os.path.lexists(key)):
            authority = DevelopmentAuthority.create()
            self._content = {key: authority.key_pem, cert: authority.cert_pem}
            return authority, Made(cert, key, facts(authority.certificate), is_new=True)
        remedy = f"; with {cert.name} and {key.name} out of the way, a new CA is made"
        for path, other in ((cert, key), (key, cert)):
            if not os.path.lexists(path):
                raise WrongFile(other, f"there is no {path.name} beside it{remedy}")
        for path in (cert, key):
            _check_regular(path, path.stat)  # a link will do, for this is not replaced
        cert_pem, _ = read_file(cert)
        key_pem, mode = read_file(key)
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise WrongFile(key, f"everybody may read or write the CA's key (mode {stat.S_IMODE(mode):04o}): chmod 600")
        try:
            authority = DevelopmentAuthority.load(cert_pem, key_pem)
        except InvalidArgument as error:
            raise WrongFile(cert, f"{error.detail}{remedy}") from None
        known = facts(authority.certificate)
        if known.not_after <= datetime.now(UTC):
            raise WrongFile(cert, f"the CA expired on {known.not_after:%Y-%m-%d}{remedy}")
        return authority, Made(cert, key, known, is_new=False)

    def _before(self, role: str, authority: DevelopmentAuthority) -> tuple[str, ...] | None:
        """What the certificate is for that is about to be replaced; None if there is none."""
        cert, key = self._files(role)
        there = [path for path in (cert, key) if os.path.lexists(path)]
        if there == [key]:
            raise WrongFile(key, f"there is no {cert.name} beside it, so nobody knows whose it is: it stays")
        if not there:
            return None
        for path in there:
            _check_regular(path, path.lstat)
        content, _ = read_file(cert)
        try:
            certificate = read_certificates(content)[0]
        except InvalidArgument as error:
            raise WrongFile(cert, f"{error.detail}: it stays") from None
        if not is_issued_by(certificate, authority.certificate):
            raise WrongFile(cert, f"it is not by the CA in {self._files('ca')[0].name}: it stays")
        if key in there and not any(_fits(one, certificate) for one in (key, *self._left_behind(key))):
            raise WrongFile(key, f"it is not the key of {cert.name}, so nobody knows whose it is: it stays")
        return _names_of(facts(certificate))

    def _issue(
        self,
        role: str,
        authority: DevelopmentAuthority,
        names: Sequence[str],
        days: int,
        before: tuple[str, ...] | None,
    ) -> Made:
        cert, key = self._files(role)
        issued = authority.issue(names, days, client=role == "client")
        # The certificate comes first: where an end in between leaves it alone, or with the old key, both are known.
        self._content |= {cert: issued.cert_pem + authority.cert_pem, key: issued.key_pem}
        return Made(cert, key, facts(read_certificates(issued.cert_pem)[0]), is_new=True, before=before)

    def _left_behind(self, path: Path) -> Iterator[Path]:
        """What lies hidden beside a file since a run was killed."""
        return self.path.glob(_beside(path, "[0-9a-f]" * 16).name)

    def _files(self, role: str) -> tuple[Path, Path]:
        return self.path / f"{role}.pem", self.path / f"{role}.key"


def read_file(path: Path) -> tuple[bytes, int]:
    """A file's content and mode (``st_mode``). A pipe will do.

    Raises:
        WrongFile: it can't be read, or it is larger than :data:`~theater_tcp.pem_file.MAX_FILE`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE + 1)
            mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError) as error:
        raise _wrong(path, error) from None
    if len(content) > MAX_FILE:
        raise WrongFile(path, f"larger than {MAX_FILE >> 20} MiB")
    return content, mode


def _check_regular(path: Path, look: Callable[[], os.stat_result]) -> None:
    """Anything else would be replaced though nobody wrote it here, or couldn't be, or a pipe would be waited for."""
    try:
        mode = look().st_mode
    except OSError as error:
        raise _wrong(path, error) from None
    if not stat.S_ISREG(mode):
        raise WrongFile(path, "it is no regular file: it stays")


def _fits(key: Path, certificate: x509.Certificate) -> bool:
    content, _ = read_file(key)
    try:
        return any(one.fits(certificate) for one in read_contents(content).keys)
    except InvalidArgument:
        return False


def _beside(path: Path, part: str) -> Path:
    return path.with_name(f".{path.name}.{part}")


def _write(contents: Mapping[Path, bytes]) -> None:
    """All of these files or none; a reader sees each as a whole, the old one or the new one."""
    try:
        with contextlib.ExitStack() as tidied, contextlib.ExitStack() as undone:
            new = {path: _beside(path, secrets.token_hex(8)) for path in contents}
            old = {path: _beside(path, secrets.token_hex(8)) for path in contents}
            for hidden in (*new.values(), *old.values()):
                tidied.callback(hidden.unlink, missing_ok=True)
            for path, content in contents.items():
                mode = 0o600 if path.suffix == ".key" else 0o644
                with open(os.open(new[path], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
                    file.write(content)
            for path in contents:
                try:
                    os.link(path, old[path])
                    undone.callback(old[path].replace, path)
                except FileNotFoundError:
                    undone.callback(path.unlink, missing_ok=True)
                except OSError:  # some file systems have no links: there it can't be taken back
                    pass
                new[path].replace(path)
            undone.pop_all()
    except OSError as error:
        raise _wrong(path, error) from None


def _wrong(path: Path, error: Exception) -> WrongFile:
    return WrongFile(path, (getattr(error, "strerror", None) or str(error)).lower())


def _names_of(known: CertificateFacts) -> tuple[str, ...]:
    return known.names or (known.subject.removeprefix("CN="),)
