"""The folder of a development authority: what it makes fits together, keys are nobody else's, and nothing that it did
not make itself is ever replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from theater_tcp import certificate_folder
from theater_tcp.certificate_contents import Contents, read_contents
from theater_tcp.certificate_folder import DEFAULT_NAMES, CertificateFolder, Made, WrongFile, read_file
from theater_tcp.certificates import DevelopmentAuthority
from theater_tcp.errors import InvalidArgument

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> CertificateFolder:
    return CertificateFolder(tmp_path / "some" / "certs")


@pytest.fixture
def umask() -> Iterator[None]:
    """A mask that hides nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def contents_of(path: Path) -> Contents:
    return read_contents(path.read_bytes())


def files_of(folder: CertificateFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.glob("*") if path.is_file()}


def assert_fits(made: Made, ca: Made) -> None:
    """Certificate, chain and key in the files belong together and are what is told of them."""
    contents = contents_of(made.cert)
    (key,) = contents_of(made.key).keys
    assert key.fits(contents.certificates[0])
    assert contents.certificates[1:] == contents_of(ca.cert).certificates
    assert contents.chain_problem is None
    assert contents.is_chain


# -- made and renewed ---------------------------------------------------------------------------------------------


def test_the_first_time_an_authority_and_a_servers_certificate_are_made(folder: CertificateFolder) -> None:
    ca, server, client = folder.make()
    assert sorted(files_of(folder)) == ["ca.key", "ca.pem", "server.key", "server.pem"]
    assert (ca.is_new, ca.facts.ca, server.is_new, server.names, server.before) == (
        True,
        True,
        True,
        DEFAULT_NAMES,
        None,
    )
    assert (server.cert, server.key) == (folder.path / "server.pem", folder.path / "server.key")
    assert client is None
    (key,) = contents_of(ca.key).keys
    assert key.fits(contents_of(ca.cert).certificates[0])
    assert_fits(server, ca)


def test_the_next_time_the_authority_is_the_same_and_the_certificate_another(folder: CertificateFolder) -> None:
    folder.make()
    before = files_of(folder)
    ca, server, _ = folder.make()
    after = files_of(folder)
    assert [name for name in before if before[name] == after[name]] == [n for n in before if n.startswith("ca.")]
    assert not ca.is_new
    assert_fits(server, ca)


def test_a_renewed_certificate_is_for_the_same_names_unless_others_are_given(folder: CertificateFolder) -> None:
    folder.make(["mx.example.org", "192.0.2.7"])
    _, server, _ = folder.make()
    assert server.names == server.before == ("mx.example.org", "192.0.2.7")
    _, server, _ = folder.make(["localhost"])
    assert (server.names, server.before) == (("localhost",), ("mx.example.org", "192.0.2.7"))


def test_a_client_gets_a_certificate_of_its_own(folder: CertificateFolder) -> None:
    ca, _, client = folder.make(client="Alice Smith")
    assert client is not None
    assert (client.names, client.before) == (("Alice Smith",), None)
    assert_fits(client, ca)
    _, _, client = folder.make(client="bob.example.org")
    assert client is not None
    assert (client.names, client.before) == (("bob.example.org",), ("Alice Smith",))


def test_a_certificate_is_valid_for_the_days_that_were_asked_for(folder: CertificateFolder) -> None:
    _, server, client = folder.make(days=7, client="a")
    assert client is not None
    for known in (server.facts, client.facts):
        assert known.not_after - known.not_before == timedelta(days=7, hours=1)


# -- modes and order ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("umask")
def test_a_key_is_its_owners_alone_from_its_first_byte_on(
    folder: CertificateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[int]] = {}

    def look(*_: object) -> None:
        for path in folder.path.iterdir():
            name = path.name.strip(".").rpartition(".")[0] if path.name.startswith(".") else path.name
            seen.setdefault(name, set()).add(stat.S_IMODE(path.stat().st_mode))

    really_open, really_replace = os.open, Path.replace

    def spied_open(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        descriptor = really_open(path, flags, mode, **more)
        look()
        return descriptor

    def spied_replace(self: Path, target: Path) -> Path:
        look()
        return really_replace(self, target)

    monkeypatch.setattr(os, "open", spied_open)
    monkeypatch.setattr(Path, "replace", spied_replace)
    folder.make(client="a")
    look()
    keys = {name: modes for name, modes in seen.items() if name.endswith(".key")}
    assert keys == {"ca.key": {0o600}, "server.key": {0o600}, "client.key": {0o600}}
    assert seen["ca.pem"] == seen["server.pem"] == {0o644}


def test_who_reads_meanwhile_sees_the_old_file_or_the_new_one(folder: CertificateFolder) -> None:
    """A file that is written into would show a half; one that is replaced is another file."""
    _, server, _ = folder.make()
    old = server.cert.read_bytes()
    with open(server.cert, "rb") as reader:
        folder.make()
        assert reader.read() == old
    assert server.cert.read_bytes() != old


def test_a_failure_leaves_the_old_file_and_no_half_one(
    folder: CertificateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.make()
    before = files_of(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WrongFile) as caught:
        folder.make()
    assert (caught.value.path.name, caught.value.reason) == ("server.pem", "no space left on device")
    assert files_of(folder) == before


@pytest.mark.parametrize("broken", ["server.pem", "server.key", "client.pem", "client.key"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_file_that_cannot_be_replaced_leaves_all_others_as_they_were(
    folder: CertificateFolder, monkeypatch: pytest.MonkeyPatch, broken: str, is_first: bool
) -> None:
    if not is_first:
        folder.make(client="a")
    before = files_of(folder)
    really_replace = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == broken:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return really_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(WrongFile) as caught:
        folder.make(client="a")
    assert (caught.value.path.name, caught.value.reason) == (broken, "operation not permitted")
    assert files_of(folder) == before


def test_where_files_cannot_be_linked_it_works_all_the_same(
    folder: CertificateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.make()

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    ca, server, _ = folder.make()
    assert_fits(server, ca)
    assert sorted(files_of(folder)) == ["ca.key", "ca.pem", "server.key", "server.pem"]


@pytest.mark.parametrize("is_first", [True, False])
def test_a_full_disk_leaves_all_files_as_they_were(folder: CertificateFolder, is_first: bool) -> None:
    """A limit for the size of files in a process of its own stands for the disk: keys fit, certificates don't."""
    if not is_first:
        folder.make()
    before = files_of(folder)
    limited = """if True:
        import resource, sys
        from pathlib import Path
        from theater_tcp.certificate_folder import CertificateFolder, WrongFile
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
        try:
            CertificateFolder(Path(sys.argv[1])).make()
        except WrongFile as error:
            print(f"{error.path.name}: {error.reason}")
    """
    words = [sys.executable, "-B", "-c", limited, str(folder.path)]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == f"{'ca.pem' if is_first else 'server.pem'}: file too large\n"
    assert files_of(folder) == before


class Killed(BaseException):
    """An end that leaves no time to tidy up."""


def killed_at(folder: CertificateFolder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends when it is about to put this file in its place, and does nothing more."""
    really_replace = Path.replace
    is_killed = False

    def replace(self: Path, target: Path) -> Path:
        nonlocal is_killed
        is_killed = is_killed or target.name == name
        if is_killed:
            raise Killed
        return really_replace(self, target)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        patched.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            folder.make(client="a")


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize("kind", ["pem", "key"])
def test_what_a_run_that_was_killed_left_is_renewed(
    folder: CertificateFolder, monkeypatch: pytest.MonkeyPatch, role: str, kind: str
) -> None:
    folder.make(client="a")
    killed_at(folder, f"{role}.{kind}", monkeypatch)
    (key,) = contents_of(folder.path / f"{role}.key").keys
    assert key.fits(contents_of(folder.path / f"{role}.pem").certificates[0]) == (kind == "pem")
    ca, server, client = folder.make(client="a")
    assert client is not None
    assert_fits(server, ca)
    assert_fits(client, ca)
    assert not list(folder.path.glob(".*"))


def test_a_certificate_that_lost_its_key_on_the_way_is_renewed(folder: CertificateFolder) -> None:
    """What an end between the two leaves."""
    ca, server, _ = folder.make()
    server.key.unlink()
    _, server, _ = folder.make()
    assert_fits(server, ca)


def test_runs_at_the_same_time_share_one_authority(folder: CertificateFolder) -> None:
    made: list[tuple[Made, Made, Made | None]] = []
    start = threading.Barrier(6)

    def run() -> None:
        start.wait()
        made.append(CertificateFolder(folder.path).make())

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert [ca.is_new for ca, _, _ in made].count(True) == 1
    assert len({ca.facts.fingerprint for ca, _, _ in made}) == 1
    assert_fits(made[0][1], made[0][0])


def test_where_folders_cannot_be_locked_it_works_all_the_same(
    folder: CertificateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", refused)
    ca, server, _ = folder.make()
    assert_fits(server, ca)


def test_no_descriptor_stays_open(folder: CertificateFolder) -> None:
    before = len(os.listdir("/proc/self/fd"))
    folder.make()
    with pytest.raises(InvalidArgument):
        folder.make(["no name"])
    assert len(os.listdir("/proc/self/fd")) == before


# -- what is not replaced -----------------------------------------------------------------------------------------


def refusal(folder: CertificateFolder, **arguments: Any) -> str:
    """Why it does nothing; that it does nothing."""
    before = files_of(folder)
    with pytest.raises(WrongFile) as caught:
        folder.make(**arguments)
    assert files_of(folder) == before
    assert caught.value.detail == f"{caught.value.path}: {caught.value.reason}"
    return f"{caught.value.path.name}: {caught.value.reason}"


REMEDY = "with ca.pem and ca.key out of the way, a new CA is made"


@pytest.mark.parametrize(("gone", "left"), [("ca.pem", "ca.key"), ("ca.key", "ca.pem")])
def test_half_an_authority_is_not_completed(folder: CertificateFolder, gone: str, left: str) -> None:
    folder.make()
    (folder.path / gone).unlink()
    assert refusal(folder) == f"{left}: there is no {gone} beside it; {REMEDY}"


def test_an_authority_that_has_expired_is_not_replaced(folder: CertificateFolder) -> None:
    folder.make()
    old = DevelopmentAuthority.create(days=1, now=datetime(2020, 5, 4, tzinfo=UTC))
    (folder.path / "ca.pem").write_bytes(old.cert_pem)
    (folder.path / "ca.key").write_bytes(old.key_pem)
    assert refusal(folder) == f"ca.pem: the CA expired on 2020-05-05; {REMEDY}"


def test_an_authority_whose_key_is_another_one_is_not_replaced(folder: CertificateFolder) -> None:
    folder.make()
    (folder.path / "ca.key").write_bytes(DevelopmentAuthority.create().key_pem)
    assert refusal(folder) == f"ca.pem: the key does not belong to CN=theater-tcp development CA; {REMEDY}"


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_an_authority_that_cannot_be_read_is_not_replaced(folder: CertificateFolder, name: str) -> None:
    folder.make()
    (folder.path / name).write_bytes(b"hello")
    assert refusal(folder).endswith(f"; {REMEDY}")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
def test_an_authority_whose_key_is_open_to_everybody_issues_nothing(folder: CertificateFolder, mode: int) -> None:
    folder.make()
    (folder.path / "ca.key").chmod(mode)
    assert refusal(folder) == f"ca.key: everybody may read or write the CA's key (mode {mode:04o}): chmod 600"


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_certificate_of_somebody_elses_is_not_replaced(folder: CertificateFolder, role: str) -> None:
    folder.make()
    stranger = DevelopmentAuthority.create()
    (folder.path / f"{role}.pem").write_bytes(stranger.issue(["localhost"]).cert_pem)
    assert refusal(folder, client="a") == f"{role}.pem: it is not by the CA in ca.pem: it stays"


@pytest.mark.parametrize("role", ["server", "client"])
def test_what_is_no_certificate_is_not_replaced_by_one(folder: CertificateFolder, role: str) -> None:
    folder.make()
    (folder.path / f"{role}.pem").write_bytes(b"hello")
    reason = "no certificate, neither in PEM nor in DER: it stays"
    assert refusal(folder, client="a") == f"{role}.pem: {reason}"


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_key_without_its_certificate_is_not_replaced(folder: CertificateFolder, role: str) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / f"{role}.key").write_bytes(b"a key of some other certificate")
    reason = f"there is no {role}.pem beside it, so nobody knows whose it is: it stays"
    assert refusal(folder, client="a") == f"{role}.key: {reason}"


@pytest.mark.parametrize("role", ["server", "client"])
@pytest.mark.parametrize(
    "content", [DevelopmentAuthority.create().key_pem, b"hello", b""], ids=["key", "text", "empty"]
)
def test_a_key_that_is_not_the_certificates_is_not_replaced(
    folder: CertificateFolder, role: str, content: bytes
) -> None:
    folder.make(client="a")
    (folder.path / f"{role}.key").write_bytes(content)
    reason = f"it is not the key of {role}.pem, so nobody knows whose it is: it stays"
    assert refusal(folder, client="a") == f"{role}.key: {reason}"


def put_directory(path: Path) -> None:
    path.mkdir()


def put_link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["server.pem", "server.key", "client.pem", "client.key"])
@pytest.mark.parametrize("put", [put_directory, put_link, put_pipe])
def test_what_is_no_regular_file_is_not_replaced(
    folder: CertificateFolder, name: str, put: Callable[[Path], None]
) -> None:
    folder.make(client="a")
    path = folder.path / name
    if put is not put_link:
        path.unlink()
    put(path)
    assert refusal(folder, client="a") == f"{name}: it is no regular file: it stays"


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
@pytest.mark.parametrize("put", [put_directory, put_pipe])
def test_an_authority_that_is_no_regular_file_is_told(
    folder: CertificateFolder, name: str, put: Callable[[Path], None]
) -> None:
    folder.make()
    (folder.path / name).unlink()
    put(folder.path / name)
    assert refusal(folder) == f"{name}: it is no regular file: it stays"


def test_an_authority_may_be_a_link_to_another_folders(folder: CertificateFolder, tmp_path: Path) -> None:
    other = CertificateFolder(tmp_path / "other")
    ca, _, _ = other.make()
    folder.path.mkdir(parents=True)
    for name in ("ca.pem", "ca.key"):
        (folder.path / name).symlink_to(other.path / name)
    _, server, _ = folder.make()
    assert_fits(server, ca)


def test_a_link_that_leads_nowhere_is_in_the_way_too(folder: CertificateFolder) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "ca.key").symlink_to("elsewhere.key")
    assert refusal(folder) == f"ca.key: there is no ca.pem beside it; {REMEDY}"


def test_with_a_wrong_name_or_wrong_days_nothing_is_made(folder: CertificateFolder) -> None:
    for arguments in ({"names": ["no name"]}, {"days": 0}, {"client": "a\nb"}):
        with pytest.raises(InvalidArgument):
            folder.make(**arguments)
    assert files_of(folder) == {}


def test_what_was_refused_once_is_not_written_later(folder: CertificateFolder) -> None:
    with pytest.raises(InvalidArgument):
        folder.make(client="a\nb")
    folder.make()
    assert "client.pem" not in files_of(folder)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "certs").write_bytes(b"")
    with pytest.raises(WrongFile) as caught:
        CertificateFolder(tmp_path / "certs").make()
    assert (caught.value.path, caught.value.reason) == (tmp_path / "certs", "it is no folder")


# -- reading ------------------------------------------------------------------------------------------------------


def test_a_file_is_read_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    path.chmod(0o640)
    content, mode = read_file(path)
    assert (content, stat.S_IMODE(mode), stat.S_ISREG(mode)) == (b"content", 0o640, True)


def test_a_pipe_is_read_to_its_end() -> None:
    read, write = os.pipe()
    os.write(write, b"content")
    os.close(write)
    content, mode = read_file(Path(f"/proc/self/fd/{read}"))
    os.close(read)
    assert (content, stat.S_ISFIFO(mode)) == (b"content", True)


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(WrongFile, match="/dev/zero: larger than 4 MiB"):
        read_file(Path("/dev/zero"))


def test_a_file_of_the_largest_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_folder, "MAX_FILE", 3)
    (tmp_path / "a").write_bytes(b"abc")
    assert read_file(tmp_path / "a")[0] == b"abc"
    (tmp_path / "a").write_bytes(b"abcd")
    with pytest.raises(WrongFile):
        read_file(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "no such file or directory"), (".", "is a directory"), ("a\0b", "embedded null byte")],
)
def test_what_cannot_be_read_is_one_clear_reason(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(WrongFile) as caught:
        read_file(tmp_path / name)
    assert caught.value.reason == reason
    assert str(caught.value).isprintable()
