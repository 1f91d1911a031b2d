"""
How entries are sealed on their way to a server: the port behind the ``encryption`` slot.

A server stores and hands out what it cannot read. Nothing here does I/O; randomness comes in
through a parameter, and in production it is the operating system's.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from agentlayers.errors import DecryptionError, UsageError
from agentlayers.limits import IV_BYTES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from agentlayers.layer import Layer

__all__ = ["AesGcmEncryption", "Encryption", "PlaintextEncryption"]

_CIPHERS_MAX: Final = 64
"""Ciphers kept ready; a replica has one key per journaled store."""
_KEY_BYTES: Final = (16, 24, 32)
"""What AES takes. Ours have 32; an Effect identity may hold a shorter one, as a stock peer does."""
_TAG_BYTES: Final = 16


class Encryption(abc.ABC):
    """Seals entries so that only holders of the private key can read or forge them."""

    @abc.abstractmethod
    def seal(self, key: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """
        Seal one entry and return its nonce of 12 bytes and its ciphertext.

        Raises:
            UsageError: The key has a length that cannot be used.
        """

    @abc.abstractmethod
    def open_sealed(self, key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
        """
        Open what :meth:`seal` made with the same key.

        Raises:
            DecryptionError: Sealed with another key, changed on the way, or no ciphertext at all.
        """

    @staticmethod
    def layer_aes_gcm() -> Layer:
        """Seal with AES-256-GCM (the default)."""
        from agentlayers.layer import Layer

        return Layer.factory(Encryption, AesGcmEncryption)

    @staticmethod
    def layer_plaintext() -> Layer:
        """Do not encrypt: whoever runs the server reads everything."""
        from agentlayers.layer import Layer

        return Layer.factory(Encryption, PlaintextEncryption)


@final
class AesGcmEncryption(Encryption):
    """
    AES-GCM with a fresh random nonce for every entry.

    A nonce must never be used twice with one key, so each entry has its own, drawn at random; at 96
    bits a key has to be replaced before it sealed 2**32 entries.

    Args:
        random: Returns that many random bytes.
    """

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        # Here, not with the first entry: loading takes milliseconds, in which a server would be kept waiting.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._random, self._new_cipher, self._invalid_tag = random, AESGCM, InvalidTag
        self._ciphers: dict[bytes, AESGCM] = {}

    def __repr__(self) -> str:
        return "AesGcmEncryption()"

    def seal(self, key: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """Seal one entry under a new nonce."""
        cipher = self._ciphers.get(key) or self._cipher(key)
        iv = self._random(IV_BYTES)
        return iv, cipher.encrypt(iv, plaintext, None)

    def open_sealed(self, key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
        """Open one entry, or refuse it."""
        try:
            cipher = self._ciphers.get(key) or self._cipher(key)
        except UsageError as error:
            raise DecryptionError(f"cannot decrypt: {error}") from None
        if len(iv) != IV_BYTES or len(ciphertext) < _TAG_BYTES:
            raise DecryptionError(
                f"cannot decrypt: a nonce of {len(iv)} bytes and a ciphertext of {len(ciphertext)};"
                f" expected {IV_BYTES} and at least {_TAG_BYTES}"
            )
        try:
            return cipher.decrypt(iv, ciphertext, None)
        except self._invalid_tag:
            raise DecryptionError("cannot decrypt: sealed with another key, or changed on the way") from None

    def _cipher(self, key: bytes) -> AESGCM:
        if len(key) not in _KEY_BYTES:
            raise UsageError(f"an encryption key has 32 bytes, not {len(key)}")
        if len(self._ciphers) >= _CIPHERS_MAX:
            self._ciphers.clear()
        return self._ciphers.setdefault(key, self._new_cipher(key))


@final
class PlaintextEncryption(Encryption):
    """No encryption: the ciphertext is the plaintext, under a nonce of zeros."""

    def __repr__(self) -> str:
        return "PlaintextEncryption()"

    def seal(self, key: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
        """Return the plaintext."""
        del key
        return bytes(IV_BYTES), plaintext

    def open_sealed(self, key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
        """Return the ciphertext; a nonce that is not zero shows that it was sealed after all."""
        del key
        if iv != bytes(IV_BYTES):
            raise DecryptionError("cannot read an encrypted entry: this replica is configured without encryption")
        return ciphertext
