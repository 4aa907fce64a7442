"""TLS records made and opened by hand, for what OpenSSL as a peer can't be brought to send: key updates, requests to
renegotiate, empty records, padding.

A connection's secrets come from the file that ``SSLContext.keylog_filename`` names. The ciphers are AES-GCM with
SHA-384, as the contexts of the tests agree on.
"""

from __future__ import annotations

import hmac
import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

__all__ = ["ALERT", "APPLICATION_DATA", "HANDSHAKE", "Records12", "Records13", "cut_records", "random_of", "secrets_in"]

ALERT, HANDSHAKE, APPLICATION_DATA = 21, 22, 23
"""Content types (RFC 8446, 5.1)."""

KEY_UPDATE = 24


def secrets_in(keylog: Path) -> dict[str, bytes]:
    """The newest secret of each label of a key log."""
    return {label: bytes.fromhex(secret) for label, _, secret in map(str.split, _lines(keylog))}


def _lines(keylog: Path) -> list[str]:
    return [line for line in keylog.read_text().splitlines() if line and not line.startswith("#")]


def cut_records(stream: bytes) -> list[bytes]:
    """The records of a stream that ends with a whole one, each with its header."""
    records = []
    while stream:
        size = 5 + int.from_bytes(stream[3:5], "big")
        assert len(stream) >= size, "the stream ends inside of a record"
        records.append(stream[:size])
        stream = stream[size:]
    return records


def random_of(flight: bytes) -> bytes:
    """The random of the ClientHello or ServerHello that a flight begins with: behind record, message and version."""
    return flight[11:43]


class Records13:
    """One direction of a TLS 1.3 connection (RFC 8446, 5.2), from its first record of application data on.

    Args:
        secret: ``CLIENT_TRAFFIC_SECRET_0`` or ``SERVER_TRAFFIC_SECRET_0``.
    """

    def __init__(self, secret: bytes) -> None:
        self._take(secret)

    def _take(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = AESGCM(_expand(secret, b"key", 32))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")
        self._number = 0

    def _nonce(self) -> bytes:
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return nonce

    def seal(self, content: bytes, kind: int = APPLICATION_DATA, padding: int = 0) -> bytes:
        """A record that carries ``content``, which may be empty, and ``padding`` bytes of nothing."""
        header = b"\x17\3\3" + struct.pack("!H", len(content) + 1 + padding + 16)
        return header + self._aead.encrypt(self._nonce(), content + bytes([kind]) + bytes(padding), header)

    def open(self, record: bytes) -> tuple[int, bytes]:
        """The content type of a record, and what it carries."""
        plaintext = self._aead.decrypt(self._nonce(), record[5:], record[:5]).rstrip(b"\0")
        return plaintext[-1], plaintext[:-1]

    def key_update(self, asks_for_one: bool) -> bytes:
        """A KeyUpdate (RFC 8446, 4.6.3); what is sealed after it is sealed with the next key."""
        record = self.seal(bytes([KEY_UPDATE, 0, 0, 1, asks_for_one]), HANDSHAKE)
        self.update_key()
        return record

    def update_key(self) -> None:
        """The other side has sent a KeyUpdate."""
        self._take(_expand(self._secret, b"traffic upd", 48))


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label without a context (RFC 8446, 7.1)."""
    label = b"tls13 " + label
    info = struct.pack("!HB", size, len(label)) + label + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)


class Records12:
    """One direction of a TLS 1.2 connection (RFC 5288), from behind its Finished on.

    Args:
        master: ``CLIENT_RANDOM`` of the key log, which is the master secret.
        client_random, server_random: see :func:`random_of`.
        from_client: which direction.
    """

    def __init__(self, master: bytes, client_random: bytes, server_random: bytes, from_client: bool) -> None:
        block = _prf(master, b"key expansion" + server_random + client_random, 2 * 32 + 2 * 4)
        keys, salts = (block[:32], block[32:64]), (block[64:68], block[68:72])
        self._aead = AESGCM(keys[not from_client])
        self._salt = salts[not from_client]
        self._number = 1

    def _extra(self, kind: int, size: int) -> tuple[bytes, bytes]:
        number = struct.pack("!Q", self._number)
        self._number += 1
        return number, number + bytes([kind, 3, 3]) + struct.pack("!H", size)

    def seal(self, content: bytes, kind: int = APPLICATION_DATA) -> bytes:
        """A record that carries ``content``."""
        number, extra = self._extra(kind, len(content))
        body = number + self._aead.encrypt(self._salt + number, content, extra)
        return bytes([kind, 3, 3]) + struct.pack("!H", len(body)) + body

    def open(self, record: bytes) -> tuple[int, bytes]:
        """The content type of a record, and what it carries."""
        explicit, sealed = record[5:13], record[13:]
        _, extra = self._extra(record[0], len(sealed) - 16)
        return record[0], self._aead.decrypt(self._salt + explicit, sealed, extra)


def _prf(secret: bytes, seed: bytes, size: int) -> bytes:
    """P_SHA384 (RFC 5246, 5)."""
    output, link = b"", seed
    while len(output) < size:
        link = hmac.digest(secret, link, "sha384")
        output += hmac.digest(secret, link + seed, "sha384")
    return output[:size]
