"""
Seal an export, so that a file of it may lie anywhere.

Format ``agentlayers-journal-sealed``, version 1. The first line is a header in the clear::

    {"format": "agentlayers-journal-sealed", "version": 1, "cipher": "AES-256-GCM", "salt": base64,
     "key": "identity", "public_key": "5a1e..."}

    {..., "key": "passphrase", "kdf": {"name": "scrypt", "log2_n": 17, "r": 8, "p": 1}}

Each further line is ``{"sealed": base64}``: whole lines of the plain export, each with its line end, sealed together.
The last one is ``{"sealed": base64, "last": true}``. The key is derived for this file alone, from the salt and either
the identity's private key (HKDF-SHA256, info ``agentlayers/v1/export/encryption-key``) or a passphrase (scrypt). The
nonce counts the sealed lines (11 bytes, from 0) and ends with 1 for the last one and 0 for the others; what is
authenticated beside each is SHA-256 of the header line without its end. So a line that is changed, moved, left out, or
cut off does not open.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentlayers.crypto.keys import ROOT_BYTES_MIN
from agentlayers.errors import DecryptionError, UsageError
from agentlayers.eventlog.identity import Identity
from agentlayers.limits import SCRYPT_LOG2_N_MAX, SEALED_CHUNK_BYTES

__all__ = ["SEALED_FORMAT", "SEALED_VERSION", "ExportSecret", "open_lines", "seal_lines"]

SEALED_FORMAT: Final = "agentlayers-journal-sealed"
"""Name of the format, in its header."""

SEALED_VERSION: Final = 1
"""Version of the format, in its header."""

_INFO: Final = b"agentlayers/v1/export/encryption-key"
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 16
_LOG2_N: Final = 17
_LOG2_N_MIN: Final = 10
_COUNTER_BYTES: Final = 11


@dataclass(frozen=True, slots=True)
class ExportSecret:
    """
    What an export is sealed with; make one with :meth:`of_identity` or :meth:`of_passphrase`.

    Attributes:
        kind: ``identity`` or ``passphrase``.
        public_key: Names the identity, so that a reader knows which one it needs.
        secret: Private key or passphrase.
    """

    kind: str
    public_key: str
    secret: bytes = field(repr=False)

    @classmethod
    def of_identity(cls, identity: Identity) -> ExportSecret:
        """
        Seal for whoever has the identity.

        Raises:
            UsageError: Its private key is too short to derive from.
        """
        if len(identity.private_key) < ROOT_BYTES_MIN:
            raise UsageError(f"an identity to seal with has a private key of at least {ROOT_BYTES_MIN} bytes")
        return cls("identity", identity.public_key, identity.private_key)

    @classmethod
    def of_passphrase(cls, passphrase: str) -> ExportSecret:
        """
        Seal for whoever knows the passphrase.

        Raises:
            UsageError: It is empty.
        """
        if not passphrase:
            raise UsageError("a passphrase to seal with is not empty")
        return cls("passphrase", "", passphrase.encode())

    def header(self, random: Callable[[int], bytes] = os.urandom) -> dict[str, Any]:
        """Return the header of a new file."""
        fields: dict[str, Any] = {
            "format": SEALED_FORMAT,
            "version": SEALED_VERSION,
            "cipher": "AES-256-GCM",
            "salt": base64.b64encode(random(_SALT_BYTES)).decode(),
            "key": self.kind,
        }
        if self.kind == "identity":
            return fields | {"public_key": self.public_key}
        return fields | {"kdf": {"name": "scrypt", "log2_n": _LOG2_N, "r": 8, "p": 1}}

    def key(self, header: Mapping[str, Any]) -> bytes:
        """
        Derive the key of the file with this header.

        Raises:
            DecryptionError: The header asks for another kind of secret, or for something that is not done here.
        """
        salt = _decoded(header.get("salt"))
        if header.get("cipher") != "AES-256-GCM" or len(salt) != _SALT_BYTES:
            raise DecryptionError("the export's header is damaged: expected AES-256-GCM and a salt of 16 bytes")
        if header.get("key") != self.kind:
            raise DecryptionError(
                f"the export is sealed with {_named(header.get('key'))}, not with {_named(self.kind)}"
            )
        return self._from_identity(salt, header) if self.kind == "identity" else self._from_passphrase(salt, header)

    def _from_identity(self, salt: bytes, header: Mapping[str, Any]) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        if header.get("public_key") != self.public_key:
            raise DecryptionError(
                f"the export is sealed with the identity {header.get('public_key')!r}, not with {self.public_key!r}"
            )
        return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=salt, info=_INFO).derive(self.secret)

    def _from_passphrase(self, salt: bytes, header: Mapping[str, Any]) -> bytes:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        # The header is not authenticated before the key is known, so what it asks for is bounded first.
        kdf = header.get("kdf")
        log2_n = kdf.get("log2_n") if isinstance(kdf, Mapping) else None
        if not isinstance(log2_n, int) or not _LOG2_N_MIN <= log2_n <= SCRYPT_LOG2_N_MAX:
            raise DecryptionError(f"the export's header is damaged: log2_n is {_LOG2_N_MIN} to {SCRYPT_LOG2_N_MAX}")
        return Scrypt(salt=salt, length=_KEY_BYTES, n=1 << log2_n, r=8, p=1).derive(self.secret)


def seal_lines(
    lines: Iterable[str], secret: ExportSecret, *, random: Callable[[int], bytes] = os.urandom
) -> Iterator[str]:
    """
    Iterate over the lines of a sealed export, the header first, without line ends.

    Args:
        lines: The plain export, without line ends.
        secret: What to seal with.
        random: Returns that many random bytes.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = secret.header(random)
    first = _line(header)
    yield first
    cipher, beside = AESGCM(secret.key(header)), hashlib.sha256(first.encode()).digest()
    count, pending = 0, b""
    for chunk in _chunks(lines):
        if count or pending:
            yield _line({"sealed": _sealed(cipher.encrypt(_nonce(count, is_last=False), pending, beside))})
            count += 1
        pending = chunk
    yield _line({"sealed": _sealed(cipher.encrypt(_nonce(count, is_last=True), pending, beside)), "last": True})


def open_lines(header_line: str, lines: Iterable[str], secret: ExportSecret) -> Iterator[str]:
    """
    Iterate over the lines of the plain export, without line ends.

    Args:
        header_line: First line of the sealed export, exactly as read, without its end.
        lines: The other lines.
        secret: What it is sealed with.

    Raises:
        DecryptionError: Another secret, or a file that was changed or cut off.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(secret.key(json.loads(header_line)))
    beside = hashlib.sha256(header_line.encode()).digest()
    is_ended = False
    for count, line in enumerate(lines):
        if is_ended:
            raise DecryptionError("the export goes on behind its last sealed line")
        fields = _parsed(line)
        is_ended = fields.get("last") is True
        data = _decoded(fields.get("sealed"))
        try:
            opened = cipher.decrypt(_nonce(count, is_last=is_ended), data, beside) if len(data) >= _TAG_BYTES else None
        except InvalidTag:
            opened = None
        if opened is None:
            reason = f"another {secret.kind}, or the file was changed" if count == 0 else "the file was changed"
            raise DecryptionError(f"line {count + 2} of the sealed export does not open: {reason}")
        yield from opened.decode().split("\n")[:-1]
    if not is_ended:
        raise DecryptionError("the sealed export is cut off: its last line is missing")


def _chunks(lines: Iterable[str]) -> Iterator[bytes]:
    chunk, size = list[bytes](), 0
    for line in lines:
        data = line.encode() + b"\n"
        if chunk and size + len(data) > SEALED_CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(data)
        size += len(data)
    yield b"".join(chunk)


def _nonce(count: int, *, is_last: bool) -> bytes:
    return count.to_bytes(_COUNTER_BYTES, "big") + bytes([is_last])


def _sealed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _parsed(line: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    return fields if isinstance(fields, Mapping) else {}


def _decoded(value: object) -> bytes:
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return b""


def _named(kind: object) -> str:
    return {"identity": "an identity", "passphrase": "a passphrase"}.get(str(kind), "something unknown here")
