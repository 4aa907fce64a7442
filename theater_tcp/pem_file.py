"""PEM files (RFC 7468): read once, with what their mode allows, and cut into blocks."""

from __future__ import annotations

import os
import re
import stat

import msgspec

from theater_tcp.errors import InvalidArgument

__all__ = ["MAX_FILE", "Block", "PemFile"]

MAX_FILE = 4 << 20
"""Bytes of the largest file that is read; the CA certificates of a whole system are a quarter of a MiB."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9#. ]{1,40})-----(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
_KINDS = {
    "TRUSTED CERTIFICATE": "a certificate in a form of OpenSSL's own",
    "CERTIFICATE REQUEST": "a certificate request",
    "NEW CERTIFICATE REQUEST": "a certificate request",
    "PUBLIC KEY": "a public key",
    "X509 CRL": "a revocation list",
    "PKCS7": "a PKCS#7 bundle",
}


class Block(msgspec.Struct, frozen=True):
    """One block of a file. Its text may be a private key, so it is not printed.

    Args:
        label: what it says that it is, as ``EC PRIVATE KEY``.
        pem: its text, from BEGIN to END.
    """

    label: str
    pem: bytes

    def __repr__(self) -> str:
        return f"<Block {self.label}>"

    @property
    def is_certificate(self) -> bool:
        """Whether it is a certificate."""
        return self.label in _CERTIFICATES

    @property
    def is_key(self) -> bool:
        """Whether it is a private key, of whatever form."""
        return self.label.endswith("PRIVATE KEY")

    @property
    def is_encrypted(self) -> bool:
        """Whether it is a private key that a password opens: by PKCS#8, or in the old way by a header (RFC 1421)."""
        return self.label == "ENCRYPTED PRIVATE KEY" or b"\nProc-Type: 4,ENCRYPTED\n" in self.pem

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if self.is_key:
            return "a private key"
        return "a certificate" if self.is_certificate else _KINDS.get(self.label, f"a block {self.label!r}")


class PemFile:
    """The content of a file, read when this is made.

    Args:
        path: where it is.

    Raises:
        InvalidArgument: it is not there, not readable, no regular file, too large or no PEM; the detail is the reason.
    """

    __slots__ = ("blocks", "mode")

    def __init__(self, path: str) -> None:
        try:
            content, self.mode = _read(path)
        except OSError as error:
            raise InvalidArgument((error.strerror or str(error)).lower()) from None
        except ValueError:  # a NUL or a lone surrogate
            raise InvalidArgument("is no path") from None
        if not stat.S_ISREG(self.mode):
            raise InvalidArgument("is a directory" if stat.S_ISDIR(self.mode) else "is no regular file")
        if len(content) > MAX_FILE:
            raise InvalidArgument(f"is larger than {MAX_FILE} bytes")
        found = [
            Block(match[1].decode("ascii"), match[0].replace(b"\r\n", b"\n") + b"\n")
            for match in _BLOCK.finditer(content)
        ]
        if len(found) != content.count(b"-----BEGIN "):
            raise InvalidArgument("has a PEM block without its end")
        self.blocks = [block for block in found if not block.label.endswith("PARAMETERS")]  # of the key that follows
        if not self.blocks:
            if content.startswith(b"0"):  # a SEQUENCE of ASN.1
                raise InvalidArgument("is binary (DER or PKCS#12), not PEM")
            raise InvalidArgument("holds nothing in PEM" if content.strip() else "is empty")

    @property
    def keys(self) -> list[Block]:
        """The private keys."""
        return [block for block in self.blocks if block.is_key]

    @property
    def others(self) -> list[Block]:
        """All but the private keys."""
        return [block for block in self.blocks if not block.is_key]


def _read(path: str) -> tuple[bytes, int]:
    """A regular file's content, one byte more than the limit at most, and the mode of whatever the path leads to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer would block
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            return b"", mode
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(MAX_FILE + 1), mode
    finally:
        os.close(descriptor)
