"""PEM files: what is cut out of one, and what is no such file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.in_time import in_time
from theater_tcp.errors import InvalidArgument
from theater_tcp.pem_file import MAX_FILE, Block, PemFile


def pem(label: str, body: str = "AAAA") -> str:
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.pem"


def refused(path: Path | str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        PemFile(str(path))
    return caught.value.detail


def test_the_blocks_of_a_file_come_in_their_order_without_what_stands_between_them(path: Path) -> None:
    path.write_text(
        f"Subject: somebody\n{pem('CERTIFICATE', 'AAAA')}words\n{pem('EC PRIVATE KEY')}{pem('CERTIFICATE')}"
    )
    file = PemFile(str(path))
    assert [block.label for block in file.blocks] == ["CERTIFICATE", "EC PRIVATE KEY", "CERTIFICATE"]
    assert file.blocks[0].pem == pem("CERTIFICATE").encode()
    assert [block.label for block in file.keys] == ["EC PRIVATE KEY"]
    assert [block.label for block in file.others] == ["CERTIFICATE", "CERTIFICATE"]


def test_lines_may_end_as_on_windows(path: Path) -> None:
    path.write_bytes(pem("CERTIFICATE").replace("\n", "\r\n").encode())
    assert PemFile(str(path)).blocks == [Block("CERTIFICATE", pem("CERTIFICATE").encode())]


def test_the_parameters_that_openssl_puts_before_a_key_are_left_out(path: Path) -> None:
    path.write_text(pem("EC PARAMETERS") + pem("EC PRIVATE KEY"))
    assert [block.label for block in PemFile(str(path)).blocks] == ["EC PRIVATE KEY"]


def test_the_mode_of_the_file_comes_with_it(path: Path) -> None:
    path.write_text(pem("PRIVATE KEY"))
    path.chmod(0o640)
    assert PemFile(str(path)).mode & 0o777 == 0o640


def test_a_link_leads_to_its_file(path: Path, tmp_path: Path) -> None:
    path.write_text(pem("PRIVATE KEY"))
    (tmp_path / "link").symlink_to(path)
    assert len(PemFile(str(tmp_path / "link")).keys) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a text", "holds nothing in PEM"),
        (b"\x30\x82\x01\x00\xff", "is binary (DER or PKCS#12), not PEM"),
        (pem("CERTIFICATE").encode()[:-10], "has a PEM block without its end"),
        (pem("CERTIFICATE").encode() + b"-----BEGIN CERTIFICATE-----\nAA", "has a PEM block without its end"),
        (pem("EC PARAMETERS").encode(), "holds nothing in PEM"),
        (b"x" * (MAX_FILE + 1), f"is larger than {MAX_FILE} bytes"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_no_pem_is_told(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    assert refused(path) == reason


def test_a_file_that_is_not_there_is_told(path: Path) -> None:
    assert refused(path) == "no such file or directory"


def test_a_folder_is_no_file_and_its_descriptor_is_given_back(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    assert refused(tmp_path) == "is a directory"
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_what_can_be_no_path_is_told(path: str) -> None:
    assert refused(path) == "is no path"


def test_a_pipe_is_refused_at_once_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert in_time(lambda: refused(path)) == "is no regular file"


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("CERTIFICATE", "a certificate"),
        ("X509 CERTIFICATE", "a certificate"),
        ("PRIVATE KEY", "a private key"),
        ("ENCRYPTED PRIVATE KEY", "a private key"),
        ("OPENSSH PRIVATE KEY", "a private key"),
        ("CERTIFICATE REQUEST", "a certificate request"),
        ("PUBLIC KEY", "a public key"),
        ("PGP MESSAGE", "a block 'PGP MESSAGE'"),
    ],
)
def test_a_block_says_in_words_what_it_is(label: str, kind: str) -> None:
    block = Block(label, pem(label).encode())
    assert block.kind == kind
    assert block.is_certificate == (kind == "a certificate")
    assert block.is_key == (kind == "a private key")


def test_a_block_tells_whether_a_password_opens_it() -> None:
    old = pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA")
    assert Block("RSA PRIVATE KEY", old.encode()).is_encrypted
    assert Block("ENCRYPTED PRIVATE KEY", b"").is_encrypted
    assert not Block("PRIVATE KEY", pem("PRIVATE KEY").encode()).is_encrypted


def test_a_block_is_not_printed_since_it_may_be_a_key() -> None:
    assert not re.search("AAAA", repr([Block("PRIVATE KEY", pem("PRIVATE KEY").encode())]))
